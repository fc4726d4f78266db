# SPDX-License-Identifier: Apache-2.0
"""One run by several processes: each takes a share of a step's rows, and all make the same update.

`torchrun` starts the processes (ranks) and tells each its place in the environment: RANK, WORLD_SIZE, LOCAL_RANK.
Ranks hold replicas of everything that trains. A step's loss is divided by the units of the whole step over all ranks,
gradients are added up over them, and each moves its own replica alike: the result is that of one process with a batch
as large as all of theirs. Rank 0 alone writes.

Numbers in Python go over gloo, gradients over NCCL where there are GPUs. Without torchrun nothing of this is started.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from luthier.core.errors import RunFailed, UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    import torch

T = TypeVar("T")
Number = TypeVar("Number", float, "torch.Tensor")

PATIENCE = timedelta(minutes=10)  # for a rank that computes the same as this one; a dead one is noticed at once
_WRITING = timedelta(days=1)  # for one that prepares data or writes, which no other can hurry
BUCKET = 1 << 24  # numbers that travel together: 64 MiB of float32, the memory that this needs
_NUMBERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """The processes of a run, seen from one of them. What every rank must call says so: *all ranks*.

    Attributes:
        rank: This one, from 0.
        world: How many there are.
        local: This one among those of its machine.
        local_world: How many there are on its machine.
        words: The gloo group for numbers and words.
        slow: The same with more patience.
    """

    rank: int = 0
    world: int = 1
    local: int = 0
    local_world: int = 1
    words: Any = None
    slow: Any = None

    @property
    def first(self) -> bool:
        """Whether this rank writes."""
        return self.rank == 0

    def gather(self, value: T) -> list[T]:
        """All ranks: what each of them gave, by rank; the same list everywhere."""
        if self.world == 1:
            return [value]
        import torch.distributed as dist

        found: list[Any] = [None] * self.world
        with self._heard():
            dist.all_gather_object(found, value, group=self.words)
        return found

    def count(self, value: int) -> int:
        """All ranks: the total of whole numbers."""
        return sum(self.gather(value))

    def either(self, *flags: bool) -> tuple[bool, ...]:
        """All ranks: each flag is raised where it is on any rank."""
        return tuple(map(any, zip(*self.gather(flags), strict=True)))

    def from_first(self, make: Callable[[], T]) -> T:
        """All ranks: what rank 0 makes; the others wait as long as that takes, and call nothing."""
        if self.world == 1:
            return make()
        import torch.distributed as dist

        told: list[Any] = [make() if self.first else None]
        with self._heard():
            dist.broadcast_object_list(told, src=0, group=self.slow)
        made: T = told[0]
        return made

    def one_first(self, make: Callable[[], T]) -> T:
        """All ranks: make it on one rank of each machine, then on the others, who find in the cache what it left."""
        if self.local == 0:
            made = make()
            self.wait()
            return made
        self.wait()
        return make()

    def wait(self) -> None:
        """All ranks: until every one is here."""
        if self.world > 1:
            import torch.distributed as dist

            with self._heard():
                dist.barrier(group=self.slow)

    def add_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """All ranks: replace each gradient by its sum over ranks.

        A parameter without a gradient on every rank keeps none: optimisers pass over it, as in one process.
        """
        if self.world == 1:
            return
        import torch
        import torch.distributed as dist

        own = list({id(parameter): parameter for parameter in parameters}.values())
        there = torch.tensor([parameter.grad is not None for parameter in own], dtype=torch.uint8)
        with self._heard():
            dist.all_reduce(there, dist.ReduceOp.MAX, group=self.words)
            gradients = []
            for parameter, some in zip(own, there.tolist(), strict=True):
                if some:
                    parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                    gradients.append(parameter.grad)
            for bucket in buckets(gradients):
                flat = torch.cat([gradient.reshape(-1) for gradient in bucket])
                dist.all_reduce(flat)
                for gradient, part in zip(bucket, flat.split([g.numel() for g in bucket]), strict=True):
                    gradient.copy_(part.view_as(gradient))

    def check_same(self, parameters: Mapping[str, torch.nn.Parameter], where: str) -> None:
        """All ranks: refuse replicas that are not equal to the bit.

        Raises:
            RunFailed: They are not.
        """
        if self.world == 1:
            return
        found = self.gather(checksums(parameters))
        if odd := [name for name, one in found[0].items() if any(other.get(name) != one for other in found)]:
            raise RunFailed(
                where,
                f"ranks hold different weights ({len(odd)} parameters: {odd[0]} ...); nothing is saved",
                "all ranks compute alike: the same machines, packages and files",
                "go on from the last checkpoint with --resume on machines that are alike",
            )

    def seed_apart(self, seed: int) -> None:
        """Let this rank draw other random numbers than the others from here on (dropout); rank 0 goes on as it is."""
        if self.rank:
            import numpy as np
            import torch

            torch.manual_seed(int(np.random.SeedSequence([seed, self.rank]).generate_state(1, np.uint64)[0]))

    @contextmanager
    def _heard(self) -> Iterator[None]:
        """Say that another rank is gone.

        Raises:
            RunFailed: It is, or it did not answer; all errors of torch.distributed are RuntimeErrors.
        """
        try:
            yield
        except RuntimeError as error:
            minutes = PATIENCE.total_seconds() / 60
            told = f"{error}".strip().partition("\n")[0][:160]
            raise RunFailed(
                f"rank {self.rank} of {self.world}",
                f"another rank has ended, or did not answer for {minutes:.0f} minutes ({told})",
                "checkpoints written before are whole",
                "that rank's own message says why; then go on with --resume",
            ) from error


ALONE = Ranks()


def place_here(environment: Mapping[str, str] = os.environ) -> Ranks:
    """This process's place as torchrun has put it into the environment; alone where it has not. Starts nothing.

    Raises:
        UserError: A part of it is missing or makes no sense.

    Example:
        >>> place_here({}).world
        1
    """
    if environment.get("WORLD_SIZE", "1") == "1":
        return ALONE
    told = {name: environment.get(name, "") for name in _NUMBERS}
    if odd := [name for name, value in told.items() if not value.isdecimal()]:
        raise _odd(f"WORLD_SIZE is {told['WORLD_SIZE']!r}, and {odd[0]} is {told[odd[0]]!r}")
    rank, world, local, local_world = (int(value) for value in told.values())
    if rank >= world or local >= local_world:
        raise _odd(f"RANK is {rank} of {world}, LOCAL_RANK {local} of {local_world}")
    return Ranks(rank=rank, world=world, local=local, local_world=local_world)


@contextmanager
def joined() -> Iterator[Ranks]:
    """Meet the other processes of this run, where torchrun has started several.

    The group stays for the process's life: a second one over the same store would find the first one's addresses.

    Raises:
        UserError: The environment makes no sense, or there are fewer GPUs than ranks on this machine.
        RunFailed: The others did not come.
    """
    place = place_here()
    if place.world == 1:
        yield ALONE
        return
    import atexit

    import torch
    import torch.distributed as dist

    gpu = torch.cuda.is_available()
    if gpu and place.local >= torch.cuda.device_count():
        gpus = torch.cuda.device_count()
        raise UserError(
            "torchrun", f"LOCAL_RANK {place.local} of {gpus} GPUs", "a GPU for each rank", "lower its count"
        )
    with place._heard():
        if gpu:
            torch.cuda.set_device(place.local)
        if not dist.is_initialized():
            dist.init_process_group("nccl" if gpu else "gloo", timeout=PATIENCE)
        words, slow = (dist.new_group(backend="gloo", timeout=limit) for limit in (PATIENCE, _WRITING))
    yield replace(place, words=words, slow=slow)
    atexit.register(_leave)  # not after an error: NCCL would wait here for ranks that are gone


def refuse_several(what: str) -> None:
    """Under torchrun there is one run.

    Raises:
        UserError: Several processes were started.
    """
    if (world := place_here().world) > 1:
        raise UserError(
            what,
            f"started by torchrun as one of {world} processes",
            "torchrun trains one run: `torchrun ... -m luthier train recipe.yaml`",
            f"start {what} without it",
        )


def total(parts: Sequence[Mapping[str, Number]]) -> dict[str, Number]:
    """Add up by name, in order.

    Example:
        >>> total([{"loss": 1.0}, {}, {"loss": 2.0, "kl": 0.5}])
        {'loss': 3.0, 'kl': 0.5}
    """
    found: dict[str, Number] = {}
    for part in parts:
        for name, value in part.items():
            found[name] = found[name] + value if name in found else value
    return found


def buckets(tensors: Iterable[torch.Tensor], size: int = BUCKET) -> Iterator[list[torch.Tensor]]:
    """Cut a list of tensors into runs of one type with at most `size` numbers; a larger tensor goes alone."""
    bucket: list[torch.Tensor] = []
    for tensor in tensors:
        if bucket and (tensor.dtype != bucket[0].dtype or sum(t.numel() for t in (*bucket, tensor)) > size):
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket


def checksums(parameters: Mapping[str, torch.nn.Parameter]) -> dict[str, int]:
    """The bits of each parameter read as whole numbers, added up modulo 2^64: no copy, and no order to depend on."""
    import torch

    kinds = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    found = [
        parameter.detach().contiguous().view(kinds[parameter.element_size()]).sum(dtype=torch.int64)
        for parameter in parameters.values()
    ]
    return dict(zip(parameters, torch.stack(found).tolist() if found else [], strict=True))


def _odd(received: str) -> UserError:
    allowed = f"torchrun sets {', '.join(_NUMBERS)}, all of them"
    return UserError("the environment", received, allowed, "start with torchrun, or unset WORLD_SIZE")


def _leave() -> None:
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()
