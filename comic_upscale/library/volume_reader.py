"""Volumes: open an archive of any kind, tell its pages from its other files, and read them."""

from __future__ import annotations

import contextlib
import posixpath
import threading
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import IO

from comic_upscale.errors import PageError
from comic_upscale.imaging.formats import (
    ARCHIVE_EXTENSIONS,
    IMAGE_EXTENSIONS,
    VOLUME_EXTENSIONS,
    extension_of,
)
from comic_upscale.library.archives import (
    Container,
    Entry,
    LibarchiveContainer,
    TarContainer,
    ZipContainer,
    closing_on_error,
    encrypted,
    volume_errors,
)
from comic_upscale.library.comicinfo import NAME as COMICINFO
from comic_upscale.library.comicinfo import ComicFacts, is_comicinfo, written
from comic_upscale.library.epub import EMBEDDED, Book, read_book
from comic_upscale.library.member_names import is_litter, is_merely_hidden, safe_name
from comic_upscale.library.naming import free_number, output_names, valid_names
from comic_upscale.library.pdf import PdfContainer
from comic_upscale.library.sorting import fold, natural_key
from comic_upscale.library.volume import Contents, Member, Volume
from comic_upscale.settings.job import VolumeRules
from comic_upscale.storage.base import SourceStore
from comic_upscale.storage.local import LocalSourceStore

NO_PAGES = "no-pages"
"""The kind of failure of a volume without an image."""

_OPEN_AT_ONCE = 4
_ARCHIVES = (
    b"Rar!", b"7z\xbc\xaf\x27\x1c", b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd"
)  # fmt: skip
"""How the archives begin that are read from front to back: RAR, 7z, compressed tars."""


def open_container(path: Path, rules: VolumeRules, store: SourceStore | None = None) -> Container:
    """Open an archive by what it is, whatever it is called.

    A ZIP or a tar is read through the store, so that of a remote one only what is asked for is fetched. The others
    are opened by libraries that want a file of this machine.

    Args:
        path: its address.
        rules: the limits.
        store: where it is; None for this machine.

    Raises:
        PageError: it is no archive, cannot be opened, or a library that it needs is missing.
    """
    store = store or LocalSourceStore(path)
    with volume_errors():
        file = store.open(path)
    with volume_errors(), closing_on_error(file):
        head = file.read(512)
    is_pdf = b"%PDF-" in head and not head.startswith(_ARCHIVES)
    if is_pdf or head.startswith(_ARCHIVES):
        file.close()
        held = contextlib.ExitStack()
        with volume_errors():
            here = held.enter_context(store.local_path(path))
        if is_pdf:
            return PdfContainer(here, rules, held)
        return _Archive(LibarchiveContainer(here, rules, held), rules)
    return _Archive(_open_archive(path, head, file, rules), rules)


def _open_archive(path: Path, head: bytes, file: IO[bytes], rules: VolumeRules) -> Container:
    if head[257:262] == b"ustar" or (
        extension_of(path.name) in ("cbt", "tar") and not head.startswith(b"PK")
    ):
        return TarContainer(file, rules)
    if not head:
        file.close()
        raise PageError("empty", "The volume is empty (0 bytes): copy or download it again.")
    # A ZIP may begin with anything; its directory is at its end.
    return ZipContainer(file, rules)


def list_volume(
    path: Path, rules: VolumeRules, *, extension: str, store: SourceStore | None = None
) -> Contents:
    """Read the directory of a volume, and of an EPUB its spine; no page is read.

    Args:
        path: address of the archive.
        rules: which volumes are refused.
        extension: of the outputs, without the dot.
        store: where it is; None for this machine.

    Returns:
        Its members. Litter of systems, folders, links, names that lead outside, and what is no page and protected
        by a password are left out.

    Raises:
        PageError: it cannot be opened; ``NO_PAGES``; ``"encrypted"``; ``"bomb"``.
    """
    with volume_errors():
        container = open_container(path, rules, store)
        try:
            return _contents(path, container, rules, extension)
        finally:
            container.close()


def _contents(path: Path, container: Container, rules: VolumeRules, extension: str) -> Contents:
    entries = container.entries()
    names, notes = _names(entries)
    made: list[Member] = []
    sizes = {index: entry.size for index, entry in enumerate(entries)}
    if _is_epub(path, names):
        book = _read_book(container, names, entries, rules)
        sizes.update((EMBEDDED + number, len(data)) for number, data in enumerate(book.embedded))
        items, made, more_notes = _book_items(book, names, rules)
        notes += more_notes
    else:
        items = list(names.items())
        if isinstance(container, PdfContainer) and container.right_to_left:
            made = _made_comicinfo(ComicFacts("", "", right_to_left=True))
    pages = [(index, name) for index, name in items if extension_of(name) in IMAGE_EXTENSIONS]
    if not pages:
        raise PageError(NO_PAGES, "The volume holds no image.")
    protected = {index for index, entry in enumerate(entries) if entry.encrypted}
    if any(index in protected for index, _ in pages):
        raise encrypted()
    locked = {index for index, _ in items if index in protected}
    if locked:
        notes.append(f"{len(locked)} member(s) that are protected by a password were left out")
        items = [(index, name) for index, name in items if index not in locked]
    nested = sum(extension_of(name) in ARCHIVE_EXTENSIONS for _, name in items)
    if nested:
        notes.append(f"{nested} archive(s) inside were not opened, and are carried along as they are")
    targets = _targets([name for _, name in pages], extension)
    members = tuple(Member(index, name, sizes[index], targets.get(name)) for index, name in items)
    return Contents((*members, *made), container.in_order, tuple(notes), container.comment)


