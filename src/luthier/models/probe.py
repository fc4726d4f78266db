# SPDX-License-Identifier: Apache-2.0
"""Prove, before a run, that a model runs forests: a small forest must equal separate forwards of its branches.

Of a model of words, the log-probabilities are compared; of one that ends in a head of values, the value of each branch.

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
from luthier.models.backbone import serving
from luthier.models.planted import NAME, RUNNABLE, planted
from luthier.models.probe_pairs import prove_pairs
from luthier.models.rounding import LEAK_SHARE, MEAN_TOLERANCE, TOLERANCE
from luthier.models.source_target import is_encoder_decoder
from luthier.models.values import outputs, value_head

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
    except (ValueError, TypeError, RuntimeError, AttributeError, LookupError, NotImplementedError) as error:
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
        wanted = separate_logprobs(model, forest) if value_head(model) is None else separate_values(model, forest)
    difference = (got - wanted).abs() / _unit(model, wanted)
    return float(difference.max()), float(difference.mean())


@torch.no_grad()
def leak_size(model: PreTrainedModel) -> float:
    """Mean absolute change of log-probabilities (or values) where a branch also sees its sibling."""
    forest = probe_forest(model)
    # Segments 2 and 6 are the second branches of the two trees, 1 and 5 the first ones.
    leaking = replace(forest, parents=(-1, 0, 1, 1, -1, 4, 5, 5))
    was_training = model.training
    model.eval()
    right = outputs(model, forest)
    difference = (right - outputs(model, leaking)).abs() / _unit(model, right)
    model.train(was_training)
    if value_head(model) is not None:
        return float(difference[[2, 6]].double().mean())
    return float(difference[(forest.score_segment == 2) | (forest.score_segment == 6)].double().mean())


def unit_of(model: PreTrainedModel) -> str:
    """What :func:`prove_forest` gives its difference in, for messages."""
    return "nats" if value_head(model) is None else "of a value"


def _unit(model: PreTrainedModel, found: torch.Tensor) -> float:
    """What differences are measured in: nats, or the mean size of a value (a head that is all zero proves nothing)."""
    return 1.0 if value_head(model) is None else max(float(found.double().abs().mean()), 1e-6)


def probe_forest(model: PreTrainedModel) -> Forest:
    """Two probe trees on the model's device."""
    vocabulary = int(model.get_input_embeddings().weight.shape[0])
    return plant([probe_tree(vocabulary, 0), probe_tree(vocabulary, 1)]).to(model.device)


def separate_logprobs(model: PreTrainedModel, forest: Forest) -> torch.Tensor:
    """The scored log-probabilities by transformers alone, one forward for each branch from its root to its leaf.

    Args:
        model: In :func:`luthier.models.serving`, or on an attention of transformers.
        forest: All tokens but the roots' first are scored.

    Returns:
        [S], float64, with a gradient where the model has one.
    """
    found: dict[int, torch.Tensor] = {}
    for leaf in range(len(forest.parents)):
        if leaf in forest.parents:
            continue
        chain = [*forest.ancestors(leaf), leaf]
        ids = torch.cat([forest.input_ids[forest.starts[i] : forest.starts[i + 1]] for i in chain])
        logps = torch.log_softmax(model(input_ids=ids[None], use_cache=False).logits[0].double(), -1)
        own = logps[:-1].gather(1, ids[1:, None])[:, 0]
        end = -1  # a token is predicted one position before it
        for segment in chain:
            start, end = end, end + forest.lengths()[segment]
            found[segment] = own[max(start, 0) : end]
    return torch.cat([found[segment] for segment in range(len(forest.parents))])


def separate_values(model: PreTrainedModel, forest: Forest) -> torch.Tensor:
    """The value of each segment's branch by transformers' own class, one forward for each.

    Args:
        model: In :func:`luthier.models.serving`, or on an attention of transformers.
        forest: Without empty branches.

    Returns:
        [N], or [N, C] where the head gives several values; float64, with a gradient where the model has one.
    """
    found = []
    for segment in range(len(forest.parents)):
        chain = [*forest.ancestors(segment), segment]
        ids = torch.cat([forest.input_ids[forest.starts[i] : forest.starts[i + 1]] for i in chain])
        found.append(model(input_ids=ids[None], use_cache=False).logits[0].double())
    values_NC = torch.stack(found)
    return values_NC[:, 0] if values_NC.shape[1] == 1 else values_NC


@torch.no_grad()
def _mask_fault(model: PreTrainedModel) -> str | None:
    """What is wrong with the masks that the model asks for; None where they are causal, with or without a window."""
    if getattr(model.config.get_text_config(), "alibi", False):
        return "its attention adds ALiBi biases, which count tokens of the batch instead of positions"
    if model.config._attn_implementation != NAME:
        return None  # it receives the whole mask and has no window: models.load.DENSE
    tokens = np.zeros(3, np.int32)
    forest = plant([Tree(segments=(Segment(ids=tokens, scored=np.ones(3, np.bool_)),))]).to(model.device)
    with planted(forest) as now:
        model.get_decoder()(input_ids=forest.input_ids[None], position_ids=forest.position_ids[None], use_cache=False)
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
    wanted = key <= query
    if window is not None:
        wanted &= query - key < window
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
