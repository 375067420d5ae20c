"""Read the sources of a job: files from their store, and members from the volumes in it."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Protocol

from comic_upscale.errors import InputError, PageError
from comic_upscale.library.page import MemberOf
from comic_upscale.library.volume import Volume
from comic_upscale.library.volume_reader import VolumeCache
from comic_upscale.settings.job import VolumeRules
from comic_upscale.settings.paths import path_text
from comic_upscale.storage.base import SourceStore, sha256_of_file


class Source(Protocol):
    """The position of a page or another file of the input."""

    @property
    def path(self) -> Path:
        """Its address in the source store, or the address of its volume."""

    @property
    def member(self) -> MemberOf | None:
        """Its position in a volume; None for a file outside volumes."""


class SourceReader:
    """Reads the sources of a job. Any number of threads may read.

    Args:
        store: of the input.
        volumes: of the job.
        rules: by which the volumes were listed.
    """

    def __init__(self, store: SourceStore, volumes: Iterable[Volume], rules: VolumeRules) -> None:
        self.store = store
        self.volumes = VolumeCache(volumes, rules, store)
        """Reads members of volumes."""

    def in_order(self, source: Source) -> bool:
        """Return whether a source is in a volume whose pages should be read in their order."""
        return source.member is not None and self.volumes.in_order(source.member.volume)

    async def read(self, source: Source) -> bytes:
        """Return the bytes of a source, read on a thread.

        Raises:
            PageError: it cannot be read.
            InputError: the whole input is missing.
        """
        try:
            if source.member is None:
                return await self.store.read(source.path)
            return await asyncio.to_thread(self.volumes.read, source.member.volume, source.member.index)
        except PageError:
            await asyncio.to_thread(self._check_input)
            raise

    def read_now(self, source: Source) -> bytes:
        """Do the same as `read`, on the calling thread."""
        try:
            if source.member is None:
                return self.store.read_now(source.path)
            return self.volumes.read(source.member.volume, source.member.index)
        except PageError:
            self._check_input()
            raise

    def open(self, source: Source) -> IO[bytes]:
        """Open a source for reading. A source in a volume is read into memory.

        Raises:
            PageError: it cannot be read from its volume.
            OSError: the file cannot be opened.
        """
        if source.member is None:
            return self.store.open(source.path)
        return io.BytesIO(self.volumes.read(source.member.volume, source.member.index))

    def sha256(self, source: Source) -> str | None:
        """Return the SHA-256 of a source, hexadecimal; None if it cannot be read."""
        try:
            with self.open(source) as file:
                return sha256_of_file(file)
        except (OSError, PageError):
            return None

    def close(self) -> None:
        """Close the volumes."""
        self.volumes.close()

    def _check_input(self) -> None:
        if not self.store.is_there():
            raise InputError(
                f"{path_text(self.store.root)} is gone: moved away, or its drive. Put it back, then run the same "
                "command again"
            ) from None
