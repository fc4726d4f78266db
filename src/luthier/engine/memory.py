# SPDX-License-Identifier: Apache-2.0
"""Will a training step fit into memory? Decides `gradient_checkpointing: auto`: off unless needed.

The activations are counted, not guessed: two short forward passes of the real model, with its method, show how many
bytes a token leaves behind for the backward pass. So adapters, fused layers and any architecture count as they are.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from luthier.core.errors import RecipeError
from luthier.core.types import Segment, Tree
from luthier.engine.optim import moved_numbers, optimizer_bytes, state_bytes
from luthier.engine.regional import decoder_layers
from luthier.engine.rounding import transient
from luthier.kernels.forest import plant
from luthier.kernels.logprob import CHUNK_ELEMENTS, MIN_ROWS
from luthier.kernels.quantized import Quantized
from luthier.models import outputs
from luthier.models.backbone import recompute_layers
from luthier.models.source_target import is_encoder_decoder

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from luthier.core.trainable import Trainable
    from luthier.recipe import Optim, Recipe

SHARE = 0.9  # of the free memory; the rest is for what no formula sees (allocator's gaps, workspaces)
_PROBES = (32, 64)  # tokens; the difference tells the cost of a token, without what is there only once
# glibc cannot reuse all that it gets back: resident memory grew 1.4 to 1.6 times as much as the activations that were
# alive (embedded model, 8,192 tokens, four runs; 1.02 to 1.06 times with each tensor mapped on its own).
_GAPS = {"cpu": 0.5}


@dataclass(frozen=True, kw_only=True)
class Need:
    """Bytes that a training step needs besides the model itself, which is in memory already.

    Attributes:
        activations: Kept from the forward to the backward pass, by the largest micro-batch.
        states: Gradients, float32 masters and the optimiser's state.
        passing: The backward pass through one layer, one chunk of logits, and one quantised matrix made dense.
        gaps: What the allocator holds between pieces that are in use.
    """

    activations: int
    states: int
    passing: int
    gaps: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.activations + self.states + self.passing + self.gaps


def fit_memory(
    recipe: Recipe,
    trainable: Trainable,
    tokens: int,
    say: Callable[[str], None],
    free: int | None = None,
    *,
    ranks: int = 1,
) -> bool:
    """Turn gradient checkpointing on where the recipe says so, or where `auto` finds that a step would not fit.

    Args:
        recipe: Its `train.gradient_checkpointing` decides.
        trainable: The model with its method, on its device.
        tokens: Of the largest micro-batch.
        say: Told that it is on, and for `auto` the numbers.
        free: Bytes that a step may take; by default what the machine has free.
        ranks: Processes of this run on the machine: on a CPU they share what is free.

    Returns:
        Whether it is on.

    Raises:
        RecipeError: It is asked for, and the architecture has none.
    """
    model: Any = trainable.model
    wanted, why = recipe.train.gradient_checkpointing, ""
    if free is None and (free := free_bytes(model.device)) is not None and model.device.type == "cpu":
        free //= ranks
    if wanted == "auto" and model.supports_gradient_checkpointing and free is not None:
        needed = need(trainable, recipe.optim, tokens, len(decoder_layers(model)))
        wanted, why = needed.total > SHARE * free, f": {told(needed, free)}"
    if wanted is not True:
        return False
    if not model.supports_gradient_checkpointing:
        received = f"{type(model).__name__} cannot recompute its layers"
        raise RecipeError("train.gradient_checkpointing", received, "auto or false", "remove it")
    recompute_layers(model)
    say(f"gradient checkpointing is on{why}")
    return True


def need(trainable: Trainable, optim: Optim, tokens: int, layers: int) -> Need:
    """Predict what a training step needs.

    Args:
        trainable: The model with its method, on its device.
        optim: Which optimiser.
        tokens: Of the largest micro-batch.
        layers: Decoder layers.
    """
    parameters = {id(p): p for p in trainable.parameters().values()}.values()
    found = need_of(
        numbers=sum(p.numel() for p in parameters),
        short=[p.numel() for p in parameters if p.element_size() < 4],
        activations=bytes_per_token(trainable.model) * tokens,
        layers=layers,
        vocabulary=int(trainable.model.get_input_embeddings().weight.shape[0]),  # type: ignore[operator]
        dense=dense_bytes(trainable.model),
        device=next(trainable.model.parameters()).device.type,
        optim=optim,
    )
    spared = spared_bytes(trainable, optim)
    if trainable.layerwise:  # no more gradients than one parameter's are there at a time
        spared += 4 * (trainable.num_trainable - max(p.numel() for p in parameters))
    return replace(found, states=found.states - spared)


def need_of(
    *,
    numbers: int,
    short: Sequence[int],
    activations: int,
    layers: int,
    vocabulary: int,
    dense: int = 0,
    device: str,
    optim: Optim,
) -> Need:
    """Predict what a training step needs from counts alone.

    Args:
        numbers: Numbers that train.
        short: Of each parameter among them of less than 32 bits: they get float32 masters, or one at a time.
        activations: Bytes kept from the forward to the backward pass, by the largest micro-batch.
        layers: Decoder layers.
        vocabulary: Words of the head.
        dense: Bytes of the largest matrices that a quantised base is unpacked to for a moment.
        device: `cpu` or `cuda`.
        optim: Which optimiser.
    """
    masters = 4 * (sum(short) if optim.weights == "float32" else transient(list(short)))
    # log-softmax, its gradient and a copy in the head's type, in float32 (kernels.logprob)
    logits = 3 * 4 * max(CHUNK_ELEMENTS, MIN_ROWS * vocabulary)
    return Need(
        activations=activations,
        states=(4 + state_bytes(optim)) * numbers + masters,
        passing=activations // max(1, layers) + logits + dense,
        gaps=int(activations * _GAPS.get(device, 0.0)),
    )


def spared_bytes(trainable: Trainable, optim: Optim) -> int:
    """Bytes of optimiser state that a method's smaller gradients spare, less the stand-ins and their gradients."""
    if not trainable.transforms:
        return 0
    moving = 2 * 4 * moved_numbers(trainable)
    return state_bytes(optim) * trainable.num_trainable - optimizer_bytes(optim, trainable) - moving


