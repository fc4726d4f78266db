# SPDX-License-Identifier: Apache-2.0
"""Many requests at once, each until it has a reply or has failed: back-off with jitter, and pauses that all keep to."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from luthier.core.errors import RunFailed
from luthier.judge.client import Again, Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from luthier.core.errors import LuthierError
    from luthier.judge.cache import Reply, Request
    from luthier.judge.client import Client


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How hard to try.

    Attributes:
        parallel: Requests at a time.
        attempts: Of each request.
        first: Seconds of the first back-off, at most: each is drawn between 0 and its bound, which doubles.
        longest: Its largest bound.
        longest_asked: The longest Retry-After that is waited for.
    """

    parallel: int = 16
    attempts: int = 8
    first: float = 1.0
    longest: float = 60.0
    longest_asked: float = 600.0


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A request without a reply."""

    reason: str
    attempts: int


class Queue:
    """Asks for everything, a few at a time.

    Args:
        client: Whom to ask.
        patience: How hard to try.
        keep: Called with each reply the moment it arrives, before anything else happens.
    """

    def __init__(self, client: Client, patience: Patience, keep: Callable[[Request, Reply], None]) -> None:
        self.client, self.patience, self.keep = client, patience, keep
        self._waiting: deque[Request] = deque()
        self._found: dict[str, Reply | Failure] = {}
        self._not_before = 0.0
        self._failed_in_a_row = 0
        self._closed: LuthierError | None = None

    async def ask(self, requests: Iterable[Request]) -> dict[str, Reply | Failure]:
        """Every request's reply or failure, by its key; equal requests are sent once.

        Raises:
            RunFailed: The endpoint answers nobody; what it did answer has been kept.
        """
        self._waiting.extend({one.key: one for one in requests}.values())
        # A task group cancels what is in flight where one fails, so `_work` raises nothing: what is paid for is kept.
        async with self.client, asyncio.TaskGroup() as group:
            for _ in range(min(self.patience.parallel, len(self._waiting))):
                group.create_task(self._work())
        if self._closed is not None:
            raise self._closed
        return self._found

    async def _work(self) -> None:
        while self._waiting and self._closed is None:
            request = self._waiting.popleft()
            try:
                found = await self._until_known(request)
                if found is None:
                    return
                self._found[request.key] = found
                if not isinstance(found, Failure):
                    self.keep(request, found)
            except RunFailed as error:
                self._closed = self._closed or error
                return
            self._count(found)

    async def _until_known(self, request: Request) -> Reply | Failure | None:
        """Ask until there is a reply, or no hope; None where another request found that there is none for any."""
        reason = ""
        for attempt in range(1, self.patience.attempts + 1):
            await self._pause()
            if self._closed is not None:
                return None
            try:
                return await self.client.ask(request)
            except Refused as error:
                return Failure(reason=str(error), attempts=attempt)
            except Again as error:
                reason = str(error)
                if attempt < self.patience.attempts:
                    await self._back_off(attempt, error.wait)
        return Failure(reason=reason, attempts=self.patience.attempts)

    async def _pause(self) -> None:
        """Wait until the endpoint wants to be asked again."""
        clock = asyncio.get_running_loop().time
        while (left := self._not_before - clock()) > 0:
            await asyncio.sleep(left + random.uniform(0.0, self.patience.first))

    async def _back_off(self, attempt: int, asked: float | None) -> None:
        """Wait between 0 and a bound that doubles; what the endpoint asks for holds for all requests.

        Raises:
            RunFailed: It asks for too long.
        """
        if asked is not None:
            if asked > self.patience.longest_asked:
                received = f"the endpoint asks to wait {asked:,.0f} s"
                fix = "run the same command later; replies that came are kept"
                raise RunFailed(self.client.where, received, f"at most {self.patience.longest_asked:,.0f} s", fix)
            self._not_before = max(self._not_before, asyncio.get_running_loop().time() + asked)
        bound = min(self.patience.longest, self.patience.first * 2.0 ** (attempt - 1))
        await asyncio.sleep(random.uniform(0.0, bound))

    def _count(self, found: Reply | Failure) -> None:
        """Stop where an endpoint answers nothing at all: otherwise a wrong address costs minutes for each request."""
        failed = isinstance(found, Failure) and found.attempts == self.patience.attempts
        self._failed_in_a_row = self._failed_in_a_row + 1 if failed else 0
        if isinstance(found, Failure) and self._failed_in_a_row >= max(10, 2 * self.patience.parallel):
            received = f"{self._failed_in_a_row} requests in a row failed ({found.reason})"
            fix = "check --base-url, or run the same command later; replies that came are kept"
            self._closed = self._closed or RunFailed(self.client.where, received, fix=fix)
