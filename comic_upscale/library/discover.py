"""Find the pages of an input by their names, those of volumes by their directories; none is read."""

from __future__ import annotations

import contextlib
import os
import posixpath
import stat
from collections import Counter, defaultdict, deque
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeAlias

from comic_upscale.errors import InputError, PageError
from comic_upscale.imaging.formats import ARCHIVE_EXTENSIONS, IMAGE_EXTENSIONS, extension_of
from comic_upscale.library.member_names import LITTER
from comic_upscale.library.naming import folder_names, free_name, output_names, valid_names
from comic_upscale.library.page import MemberOf, Page
from comic_upscale.library.sidecars import OtherFile, candidates, pages_by_stem, sidecar_of
from comic_upscale.library.sorting import fold, natural_key
from comic_upscale.library.volume import Contents, Volume
from comic_upscale.library.volume_reader import NO_PAGES, is_volume_name, list_volume
from comic_upscale.settings.job import ArchiveOutput, VolumeRules
from comic_upscale.settings.paths import MARKER_FOLDER
from comic_upscale.storage.base import SourceEntry, SourceStore, StoredObject
from comic_upscale.storage.local import LocalSourceStore

LOOSE_PAGES = f"{MARKER_FOLDER}/volumes"
"""Where, in the output folder, the finished pages of a volume wait for the others."""

_MOST_NOTES = 20


@dataclass(frozen=True, slots=True)
class Discovery:
    """What an input holds."""

    pages: tuple[Page, ...]
    """In natural order of ``source``."""
    passed_over: dict[str, int] = field(default_factory=dict)
    """How many files (or folders) were left out, for each reason: ``"not an image"``,
    ``"archive without pages"``, ``"not a regular file"``, ``"unreadable folder"``,
    ``"output of comic-upscale"``. Hidden files and the litter of operating systems are not counted, nor are
    sidecars."""
    files: tuple[OtherFile, ...] = ()
    """What is no page: the sidecars of pages, and the other files, archives without pages among them; and what is
    beside the pages in volumes whose pages go into folders."""
    warnings: tuple[str, ...] = ()
    """A sentence for each thing that the user may want to mend."""
    volumes: tuple[Volume, ...] = ()
    """The archives that hold pages, and those that could not be opened; in natural order of their source."""


def discover(
    root: Path,
    *,
    extension: str,
    exclude: Sequence[Path] = (),
    rules: VolumeRules = VolumeRules(),  # noqa: B008 - frozen
    archive_output: ArchiveOutput = "cbz",
    store: SourceStore | None = None,
) -> Discovery:
    """List the pages below a folder, or the one page or the pages of the one volume that a file is.

    Links are followed, and every real folder is entered once; one that is there by itself goes under its
    own name rather than under that of a link to it. The result does not depend on the order in which the
    file system lists names.

    Args:
        root: a folder, an image file, or an archive.
        extension: the outputs' extension, without the dot: ``"png"``; empty where each keeps its format.
        exclude: folders that are not entered (the output's); they need not exist.
        rules: how volumes are read, and which are refused.
        archive_output: what volumes become.
        store: whose input ``root`` is; None for a folder or a file of this machine.

    Returns:
        The pages; none, and the counts, if there is nothing to do.

    Raises:
        InputError: ``root`` is missing, unreadable, or neither an image nor a volume that can be opened.
    """
    store = store or LocalSourceStore(root)
    try:
        status = store.stat(root)
    except FileNotFoundError:
        raise InputError(f"{root} does not exist: check the path of the input.") from None
    except OSError as error:
        raise InputError(f"{root} cannot be read ({_words(error)}): check its permissions.") from None
    reading = _Reading(store, rules, archive_output, extension)
    if status.kind == "folder":
        return _Walk(root, extension, exclude, reading).run()
    if extension_of(root.name) in ARCHIVE_EXTENSIONS and status.kind == "file":
        return _single_volume(root, status, reading)
    page = _single(root, status, reading)
    return Discovery((page,), files=tuple(_beside(page, store)))


def _single(path: Path, status: StoredObject, reading: _Reading) -> Page:
    if extension_of(path.name) not in IMAGE_EXTENSIONS or status.kind != "file":
        raise InputError(f"{path} is not an image: give an image, an archive, or a folder of these.")
    if not reading.store.may_read(path):
        raise InputError(f"{path} cannot be read: check its permissions.")
    source = valid_names([path.name])[path.name]
    output = output_names([source], extension=reading.extension)[source]
    return Page(source, path, output, status.size, status.mtime_ns)