def dense_bytes(model: torch.nn.Module) -> int:
    """Bytes of the largest quantised matrix where it is multiplied: one is dense at a time; 0 of other models."""
    sizes = (p.numel() * p.element_size() for p in model.parameters() if isinstance(p, Quantized))
    return max(sizes, default=0)


def bytes_per_token(model: torch.nn.Module) -> int:
    """Bytes that one token leaves for the backward pass, all of it scored; the random state is left as it was."""
    short, long = (_saved_bytes(model, tokens) for tokens in _PROBES)
    return max(0, long - short) // (_PROBES[1] - _PROBES[0])


def _saved_bytes(model: Any, tokens: int) -> int:
    """Bytes of all storages that autograd keeps of a forward pass, parameters left out."""
    device = next(model.parameters()).device
    here = (t for t in (*model.parameters(), *model.buffers()) if not isinstance(t, Quantized))
    known = {t.untyped_storage().data_ptr() for t in here}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if isinstance(tensor, Quantized):
            return tensor  # the base's codes, which are there already
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()  # many views of one storage keep it once
        return tensor

    words = int(model.get_input_embeddings().weight.shape[0])
    tree = _tree(tokens, words, half=is_encoder_decoder(model))
    was_training = model.training
    model.train()
    try:
        with torch.random.fork_rng(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            forest = plant([tree]).to(device)
            found = outputs(model, forest)
        del found  # only now: as long as it lives, no storage's address can be given to another
    finally:
        model.train(was_training)
    return sum(kept.values())


def _tree(tokens: int, words: int, *, half: bool) -> Tree:
    """A text of so many words, all of it scored; by half a source, and a target as long."""
    ids = np.arange(tokens, dtype=np.int32) % min(words, 64)
    if not half:
        return Tree(segments=(Segment(ids=ids, scored=np.ones(tokens, np.bool_)),))
    parts = np.split(ids, 2)
    segments = tuple(Segment(ids=part, scored=np.full(len(part), place > 0)) for place, part in enumerate(parts))
    return Tree(segments=segments, parents=(-1, 0))


def free_bytes(device: torch.device) -> int | None:
    """Memory that a run can still take; None where the system does not tell."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        reserved = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(free + reserved)  # torch's own cache is free for it
    try:
        for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("MemAvailable:"):
                return min(int(line.split()[1]) * 1024, _group_limit())
    except OSError:
        pass
    return None


def _group_limit() -> int:
    """What the control group (a container) still allows; very much where there is none."""
    group = Path("/sys/fs/cgroup")
    try:
        limit = (group / "memory.max").read_text().strip()
        used = int((group / "memory.current").read_text())
        files = [
            line.split()[1] for line in (group / "memory.stat").read_text().splitlines() if line.startswith("file ")
        ]
        return int(limit) - used + int(files[0]) if limit != "max" else 1 << 62  # cached files give way
    except (OSError, ValueError, IndexError):
        return 1 << 62


def told(needed: Need, free: int) -> str:
    """The numbers of a decision, for the user."""
    parts = {"activations": needed.activations, "gradients and optimiser": needed.states}
    parts |= {"one layer and logits": needed.passing, "gaps": needed.gaps}
    listed = " + ".join(f"{name} {_gigabytes(value)}" for name, value in parts.items() if value)
    return f"{listed} = {_gigabytes(needed.total)}, {_gigabytes(free)} free"


def _gigabytes(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 / 10 else f"{count / 2**20:.1f} MiB"
