"""Find the pages of an input by their names, without reading any."""

from __future__ import annotations

import os
import stat
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from comic_upscale.errors import InputError
from comic_upscale.pages.formats import ARCHIVE_EXTENSIONS, IMAGE_EXTENSIONS, extension_of
from comic_upscale.pages.naming import folder_names, output_names, valid_names
from comic_upscale.pages.order import natural_key
from comic_upscale.pages.page import Page
from comic_upscale.pages.sidecars import OtherFile, candidates, pages_by_stem, sidecar_of
from comic_upscale.settings import MARKER_FOLDER

# Made by systems and not by people; compared in lower case. "@eaDir" is where a Synology keeps
# thumbnails, as JPEGs that look like pages.
_LITTER = frozenset(
    ("__macosx", "thumbs.db", "desktop.ini", "@eadir", "$recycle.bin", "system volume information")
)

_Identity = tuple[int, int] | str


@dataclass(frozen=True, slots=True)
class Discovery:
    """What an input holds."""

    pages: tuple[Page, ...]
    """In natural order of ``source``."""
    passed_over: dict[str, int] = field(default_factory=dict)
    """How many files (or folders) were left out, for each reason: ``"not an image"``, ``"archive"``,
    ``"not a regular file"``, ``"unreadable folder"``, ``"output of comic-upscale"``. Hidden files and the
    litter of operating systems are not counted, nor are sidecars."""
    files: tuple[OtherFile, ...] = ()
    """What is no page: the sidecars of pages, and the other files, but for archives."""
    warnings: tuple[str, ...] = ()
    """A sentence for each thing that the user may want to mend."""


def discover(root: Path, *, extension: str, exclude: Sequence[Path] = ()) -> Discovery:
    """List the pages below a folder, or the one page that a file is.

    Links are followed, and every real folder is entered once; one that is there by itself goes under its
    own name rather than under that of a link to it. The result does not depend on the order in which the
    file system lists names.

    Args:
        root: a folder, or an image file.
        extension: the outputs' extension, without the dot: ``"png"``.
        exclude: folders that are not entered (the output's); they need not exist.

    Returns:
        The pages; none, and the counts, if there is nothing to do.

    Raises:
        InputError: ``root`` is missing, unreadable, or not an image.
    """
    try:
        status = root.stat()
    except FileNotFoundError:
        raise InputError(f"{root} does not exist: check the path of the input.") from None
    except OSError as error:
        raise InputError(f"{root} cannot be read ({_words(error)}): check its permissions.") from None
    if stat.S_ISDIR(status.st_mode):
        return _Walk(root, extension, exclude).run()
    page = _single(root, status, extension)
    return Discovery((page,), files=tuple(_beside(page)))


def _single(path: Path, status: os.stat_result, extension: str) -> Page:
    own = extension_of(path.name)
    if own in ARCHIVE_EXTENSIONS:
        raise InputError(f"{path} is an archive: unpack it into a folder and give that folder.")
    if own not in IMAGE_EXTENSIONS or not stat.S_ISREG(status.st_mode):
        raise InputError(f"{path} is not an image: give an image file or a folder of images.")
    if not os.access(path, os.R_OK):
        raise InputError(f"{path} cannot be read: check its permissions.")
    source = valid_names([path.name])[path.name]
    output = output_names([source], extension=extension)[source]
    return Page(source, path, output, status.st_size, status.st_mtime_ns)


def _beside(page: Page) -> list[OtherFile]:
    """The sidecars of an image that is the whole input."""
    found = []
    for name in candidates(page.path.name):
        path = page.path.with_name(name)
        if path.is_file():
            status = path.stat()
            name = valid_names([name])[name]
            found.append(OtherFile(name, path, name, status.st_size, status.st_mtime_ns, (page.source,)))
    return found


@dataclass(slots=True)
class _Folder:
    path: str
    source: str
    """Prefix of the sources of what is inside: empty, or ending in a slash."""
    output: str
    """Prefix of the outputs of what is inside."""


