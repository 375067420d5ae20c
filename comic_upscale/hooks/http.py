"""Sending a request to a server that the user named, and repeating it while the server cannot answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from comic_upscale.errors import ComicUpscaleError
from comic_upscale.hooks.secrets import shown_address
from comic_upscale.retries import RetryPolicy, with_retries

if TYPE_CHECKING:
    import requests

CONNECT_SECONDS, SILENCE_SECONDS = 10.0, 30.0
"""The longest time to establish a connection, and in which a server may send nothing."""


class HookError(ComicUpscaleError):
    """A hook has failed. The message has no secret."""


class _TryAgainError(Exception):
    """The server could not answer. Another try may succeed."""


def send(
    method: str,
    url: str,
    policy: RetryPolicy,
    *,
    headers: Mapping[str, str] | Callable[[], Mapping[str, str]] | None = None,
    params: Mapping[str, Any] | None = None,
    body: bytes | None = None,
) -> requests.Response:
    """Send a request, and return the answer, whose status is 2xx. Redirects are not followed.

    Args:
        method: such as ``POST``.
        url: of the request.
        policy: when a try that found no server, a busy one or a broken one is repeated.
        headers: of the request; a function gives those of each try.
        params: of the query; they may be secret.
        body: of the request.

    Raises:
        HookError: there is no such answer. Its text has no path and no query, which may be secret.
    """
    # Slow to import, and most runs have no hook.
    import requests

    shown = shown_address(url)

    def try_once() -> requests.Response:
        try:
            answer = requests.request(
                method,
                url,
                headers=dict(headers() if callable(headers) else headers or {}),
                params=params,
                data=body,
                timeout=(CONNECT_SECONDS, SILENCE_SECONDS),
                allow_redirects=False,
            )
        except (requests.ConnectionError, requests.Timeout) as error:
            # Its text has the address with the query, and may be long.
            raise _TryAgainError(f"{shown} cannot be reached ({type(error).__name__})") from None
        except (requests.RequestException, ValueError) as error:
            raise HookError(f"{shown} cannot be used ({type(error).__name__})") from None
        if answer.status_code == 429 or answer.status_code >= 500:
            raise _TryAgainError(f"{shown} answered with status {answer.status_code}")
        if not 200 <= answer.status_code < 300:
            raise HookError(f"{shown} answered with status {answer.status_code}{_hint(answer.status_code)}")
        return answer

    try:
        return with_retries(try_once, policy, _TryAgainError)
    except _TryAgainError as error:
        raise HookError(str(error)) from None


def _hint(status: int) -> str:
    if status in (401, 403):
        return ": check the key, which must be that of an administrator"
    if status == 404:
        return ": check the address"
    return ": its address has changed" if 300 <= status < 400 else ""
