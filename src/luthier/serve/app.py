# SPDX-License-Identifier: Apache-2.0
"""The HTTP application: OpenAI's `/v1/models`, `/v1/chat/completions` and `/v1/completions`, `/health` and `/metrics`.

request -> checked (protocol) -> sequences (engine, its own thread) -> news -> a JSON body, or chunks as they come
"""

from __future__ import annotations

import asyncio
import secrets
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from luthier.core.errors import DataError, ModelError, did_you_mean
from luthier.models.generate import encode_prompt
from luthier.serve.asked import Asked
from luthier.serve.counts import exposition
from luthier.serve.guard import Guard
from luthier.serve.protocol import BadRequest, ChatRequest, TextRequest, read
from luthier.serve.replies import Form
from luthier.serve.running import Running, stream, unless_gone, whole

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection

    from starlette.requests import Request

    from luthier.serve.shelf import Served, Shelf

TEXT_TOKENS = 16  # of a reply of /v1/completions that says nothing of its length, as OpenAI has it


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What the server takes on.

    Attributes:
        seconds: That a request may take, waiting included.
        body: Bytes of a request.
        key: Bearer token that every request must have; None: none.
        hosts: Names that the server is asked by; None: any.
    """

    seconds: float = 600.0
    body: int = 4_000_000
    key: str | None = None
    hosts: Collection[str] | None = None


def make_app(shelf: Shelf, limits: Limits) -> Starlette:
    """The application over what is served; its engines start and end with it."""
    server = _Server(shelf, limits)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        shelf.start()
        yield
        await asyncio.to_thread(shelf.close)

    routes = [
        Route("/health", server.health),
        Route("/metrics", server.metrics),
        Route("/v1/models", server.models),
        Route("/v1/models/{name:path}", server.model),
        Route("/v1/chat/completions", server.chat, methods=["POST"]),
        Route("/v1/completions", server.text, methods=["POST"]),
    ]
    words: dict[str, Any] = {"key": limits.key, "largest": limits.body, "hosts": limits.hosts}
    handlers: dict[Any, Any] = {BadRequest: _refuse, HTTPException: _other, Exception: _broken}
    middleware = [Middleware(Guard, **words)]
    return Starlette(routes=routes, middleware=middleware, exception_handlers=handlers, lifespan=lifespan)


async def _refuse(_: Request, error: Any) -> Response:
    headers = {"Retry-After": "1"} if error.status in (429, 503) else {}
    return JSONResponse(error.body(), error.status, headers)


async def _other(request: Request, error: Any) -> Response:
    message = f"{request.method} {request.url.path}: {error.detail}"
    return JSONResponse(BadRequest(message, code="not_found").body(), error.status_code, error.headers)


async def _broken(_: Request, __: Exception) -> Response:
    body = BadRequest("the server failed; its log says why", kind="server_error").body()
    return JSONResponse(body, 500)


class _Server:
    """The handlers."""

    def __init__(self, shelf: Shelf, limits: Limits) -> None:
        self._shelf, self._limits = shelf, limits

    async def health(self, _: Request) -> Response:
        """Whether the engines run."""
        fine = all(engine.is_alive() for engine in self._shelf.engines.values())
        return JSONResponse({"status": "ok" if fine else "failed"}, 200 if fine else 503)

    async def metrics(self, _: Request) -> Response:
        """For Prometheus."""
        engines = self._shelf.engines.items()
        text = exposition((name, one.counts, one.load(), one.cache_bytes) for name, one in engines)
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4")

    async def models(self, _: Request) -> Response:
        """Every name."""
        return JSONResponse({"object": "list", "data": [_card(one) for one in self._shelf.served.values()]})

    async def model(self, request: Request) -> Response:
        """One name."""
        return JSONResponse(_card(self._find(request.path_params["name"])))

    async def chat(self, request: Request) -> Response:
        """A conversation goes on."""
        asked: ChatRequest = read(ChatRequest, await request.body())
        served = self._find(asked.model)
        _check_count(served, asked.n or 1)
        turns = [turn.told() for turn in asked.messages]
        ids = await asyncio.to_thread(_encode, served, turns, False)
        wanted = asked.max_completion_tokens or asked.max_tokens
        return await self._answer(request, asked, served, [ids], wanted, asked.top())

    async def text(self, request: Request) -> Response:
        """A text goes on."""
        asked: TextRequest = read(TextRequest, await request.body())
        served = self._find(asked.model)
        prompts = asked.prompts()
        _check_count(served, len(prompts) * (asked.n or 1))  # before they are read: there may be a million
        texts = [await asyncio.to_thread(_encode, served, prompt, True) for prompt in prompts]
        return await self._answer(request, asked, served, texts, asked.max_tokens or TEXT_TOKENS, asked.logprobs)

    def _find(self, name: str) -> Served:
        if name not in self._shelf.served:
            message = f"model {name!r} is not served; {did_you_mean(name, self._shelf.served)}"
            raise BadRequest(message, status=404, param="model", code="model_not_found")
        return self._shelf.served[name]

    async def _answer(
        self,
        request: Request,
        asked: Any,
        served: Served,
        prompts: list[list[int]],
        wanted: int | None,
        top: int | None,
    ) -> Response:
        chat = isinstance(asked, ChatRequest)
        form = Form(chat=chat, model=served.name, tokenizer=served.tokenizer, tells_chances=top is not None)
        running = Running(form, sum(map(len, prompts)), served)
        seed = secrets.randbits(31) if asked.seed is None else asked.seed
        words: dict[str, Any] = {"stop": asked.stops(), "ends": served.ends if chat else served.raw_ends}
        words |= {"temperature": 1.0 if asked.temperature is None else asked.temperature, "strip": chat}
        words |= {"top_p": 1.0 if asked.top_p is None else asked.top_p, "top_logprobs": top, "seed": seed}
        for ids in prompts:
            room = _room(served, ids, wanted)
            for number in range(asked.n or 1):
                one = Asked(ids=ids, max_tokens=room, number=number, seconds=self._limits.seconds, **words)
                running.add(one)
        running.submit()
        if asked.stream:
            parts = stream(running, asked.tells_usage)
            return StreamingResponse(parts, media_type="text/event-stream", headers={"Cache-Control": "no-store"})
        return await unless_gone(request, running, whole(running))


def _card(served: Served) -> dict[str, Any]:
    length = served.capacity
    return {"id": served.name, "object": "model", "created": 0, "owned_by": "luthier", "max_model_len": length}


def _check_count(served: Served, replies: int) -> None:
    if replies > served.engine.most:
        raise BadRequest(f"n: at most {served.engine.most} replies a request", param="n", code="invalid_value")


def _encode(served: Served, prompt: Any, raw: bool) -> list[int]:
    if isinstance(prompt, list) and prompt and isinstance(prompt[0], int):
        size = len(served.tokenizer)
        if not all(0 <= token < size for token in prompt):
            raise BadRequest(f"prompt: token ids from 0 to {size - 1}", param="prompt", code="invalid_value")
        return prompt
    try:
        return encode_prompt(served.tokenizer, prompt, 0, raw)
    except (DataError, ModelError) as error:
        raise BadRequest(str(error), param="prompt" if raw else "messages", code="invalid_value") from None


def _room(served: Served, ids: list[int], wanted: int | None) -> int:
    """Tokens that a reply may have."""
    left = served.capacity - len(ids)
    if left < (wanted or 1):
        asked = f"{len(ids)} tokens of prompt" + (f" and {wanted} of reply" if wanted else "")
        message = f"{asked}; this model takes {served.capacity} together. Shorten the prompt or lower max_tokens"
        raise BadRequest(message, param="max_tokens", code="context_length_exceeded")
    return wanted or left
