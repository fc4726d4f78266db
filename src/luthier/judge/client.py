# SPDX-License-Identifier: Apache-2.0
"""One question to a judge over OpenAI's protocol: the reply, or what kind of failure it was. The key stays in here."""

from __future__ import annotations

import asyncio
import email.utils
import os
import re
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from luthier.core.errors import LuthierError, MissingExtra, RunFailed, UserError
from luthier.judge.cache import Reply

if TYPE_CHECKING:
    from luthier.judge.cache import Request

KEY = "OPENAI_API_KEY"
URL = "OPENAI_BASE_URL"
NO_KEY = "none"  # local servers ask for none, and the client library wants one
_AGAIN = (408, 409, 425, 429)  # and 500 and above
_FOR_ALL = {
    401: "refuses the key",
    403: "refuses the key or this use",
    404: "knows no such model or address",
    402: "wants to be paid",
}
_SECRET = re.compile(r"\bsk-[\w*-]{4,}")


class Again(Exception):
    """It may work later.

    Args:
        reason: Why it did not.
        wait: Seconds that the endpoint asked for.
    """

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


class Refused(Exception):
    """This question will not be answered, whenever it is asked."""


class Client:
    """An endpoint and a model behind it.

    Args:
        model: The judge.
        base_url: Of the endpoint; that of the environment, else OpenAI's, unless given.
        key_variable: The environment variable that holds the key.
        timeout: Seconds until a whole reply must be there.
        empty: Whether a reply may hold nothing: a model that is asked may say so, a judge has to judge.
        role: What the model is asked as, for messages.

    Raises:
        MissingExtra: The package `openai` is not installed.
        UserError: There is no key, or the address holds one.
    """

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        key_variable: str = KEY,
        timeout: float = 120.0,
        empty: bool = False,
        role: str = "judge",
    ) -> None:
        address = base_url or os.environ.get(URL) or None
        self._key = os.environ.get(key_variable, "").strip()
        self.model, self.timeout = model, timeout
        self.where, self._empty = f"{role} {model}", empty
        _check_address(address)
        if not self._key and address is None:
            fix = f"export {key_variable}=..., or name another endpoint with --base-url"
            raise UserError(self.where, f"no key in {key_variable}", "a key for OpenAI's endpoint", fix)
        try:
            import openai
        except ImportError:
            raise MissingExtra("luthier judge", "openai", "judge") from None
        self._errors = openai
        # Its own retries are off: they would not be counted, and not wait for each other.
        self._open = lambda: openai.AsyncOpenAI(
            api_key=self._key or NO_KEY, base_url=address, timeout=timeout, max_retries=0
        )
        self._client: Any = None

    async def __aenter__(self) -> Client:
        self._client = self._open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()

    async def ask(self, request: Request) -> Reply:
        """Send a request once.

        Raises:
            Again: No whole reply came, and one may come later.
            Refused: None will come to this request.
            RunFailed: None will come to any.
        """
        words = request.to_json()
        model, messages = words.pop("model"), words.pop("messages")
        try:
            # The library's time-out is for each part of a reply; one that drips would never end.
            async with asyncio.timeout(self.timeout):
                found = await self._client.chat.completions.create(model=model, messages=messages, extra_body=words)
        except (TimeoutError, self._errors.APITimeoutError):
            raise Again(f"no whole reply within {self.timeout:g} s") from None
        except self._errors.APIStatusError as error:
            raise self._of_status(error) from None
        except self._errors.APIConnectionError as error:
            raise Again(self.scrub(f"no connection ({error.__cause__ or error})")) from None
        except (self._errors.OpenAIError, ValueError) as error:  # broken JSON
            raise Again(self.scrub(f"the reply cannot be read ({type(error).__name__}: {error})")) from None
        return self._reply(found)

    def _reply(self, found: Any) -> Reply:
        """What a completion holds; the client library checks none of it.

        Raises:
            Again: It is not whole.
            Refused: The endpoint kept it back.
        """
        choices = getattr(found, "choices", None)
        choice = choices[0] if isinstance(choices, list) and choices else None
        text = getattr(getattr(choice, "message", None), "content", None)
        reason = str(getattr(choice, "finish_reason", None) or "")
        if reason == "content_filter":
            raise Refused("the endpoint's content filter kept the reply back")
        if not isinstance(text, str) or not (text.strip() or self._empty):
            raise Again(f"an empty reply (finish_reason {reason or 'missing'})")
        usage = getattr(found, "usage", None)
        counts = [getattr(usage, name, None) for name in ("prompt_tokens", "completion_tokens")]
        tokens_in, tokens_out = (count if isinstance(count, int) else 0 for count in counts)
        return Reply(
            text=self.scrub(text), finish_reason=reason, tokens_in=tokens_in, tokens_out=tokens_out, time=time.time()
        )

    def _of_status(self, error: Any) -> Exception:
        status, code = error.status_code, str(error.code or error.type or "")
        told = error.body.get("message") if isinstance(error.body, dict) else None
        reason = self.scrub(f"{status} {told or error.message}")[:300]
        if status in _FOR_ALL or code == "insufficient_quota":
            return self._for_all(_FOR_ALL.get(status, "says that the quota is used up"), reason)
        if status in _AGAIN or status >= 500:
            return Again(reason, retry_after(error.response.headers))
        return Refused(reason)

    def _for_all(self, received: str, reason: str) -> LuthierError:
        fix = f"check --model, --base-url and {KEY}; replies that came are kept"
        return RunFailed(self.where, f"the endpoint {received} ({reason})", fix=fix)

    def scrub(self, text: str) -> str:
        """Take keys out of a text that came from the endpoint: some repeat them in their errors."""
        return _SECRET.sub("[key]", text.replace(self._key, "[key]") if self._key else text)


def retry_after(headers: Any) -> float | None:
    """Seconds that an endpoint asks to wait: a number, or a date.

    Example:
        >>> retry_after({"retry-after": "2.5"}), retry_after({"retry-after-ms": "300"}), retry_after({})
        (2.5, 0.3, None)
    """
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        given = headers.get(name)
        try:
            seconds = float(given) * unit if given else None
        except ValueError:
            date = email.utils.parsedate_tz(given)
            seconds = email.utils.mktime_tz(date) - time.time() if date else None
        if seconds is not None and 0.0 <= seconds < float("inf"):
            return seconds
    return None


def _check_address(address: str | None) -> None:
    if address is None:
        return
    try:
        parts = urlsplit(address)
        fine = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        fine = False
    if not fine:
        raise UserError("--base-url", address, "http://HOST/v1 or https://HOST/v1", "correct it")
    if parts.username or parts.password or parts.query:
        received, fix = "an address with a key in it", f"put the key into the environment variable {KEY}"
        raise UserError("--base-url", received, "an address alone", fix)
