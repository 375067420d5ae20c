"""JSON over HTTPS, as the providers speak it: retried where that is safe, bounded, and without keys in any message."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from comic_upscale.errors import CapacityError, ProviderError, SettingsError, UncertainError
from comic_upscale.retries import RetryPolicy, with_retries

if TYPE_CHECKING:
    import requests

RETRY_POLICY = RetryPolicy(attempts=7, seconds=180.0)
"""How requests are retried that may be repeated, and those that were turned away by a rate limit."""

MOST_ANSWER_BYTES = 32 << 20
MOST_ANSWER_SECONDS = 120.0
LONGEST_RETRY_AFTER = 120.0
"""Seconds. A provider that asks for a longer pause gets no second request."""

_CONNECT_SECONDS, _SILENCE_SECONDS = 10.0, 60.0
_TOO_MANY = 429
_NOT_FOUND = 404
_LOCAL = ("127.0.0.1", "::1", "localhost")

Method = Literal["GET", "POST", "PUT", "DELETE"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """How a provider expresses itself."""

    provider: str
    explain: Callable[[Any], str]
    """Returns the provider's words from the JSON of a failed answer; empty if it has none."""
    no_capacity: re.Pattern[str]
    """Matches the words that mean that the offered machine is not available any more."""
    key_hint: str
    """Where the user finds or sets the key, for the message after a refused one."""
    authorization: Callable[[str], str]
    """Returns the header ``Authorization`` for a key."""


class _FailedError(Exception):
    """One attempt failed. A repetition may succeed."""

    def __init__(self, message: str, *, retry_after: float = 0.0, is_rate_limit: bool = False) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.is_rate_limit = is_rate_limit


