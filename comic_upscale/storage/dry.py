"""An output store for previews: it reads the real outputs, writes nothing, and remembers what would move where."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path, PurePath
from typing import IO, NoReturn

from comic_upscale.errors import OutputError, PageError
from comic_upscale.storage.base import GONE, OutputStore, StoredObject, Token, check_name


class DryOutputStore:
    """An `OutputStore` that changes nothing.

    Args:
        outputs: the real store.
    """

    def __init__(self, outputs: OutputStore) -> None:
        self._outputs = outputs
        self._names: dict[str, str | None] = {}
        """The real name of each object that would move; None for a name that would become free."""

    def prepare(self) -> None:
        """Do nothing: a preview needs no permission to write."""

    def check(self) -> None:
        """Do nothing."""

    def storable_name(self, name: str) -> str:
        """The name as the real store will probably hold it: a preview writes nothing to be certain."""
        return self._outputs.expected_name(name)

    def expected_name(self, name: str) -> str:
        """The same as `storable_name`."""
        return self._outputs.expected_name(name)

    def stat(self, name: str) -> StoredObject | None:
        """The metadata of an object, as it would be."""
        real = self._names.get(name, name)
        return None if real is None else self._outputs.stat(real)

    def read(self, name: str) -> bytes:
        """The bytes of an object, as they would be."""
        with self.open(name) as file:
            return file.read()

    def open(self, name: str) -> IO[bytes]:
        """Open an object for reading."""
        real = self._names.get(name, name)
        if real is None:
            raise PageError(GONE, "The output no longer exists")
        return self._outputs.open(real)

    async def put(self, name: str, data: bytes, token: Token) -> None:
        """Refuse to write."""
        _refuse()

    def build(
        self,
        name: str,
        token: Token,
        write: Callable[[IO[bytes]], None],
        check: Callable[[IO[bytes]], None],
    ) -> tuple[int, str]:
        """Refuse to write."""
        _refuse()

    def copy(self, name: str, reader: IO[bytes], token: Token) -> tuple[int, str]:
        """Refuse to write."""
        _refuse()

    def relocate(self, name: str, to: str) -> None:
        """Remember that an object would move."""
        check_name(to, "output")
        if self.stat(name) is None:
            raise PageError("output", "the output cannot be moved: it no longer exists")
        real = self._names.get(name, name)
        self._names[name] = None
        self._names[to] = real

    def delete(self, names: Iterable[str], *, below: str = "") -> None:
        """Remember that objects would be deleted."""
        for name in names:
            if not below or name.startswith(f"{below}/"):
                self._names[name] = None

    def sweep(self, unfinished: Iterable[tuple[str, Token]]) -> None:
        """Do nothing: the remains of a run that was killed are never read."""

    def real_folder(self, name: str | None = None) -> PurePath:
        """The folder of an object with links resolved."""
        return self._outputs.real_folder(name)

    def leads_outside(self, name: str) -> bool:
        """Whether an object is, through links, a file outside of the store."""
        real = self._names.get(name, name)
        return real is not None and self._outputs.leads_outside(real)

    def is_same(self, name: str, path: Path) -> bool:
        """Whether an object and a source are one and the same."""
        real = self._names.get(name, name)
        return real is not None and self._outputs.is_same(real, path)


def _refuse() -> NoReturn:
    raise OutputError("a preview writes nothing")
