# SPDX-License-Identifier: Apache-2.0
"""Models behind an endpoint that answer a bench: what `models.generate` is to models of this machine."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from luthier.core.errors import RunFailed
from luthier.judge.cache import Request
from luthier.judge.queue import Failure, Patience, Queue

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from luthier.judge.answers import Generate
    from luthier.judge.client import Client


def student(client: Client, patience: Patience, more: Mapping[str, Any] | None = None) -> Generate:
    """A function that answers conversations by asking an endpoint.

    Args:
        client: The model behind it; one that takes empty replies.
        patience: How hard to try; how many are asked at a time is said there, too.
        more: Parameters over those of the call: `max_completion_tokens`, say; None takes one out.

    Raises (the function):
        RunFailed: A reply did not come.
    """

    def generate(
        talks: Sequence[Sequence[Mapping[str, str]]],
        *,
        max_new_tokens: int,
        batch_size: int,  # noqa: ARG001 - the endpoint puts its own together
        temperature: float,
        seed: int,
    ) -> list[str]:
        words = {"max_tokens": max_new_tokens, "temperature": temperature, "seed": seed, **(more or {})}
        parameters = {key: value for key, value in words.items() if value is not None}
        asked = [tuple(map(dict, talk)) for talk in talks]
        requests = [Request(model=client.model, messages=talk, parameters=parameters) for talk in asked]
        found = asyncio.run(Queue(client, patience, lambda *_: None).ask(requests))
        replies = [found[request.key] for request in requests]
        lost = [one for one in replies if isinstance(one, Failure)]
        if lost:
            received = f"{len(lost)} of {len(replies)} answers did not come ({lost[0].reason})"
            raise RunFailed(client.where, received, "an answer to every question", "run the same command again")
        return [one.text for one in replies if not isinstance(one, Failure)]

    return generate
