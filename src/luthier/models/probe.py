# SPDX-License-Identifier: Apache-2.0
"""Prove, before a run, that a model runs forests: a small forest must equal separate forwards of its branches.

Any architecture that reads past the mask (recurrent layers, patched attention, learned offsets) shows here,
as does a head that does more than Luthier knows. It costs two short forwards.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from luthier.core.errors import ModelError
from luthier.core.types import Segment, Tree
from luthier.kernels.forest import plant
from luthier.models.backbone import scored_logprobs, serving

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4, torch.bfloat16: 0.25, torch.float16: 0.1}
# In 16 bits single log-probabilities differ by rounding; a leak moves their mean, rounding does not.
MEAN_TOLERANCE = {torch.float64: 1e-10, torch.float32: 2e-5, torch.bfloat16: 0.05, torch.float16: 0.02}


def probe_tree(vocabulary: int, seed: int = 0) -> Tree:
    """A prompt of 7 tokens with branches of 5 and 4 tokens, one of which has a child of 3."""
    random = np.random.default_rng(seed)
    segments = tuple(
        Segment(ids=random.integers(0, vocabulary, n).astype(np.int32), scored=np.ones(n, np.bool_)) for n in (7, 5, 4, 3)
    )
    return Tree(segments=segments, parents=(-1, 0, 0, 1))


@torch.no_grad()
def forest_error(model: PreTrainedModel) -> tuple[float, float]:
    """Largest and mean absolute difference of log-probabilities, forest against transformers' own forward.

    Two trees share the forest, so leaks between trees show too; each branch is also run alone.
    """
    vocabulary = int(model.get_input_embeddings().weight.shape[0])
    trees = [probe_tree(vocabulary, 0), probe_tree(vocabulary, 1)]
    forest = plant(trees).to(model.device)
    was_training = model.training
    model.eval()
    got = scored_logprobs(model, forest).double()
    model.train(was_training)
    wanted = torch.full_like(got, float("nan"))
    with serving(model):
        for segment in range(len(forest.parents)):
            chain = [*forest.ancestors(segment), segment]
            ids = torch.cat([forest.input_ids[forest.starts[i] : forest.starts[i + 1]] for i in chain])[None]
            logps = torch.log_softmax(model(input_ids=ids, use_cache=False).logits[0].double(), -1)
            mine = forest.score_segment == segment
            count = int(mine.sum())
            own = logps[-count - 1 : -1].gather(1, forest.score_target[mine][:, None])[:, 0]
            wanted[mine] = own
    difference = (got - wanted).abs()
    return float(difference.max()), float(difference.mean())


def prove_forest(model: PreTrainedModel, name: str) -> float:
    """Check that the model runs forests.

    Returns:
        The largest difference seen, in nats.

    Raises:
        ModelError: It does not; the architecture is named.
    """
    architecture = type(model).__name__
    try:
        largest, mean = forest_error(model)
    except (ValueError, TypeError, RuntimeError, AttributeError, IndexError, NotImplementedError) as error:
        raise _refused(name, architecture, f"its forward fails on a forest ({str(error)[:200]})") from error
    if not (largest <= TOLERANCE[model.dtype] and mean <= MEAN_TOLERANCE[model.dtype]):
        raise _refused(name, architecture, f"a forest differs from separate forwards by {largest:.2g} nats")
    return largest


def _refused(name: str, architecture: str, why: str) -> ModelError:
    return ModelError(
        f"model {name}",
        f"{architecture}: {why}",
        "architectures whose attention goes through transformers' attention interface (docs/models.md lists those proven)",
        "choose such a model; recurrent and hybrid ones cannot share a packed batch",
    )
