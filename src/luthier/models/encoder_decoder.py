# SPDX-License-Identifier: Apache-2.0
"""One forward pass of an encoder-decoder (T5, BART): sources and targets in, log-probabilities of scored tokens out.

    tree    [source | target]    or several targets of one source, which is encoded once

Unlike a decoder's, this pass is padded: T5 counts relative positions along the row that it is given, BART looks learned
positions up by the column, and cross attention maps the axis of the targets to that of the sources. Each of the three
would be wrong on one flat axis. Sources of like lengths run together, in the partition that computes the fewest tokens;
:func:`computed_tokens` tells how many those are, padding included. Only scored positions go through the head.

Shapes: B sources and K targets of one batch, L and M tokens of the longest of each, S scored tokens, H hidden.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from luthier.core.errors import ModelError
from luthier.models.backbone import head_logprobs, learned_positions
from luthier.models.virtual import num_virtual, virtual_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PretrainedConfig, PreTrainedModel

    from luthier.kernels.forest import Forest

# What one more call of encoder and decoder costs, in padded tokens that take as long. Measured on two cores with six
# layers of 512 (about 5 ms a pass): 10 to 20 tokens; a GPU is idle for a thousand.
CALL = {"cpu": 16, "cuda": 1024}
MOST_ROWS = 512  # the partition is found among so many sources at a time
IGNORED = -100  # of labels; transformers puts padding there when it shifts them


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Trees that run through the model together.

    Attributes:
        sources: Segments of their sources.
        targets: Segments of their targets.
        owners: Which of `sources` each target belongs to.
        length: Tokens of the longest source.
        width: Tokens of the longest target.
    """

    sources: tuple[int, ...]
    targets: tuple[int, ...]
    owners: tuple[int, ...]
    length: int
    width: int

    @property
    def computed(self) -> int:
        """Tokens that are computed, padding included."""
        return len(self.sources) * self.length + len(self.targets) * self.width


def pair_logprobs(model: PreTrainedModel, forest: Forest) -> torch.Tensor:
    """Log-probability of each scored token of the targets, after its source and the target's earlier tokens.

    Args:
        model: Loaded by :func:`luthier.models.load_model` with task `SEQ_2_SEQ_LM`, with any method applied.
        forest: Trees of a source and its targets, on the model's device.

    Returns:
        float32 [S].

    Raises:
        ModelError: A tree has another form, or a text is longer than the model's positions.
    """
    _check_form(model, forest)
    if not forest.num_scored:
        return torch.zeros(0, device=forest.input_ids.device)
    _check_positions(model, forest)
    starts = torch.tensor(forest.starts, device=forest.input_ids.device)
    # The first token of a target is predicted at the start token, each later one where the one before it was read.
    own = forest.score_index - starts[forest.score_segment] + 1
    place = torch.where(forest.score_index < starts[forest.score_segment], torch.zeros_like(own), own)
    owners, hidden, order = forest.score_segment.tolist(), [], []
    scored: dict[int, list[int]] = {}
    for number, segment in enumerate(owners):
        scored.setdefault(segment, []).append(number)
    for batch in batches(forest, CALL.get(forest.input_ids.device.type, CALL["cuda"])):
        states_KMH = _decode(model, forest, batch)
        numbers = [number for segment in batch.targets for number in scored.get(segment, ())]
        rows = [row for row, segment in enumerate(batch.targets) for _ in scored.get(segment, ())]
        index = torch.tensor(numbers, device=place.device)
        hidden.append(states_KMH[torch.tensor(rows, device=place.device), place[index]])
        order.append(index)
    states_SH = torch.cat(hidden).index_select(0, torch.cat(order).argsort())
    return head_logprobs(model, states_SH, forest.score_target)


def batches(forest: Forest, call: int) -> list[Batch]:
    """Cut the trees of a forest into batches of like lengths, so that all together compute as few tokens as can be.

    Sources are sorted by length, then by their longest target; the best cuts of that order are found by dynamic
    programming, O(N^2) sums of N trees. Targets that score nothing are left out, and so are sources without any other.

    Args:
        forest: Trees of a source and its targets.
        call: What one batch more costs, in tokens.
    """
    lengths, scored = forest.lengths(), {*forest.score_segment.tolist()}
    targets: dict[int, list[int]] = {}
    for segment, parent in enumerate(forest.parents):
        if parent >= 0 and segment in scored:
            targets.setdefault(parent, []).append(segment)
    order = sorted(targets, key=lambda source: (lengths[source], max(lengths[own] for own in targets[source])))
    found = []
    for first in range(0, len(order), MOST_ROWS):
        some = order[first : first + MOST_ROWS]
        sizes = np.array([lengths[source] for source in some])
        widths = np.array([max(lengths[own] for own in targets[source]) for source in some])
        counts = np.array([len(targets[source]) for source in some])
        found += [_batch(some[a:b], targets, lengths) for a, b in _cuts(sizes, widths, counts, call)]
    return found


def _batch(sources: Sequence[int], targets: dict[int, list[int]], lengths: Sequence[int]) -> Batch:
    own = [(place, target) for place, source in enumerate(sources) for target in targets[source]]
    return Batch(
        sources=tuple(sources),
        targets=tuple(target for _, target in own),
        owners=tuple(place for place, _ in own),
        length=max(lengths[source] for source in sources),
        width=max(lengths[target] for _, target in own),
    )


