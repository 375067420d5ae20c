"""Sending a request to a server that the user named, and repeating it while the server cannot answer."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from comic_upscale.errors import ComicUpscaleError
from comic_upscale.hooks.secrets import shown_address
from comic_upscale.retries import RetryPolicy, with_retries

if TYPE_CHECKING:
    import requests

CONNECT_SECONDS, SILENCE_SECONDS = 10.0, 30.0
"""The longest time to establish a connection, and in which a server may send nothing."""
LONGEST_ANSWER = 8 << 20
"""The most bytes of an answer that is read, and no answer takes longer than `SILENCE_SECONDS`."""


class HookError(ComicUpscaleError):
    """A hook has failed. The message has no secret."""


class UnreachableHookError(HookError):
    """There was no server, or a busy or broken one, until the retries ended."""


class _TryAgainError(Exception):
    """The server could not answer. Another try may succeed."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer whose status is 2xx."""

    url: str
    """Of the request."""
    content: bytes
    """Empty if it was not read."""

    def json(self) -> object:
        """Return the content; raises `ValueError` if it is not JSON."""
        return json.loads(self.content)


def send(
    method: str,
    url: str,
    policy: RetryPolicy,
    *,
    headers: Mapping[str, str] | Callable[[], Mapping[str, str]] | None = None,
    params: Mapping[str, Any] | None = None,
    body: bytes | None = None,
    reads: bool = False,
) -> Answer:
    """Send a request, and return the answer, whose status is 2xx. Redirects are not followed.

    Args:
        method: such as ``POST``.
        url: of the request.
        policy: when a try that found no server, a busy one or a broken one is repeated.
        headers: of the request; a function gives those of each try.
        params: of the query; they may be secret.
        body: of the request.
        reads: whether the content of the answer is read.

    Raises:
        UnreachableHookError: there was no answer, or one that a retry may change.
        HookError: there is no such answer. The text has no path and no query, which may be secret.
    """
    # Slow to import, and most runs have no hook.
    import requests

    shown = shown_address(url)
    longest = max(0.1, policy.seconds)

    def try_once() -> Answer:
        try:
            answer = requests.request(
                method,
                url,
                headers=dict(headers() if callable(headers) else headers or {}),
                params=params,
                data=body,
                timeout=(min(CONNECT_SECONDS, longest), min(SILENCE_SECONDS, longest)),
                stream=True,
                allow_redirects=False,
            )
        except (requests.ConnectionError, requests.Timeout) as error:
            # Its text has the address with the query, and may be long.
            raise _TryAgainError(f"{shown} cannot be reached ({type(error).__name__})") from None
        except (requests.RequestException, ValueError) as error:
            raise HookError(f"{shown} cannot be used ({type(error).__name__})") from None
        with answer:
            return take(answer)

    def take(answer: requests.Response) -> Answer:
        if answer.status_code == 429 or answer.status_code >= 500:
            raise _TryAgainError(f"{shown} answered with status {answer.status_code}")
        if not 200 <= answer.status_code < 300:
            raise HookError(f"{shown} answered with status {answer.status_code}{_hint(answer.status_code)}")
        return Answer(url, _read(answer, shown) if reads else b"")

    try:
        return with_retries(try_once, policy, _TryAgainError)
    except _TryAgainError as error:
        raise UnreachableHookError(str(error)) from None


def _read(answer: requests.Response, shown: str) -> bytes:
    from urllib3.exceptions import HTTPError

    until = time.monotonic() + SILENCE_SECONDS
    content = bytearray()
    try:
        # Returns what has arrived, so that a server that sends a byte now and then cannot go on for ever.
        while chunk := answer.raw.read1(65536, decode_content=True):
            content += chunk
            if len(content) > LONGEST_ANSWER:
                raise HookError(f"{shown} sent more than {LONGEST_ANSWER >> 20} MiB: check the address")
            if time.monotonic() > until:
                raise HookError(f"{shown} did not end its answer within {SILENCE_SECONDS:g} seconds")
    except (HTTPError, OSError) as error:
        raise _TryAgainError(f"{shown} broke off its answer ({type(error).__name__})") from None
    return bytes(content)


def _hint(status: int) -> str:
    if status in (401, 403):
        return ": check the key, which must be that of an administrator"
    if status == 404:
        return ": check the address"
    return ": its address has changed" if 300 <= status < 400 else ""