def _beside(page: Page, store: SourceStore) -> list[OtherFile]:
    """The sidecars of an image that is the whole input."""
    found = []
    for name in candidates(page.path.name):
        path = page.path.with_name(name)
        with contextlib.suppress(OSError):
            status = store.stat(path)
            if status.kind == "file":
                name = valid_names([name])[name]
                found.append(OtherFile(name, path, name, status.size, status.mtime_ns, (page.source,)))
    return found


def _single_volume(path: Path, status: StoredObject, reading: _Reading) -> Discovery:
    source = valid_names([path.name])[path.name]
    try:
        contents = list_volume(path, reading.rules, extension=reading.extension, store=reading.store)
    except PageError as error:
        raise InputError(f"{path} cannot be upscaled. {error.reason}") from None
    opened = _Opened(Page(source, path, "", status.size, status.mtime_ns), contents, None)
    placed = reading.placed(opened, "", reading.names([source], taken=())[source])
    return Discovery(
        tuple(placed.pages),
        files=tuple(placed.files),
        warnings=_notes([placed.volume]),
        volumes=(placed.volume,),
    )


@dataclass(frozen=True, slots=True)
class _Opened:
    """An archive whose directory was read, or could not be; where its output goes is not known yet."""

    entry: Page
    contents: Contents | None
    failure: tuple[str, str] | None


@dataclass(frozen=True, slots=True)
class _Placed:
    """A volume, and where what is in it goes."""

    volume: Volume
    pages: list[Page]
    files: list[OtherFile]
    """What goes beside the pages into their folder; none where a CBZ takes it."""


@dataclass(frozen=True, slots=True)
class _Reading:
    """How volumes are opened and where they go."""

    store: SourceStore
    rules: VolumeRules
    archive_output: ArchiveOutput
    extension: str

    def opened(self, entry: Page) -> _Opened:
        """Read the directory of an archive."""
        try:
            return _Opened(
                entry, list_volume(entry.path, self.rules, extension=self.extension, store=self.store), None
            )
        except PageError as error:
            return _Opened(entry, None, (error.kind, error.reason))

    def names(self, names: Collection[str], *, taken: Collection[str]) -> dict[str, str]:
        """Name what the archives of one folder become, so that no name is in ``taken``."""
        if self.archive_output == "cbz":
            return output_names(names, extension="cbz", folders=taken)
        outputs: dict[str, str] = {}
        folded = {fold(name) for name in taken}
        for name in sorted(names, key=natural_key):
            outputs[name] = free_name(name.rpartition(".")[0], "", folded)
            folded.add(fold(outputs[name]))
        return outputs

    def placed(self, opened: _Opened, folder: str, name: str) -> _Placed:
        """Say where a volume and its pages go.

        Args:
            opened: the archive.
            folder: prefix of the outputs of its folder.
            name: of its own output there.
        """
        entry = replace(opened.entry, output=f"{folder}{name}" if self.archive_output == "cbz" else "")
        pages = []
        for number, member in enumerate(opened.contents.pages if opened.contents else (), 1):
            output = f"{folder}{name}/{member.target}"
            if self.archive_output == "cbz":
                # By number, so that no name of an archive becomes a path; the extension is one of ours.
                output = f"{LOOSE_PAGES}/{folder}{name}/{number:05d}.{extension_of(member.target or '')}"
            where = MemberOf(entry.source, member.index)
            source = f"{entry.source}/{member.name}"
            pages.append(Page(source, entry.path, output, member.size, entry.mtime_ns, where))
        files = _in_volume(opened, f"{folder}{name}") if self.archive_output == "folder" else []
        return _Placed(Volume(entry, opened.contents, opened.failure), pages, files)


def _in_volume(opened: _Opened, output: str) -> list[OtherFile]:
    """What is beside the pages of a volume.

    Args:
        opened: the archive.
        output: the folder that its pages go into.
    """
    if opened.contents is None:
        return []
    entry = opened.entry
    pages: defaultdict[str, list[str]] = defaultdict(list)
    for page in opened.contents.pages:
        pages[posixpath.dirname(page.name)].append(posixpath.basename(page.name))
    by_stem = {folder: pages_by_stem(names) for folder, names in pages.items()}
    files = []
    for member in opened.contents.members:
        # What was made of an EPUB's own words is for readers of CBZs.
        if member.is_page or member.content is not None:
            continue
        folder, name = posixpath.split(member.name)
        own_pages = tuple(
            f"{entry.source}/{posixpath.join(folder, page)}"
            for page in sidecar_of(name, by_stem.get(folder, {}))
        )
        where = MemberOf(entry.source, member.index)
        source, target = f"{entry.source}/{member.name}", f"{output}/{member.name}"
        files.append(OtherFile(source, entry.path, target, member.size, entry.mtime_ns, own_pages, where))
    return files


