# SPDX-License-Identifier: Apache-2.0
"""One forward pass: forest in, the value of each segment out. For models that end in a head of values (reward models).

The value of a text is read where transformers' `...ForSequenceClassification` reads it: at its last token that is not
`pad_token_id`. Where padding has a token of its own, that is the last token.

Shapes: T tokens, N segments, H hidden, C values of each segment (`num_labels`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from luthier.core.errors import DataError, ModelError
from luthier.core.types import Segment, Tree
from luthier.kernels.forest import plant
from luthier.models.backbone import check_positions, hidden_states, scored_logprobs
from luthier.models.encoder_decoder import pair_logprobs
from luthier.models.encoders import encoder_outputs, reads_both_ways, token_outputs
from luthier.models.heads import HEADS, task_of_model

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from luthier.kernels.forest import Forest


def value_head(model: nn.Module) -> nn.Linear | None:
    """The head of values of a decoder that classifies texts (a reward model); None for any other model.

    Raises:
        ModelError: It is more than one matrix.
    """
    if task_of_model(model) != "SEQ_CLS" or reads_both_ways(model):
        return None
    head = next((found for name in HEADS if isinstance(found := getattr(model, name, None), nn.Module)), None)
    if not isinstance(head, nn.Linear):
        kind = type(head).__name__ if head is not None else "no module"
        allowed = f"a linear layer called {' or '.join(HEADS)}"
        raise ModelError(f"model {type(model).__name__}", f"{kind} as its head", allowed, "choose a decoder")
    return head


def outputs(model: PreTrainedModel, forest: Forest) -> torch.Tensor:
    """What objectives read, by the model's task: see :class:`luthier.core.trainable.Objective`.

    Args:
        model: Loaded by :func:`luthier.models.load_model`, with any method applied.
        forest: The batch, on the model's device.

    Returns:
        CAUSAL_LM, SEQ_2_SEQ_LM: log-probability of each scored token, float32 [S]. SEQ_CLS: values of each segment,
        float32 [N] or [N, C]. TOKEN_CLS: float32 [T, C]. QUESTION_ANS: float32 [T, 2]. FEATURE_EXTRACTION: hidden
        states [T, H].

    Raises:
        ModelError: A text is longer than the model's positions, or of a shape that the model cannot read.
    """
    task = task_of_model(model)
    if task == "CAUSAL_LM":
        return scored_logprobs(model, forest)
    if task == "SEQ_2_SEQ_LM":
        return pair_logprobs(model, forest)
    check_positions(model, forest)
    if reads_both_ways(model):
        return encoder_outputs(model, forest)
    if task == "SEQ_CLS":
        return segment_values(model, forest)
    return hidden_states(model, forest) if task == "FEATURE_EXTRACTION" else token_outputs(model, forest)


def segment_values(model: PreTrainedModel, forest: Forest) -> torch.Tensor:
    """What the model says of each branch from its root to the end of each segment.

    Args:
        model: Loaded by :func:`luthier.models.load_model` with task `SEQ_CLS`, with any method applied.
        forest: The batch, on the model's device.

    Returns:
        float32 [N], or [N, C] where the head gives several values; NaN for a branch without tokens.

    Raises:
        ModelError: The model has no head of values.
    """
    head = value_head(model)
    if head is None:
        allowed = "a model with a head of values (a reward model)"
        raise ModelError(f"model {type(model).__name__}", "a head of words", allowed, "load it with task SEQ_CLS")
    hidden_NH = hidden_states(model, forest).index_select(0, value_index(forest, padding_of(model)))
    # The head is small and its values are subtracted from each other: float32 also where the weights are bfloat16.
    wide = torch.promote_types(hidden_NH.dtype, torch.float32)
    bias = head.bias.to(wide) if head.bias is not None else None
    values_NC = F.linear(hidden_NH.to(wide), head.weight.to(wide), bias)
    if nothing := [segment for segment, first in enumerate(_first_tokens(forest)) if first is None]:
        values_NC = values_NC.index_fill(0, torch.tensor(nothing, device=values_NC.device), float("nan"))
    return values_NC[:, 0] if values_NC.shape[1] == 1 else values_NC


def value_index(forest: Forest, padding: int | None) -> torch.Tensor:
    """The token at which each segment's value is read, int64 [N].

    It is the last one in the segment that does not pad; where there is none, the parent's; in a branch of padding alone
    its first token, as in transformers.

    Args:
        forest: The batch.
        padding: `pad_token_id`.

    Example:
        >>> import numpy as np
        >>> from luthier.core.types import Segment, Tree
        >>> from luthier.kernels.forest import plant
        >>> ids = (np.array(some, np.int32) for some in ([5, 6], [7, 0], []))
        >>> segments = tuple(Segment(ids=some, scored=some < 0) for some in ids)
        >>> forest = plant([Tree(segments=segments, parents=(-1, 0, 0))])
        >>> value_index(forest, None).tolist(), value_index(forest, 0).tolist()
        ([1, 3, 1], [1, 2, 1])
    """
    device = forest.input_ids.device
    places = torch.arange(forest.num_tokens, device=device)
    if padding is not None:
        places = places.masked_fill(forest.input_ids == padding, -1)
    latest = torch.cat([places.new_tensor([-1]), places.cummax(0).values])  # before each token, and at the end
    starts = torch.tensor(forest.starts, device=device)
    index = latest[starts[1:]]
    index = index.masked_fill(index < starts[:-1], -1)  # it stands in an earlier segment
    parents = torch.tensor(forest.parents, device=device)
    for _ in range(_depth(forest)):
        index = torch.where((index < 0) & (parents >= 0), index[parents], index)
    return torch.where(index < 0, torch.tensor([first or 0 for first in _first_tokens(forest)], device=device), index)


def padding_of(model: PreTrainedModel) -> int | None:
    """The token that the classes of transformers take for padding."""
    text: Any = model.config.get_text_config()
    padding: int | None = text.pad_token_id
    return padding


def settle_padding(model: PreTrainedModel, name: str, say: Callable[[str], None]) -> None:
    """Give a decoder with a head of values a padding token where it has none: transformers scores no batches without.

    It becomes the token that begins texts, which never ends one; where that is also the end of text, the end of text.
    """
    config: Any = model.config
    text = config.get_text_config()
    if value_head(model) is None or text.pad_token_id is not None:
        return
    ends = text.eos_token_id if isinstance(text.eos_token_id, list) else [text.eos_token_id]
    begins = [text.bos_token_id] if text.bos_token_id not in ends else []
    within = [token for token in (*begins, *ends) if token is not None and 0 <= token < text.vocab_size]
    chosen = within[0] if within else text.vocab_size - 1
    for one in (text, config):
        one.pad_token_id = chosen
    late = ": values are read before an end of text, as transformers does" if chosen in ends else ""
    say(f"model {name}: it has no padding token; token {chosen} becomes one{late}")


def _depth(forest: Forest) -> int:
    """How many ancestors a segment has at most."""
    depths: list[int] = []
    for parent in forest.parents:
        depths.append(depths[parent] + 1 if parent >= 0 else 0)
    return max(depths)


def _first_tokens(forest: Forest) -> list[int | None]:
    """The first token of each segment's branch; None where the branch has none."""
    first: list[int | None] = []
    for start, length, parent in zip(forest.starts, forest.lengths(), forest.parents, strict=False):
        above = first[parent] if parent >= 0 else None
        first.append(above if above is not None else (start if length else None))
    return first


