# SPDX-License-Identifier: Apache-2.0
"""Random numbers of one's own: each of several runs in a process draws what it would draw alone."""

from __future__ import annotations

import torch


class Draws:
    """A stream of random numbers; inside, torch's generators are this one.

    It begins where torch's generators stand when it is made, and goes on where it was left.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> alone = torch.rand(2)
        >>> _ = torch.manual_seed(0)
        >>> draws = Draws()
        >>> _ = torch.rand(5)  # somebody else's
        >>> with draws:
        ...     first = torch.rand(1)
        >>> _ = torch.rand(5)
        >>> with draws:
        ...     torch.equal(torch.cat([first, torch.rand(1)]), alone)
        True
    """

    def __init__(self) -> None:
        self.state = _states()

    def __enter__(self) -> Draws:
        self._outside = _states()
        _set(self.state)
        return self

    def __exit__(self, *_: object) -> None:
        self.state = _states()
        _set(self._outside)


def _states() -> tuple[torch.Tensor, ...]:
    gpu = (torch.cuda.get_rng_state(),) if torch.cuda.is_available() else ()
    return (torch.get_rng_state(), *gpu)


def _set(states: tuple[torch.Tensor, ...]) -> None:
    torch.set_rng_state(states[0])
    if len(states) > 1:
        torch.cuda.set_rng_state(states[1])