class Api:
    """The interface of one provider.

    Args:
        base_url: without a slash at its end. Other than ``https`` is allowed only on this machine.
        key: the key of the user.
        dialect: of the provider.
        retry: how requests are repeated.

    Raises:
        SettingsError: the address would send the key unencrypted.
    """

    def __init__(self, base_url: str, key: str, dialect: Dialect, retry: RetryPolicy = RETRY_POLICY) -> None:
        parts = urlsplit(base_url)
        if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _LOCAL):
            raise SettingsError(f"the address for {dialect.provider} must begin with https://")
        self.base_url = base_url.rstrip("/")
        self._key = key
        self._dialect = dialect
        self._retry = retry
        self._session: requests.Session | None = None

    def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            self._session.close()
            self._session = None

    def get(self, path: str, query: Mapping[str, str] | None = None) -> Any:
        """Return the JSON at a path, with retries; None for a 404.

        Raises:
            ProviderError: the provider refused, or gave no usable answer in all attempts.
        """
        return self.repeat("GET", path, query=query)

    def repeat(
        self, method: Method, path: str, body: Any = None, query: Mapping[str, str] | None = None
    ) -> Any:
        """Send a request that may be repeated, and return the JSON of its answer; None for a 404.

        Raises:
            ProviderError: the provider refused, or gave no usable answer in all attempts.
        """
        try:
            return with_retries(lambda: self._send(method, path, body, query), self._retry, _FailedError)
        except _FailedError as error:
            raise ProviderError(f"{self._dialect.provider}: {error}") from None

    def once(self, method: Method, path: str, body: Any) -> Any:
        """Send a request that must not be carried out twice. Only a rate limit is retried.

        Raises:
            CapacityError: the offered machine is not available.
            UncertainError: the answer leaves open whether the request was carried out.
            ProviderError: the provider refused.
        """

        def try_once() -> Any:
            try:
                return self._send(method, path, body, None)
            except _FailedError as error:
                if error.is_rate_limit:
                    raise
                raise UncertainError(f"{self._dialect.provider}: {error}") from None

        try:
            answer = with_retries(try_once, self._retry, _FailedError)
        except _FailedError as error:
            raise ProviderError(f"{self._dialect.provider}: {error}") from None
        if answer is None:
            raise CapacityError(f"{self._dialect.provider}: the offer does not exist any more")
        return answer

    def refuse(self, words: str) -> ProviderError:
        """Return the error for an answer whose words mean failure although its status means success."""
        return self._error(words or "the request failed")

    def _send(self, method: Method, path: str, body: Any, query: Mapping[str, str] | None) -> Any:
        """Send a request once, and return the JSON of its answer; None for a 404."""
        import requests

        if self._session is None:
            self._session = requests.Session()
        try:
            with self._session.request(
                method, self.base_url + path, json=body, params=query, stream=True, allow_redirects=False,
                timeout=(_CONNECT_SECONDS, _SILENCE_SECONDS), auth=self._authorize,
            ) as response:  # fmt: skip
                text = _read(response)
                return self._answer(response.status_code, response.headers, text)
        except requests.RequestException as error:
            raise _FailedError(f"no usable answer ({self._clean(_cause(error))})") from None

    def _authorize(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        # A function, since requests replaces a plain header by a login from ~/.netrc.
        request.headers["Authorization"] = self._dialect.authorization(self._key)
        return request

    def _answer(self, status: int, headers: Mapping[str, str], text: bytes) -> Any:
        try:
            answer = json.loads(text) if text.strip() else {}
            is_json = True
        except (ValueError, RecursionError):
            answer, is_json = {}, False
        words = self._clean(self._dialect.explain(answer)) if is_json else ""
        if status == _NOT_FOUND and not self._dialect.no_capacity.search(words):
            return None
        if status == _TOO_MANY:
            raise self._rate_limit(headers, words)
        if status in (401, 403):
            raise ProviderError(
                f"{self._dialect.provider} refuses the key{f' ({words})' if words else ''}: {self._dialect.key_hint}"
            )
        if status >= 500 and not self._dialect.no_capacity.search(words):
            raise _FailedError(f"HTTP status {status}{f': {words}' if words else ''}")
        if not 200 <= status < 300:
            raise self._error(words or f"HTTP status {status}")
        if not is_json:
            raise _FailedError("an incomplete answer")
        return answer

    def _rate_limit(self, headers: Mapping[str, str], words: str) -> Exception:
        seconds = _retry_after(headers.get("Retry-After", ""))
        said = f" ({words})" if words else ""
        if seconds > LONGEST_RETRY_AFTER or "quota" in words:
            wait = f": it asks to wait {seconds:.0f} s" if seconds else ""
            return ProviderError(
                f"{self._dialect.provider} takes no more requests now{said}{wait}. Try again later"
            )
        return _FailedError(f"too many requests{said}", retry_after=seconds, is_rate_limit=True)

    def _error(self, words: str) -> ProviderError:
        kind = CapacityError if self._dialect.no_capacity.search(words) else ProviderError
        return kind(f"{self._dialect.provider}: {self._clean(words)}")

    def _clean(self, text: str) -> str:
        """Return the provider's words as one printable line without the key."""
        hidden = text.replace(self._key, "***") if self._key else text
        return "".join(char if char.isprintable() else " " for char in hidden).strip()[:500]


def _read(response: requests.Response) -> bytes:
    """Return the body of an answer of a sensible size that comes in a sensible time."""
    until = time.monotonic() + MOST_ANSWER_SECONDS
    text = bytearray()
    for piece in response.iter_content(1 << 16):
        text += piece
        if len(text) > MOST_ANSWER_BYTES or time.monotonic() > until:
            raise _FailedError("an answer that is too long or too slow")
    return bytes(text)


def _cause(error: BaseException) -> str:
    """Return the innermost reason of an error of requests: its own text names the whole address."""
    from urllib3.exceptions import ProtocolError

    reason: BaseException = error
    while (inner := reason.__cause__ or reason.__context__) is not None and not isinstance(
        reason, ProtocolError
    ):
        reason = inner
    return getattr(reason, "strerror", None) or type(reason).__name__


def _retry_after(text: str) -> float:
    """Return the seconds of a header ``Retry-After``: a number or a date; 0 if it is neither."""
    from email.utils import parsedate_to_datetime

    if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", text.strip()):
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (TypeError, ValueError, OverflowError):
        return 0.0


# Values of answers: each may be missing, or of another kind than documented.


def text_of(value: object) -> str:
    """Return a text or a whole number as text; empty for anything else."""
    return str(value)[:500] if isinstance(value, (str, int)) and not isinstance(value, bool) else ""


def number_of(value: object) -> float | None:
    """Return a number, or the number in a text, from 0 to 10^12; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if 0 <= number < 1e12 else None


def count_of(value: object) -> int | None:
    """Return a whole number of at least 1; None for anything else."""
    number = number_of(value)
    return int(number) if number is not None and number >= 1 else None


def entries_of(value: object) -> list[dict[str, Any]]:
    """Return the objects of a list, or of the values of an object; nothing for anything else."""
    values = list(value.values()) if isinstance(value, dict) else value
    return [each for each in values if isinstance(each, dict)] if isinstance(values, list) else []


def listed_in(answer: object, name: str, provider: str) -> list[dict[str, Any]]:
    """Return the objects of a list that an answer must have.

    Raises:
        ProviderError: it has none. Such an answer must not look like an empty list, since machines would be forgotten.
    """
    found = answer.get(name) if isinstance(answer, dict) else None
    if not isinstance(found, list):
        raise ProviderError(f"{provider}: the answer has no list of {name}; its interface may have changed")
    return entries_of(found)


def entry_of(value: object) -> dict[str, Any]:
    """Return an object; an empty one for anything else."""
    return value if isinstance(value, dict) else {}
