# SPDX-License-Identifier: Apache-2.0
"""Prove, before a run, that an encoder-decoder runs sources and targets: a padded pass must equal separate forwards.

Three sources of different lengths, one of them with two targets, go through :mod:`encoder_decoder` together; each pair
then goes alone, without padding, through transformers' own class, which shifts the labels and makes the logits itself.
A mask that leaks, positions that count padding, and a head that does more than Luthier knows show here.
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
from luthier.models.encoder_decoder import pair_logprobs
from luthier.models.failures import UNKNOWN_WAYS
from luthier.models.rounding import LEAK_SHARE, MEAN_TOLERANCE, TOLERANCE
from luthier.models.source_target import ALLOWED

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from luthier.kernels.forest import Forest

LENGTHS = (((7,), (5, 3)), ((4,), (6,)), ((9,), (2,)))  # of each source and its targets


def probe_pairs(model: PreTrainedModel) -> Forest:
    """Sources with their targets on the model's device; ids are random, and none of them pads."""
    vocabulary, random = int(model.get_input_embeddings().weight.shape[0]), np.random.default_rng(0)
    padding = getattr(model.config, "pad_token_id", None)
    words = np.setdiff1d(np.arange(vocabulary), [padding] if padding is not None else [])
    trees = []
    for (source,), targets in LENGTHS:
        ids = [random.choice(words, length).astype(np.int32) for length in (source, *targets)]
        segments = tuple(Segment(ids=some, scored=np.full(len(some), place > 0)) for place, some in enumerate(ids))
        trees.append(Tree(segments=segments, parents=(-1, *[0] * len(targets))))
    return plant(trees).to(model.device)


def separate_pairs(model: PreTrainedModel, forest: Forest) -> torch.Tensor:
    """Log-probabilities of all targets by transformers alone, one forward for each pair, without padding.

    Args:
        model: An encoder-decoder.
        forest: All tokens of the targets are scored.

    Returns:
        [S], float64, with a gradient where the model has one.
    """
    found = []
    for target, source in enumerate(forest.parents):
        if source < 0:
            continue
        ids, labels = (forest.input_ids[forest.starts[i] : forest.starts[i + 1]] for i in (source, target))
        logits = model(input_ids=ids[None], labels=labels[None], use_cache=False).logits[0].double()
        found.append(torch.log_softmax(logits, -1).gather(1, labels[:, None])[:, 0])
    return torch.cat(found)


def prove_pairs(model: PreTrainedModel, name: str) -> float:
    """Check that a padded pass over sources and targets gives what separate forwards do.

    Args:
        model: Loaded by :func:`luthier.models.load_model` with task `SEQ_2_SEQ_LM`.
        name: What the user calls it.

    Returns:
        The largest difference seen, in nats.

    Raises:
        ModelError: It does not; the architecture and the reason are named.
    """
    kind, allowed = type(model).__name__, f"{ALLOWED}, whose padded pass equals separate forwards"
    try:
        forest = probe_pairs(model)
        with serving(model):
            got, wanted = pair_logprobs(model, forest).double(), separate_pairs(model, forest)
            # The second and third target under the source before theirs: what a leak of a source would do.
            exchanged = pair_logprobs(model, replace(forest, parents=(-1, 0, 0, -1, 0, -1, 3))).double()
    except ModelError:
        raise
    except UNKNOWN_WAYS as error:
        why = f"its forward fails on sources and targets ({str(error)[:200]})"
        raise ModelError(f"model {name}", f"{kind}: {why}", allowed, "choose such a model") from error
    difference = (got - wanted).abs()
    largest, mean = float(difference.max()), float(difference.mean())
    if not (largest <= TOLERANCE[model.dtype] and mean <= MEAN_TOLERANCE[model.dtype]):
        leak = float((exchanged - got).abs()[forest.score_segment > 2].mean())
        if not mean <= LEAK_SHARE[model.dtype] * leak:
            why = f"a padded pass differs from separate forwards by {largest:.2g} nats, {mean:.2g} on average"
            why += f" (other sources would make {leak:.2g})"
            raise ModelError(f"model {name}", f"{kind}: {why}", allowed, "choose such a model")
    return largest
