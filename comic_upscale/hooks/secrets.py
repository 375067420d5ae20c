"""What hooks must not see or print: keys of providers, and the secrets of this program."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from urllib.parse import urlsplit

from comic_upscale.settings.hooks import HookSettings

_SECRET_NAME = re.compile(
    r"(VAST|RUNPOD|LAMBDA)_API_KEY(_FILE)?|AWS_.*|COMIC_UPSCALE_(.*(KEY|SECRET|TOKEN|PASSWORD)|WEBHOOK)(_FILE)?"
)
_NO_SECRET_VALUE = re.compile(r".*_FILE|AWS_(?!.*(KEY|SECRET|TOKEN)).*")
"""Variables that a program does not get, though their values say nothing secret."""
_SHORTEST = 6
"""Shorter values would hide ordinary words."""
HIDDEN = "***"


def without_secrets(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that a program of the user may see."""
    return {name: value for name, value in environment.items() if not _SECRET_NAME.fullmatch(name)}


def secret_values(environment: Mapping[str, str], settings: HookSettings) -> tuple[str, ...]:
    """Return the values that no message may have, the longest first."""
    found = {
        value
        for name, value in environment.items()
        if _SECRET_NAME.fullmatch(name) and not _NO_SECRET_VALUE.fullmatch(name)
    }
    own = (settings.webhook, settings.webhook_secret, settings.komga_key, settings.kavita_key)
    found |= {value for value in own if value is not None}
    return tuple(sorted((value for value in found if len(value) >= _SHORTEST), key=len, reverse=True))


def shown_address(url: str) -> str:
    """Return the scheme, host and port of an address: its path and query may be secret."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "the address"
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def hide(text: str, values: Iterable[str]) -> str:
    """Return a text in which secret values are replaced."""
    for value in values:
        text = text.replace(value, HIDDEN)
    return text
