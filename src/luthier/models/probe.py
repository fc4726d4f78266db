# SPDX-License-Identifier: Apache-2.0
"""Prove, before a run, that a model runs forests: a small forest must equal separate forwards of its branches.

Of a model of words, the log-probabilities are compared; of any other, what its head says of each text or token. An
encoder is asked about whole texts instead of trees.

Any architecture that reads past the mask (recurrent layers, patched attention, learned offsets) shows here, as does
a head that does more than Luthier knows. It costs six short forwards. What short forwards cannot show, windows of
thousands of tokens, is asked of the model's own mask functions: they must hide exactly what a causal window hides,
at positions far beyond any window.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from luthier.core.errors import ModelError
from luthier.core.types import Segment, Tree
from luthier.kernels.forest import plant
from luthier.models.alone import separate_outputs
from luthier.models.backbone import serving
from luthier.models.encoders import encoder_words, reads_both_ways
from luthier.models.failures import UNKNOWN_WAYS
from luthier.models.heads import task_of_model
from luthier.models.planted import NAME, RUNNABLE, planted, sees_ahead
from luthier.models.probe_pairs import prove_pairs
from luthier.models.rounding import LEAK_SHARE, MEAN_TOLERANCE, TOLERANCE
from luthier.models.source_target import is_encoder_decoder
from luthier.models.values import outputs

if TYPE_CHECKING:
    from collections.abc import Callable

    from transformers import PreTrainedModel

    from luthier.kernels.forest import Forest


def probe_tree(vocabulary: int, seed: int = 0) -> Tree:
    """A prompt of 7 tokens with branches of 5 and 4 tokens, one of which has a child of 3; every token is scored."""
    random = np.random.default_rng(seed)
    ids = [random.integers(0, vocabulary, length).astype(np.int32) for length in (7, 5, 4, 3)]
    segments = tuple(Segment(ids=some, scored=np.ones(len(some), np.bool_)) for some in ids)
    return Tree(segments=segments, parents=(-1, 0, 0, 1))


def prove_forest(model: PreTrainedModel, name: str) -> float:
    """Check that the model runs forests.

    Args:
        model: Loaded by :func:`luthier.models.load_model`.
        name: What the user calls it.

    Returns:
        The largest difference seen: in nats, or as a share of the mean size of a value.

    Raises:
        ModelError: It does not; the architecture and the reason are named.
    """
    if is_encoder_decoder(model):
        return prove_pairs(model, name)
    try:
        reason = _mask_fault(model)
        if reason is not None:
            raise _refused(name, model, reason)
        largest, mean = forest_error(model)
    except ModelError:
        raise
    except UNKNOWN_WAYS as error:
        why = f"its forward fails on a forest ({str(error)[:200]}){_stateful(model)}"
        if "'Seen'" in str(error):
            why = "a layer computes with its attention mask (ALiBi or sparse attention, for example)"
        raise _refused(name, model, why) from error
    if not (largest <= TOLERANCE[model.dtype] and mean <= MEAN_TOLERANCE[model.dtype]):
        leak = leak_size(model)
        if not mean <= LEAK_SHARE[model.dtype] * leak:
            why = f"a forest differs from separate forwards by {largest:.2g} {unit_of(model)}, {mean:.2g} on average"
            raise _refused(name, model, f"{why} (a leak would make {leak:.2g}){_stateful(model)}")
    return largest


@torch.no_grad()
def forest_error(model: PreTrainedModel) -> tuple[float, float]:
    """Largest and mean absolute difference of log-probabilities, forest against transformers' own forward.

    Two trees share the forest, so leaks between trees show too; each branch is also run alone. Of values, which have no
    unit, it is the difference as a share of their mean size.
    """
    forest = probe_forest(model)
    was_training = model.training
    model.eval()
    got = outputs(model, forest).double()
    model.train(was_training)
    with serving(model):
        wanted = separate_outputs(model, forest)
    difference = (got - wanted).abs() / _unit(model, wanted)
    return float(difference.max()), float(difference.mean())


@torch.no_grad()
def leak_size(model: PreTrainedModel) -> float:
    """Mean absolute change of what is compared where a branch also sees its sibling, or a text the next one."""
    forest, task = probe_forest(model), task_of_model(model)
    if both := reads_both_ways(model):
        leaking, felt = replace(forest, starts=forest.starts[:1] + forest.starts[2:], parents=forest.parents[1:]), [0]
    else:  # segments 2 and 6 are the second branches of the two trees, 1 and 5 the first ones
        leaking, felt = replace(forest, parents=(-1, 0, 1, 1, -1, 4, 5, 5)), [2, 6]
    was_training = model.training
    model.eval()
    right, wrong = outputs(model, forest), outputs(model, leaking)
    model.train(was_training)
    if task == "SEQ_CLS":
        rows = torch.tensor(felt, device=right.device)
    else:
        owner = torch.repeat_interleave(torch.tensor(forest.lengths())).to(right.device)
        owner = forest.score_segment if task == "CAUSAL_LM" else owner
        rows = torch.isin(owner, torch.tensor([0, 1] if both else felt, device=right.device)).nonzero()[:, 0]
    return float((right[rows] - wrong[rows]).abs().double().mean()) / _unit(model, right)


def unit_of(model: PreTrainedModel) -> str:
    """What :func:`prove_forest` gives its difference in, for messages."""
    return "nats" if task_of_model(model) in ("CAUSAL_LM", "SEQ_2_SEQ_LM") else "of a value"


def _unit(model: PreTrainedModel, found: torch.Tensor) -> float:
    """What differences are measured in: nats, or the mean size of a value (a head that is all zero proves nothing)."""
    return 1.0 if task_of_model(model) == "CAUSAL_LM" else max(float(found.double().abs().mean()), 1e-6)


def probe_forest(model: PreTrainedModel) -> Forest:
    """Two probe trees on the model's device; for an encoder their segments, each a text of one or two parts."""
    embedding = model.get_input_embeddings()
    vocabulary = int(embedding.weight.shape[0])
    trees = [probe_tree(vocabulary, 0), probe_tree(vocabulary, 1)]
    if reads_both_ways(model):
        most = min(2, getattr(model.config, "type_vocab_size", None) or 1)
        texts = (segment for tree in trees for segment in tree.segments)
        trees = [Tree(segments=(_text(segment, model.config.pad_token_id, vocabulary, most),)) for segment in texts]
    return plant(trees).to(model.device)