def _book_items(
    book: Book, names: dict[int, str], rules: VolumeRules
) -> tuple[list[tuple[int, str]], list[Member], list[str]]:
    """Return the pages of an EPUB in reading order with its ``ComicInfo.xml``, a generated one, and notes."""
    images = {index for index, name in names.items() if extension_of(name) in IMAGE_EXTENSIONS}
    if not book.pages and images:
        raise PageError(
            "unsupported",
            "None of the documents in the EPUB's spine shows an image that was found, and the EPUB holds "
            f"{len(images)}. Unpack it and use the folder of its images.",
        )
    if len(book.pages) > rules.max_members:
        raise PageError(
            "bomb", f"The EPUB shows more than {rules.max_members:,} pages: --max-members allows more."
        )
    notes = []
    left_out = len(images - {page.place for page in book.pages})
    if left_out:
        notes.append(f"{left_out} image(s) that the spine of the EPUB does not hold were left out")
    short = _in_reading_order([page.name for page in book.pages])
    items = [(page.place, name) for page, name in zip(book.pages, short, strict=True)]
    comicinfo = next((index for index, name in names.items() if is_comicinfo(name)), None)
    if comicinfo is not None:
        return [*items, (comicinfo, COMICINFO)], [], [*notes, *book.notes]
    return items, _made_comicinfo(book.facts), [*notes, *book.notes]


def _made_comicinfo(facts: ComicFacts) -> list[Member]:
    content = written(facts)
    return [] if content is None else [Member(-1, COMICINFO, len(content), None, content)]


def _read_book(
    container: Container, names: dict[int, str], entries: Sequence[Entry], rules: VolumeRules
) -> Book:
    return read_book(
        {name: index for index, name in names.items()},
        [entry.size for entry in entries],
        container.read,
        max_pixels=rules.max_pixels,
    )


class _Archive:
    """An archive. In an EPUB, images that are embedded in documents have indices from `EMBEDDED` on.

    Args:
        container: the archive.
        rules: the rules under which it was listed.
    """

    def __init__(self, container: Container, rules: VolumeRules) -> None:
        self._container, self._rules = container, rules
        self.in_order, self.comment = container.in_order, container.comment
        self._embedded: list[bytes] | None = None

    def entries(self) -> list[Entry]:
        """The directory of the archive."""
        return self._container.entries()

    def read(self, index: int) -> bytes:
        """Return the bytes of a member, or of an image embedded in a document."""
        if index < EMBEDDED:
            return self._container.read(index)
        if self._embedded is None:
            entries = self._container.entries()
            names, _ = _names(entries)
            self._embedded = _read_book(self._container, names, entries, self._rules).embedded
        if index - EMBEDDED >= len(self._embedded):
            raise PageError("changed", "The volume was changed during the run: run the same command again.")
        return self._embedded[index - EMBEDDED]

    def salvage(self, index: int) -> bytes:
        """All bytes of a member, even where its checksum is wrong."""
        return self._container.salvage(index) if index < EMBEDDED else self.read(index)

    def close(self) -> None:
        """Close the archive."""
        self._container.close()


def is_volume_name(name: str) -> bool:
    """Whether a file is a comic by its name: one without a page is then a failure and not just passed over."""
    return extension_of(name) in VOLUME_EXTENSIONS


def _names(entries: Sequence[Entry]) -> tuple[dict[int, str], list[str]]:
    """Give every member that counts a safe name that no other has.

    Returns:
        Index to name in the order of the directory; and what was left out, in sentences.
    """
    left_out: Counter[str] = Counter()
    names: dict[int, str] = {}
    taken: set[str] = set()
    folded: set[str] = set()
    counts: dict[str, int] = {}
    for index, entry in enumerate(entries):
        if entry.kind == "folder":
            continue
        if entry.kind != "file":
            left_out["that are links or devices"] += 1
            continue
        name = safe_name(entry.name)
        if name is None:
            left_out["whose names lead outside"] += 1
            continue
        if is_litter(name):
            if is_merely_hidden(name) and extension_of(name) in IMAGE_EXTENSIONS:
                left_out["that are hidden images (their names begin with a dot)"] += 1
            continue
        if name in taken:
            stem, suffix = posixpath.splitext(name)
            free, counts[name] = free_number(stem, suffix, folded, after=counts.get(name, 1))
            name = free
            left_out["renamed"] += 1
        names[index] = name
        taken.add(name)
        folded.add(fold(name))
    renamed = left_out.pop("renamed", 0)
    notes = [f"{count} member(s) {what} were left out" for what, count in left_out.items()]
    if renamed:
        notes.append(f"{renamed} member(s) of a name that another has were given a number")
    valid = valid_names(list(names.values()))
    return {index: valid[name] for index, name in names.items()}, notes


