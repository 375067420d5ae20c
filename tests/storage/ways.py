"""The ways in which a store writes an output. Imports little: children that are killed import it, too."""

from __future__ import annotations

import asyncio
import io
from typing import IO

from comic_upscale.storage.local import LocalOutputStore


def put(store: LocalOutputStore, name: str, data: bytes) -> None:
    asyncio.run(store.put(name, data, 1))


def build(store: LocalOutputStore, name: str, data: bytes) -> None:
    def write(file: IO[bytes]) -> None:
        file.write(data)

    store.build(name, 1, write, lambda _: None)


def copy(store: LocalOutputStore, name: str, data: bytes) -> None:
    store.copy(name, io.BytesIO(data), 1)
