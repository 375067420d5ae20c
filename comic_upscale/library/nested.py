"""Archives inside archives: find them, and unpack them to temporary files while they are read.

An archive that holds archives is like a folder of volumes. The libraries that read a volume inside it need a local
file. No name from an archive becomes a path there.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from comic_upscale.errors import PageError
from comic_upscale.imaging.formats import ARCHIVE_EXTENSIONS, extension_of
from comic_upscale.library.archives import Archive, Entry, changed, volume_errors
from comic_upscale.library.containers import list_volume, open_container
from comic_upscale.library.naming import Extension
from comic_upscale.library.page import MemberOf, Page
from comic_upscale.library.parts import MISSING_PART, stat_parts
from comic_upscale.library.pdf import PdfContainer
from comic_upscale.library.volume import Contents, Nested
from comic_upscale.library.volume_contents import list_nested, name_members
from comic_upscale.settings.job import VolumeRules
from comic_upscale.storage.base import SourceStore

DEEPEST = 3
"""How many archives may be around a volume."""


def nested_entry(around: Page, nested: Nested) -> Page:
    """Return the entry of an archive inside another one.

    Args:
        around: entry of the other one.
        nested: the archive.
    """
    where = MemberOf(around.source, nested.index, around.member)
    return Page(f"{around.source}/{nested.name}", around.path, "", nested.size, around.mtime_ns, where)


class Unpacker:
    """Unpacks archives that are inside others to temporary files.

    The archives around them stay open, so archives are best asked for in the order of the directory. Used by one thread
    at a time.

    Args:
        rules: the limits.
        store: where the outermost archives are.
    """

    def __init__(self, rules: VolumeRules, store: SourceStore) -> None:
        self._rules, self._store = rules, store
        self._levels: list[_Level] = []
        """The open archives, each inside the one before."""
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._count = 0

    def unpack(self, entry: Page) -> Path:
        """Unpack an archive to a file, which the caller removes.

        Args:
            entry: of the volume, with its place in ``member``.

        Raises:
            PageError: ``"changed"``; it cannot be read, or does not have the size that the directory claims; the disk
                is full.
        """
        *around, index = _chain(entry)
        level = self._go_to(entry.path, around)
        if index >= len(level.entries) or level.entries[index].size != entry.size:
            raise changed()
        return self._write(level, index)

    @contextlib.contextmanager
    def unpacked(self, entry: Page) -> Iterator[tuple[Path, SourceStore | None]]:
        """Yield the file of an archive, and the store where it is; None for this machine.

        Args:
            entry: of the archive, which need not be inside another one.

        Raises:
            PageError: as `unpack`.
        """
        if entry.member is None:
            yield entry.path, self._store
            return
        path = self.unpack(entry)
        try:
            yield path, None
        finally:
            path.unlink(missing_ok=True)

    def list(self, entry: Page, *, extension: Extension) -> Contents:
        """Read the directory of a volume, as `list_volume` does.

        Args:
            entry: of the volume, which need not be inside another archive.
            extension: of the outputs, by the names of their pages in the volume.

        Raises:
            PageError: as `unpack` and `list_volume`.
        """
        try:
            with self.unpacked(entry) as (path, store):
                return list_volume(path, self._rules, extension=extension, store=store)
        except PageError as error:
            if error.kind != MISSING_PART or entry.member is None:
                raise
            raise PageError(
                MISSING_PART,
                "The volume is one of several parts of an archive, and inside another archive: unpack that first",
            ) from None

    def find_nested(self, entry: Page) -> tuple[Nested, ...]:
        """Find the archives of every kind inside an archive that holds no page itself.

        Raises:
            PageError: it cannot be opened; ``"bomb"``.
        """
        with self.unpacked(entry) as (path, store):
            container = open_container(path, self._rules, store)
            try:
                entries = container.entries()
            finally:
                container.close()
        return list_nested(name_members(entries)[0].items(), entries, ARCHIVE_EXTENSIONS)

    def _write(self, level: _Level, index: int) -> Path:
        """Unpack a member of an open archive to a new file."""
        try:
            if self._folder is None:
                self._folder = tempfile.TemporaryDirectory(prefix="comic-upscale-")
            self._count += 1
            # The extension is one of ours: it decides how some archives are read.
            extension = extension_of(level.entries[index].name)
            suffix = f".{extension}" if extension in ARCHIVE_EXTENSIONS else ""
            path = Path(self._folder.name, f"{self._count}{suffix}")
            try:
                with path.open("xb") as file:
                    for piece in level.archive.pieces(index):
                        file.write(piece)
            except BaseException:
                # The file is closed: Windows removes no other, and its refusal would hide this error.
                path.unlink(missing_ok=True)
                raise
        except OSError as error:
            raise PageError(
                "unreadable",
                "The volume is inside another archive and cannot be unpacked to "
                f"{tempfile.gettempdir()} ({error.strerror or error}): make room there, or unpack it yourself",
            ) from None
        return path

    def _go_to(self, path: Path, chain: Sequence[int]) -> _Level:
        """Open an archive, and all archives around it.

        Args:
            path: of the outermost one.
            chain: places of the others, each in the one before.
        """
        wanted = [(path, tuple(chain[:length])) for length in range(len(chain) + 1)]
        while self._levels and self._levels[-1].key not in wanted:
            self._levels.pop().close()
        for key in wanted[len(self._levels) :]:
            file = self._write(self._levels[-1], key[1][-1]) if key[1] else None
            self._levels.append(self._open(key, file))
        return self._levels[-1]

    def _open(self, key: tuple[Path, tuple[int, ...]], file: Path | None) -> _Level:
        container = open_container(file or key[0], self._rules, self._store if file is None else None)
        if isinstance(container, PdfContainer):
            container.close()
            raise changed()
        try:
            return _Level(key, container, container.entries(), file)
        except BaseException:
            container.close()
            raise

    def close(self) -> None:
        """Close the archives, and remove all files that are left."""
        while self._levels:
            self._levels.pop().close()
        if self._folder is not None:
            self._folder.cleanup()
        self._folder = None


@dataclass(frozen=True, slots=True)
class _Level:
    key: tuple[Path, tuple[int, ...]]
    archive: Archive
    entries: Sequence[Entry]
    file: Path | None

    def close(self) -> None:
        self.archive.close()
        if self.file is not None:
            self.file.unlink(missing_ok=True)


def _chain(entry: Page) -> list[int]:
    """Return the indices of the archives around a volume and of the volume itself, outermost first."""
    chain = []
    member = entry.member
    while member is not None:
        chain.append(member.index)
        member = member.around
    return chain[::-1]


def find_volume(source: str, rules: VolumeRules, store: SourceStore) -> Page | None:
    """Find a volume that was listed before, also one that is inside another archive.

    Args:
        source: of the volume.
        rules: the limits.
        store: of the job.

    Returns:
        Its entry; None if it is not there.

    Raises:
        PageError: `GONE`: the source leads out of the input; or an archive around it cannot be read.
    """
    parts = source.split("/")
    for end in range(len(parts), 0, -1):
        own = "/".join(parts[:end])
        path = store.address(own)
        with contextlib.suppress(OSError):
            if store.stat(path).kind != "file":
                return None
            break
    else:
        return None
    with volume_errors():
        entry = Page(own, path, "", *stat_parts(path, store))
    rest = "/".join(parts[end:])
    with contextlib.closing(Unpacker(rules, store)) as unpacker:
        while rest:
            inside = unpacker.find_nested(entry)
            found = next((each for each in inside if f"{rest}/".startswith(f"{each.name}/")), None)
            if found is None:
                return None
            entry = nested_entry(entry, found)
            rest = rest[len(found.name) + 1 :]
    return entry