def _is_epub(path: Path, names: dict[int, str]) -> bool:
    return extension_of(path.name) == "epub" or "META-INF/container.xml" in names.values()


def _in_reading_order(short: Sequence[str]) -> list[str]:
    """The pages of an EPUB under their own names, with numbers before them where these would sort otherwise.

    What reads a CBZ sorts its pages by name.
    """
    if len({fold(name) for name in short}) == len(short) and list(short) == sorted(short, key=natural_key):
        return list(short)
    return [f"{at:04d}_{name}" for at, name in enumerate(short, 1)]


def _targets(pages: Iterable[str], extension: str) -> dict[str, str]:
    """Name the outputs of pages inside the new volume, folder by folder."""
    folders: defaultdict[str, list[str]] = defaultdict(list)
    for name in pages:
        folders[posixpath.dirname(name)].append(name)
    below = {parent for folder in folders for parent in _parents(folder)}
    targets: dict[str, str] = {}
    for folder, names in folders.items():
        own = {name: posixpath.basename(name) for name in names}
        beside = [posixpath.basename(other) for other in below if posixpath.dirname(other) == folder]
        outputs = output_names(own.values(), extension=extension, folders=beside)
        targets.update((name, posixpath.join(folder, outputs[short])) for name, short in own.items())
    return targets


def _parents(folder: str) -> list[str]:
    parts = folder.split("/") if folder else []
    return ["/".join(parts[: end + 1]) for end in range(len(parts))]


class _OpenVolume:
    def __init__(self, container: Container) -> None:
        self.container = container
        self.lock = threading.Lock()
        self.closed = False

    def close(self) -> None:
        with self.lock:
            self.closed = True
            self.container.close()


class VolumeCache:
    """Where volumes are read from: keeps the last few open. Any number of threads may read.

    Args:
        volumes: those of the job.
        rules: as they were listed by.
        store: where they are; None for this machine.
    """

    def __init__(
        self, volumes: Iterable[Volume], rules: VolumeRules, store: SourceStore | None = None
    ) -> None:
        self._store = store or LocalSourceStore(Path())
        self._volumes = {volume.entry.source: volume for volume in volumes}
        self._rules = rules
        self._open: OrderedDict[str, _OpenVolume] = OrderedDict()
        self._lock = threading.Lock()

    def volume(self, source: str) -> Volume:
        """The volume of this source."""
        return self._volumes[source]

    def in_order(self, source: str) -> bool:
        """Whether the pages of a volume should be read in their order."""
        contents = self._volumes[source].contents
        return contents is not None and contents.in_order

    def read(self, source: str, index: int) -> bytes:
        """The bytes of a member.

        Args:
            source: of the volume.
            index: of the member.

        Raises:
            PageError: ``"changed"`` where the volume is no longer the file that was listed; else as
                `Container.read`.
        """
        return self._asked(source, lambda container: container.read(index))

    def salvage(self, source: str, index: int) -> bytes:
        """All bytes of a member, even where its checksum is wrong.

        Args:
            source: of the volume.
            index: of the member.

        Raises:
            PageError: as `read`; they cannot be had.
        """
        return self._asked(source, lambda container: container.salvage(index))

    def _asked(self, source: str, ask: Callable[[Container], bytes]) -> bytes:
        while True:
            opened = self._opened(source)
            with opened.lock:
                if not opened.closed:
                    with volume_errors("member"):
                        return ask(opened.container)

    def _opened(self, source: str) -> _OpenVolume:
        with self._lock:
            opened = self._open.get(source)
            if opened is None:
                opened = self._open[source] = _OpenVolume(self._container(source))
            self._open.move_to_end(source)
            oldest = self._open.popitem(last=False)[1] if len(self._open) > _OPEN_AT_ONCE else None
        if oldest is not None:
            oldest.close()
        return opened

    def _container(self, source: str) -> Container:
        entry = self._volumes[source].entry
        with volume_errors():
            found = self._store.stat(entry.path)
        if (found.size, found.mtime_ns) != (entry.size, entry.mtime_ns):
            raise PageError("changed", "The volume was changed during the run: run the same command again.")
        return open_container(entry.path, self._rules, self._store)

    def close(self) -> None:
        """Close all volumes."""
        with self._lock:
            while self._open:
                self._open.popitem()[1].close()
