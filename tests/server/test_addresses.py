"""The address that `serve` shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from comic_upscale.server.run import _url


@dataclass
class Bound:
    """Stands for a socket, since tests listen on the loopback alone."""

    name: tuple[Any, ...]

    def getsockname(self) -> tuple[Any, ...]:
        return self.name


@pytest.mark.parametrize(
    ("name", "url"),
    [
        (("127.0.0.1", 5800), "http://127.0.0.1:5800"),
        (("192.0.2.7", 80), "http://192.0.2.7:80"),
        (("0.0.0.0", 5800), "http://127.0.0.1:5800"),
        (("::", 5800, 0, 0), "http://[::1]:5800"),
        (("2001:db8::1", 5800, 0, 0), "http://[2001:db8::1]:5800"),
    ],
)
def test_the_address_is_one_that_a_browser_opens(name: tuple[Any, ...], url: str) -> None:
    assert _url(Bound(name)) == url  # type: ignore[arg-type]