@torch.no_grad()
def score_texts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str | Sequence[Mapping[str, str]]],
    *,
    batch_tokens: int = 4096,
) -> list[float]:
    """Give each text its value, as a reward model does.

    Args:
        model: A reward model with one value, as :func:`luthier.load` gives it.
        tokenizer: Its tokenizer.
        texts: Conversations, each ending with the reply to be valued; or strings, which go on as they stand, with the
            special tokens that the tokenizer adds by itself.
        batch_tokens: Tokens at a time, at least one text.

    Raises:
        ModelError: It is no reward model, gives several values, or a text is longer than its positions.
        DataError: A text has no tokens.
    """
    if (head := value_head(model)) is not None and head.out_features > 1:
        received = f"{head.out_features} values for each text"
        raise ModelError(f"model {type(model).__name__}", received, "one", "use models.values.segment_values")
    trees = [_tree(tokenizer, text, number) for number, text in enumerate(texts)]
    batches: list[list[Tree]] = []
    for tree in trees:
        if not batches or sum(map(len, batches[-1])) + len(tree) > batch_tokens:
            batches.append([])
        batches[-1].append(tree)
    was_training = model.training
    model.eval()
    values = [segment_values(model, plant(batch).to(model.device)).tolist() for batch in batches]
    model.train(was_training)
    return [value for batch in values for value in batch]


def _tree(tokenizer: PreTrainedTokenizerBase, text: str | Sequence[Mapping[str, str]], number: int) -> Tree:
    told: Any
    if isinstance(text, str):
        told = tokenizer(text)
    else:
        told = tokenizer.apply_chat_template([dict(turn) for turn in text], tokenize=True, return_dict=True)
    ids = np.array(told["input_ids"], np.int32)
    if not len(ids):
        raise DataError(f"text {number + 1}", "no tokens", "at least one", "write something")
    return Tree(segments=(Segment(ids=ids, scored=np.zeros(len(ids), np.bool_)),))
