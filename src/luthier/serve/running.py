# SPDX-License-Identifier: Apache-2.0
"""The replies to one request: from the engine's thread to a JSON body, or to chunks as they come.

A client that leaves cancels them, whether it waits for the whole reply or reads a stream.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from starlette.responses import JSONResponse, Response

from luthier.serve.engine import Closed, Full
from luthier.serve.protocol import BadRequest
from luthier.serve.replies import Choice

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from starlette.requests import Request

    from luthier.serve.asked import Asked, News
    from luthier.serve.replies import Form
    from luthier.serve.sequence import Sequence
    from luthier.serve.shelf import Served


@dataclass
class Running:
    """The replies to one request.

    Attributes:
        form: How they are told.
        prompt_tokens: Of all its prompts.
        served: Who writes them.
        sequences: One for each.
        news: (place, News) as they come.
    """

    form: Form
    prompt_tokens: int
    served: Served
    sequences: list[Sequence] = field(default_factory=list)
    news: asyncio.Queue[tuple[int, News]] = field(default_factory=asyncio.Queue)

    def add(self, asked: Asked) -> None:
        """One reply more."""
        loop, place = asyncio.get_running_loop(), len(self.sequences)

        def tell(news: News) -> None:
            if not loop.is_closed():  # the server ended first
                loop.call_soon_threadsafe(self.news.put_nowait, (place, news))

        self.sequences.append(self.served.sequence(asked, tell))

    def submit(self) -> None:
        """Begin."""
        try:
            self.served.engine.submit(self.sequences)
        except Full:
            message = "too many requests wait already; try again"
            raise BadRequest(message, status=429, code="queue_full", kind="rate_limit_error") from None
        except Closed:
            raise BadRequest("the server ends", status=503, code="closing", kind="server_error") from None

    def cancel(self) -> None:
        """Nobody waits any more."""
        for sequence in self.sequences:
            self.served.engine.cancel(sequence)

    async def each(self) -> AsyncIterator[tuple[int, News]]:
        """News until all have ended.

        Raises:
            BadRequest: One of them cannot be written.
        """
        left = len(self.sequences)
        while left:
            place, news = await self.news.get()
            if news.reason in ("timeout", "error", "cancelled"):
                self.cancel()
                raise _FAILED[news.reason](news.message)
            left -= news.reason is not None
            yield place, news


_FAILED: dict[str, Callable[[str], BadRequest]] = {
    "timeout": lambda _: BadRequest("the request took too long", status=504, code="timeout", kind="server_error"),
    "error": lambda said: BadRequest(said, status=500, code="failed", kind="server_error"),
    "cancelled": lambda _: BadRequest("the server ends", status=503, code="closing", kind="server_error"),
}


async def whole(running: Running) -> Response:
    """All replies at once."""
    choices = [Choice() for _ in running.sequences]
    async for place, news in running.each():
        choices[place].text += news.text
        choices[place].chances += news.chances
        choices[place].reason, choices[place].tokens = news.reason, news.tokens
    return JSONResponse(running.form.whole(choices, running.prompt_tokens))


async def unless_gone(request: Request, running: Running, reply: Awaitable[Response]) -> Response:
    """The reply, unless its client leaves before."""
    task = asyncio.ensure_future(reply)
    gone = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else Response(status_code=499)
    finally:
        running.cancel()
        for one in (task, gone):
            one.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def stream(running: Running, tells_usage: bool) -> AsyncIterator[str]:
    """Server-sent events; `tells_usage` asks for the count of tokens at the end."""
    form, choices = running.form, [Choice() for _ in running.sequences]
    try:
        for place in range(len(choices)):
            if (first := form.begin(place)) is not None:
                yield _event(first)
        async for place, news in running.each():
            choice = choices[place]
            if news.text or news.chances:
                yield _event(form.piece(place, news.text, news.chances, len(choice.text)))
            choice.text += news.text
            choice.tokens = news.tokens
            if news.reason is not None:
                yield _event(form.end(place, news.reason))
        if tells_usage:
            yield _event(form.usage(choices, running.prompt_tokens))
        yield "data: [DONE]\n\n"
    except BadRequest as error:  # the status is sent already
        yield _event(error.body())
    finally:
        running.cancel()


def _event(tree: dict[str, Any]) -> str:
    return f"data: {json.dumps(tree, ensure_ascii=False)}\n\n"