def _text(segment: Segment, padding: int | None, vocabulary: int, parts: int) -> Segment:
    """A segment as a text: no padding, which some models give no position; its second half is the second part."""
    ids = np.where(segment.ids == padding, (segment.ids + 1) % vocabulary, segment.ids)
    types = (np.arange(len(ids)) * parts // len(ids)).astype(np.int8)
    return Segment(ids=ids, scored=segment.scored, types=types)


@torch.no_grad()
def _mask_fault(model: PreTrainedModel) -> str | None:
    """What is wrong with the masks that the model asks for; None where they are causal or whole, windows or not."""
    if getattr(model.config.get_text_config(), "alibi", False):
        return "its attention adds ALiBi biases, which count tokens of the batch instead of positions"
    if model.config._attn_implementation != NAME:
        return None  # it receives the whole mask and has no window: models.load.DENSE
    tokens = np.zeros(3, np.int32)
    forest = plant([Tree(segments=(Segment(ids=tokens, scored=np.ones(3, np.bool_)),))]).to(model.device)
    words = {"input_ids": forest.input_ids[None], "position_ids": forest.position_ids[None], "use_cache": False}
    with planted(forest) as now:
        model.get_decoder()(**(encoder_words(model, forest) if reads_both_ways(model) else words))
    if not now.asked:
        return f"none of its layers asks for an attention mask{_stateful(model)}"
    for mask_function, window in now.asked:
        if not hides_like_a_window(mask_function, window, model.device):
            return "its attention is neither causal nor a sliding window (chunked or bidirectional, for example)"
    return None


def hides_like_a_window(
    mask_function: Callable[..., torch.Tensor], window: int | None, device: torch.device | str = "cpu"
) -> bool:
    """Whether a mask function of transformers lets through just what a causal window of that size does.

    Of an encoder's, a window reaches as far on both sides, its size included.

    Asked at pairs around the window's edges and around the powers of two up to a million, where chunks and windows
    that were not told would begin.
    """
    sizes = [2**power for power in range(21)] + ([window, 2 * window, 3 * window] if window is not None else [])
    marks = torch.tensor(sorted({max(size + step, 0) for size in sizes for step in (-1, 0, 1)}), device=device)
    query, key = (grid.flatten() for grid in torch.meshgrid(marks, marks, indexing="ij"))
    # Besides all pairs of marks: each mark with keys at each distance before it.
    query, key = torch.cat([query, query]), torch.cat([key, (query - key).clamp(min=0)])
    nought = torch.zeros_like(query)
    try:
        shown = mask_function(nought, nought, query, key).expand(query.shape)
    except (IndexError, RuntimeError):
        return False  # it looks positions up in the batch itself
    both = sees_ahead(mask_function)
    wanted = (key <= query) | both
    if window is not None:
        wanted &= (query - key).abs() < window + both
    return bool((shown == wanted).all())


def _stateful(model: PreTrainedModel) -> str:
    """Names a layer that carries a state along the tokens, for the message; they all convolve or scan."""
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Conv1d):
            holder = model.get_submodule(name.rpartition(".")[0])
            return f"; {type(holder).__name__} carries a state from token to token"
    return ""


def _refused(name: str, model: PreTrainedModel, why: str) -> ModelError:
    return ModelError(
        f"model {name}",
        f"{type(model).__name__}: {why}",
        RUNNABLE,
        "choose such a model; recurrent and hybrid ones cannot share a packed batch",
    )