def _cuts(sizes: np.ndarray, widths: np.ndarray, counts: np.ndarray, call: int) -> list[tuple[int, int]]:
    """Where to cut a list of sources in the order of their sizes: the least sum of tokens and calls."""
    least, came = np.zeros(len(sizes) + 1), np.zeros(len(sizes) + 1, np.int64)
    for stop in range(1, len(sizes) + 1):
        rows = np.arange(stop, 0, -1)  # of batches that begin at 0, 1 ... stop - 1
        widest = np.maximum.accumulate(widths[stop - 1 :: -1])[::-1]
        answers = np.cumsum(counts[stop - 1 :: -1])[::-1]
        costs = least[:stop] + rows * sizes[stop - 1] + answers * widest + call
        came[stop] = int(np.argmin(costs))
        least[stop] = costs[came[stop]]
    cuts, stop = [], len(sizes)
    while stop:
        cuts.append((int(came[stop]), stop))
        stop = int(came[stop])
    return cuts[::-1]


def computed_tokens(forest: Forest, device: str = "cpu") -> int:
    """Tokens that a pass over a forest of sources and targets computes, padding included."""
    return sum(batch.computed for batch in batches(forest, CALL.get(device, CALL["cuda"])))


def _decode(model: PreTrainedModel, forest: Forest, batch: Batch) -> torch.Tensor:
    """The decoder's last hidden states of a batch, [K, M, H]."""
    encoder: Any = model.get_encoder()
    decoder: Any = model.get_decoder()
    ids_BL, mask_BL = _padded(forest, batch.sources, batch.length, _padding(model.config))
    labels_KM, _ = _padded(forest, batch.targets, batch.width, IGNORED)
    # Where all are of one length there is nothing to hide, and attention runs without a mask.
    mask: torch.Tensor | None = None if bool(mask_BL.all()) else mask_BL
    encoded = encoder(input_ids=ids_BL, attention_mask=mask).last_hidden_state
    if len(batch.targets) > len(batch.sources):
        owners = torch.tensor(batch.owners, device=encoded.device)
        encoded = encoded.index_select(0, owners)
        mask = None if mask is None else mask.index_select(0, owners)
    words = {"input_ids": shifted(model, labels_KM), "encoder_hidden_states": encoded, "encoder_attention_mask": mask}
    states: torch.Tensor = decoder(**words, use_cache=False).last_hidden_state
    return states


def _padded(forest: Forest, segments: Sequence[int], length: int, filler: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Segments as rows that are filled up behind their ends, and 1 for each token of theirs; int64."""
    device, lengths = forest.input_ids.device, forest.lengths()
    ids = torch.full((len(segments), length), filler, dtype=torch.int64, device=device)
    sizes = torch.tensor([lengths[segment] for segment in segments], device=device)
    mask = torch.arange(length, device=device)[None] < sizes[:, None]
    for row, segment in enumerate(segments):
        ids[row, : lengths[segment]] = forest.input_ids[forest.starts[segment] : forest.starts[segment + 1]]
    return ids, mask.long()


def shifted(model: PreTrainedModel, labels: torch.Tensor) -> torch.Tensor:
    """What the decoder reads to predict labels: one place to the right, behind the start token (mBART: the language).

    Args:
        model: Its class says how; where it does not, the start token is that of its configuration.
        labels: [K, M], -100 for padding.
    """
    own: Any = getattr(model, "prepare_decoder_input_ids_from_labels", None)
    if own is not None:
        moved: torch.Tensor = own(labels=labels)
        return moved
    first = torch.full_like(labels[:, :1], start_token(model.config) or 0)
    return torch.cat([first, labels[:, :-1]], 1).masked_fill_(
        torch.cat([first, labels[:, :-1]], 1) == IGNORED, _padding(model.config)
    )


def start_token(config: PretrainedConfig) -> int | None:
    """What decoders begin with, where the configuration says it."""
    token: int | None = getattr(config, "decoder_start_token_id", None)
    return token


def _padding(config: PretrainedConfig) -> int:
    padding: int | None = getattr(config, "pad_token_id", None)
    return 0 if padding is None else padding  # any token: the mask hides it


def _check_form(model: PreTrainedModel, forest: Forest) -> None:
    """Refuse trees that are no sources with targets."""
    roots = [parent < 0 for parent in forest.parents]
    deep = any(parent >= 0 and not roots[parent] for parent in forest.parents)
    alone = any(roots[segment] for segment in forest.score_segment.tolist())
    empty = [place for place, length in enumerate(forest.lengths()) if roots[place] and not length]
    if deep or alone or empty:
        kind = "targets of targets" if deep else "scored tokens without a source" if alone else "an empty source"
        where = f"model {type(model).__name__}"
        raise ModelError(where, kind, "trees of a source and its targets (rows of SEQ_2_SEQ_LM)", "check the rows")


def _check_positions(model: PreTrainedModel, forest: Forest) -> None:
    """Refuse texts that are longer than the positions of a model that has so many (BART, Pegasus, Marian)."""
    lengths, found = forest.lengths(), virtual_of(model)
    in_source = found is not None and found.heads is None  # embeddings; keys and values stand before the target
    for side, stack in (("source", model.get_encoder()), ("target", model.get_decoder())):
        limit = learned_positions(stack)
        virtual = num_virtual(model) if in_source == (side == "source") else 0
        own = [n for n, parent in zip(lengths, forest.parents, strict=True) if (parent < 0) == (side == "source")]
        if limit is not None and max(own, default=0) + virtual > limit:
            besides = f" after {virtual} virtual ones" if virtual else ""
            raise ModelError(
                f"model {type(model).__name__}",
                f"a {side} of {max(own)} tokens{besides}",
                f"at most {limit}: the model has no more positions",
                f"set data.max_length to {limit - virtual} or less",
            )