def _notes(volumes: Sequence[Volume]) -> tuple[str, ...]:
    """What is to be said of volumes; of very many, only of the first."""
    notes = [
        f"{volume.entry.source}: {note}."
        for volume in volumes
        if volume.contents
        for note in volume.contents.notes
    ]
    more = len(notes) - _MOST_NOTES
    return (*notes[:_MOST_NOTES], *([f"{more} more notes on volumes are not shown."] if more > 0 else []))


@dataclass(slots=True)
class _Folder:
    path: str
    source: str
    """Prefix of the sources of what is inside: empty, or ending in a slash."""
    output: str
    """Prefix of the outputs of what is inside."""


_Found: TypeAlias = _Folder | Page | _Placed


class _Walk:
    """One walk through a tree; ``run`` once."""

    def __init__(self, root: Path, extension: str, exclude: Sequence[Path], reading: _Reading) -> None:
        self._root = root
        self._extension = extension
        self._reading = reading
        self._volumes: list[Volume] = []
        self._passed_over: Counter[str] = Counter()
        self._warnings: list[str] = []
        self._pages: list[Page] = []
        self._files: list[OtherFile] = []
        self._store = reading.store
        excluded = (self._store.identity(os.fspath(path)) for path in exclude)
        self._excluded = {identity for identity in excluded if identity is not None}
        self._entered: set[Hashable] = set()
        # Links to folders wait until the real tree is walked, so that a link "latest" never takes the
        # pages of the folder it points to, whose outputs would move with the link.
        self._links: deque[_Folder] = deque()

    def run(self) -> Discovery:
        self._walk(_Folder(os.fspath(self._root), "", ""), is_root=True)
        if self._links:
            while self._links:
                self._walk(self._links.popleft())
            # The pages of a volume stay together and in its order: sorting is stable.
            self._pages.sort(key=lambda page: natural_key(page.member.volume if page.member else page.source))
            self._volumes.sort(key=lambda volume: natural_key(volume.entry.source))
        return Discovery(
            tuple(self._pages),
            dict(self._passed_over),
            files=tuple(sorted(self._files, key=lambda file: file.source)),
            warnings=(*self._warnings, *_notes(self._volumes)),
            volumes=tuple(self._volumes),
        )

    def _walk(self, top: _Folder, *, is_root: bool = False) -> None:
        # A stack and no recursion: a tree may be deeper than Python allows calls to be.
        stack: list[_Found] = [top]
        while stack:
            item = stack.pop()
            if isinstance(item, Page):
                self._pages.append(item)
            elif isinstance(item, _Placed):
                self._volumes.append(item.volume)
                self._pages.extend(item.pages)
                self._files.extend(item.files)
            else:
                stack.extend(reversed(self._list(item, is_root=is_root)))
                is_root = False

    def _list(self, folder: _Folder, *, is_root: bool) -> list[_Found]:
        """Return what is in a folder, in natural order; nothing if it is not to be entered."""
        identity = self._store.identity(folder.path)
        if identity in self._entered or (identity in self._excluded and not is_root):
            return []
        if identity is not None:
            self._entered.add(identity)
        try:
            entries = {entry.name: entry for entry in self._store.list(folder.path)}
        except OSError as error:
            if is_root:
                raise InputError(
                    f"{self._root} cannot be listed ({_words(error)}): check its permissions."
                ) from None
            self._passed_over["unreadable folder"] += 1
            where = folder.source.rstrip("/")
            self._warnings.append(
                f"The folder {where} was passed over: it cannot be listed ({_words(error)})."
            )
            return []
        if not is_root and MARKER_FOLDER in entries and _is_folder(entries[MARKER_FOLDER]):
            self._passed_over["output of comic-upscale"] += 1
            return []
        entries = {
            name: entry
            for name, entry in entries.items()
            if not name.startswith(".") and name.lower() not in LITTER
        }
        names = valid_names(entries)
        subfolders = {
            names[name]: entry for name, entry in entries.items() if _is_folder(entry, or_unknown=True)
        }
        images = {
            names[name]: entry
            for name, entry in entries.items()
            if names[name] not in subfolders and self._is_page(entry)
        }
        others = {
            names[name]: entry
            for name, entry in entries.items()
            if names[name] not in subfolders
            and extension_of(name) not in IMAGE_EXTENSIONS | ARCHIVE_EXTENSIONS
        }
        self._take_others(folder, others, images)
        folder_outputs = folder_names(subfolders)
        outputs = output_names(images, extension=self._extension, folders=folder_outputs.values())
        volumes = self._open_volumes(
            folder, {names[name]: entry for name, entry in entries.items()}, subfolders
        )
        taken = [*folder_outputs.values(), *outputs.values()]
        volume_outputs = self._reading.names(volumes, taken=taken)
        found: list[_Found] = []
        for name in sorted([*subfolders, *images, *volumes], key=natural_key):
            source = f"{folder.source}{name}"
            if name in images:
                entry = images[name]
                size, mtime_ns = _size_and_time(entry)
                output = f"{folder.output}{outputs[name]}"
                found.append(Page(source, Path(entry.path), output, size, mtime_ns))
                continue
            if name in volumes:
                found.append(self._reading.placed(volumes[name], folder.output, volume_outputs[name]))
                continue
            entry = subfolders[name]
            below = _Folder(entry.path, f"{source}/", f"{folder.output}{folder_outputs[name]}/")
            if entry.is_symlink():
                self._links.append(below)
            else:
                found.append(below)
        return found

    def _take_others(
        self, folder: _Folder, others: dict[str, SourceEntry], images: dict[str, SourceEntry]
    ) -> None:
        """Note the files of a folder that are no pages, and count those that belong to none."""
        by_stem = pages_by_stem(images)
        for name, entry in others.items():
            pages = tuple(f"{folder.source}{page}" for page in sidecar_of(name, by_stem))
            if not pages:
                self._passed_over["not an image"] += 1
            if not _is_special(entry):
                self._take_file(folder, name, entry, pages)

    def _take_file(self, folder: _Folder, name: str, entry: SourceEntry, pages: tuple[str, ...] = ()) -> None:
        size, mtime_ns = _size_and_time(entry)
        source, output = f"{folder.source}{name}", f"{folder.output}{name}"
        self._files.append(OtherFile(source, Path(entry.path), output, size, mtime_ns, pages))

    def _open_volumes(
        self, folder: _Folder, entries: Mapping[str, SourceEntry], subfolders: Collection[str]
    ) -> dict[str, _Opened]:
        """Open the archives of a folder, one after the other; those that are no comics are passed over."""
        volumes: dict[str, _Opened] = {}
        for name, entry in entries.items():
            if name in subfolders or extension_of(entry.name) not in ARCHIVE_EXTENSIONS:
                continue
            if _is_special(entry):
                self._passed_over["not a regular file"] += 1
                continue
            page = Page(f"{folder.source}{name}", Path(entry.path), "", *_size_and_time(entry))
            opened = self._reading.opened(page)
            if opened.failure is not None and opened.failure[0] == NO_PAGES and not is_volume_name(name):
                self._passed_over["archive without pages"] += 1
                self._take_file(folder, name, entry)
            else:
                volumes[name] = opened
        return volumes

    def _is_page(self, entry: SourceEntry) -> bool:
        if extension_of(entry.name) not in IMAGE_EXTENSIONS:
            return False
        if _is_special(entry):
            # To read a pipe named like an image would wait for ever.
            self._passed_over["not a regular file"] += 1
            return False
        return True


def _is_folder(entry: SourceEntry, *, or_unknown: bool = False) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        # A link that leads nowhere or round in circles is a page that fails if it is called like an
        # image; anything else that cannot be told is tried as a folder, so that it is reported.
        return or_unknown and not entry.is_symlink()


def _is_special(entry: SourceEntry) -> bool:
    """Tell a pipe, socket or device from a file and from what has vanished."""
    try:
        if entry.is_file():
            return False
        return not stat.S_ISREG(entry.stat().st_mode)
    except OSError:
        return False


def _size_and_time(entry: SourceEntry) -> tuple[int, int]:
    try:
        status = entry.stat()
    except OSError:
        # Gone, or a link to nothing: still a page, so that its failure is recorded and not its silence.
        return 0, 0
    return status.st_size, status.st_mtime_ns


def _words(error: OSError) -> str:
    return error.strerror or type(error).__name__
