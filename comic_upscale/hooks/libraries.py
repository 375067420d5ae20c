"""Scans of the libraries of comic servers: Komga and Kavita.

Source: https://komga.org/docs/openapi/komga-api, and LibraryController.cs and PluginController.cs of Kavita.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import quote

from comic_upscale.hooks.http import Answer, HookError, send
from comic_upscale.hooks.secrets import shown_address
from comic_upscale.retries import RetryPolicy


def scan_komga(url: str, key: str, libraries: Sequence[str], policy: RetryPolicy) -> None:
    """Let Komga scan libraries.

    Args:
        url: of the server, such as ``http://localhost:25600``.
        key: an API key of an administrator.
        libraries: ids or names; empty for all libraries.
        policy: when a request is repeated.

    Raises:
        HookError: the server did not accept it, or has no such library.
    """
    base = f"{url.rstrip('/')}/api/v1/libraries"
    headers = {"X-API-Key": key}
    known = _read_list(send("GET", base, policy, headers=headers, reads=True))
    for identity in _choose(known, libraries, "Komga"):
        send("POST", f"{base}/{quote(identity, safe='')}/scan", policy, headers=headers)


def scan_kavita(url: str, key: str, libraries: Sequence[str], policy: RetryPolicy) -> None:
    """Let Kavita scan libraries; arguments and errors as for `scan_komga`."""
    base = f"{url.rstrip('/')}/api"
    signed_in = send(
        "POST",
        f"{base}/Plugin/authenticate",
        policy,
        params={"apiKey": key, "pluginName": "comic-upscale"},
        reads=True,
    )
    token = _read_object(signed_in).get("token")
    if not isinstance(token, str) or not token:
        raise HookError(f"{shown_address(base)} gave no token: check the key")
    headers = {"Authorization": f"Bearer {token}"}
    known = _read_list(send("GET", f"{base}/Library/libraries", policy, headers=headers, reads=True))
    for identity in _choose(known, libraries, "Kavita"):
        send("POST", f"{base}/Library/scan", policy, headers=headers, params={"libraryId": identity})


def _choose(known: Iterable[Any], wished: Sequence[str], server: str) -> list[str]:
    """Return the ids of the wished libraries; all if none is wished."""
    names = {str(each.get("id")): str(each.get("name")) for each in known if isinstance(each, dict)}
    if not wished:
        return list(names)
    chosen: list[str] = []
    for wish in wished:
        found = [identity for identity, name in names.items() if wish in (identity, name)]
        if not found:
            alike = [identity for identity, name in names.items() if wish.casefold() == name.casefold()]
            found = alike if len(alike) == 1 else []
        if not found:
            listed = ", ".join(f"{name} ({identity})" for identity, name in names.items()) or "none"
            raise HookError(f"{server} has no library {wish!r}; it has {listed}")
        chosen += found
    return list(dict.fromkeys(chosen))


def _read_list(answer: Answer) -> list[Any]:
    content = _read(answer)
    if not isinstance(content, list):
        raise HookError(f"{_plain(answer)} did not answer with a list of libraries: check the address")
    return content


def _read_object(answer: Answer) -> dict[str, Any]:
    content = _read(answer)
    if not isinstance(content, dict):
        raise HookError(f"{_plain(answer)} did not answer with an object: check the address")
    return content


def _read(answer: Answer) -> object:
    try:
        return answer.json()
    except ValueError:
        raise HookError(f"{_plain(answer)} did not answer with JSON: check the address") from None


def _plain(answer: Answer) -> str:
    return shown_address(answer.url)