class _Walk:
    """One walk through a tree; ``run`` once."""

    def __init__(self, root: Path, extension: str, exclude: Sequence[Path]) -> None:
        self._root = root
        self._extension = extension
        self._passed_over: Counter[str] = Counter()
        self._warnings: list[str] = []
        self._pages: list[Page] = []
        self._files: list[OtherFile] = []
        self._excluded = {identity for path in exclude if (identity := _identity(path)) is not None}
        self._entered: set[_Identity] = set()
        # Links to folders wait until the real tree is walked, so that a link "latest" never takes the
        # pages of the folder it points to, whose outputs would move with the link.
        self._links: deque[_Folder] = deque()

    def run(self) -> Discovery:
        self._walk(_Folder(os.fspath(self._root), "", ""), is_root=True)
        if self._links:
            while self._links:
                self._walk(self._links.popleft())
            self._pages.sort(key=lambda page: natural_key(page.source))
        files = tuple(sorted(self._files, key=lambda file: file.source))
        return Discovery(tuple(self._pages), dict(self._passed_over), files, tuple(self._warnings))

    def _walk(self, top: _Folder, *, is_root: bool = False) -> None:
        # A stack and no recursion: a tree may be deeper than Python allows calls to be.
        stack: list[_Folder | Page] = [top]
        while stack:
            item = stack.pop()
            if isinstance(item, Page):
                self._pages.append(item)
            else:
                stack.extend(reversed(self._list(item, is_root=is_root)))
                is_root = False

    def _list(self, folder: _Folder, *, is_root: bool) -> list[_Folder | Page]:
        """Return what is in a folder, in natural order; nothing if it is not to be entered."""
        identity = _identity(folder.path)
        if identity in self._entered or (identity in self._excluded and not is_root):
            return []
        if identity is not None:
            self._entered.add(identity)
        try:
            with os.scandir(folder.path) as scan:
                entries = {entry.name: entry for entry in scan}
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
            if not name.startswith(".") and name.lower() not in _LITTER
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
        found: list[_Folder | Page] = []
        for name in sorted([*subfolders, *images], key=natural_key):
            source = f"{folder.source}{name}"
            if name in images:
                entry = images[name]
                size, mtime_ns = _size_and_time(entry)
                output = f"{folder.output}{outputs[name]}"
                found.append(Page(source, Path(entry.path), output, size, mtime_ns))
                continue
            entry = subfolders[name]
            below = _Folder(entry.path, f"{source}/", f"{folder.output}{folder_outputs[name]}/")
            if entry.is_symlink():
                self._links.append(below)
            else:
                found.append(below)
        return found

    def _take_others(
        self, folder: _Folder, others: dict[str, os.DirEntry[str]], images: dict[str, os.DirEntry[str]]
    ) -> None:
        """Note the files of a folder that are no pages, and count those that belong to none."""
        by_stem = pages_by_stem(images)
        for name, entry in others.items():
            pages = tuple(f"{folder.source}{page}" for page in sidecar_of(name, by_stem))
            if not pages:
                self._passed_over["not an image"] += 1
            if not _is_special(entry):
                size, mtime_ns = _size_and_time(entry)
                source, output = f"{folder.source}{name}", f"{folder.output}{name}"
                self._files.append(OtherFile(source, Path(entry.path), output, size, mtime_ns, pages))

    def _is_page(self, entry: os.DirEntry[str]) -> bool:
        extension = extension_of(entry.name)
        if extension in ARCHIVE_EXTENSIONS:
            self._passed_over["archive"] += 1
        elif extension in IMAGE_EXTENSIONS and _is_special(entry):
            # To read a pipe named like an image would wait for ever.
            self._passed_over["not a regular file"] += 1
        else:
            return extension in IMAGE_EXTENSIONS
        return False


def _is_folder(entry: os.DirEntry[str], *, or_unknown: bool = False) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        # A link that leads nowhere or round in circles is a page that fails if it is called like an
        # image; anything else that cannot be told is tried as a folder, so that it is reported.
        return or_unknown and not entry.is_symlink()


def _is_special(entry: os.DirEntry[str]) -> bool:
    """Tell a pipe, socket or device from a file and from what has vanished."""
    try:
        if entry.is_file():
            return False
        return not stat.S_ISREG(entry.stat().st_mode)
    except OSError:
        return False


def _size_and_time(entry: os.DirEntry[str]) -> tuple[int, int]:
    try:
        status = entry.stat()
    except OSError:
        # Gone, or a link to nothing: still a page, so that its failure is recorded and not its silence.
        return 0, 0
    return status.st_size, status.st_mtime_ns


def _identity(path: str | Path) -> _Identity | None:
    """Return what tells one real folder from another, or None if it cannot be found."""
    try:
        status = os.stat(path)  # noqa: PTH116 - a str here: this runs once for every folder
    except OSError:
        return None
    # Some network and FUSE file systems number nothing: without this all folders would be one.
    return (status.st_dev, status.st_ino) if status.st_ino else os.path.realpath(path)


def _words(error: OSError) -> str:
    return error.strerror or type(error).__name__
