# SPDX-License-Identifier: Apache-2.0
"""OpenAI's requests, as far as they are understood here: checked word by word, what would be ignored is refused.

What OpenAI's API has and a reply here cannot honour (tools, penalties, `response_format` ...) is an error that names
the key unless it stands at its neutral value; keys that change no reply (`user`, `metadata`, `store`) are taken.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

MAX_REPLIES = 128

# Keys whose neutral values are allowed, and nothing else.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "frequency_penalty": (None, 0),
    "presence_penalty": (None, 0),
    "logit_bias": (None, {}),
    "tools": (None, []),
    "tool_choice": (None, "none", "auto"),
    "functions": (None, []),
    "function_call": (None, "none"),
    "response_format": (None, {"type": "text"}),
    "modalities": (None, ["text"]),
    "audio": (None,),
    "prediction": (None,),
    "reasoning_effort": (None, "none"),
    "verbosity": (None, "medium"),
    "web_search_options": (None,),
    "suffix": (None, ""),
    "echo": (None, False),
    "best_of": (None, 1),
}
# Keys that change nothing of a reply.
_SILENT = {"user", "metadata", "store", "service_tier", "parallel_tool_calls", "safety_identifier", "prompt_cache_key"}


class BadRequest(Exception):
    """A request that cannot be answered.

    Args:
        message: What is wrong, and what to do.
        status: HTTP's number for it.
        param: The key at fault.
        code: OpenAI's word for it.
        kind: OpenAI's `type`.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        param: str | None = None,
        code: str | None = None,
        kind: str = "invalid_request_error",
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.code, self.kind = status, param, code, kind

    def body(self) -> dict[str, Any]:
        """As OpenAI's clients read it."""
        return {"error": {"message": str(self), "type": self.kind, "param": self.param, "code": self.code}}


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class StreamOptions(_Strict):
    """What a stream says besides."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None  # random characters against listeners; there are none to leave out


class TextPart(_Strict):
    """A part of a message."""

    type: str
    text: str


class Turn(_Strict):
    """A message of a conversation."""

    role: str
    content: str | list[TextPart]
    name: str | None = None

    def told(self) -> dict[str, str]:
        """As chat templates read it."""
        content = self.content
        text = content if isinstance(content, str) else "".join(part.text for part in content)
        return {"role": self.role, "content": text} | ({"name": self.name} if self.name else {})


class _Request(_Strict):
    """What both kinds of requests have."""

    model: str
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    n: Annotated[int, Field(ge=1, le=MAX_REPLIES)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @model_validator(mode="before")
    @classmethod
    def _no_more(cls, given: Any) -> Any:
        """Take out what changes nothing, and refuse what would be ignored."""
        if not isinstance(given, dict):
            return given
        rest = {key: value for key, value in given.items() if key not in _SILENT}
        for key in [key for key in rest if key in _NEUTRAL and key not in cls.model_fields]:
            value = rest.pop(key)
            if value not in _NEUTRAL[key]:
                raise BadRequest(f"{key}: not supported by this server; leave it out", param=key, code="unsupported")
        return rest

    def stops(self) -> tuple[str, ...]:
        """Strings that end a reply."""
        given = [self.stop] if isinstance(self.stop, str) else self.stop or []
        if len(given) > 16 or any(not stop or len(stop) > 256 for stop in given):
            allowed = "at most 16 strings of 1 to 256 characters"
            raise BadRequest(f"stop: {allowed}", param="stop", code="invalid_value")
        return tuple(given)

    @property
    def tells_usage(self) -> bool:
        """Whether a stream ends with the count of tokens."""
        return bool(self.stream_options and self.stream_options.include_usage)


class ChatRequest(_Request):
    """`/v1/chat/completions`."""

    messages: Annotated[list[Turn], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None

    def top(self) -> int | None:
        """How many of the likeliest tokens are told; None: no log-probabilities at all."""
        if self.top_logprobs and not self.logprobs:
            raise BadRequest("top_logprobs: it needs logprobs: true", param="top_logprobs", code="invalid_value")
        return (self.top_logprobs or 0) if self.logprobs else None


class TextRequest(_Request):
    """`/v1/completions`."""

    prompt: str | list[str] | list[int] | list[list[int]]
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None

    def prompts(self) -> list[str] | list[list[int]]:
        """Each of them."""
        given = self.prompt
        if isinstance(given, str):
            return [given]
        if not given:
            raise BadRequest("prompt: an empty list", param="prompt", code="invalid_value")
        return [given] if isinstance(given[0], int) else given


def read(kind: type[_Request], body: bytes) -> Any:
    """A request's body -> what it asks.

    Raises:
        BadRequest: It is not JSON, or a key of it cannot be honoured.
    """
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        if first["type"] == "json_invalid":
            raise BadRequest(f"the body is not JSON ({first['msg']})", code="invalid_json") from None
        place = ".".join(str(part) for part in first["loc"] if not str(part)[0].isupper()) or None
        if first["type"] == "extra_forbidden":
            raise BadRequest(f"{place}: unknown key; leave it out", param=place, code="unknown_parameter") from None
        raise BadRequest(f"{place or 'the body'}: {first['msg']}", param=place, code="invalid_value") from None
