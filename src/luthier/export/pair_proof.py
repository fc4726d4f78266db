# SPDX-License-Identifier: Apache-2.0
"""Does a written encoder-decoder behave like the one that was trained? What both expect of targets is compared.

Shapes: L tokens of one source, M of its target, V vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from luthier.core.errors import LuthierError
from luthier.export.held_out import MOST_ROWS, MOST_TOKENS, TEXTS, check_rows, no_words
from luthier.export.proof import Comparison
from luthier.models.encoder_decoder import shifted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from luthier.export.origin import Origin

Pair = tuple[list[int], list[int]]


class PairComparison(Comparison):
    """Remembers what the trained model says of some targets, to be held against another model.

    Args:
        pairs: Token ids of sources and their targets.
        label: Where they come from.
        vocabulary: V.
    """

    def __init__(self, pairs: Sequence[Pair], label: str, vocabulary: int) -> None:
        super().__init__([target for _, target in pairs if len(target) > 1], label, vocabulary)
        self.sources = [torch.tensor(source) for source, target in pairs if len(target) > 1][: len(self.rows)]

    @torch.no_grad()
    def _logits(self, model: PreTrainedModel) -> Iterator[torch.Tensor]:
        """[M, V] of each target, float32, on the CPU: what is expected after each of its tokens."""
        model.eval()
        for source, row in zip(self.sources, self.rows, strict=True):
            labels = row[None].to(model.device)
            read = torch.cat([shifted(model, labels), labels[:, -1:]], 1)
            words: dict[str, Any] = {"input_ids": source[None].to(model.device), "decoder_input_ids": read}
            yield model(**words, use_cache=False).logits[0, 1:].float().cpu()


def held_out_pairs(
    origin: Origin,
    tokenizer: PreTrainedTokenizerBase | None,
    vocabulary: int,
    texts: Sequence[str] = (),
    say: Callable[[str], None] = lambda _: None,
) -> tuple[list[Pair], str]:
    """Choose sources and targets, and say where they come from; :func:`held_out_rows` does it for other models.

    Args:
        origin: The adapter; its run's `data.eval` (else `data.train`) is used where it can still be read.
        tokenizer: Its tokenizer.
        vocabulary: Number of words.
        texts: Use these instead, each as the source of itself.
        say: Receives one line at a time.

    Raises:
        UserError: The given texts hold no tokens, there is no tokenizer for them, or it does not fit the base.
    """
    if tokenizer is None:
        check_rows([], tokenizer, texts, vocabulary, origin)
        rows = no_words(vocabulary)
        return list(zip(rows, rows[::-1], strict=True)), "numbers in order (there is no tokenizer)"
    pairs, label = _pairs_of_run(origin, tokenizer, say) if not texts else ([], "")
    if not pairs:
        label = "given texts" if texts else "built-in texts"
        chosen: Any = tokenizer(list(texts or TEXTS), truncation=True, max_length=MOST_TOKENS)["input_ids"]
        pairs = [(list(ids), list(ids)) for ids in chosen if len(ids) > 1]
    check_rows([row for pair in pairs for row in pair], tokenizer, texts, vocabulary, origin)
    return pairs, label


def _pairs_of_run(
    origin: Origin, tokenizer: PreTrainedTokenizerBase, say: Callable[[str], None]
) -> tuple[list[Pair], str]:
    from luthier.data import prepare

    if origin.recipe is None:
        return [], ""
    data = origin.recipe.data
    try:
        which: Any = "eval" if data.eval else "train"
        rows = prepare(data, tokenizer, which=which, kind="plain", task="SEQ_2_SEQ_LM", say=say).rows
    except LuthierError as error:
        say(f"the run's rows cannot be read, built-in texts are used ({error})")
        return [], ""
    label = "data.eval of the run" if data.eval else "data.train of the run, which has no data.eval"
    trees = [rows.tree(number) for number in range(0, len(rows), max(1, len(rows) // MOST_ROWS))][:MOST_ROWS]
    parts = [[segment.ids[:MOST_TOKENS].tolist() for segment in tree.segments[:2]] for tree in trees]
    return [(source, target) for source, target in parts if len(target) > 1], label
