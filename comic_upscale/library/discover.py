"""Find the pages of an input by their names, and those of volumes by their directories. No page is read."""

from __future__ import annotations

import contextlib
import os
import stat
from collections import Counter, deque
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from comic_upscale.errors import InputError, PageError
from comic_upscale.imaging.formats import ARCHIVE_EXTENSIONS, IMAGE_EXTENSIONS, extension_of
from comic_upscale.library.naming import Extension, extension_below, folder_names, output_names, valid_names
from comic_upscale.library.page import Page
from comic_upscale.library.parts import (
    Parts,
    are_parts,
    describe_missing,
    find_head,
    group_parts,
    stat_parts,
    whole_name,
)
from comic_upscale.library.selector import EVERYTHING, Selector
from comic_upscale.library.sidecars import OtherFile, candidates, pages_by_stem, sidecar_of
from comic_upscale.library.sorting import natural_key
from comic_upscale.library.volume import Volume
from comic_upscale.library.volume_contents import is_volume_name
from comic_upscale.library.volume_placing import OpenedVolume, PlacedVolume, VolumePlacer, describe_notes
from comic_upscale.settings.job import ArchiveOutput, VolumeRules
from comic_upscale.settings.paths import LITTER, MARKER_FOLDER, path_text
from comic_upscale.storage.base import SourceEntry, SourceStore, StoredObject
from comic_upscale.storage.local import LocalSourceStore


@dataclass(frozen=True, slots=True)
class Discovery:
    """The content of an input."""

    pages: tuple[Page, ...]
    """In natural order of ``source``."""
    passed_over: dict[str, int] = field(default_factory=dict)
    """How many files (or folders) were left out, for each reason: ``"not an image"``,
    ``"archive without pages"``, ``"not a regular file"``, ``"unreadable folder"``,
    ``"output of comic-upscale"``. Hidden files and the litter of operating systems are not counted, nor are
    sidecars."""
    files: tuple[OtherFile, ...] = ()
    """The files that are not pages: sidecars, all others such as archives without pages, and the files beside the
    pages in volumes whose pages go into folders."""
    warnings: tuple[str, ...] = ()
    """A sentence for each thing that the user may want to fix."""
    volumes: tuple[Volume, ...] = ()
    """The archives that hold pages, and those that could not be opened; in natural order of their source."""
    unread: tuple[str, ...] = ()
    """Prefixes of sources below which nothing could be listed: folders without permission, and broken links."""
    empty_folders: tuple[str, ...] = ()
    """Prefixes of folders that exist and are completely empty, as the mount point of a drive that is not mounted."""
    selector: Selector = EVERYTHING
    """Says which sources were looked at. The others are left alone."""


def discover(
    root: Path,
    *,
    extension: Extension,
    exclude: Sequence[Path] = (),
    rules: VolumeRules = VolumeRules(),  # noqa: B008 - frozen
    archive_output: ArchiveOutput = "cbz",
    store: SourceStore | None = None,
    selector: Selector = EVERYTHING,
) -> Discovery:
    """List the pages below a folder, or the page or the pages of the volume that a single file is.

    Links are followed, and every real folder is entered once. A folder that is also in the tree itself gets its own
    name and not that of a link to it. The result does not depend on the order in which the file system lists names.

    Args:
        root: a folder, an image file, or an archive.
        extension: the outputs' extension, by the sources of their pages: ``"png"``; empty where each keeps its format.
        exclude: folders that are not entered (the output's); they need not exist.
        rules: how volumes are read, and which are refused.
        archive_output: what volumes become.
        store: whose input ``root`` is; None for a folder or a file of this machine.
        selector: says which files are looked at. It does not change the names of outputs.

    Returns:
        The pages; none, and the counts, if there is nothing to do.

    Raises:
        InputError: ``root`` is missing, unreadable, or neither an image nor a volume that can be opened.
    """
    store = store or LocalSourceStore(root)
    try:
        status = store.stat(root)
    except FileNotFoundError:
        raise InputError(f"{path_text(root)} does not exist: check the path of the input") from None
    except OSError as error:
        raise InputError(
            f"{path_text(root)} cannot be read ({_words(error)}): check its permissions"
        ) from None
    placer = VolumePlacer(store, rules, archive_output, extension)
    if status.kind == "folder":
        return _Walk(root, extension, exclude, placer, selector).run()
    if not selector.takes(valid_names([root.name])[root.name]):
        return Discovery((), selector=selector)
    if status.kind == "file":
        head = _find_head(root, store)
        if head is not None or extension_of(root.name) in ARCHIVE_EXTENSIONS:
            return _single_volume(root, head or root, placer)
    page = _single(root, status, placer)
    return Discovery((page,), files=tuple(_beside(page, store)))


def _single(path: Path, status: StoredObject, placer: VolumePlacer) -> Page:
    if extension_of(path.name) not in IMAGE_EXTENSIONS or status.kind != "file":
        raise InputError(
            f"{path_text(path)} is not an image: give an image, an archive, or a folder of these"
        )
    if not placer.store.may_read(path):
        raise InputError(f"{path} cannot be read: check its permissions")
    source = valid_names([path.name])[path.name]
    output = output_names([source], extension=placer.extension)[source]
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


def _find_head(path: Path, store: SourceStore) -> Path | None:
    try:
        return find_head(path, store)
    except OSError:
        # The fault is reported when the file is opened.
        return None


def _single_volume(path: Path, head: Path, placer: VolumePlacer) -> Discovery:
    if head != path:
        raise InputError(
            f"{path} is one of several parts of an archive: give {head}, which stands for all parts"
        )
    source = valid_names([path.name])[path.name]
    opened = placer.open(Page(source, path, "", *_stat_all_parts(path, placer.store)))
    inside = placer.open_inside(opened)
    if not any(each.contents for each in (opened, *inside)):
        failed = inside[0] if inside else opened
        reason = failed.failure[1] if failed.failure else ""
        raise InputError(f"{path.parent / failed.entry.source} cannot be upscaled. {reason}")
    names = placer.name_outputs([source], taken=())
    placed = [] if opened.contents is None else [placer.place(opened, "", names[source])]
    placed += placer.place_inside(source, inside, "", names.values() if placed else ())
    return Discovery(
        tuple(page for each in placed for page in each.pages),
        files=tuple(file for each in placed for file in each.files),
        warnings=describe_notes([each.volume for each in placed]),
        volumes=tuple(each.volume for each in placed),
    )


def _stat_all_parts(path: Path, store: SourceStore) -> tuple[int, int]:
    """Return the size and the time of an archive, of all its parts together."""
    try:
        return stat_parts(path, store)
    except (OSError, PageError):
        # The fault is reported when the archive is opened.
        return 0, 0


@dataclass(slots=True)
class _Folder:
    path: str
    source: str
    """Prefix of the sources of what is inside: empty, or ending in a slash."""
    output: str
    """Prefix of the outputs of what is inside."""


@dataclass(frozen=True, slots=True)
class _SortedEntries:
    """The entries of a folder by the names of their sources, sorted by their kind."""

    split: Mapping[str, Parts]
    """Archives in several parts, by the names of the files that stand for them."""
    subfolders: dict[str, SourceEntry] = field(default_factory=dict)
    archives: dict[str, SourceEntry] = field(default_factory=dict)
    images: dict[str, SourceEntry] = field(default_factory=dict)
    others: dict[str, SourceEntry] = field(default_factory=dict)
    """Files that are neither pages nor volumes."""


_Found: TypeAlias = _Folder | Page | PlacedVolume


class _Walk:
    """One walk through a tree; ``run`` once."""

    def __init__(
        self,
        root: Path,
        extension: Extension,
        exclude: Sequence[Path],
        placer: VolumePlacer,
        selector: Selector = EVERYTHING,
    ) -> None:
        self._selector = selector
        self._root = root
        self._extension = extension
        self._placer = placer
        self._volumes: list[Volume] = []
        self._passed_over: Counter[str] = Counter()
        self._warnings: list[str] = []
        self._pages: list[Page] = []
        self._files: list[OtherFile] = []
        self._unread: list[str] = []
        self._empty: list[str] = []
        self._store = placer.store
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
            warnings=(*self._warnings, *describe_notes(self._volumes)),
            volumes=tuple(self._volumes),
            unread=tuple(self._unread),
            empty_folders=tuple(self._empty),
            selector=self._selector,
        )

    def _walk(self, top: _Folder, *, is_root: bool = False) -> None:
        # A stack and no recursion: a tree may be deeper than Python allows calls to be.
        stack: list[_Found] = [top]
        while stack:
            item = stack.pop()
            if isinstance(item, Page):
                self._pages.append(item)
            elif isinstance(item, PlacedVolume):
                self._volumes.append(item.volume)
                self._pages.extend(item.pages)
                self._files.extend(item.files)
            else:
                stack.extend(reversed(self._list(item, is_root=is_root)))
                is_root = False

    def _list(self, folder: _Folder, *, is_root: bool) -> list[_Found]:
        """Return the content of a folder in natural order; nothing if it must not be entered."""
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
                    f"{path_text(self._root)} cannot be listed ({_words(error)}): check its permissions"
                ) from None
            self._passed_over["unreadable folder"] += 1
            self._unread.append(folder.source)
            where = folder.source.rstrip("/")
            self._warnings.append(
                f"The folder {where} was passed over: it cannot be listed ({_words(error)})."
            )
            return []
        if not entries and not is_root:
            self._empty.append(folder.source)
        if not is_root and MARKER_FOLDER in entries and _is_folder(entries[MARKER_FOLDER]):
            self._passed_over["output of comic-upscale"] += 1
            return []
        sorted_entries = self._sort_entries(folder, entries)
        others = sorted_entries.others
        # It may have led to a folder, on a drive that is not mounted now.
        self._unread += [f"{folder.source}{name}/" for name, entry in others.items() if _leads_nowhere(entry)]
        self._take_others(folder, others, sorted_entries.images)
        return self._place_entries(folder, sorted_entries)

    def _sort_entries(self, folder: _Folder, entries: Mapping[str, SourceEntry]) -> _SortedEntries:
        """Sort what a folder lists by its kind."""
        entries = {
            name: entry
            for name, entry in entries.items()
            if not name.startswith(".") and name.lower() not in LITTER
        }
        names = valid_names(entries)
        split = {parts.head: parts for parts in self._find_split(folder.path, entries)}
        in_parts = {name for parts in split.values() for name in parts.names}
        result = _SortedEntries(split)
        for name, entry in entries.items():
            extension = extension_of(name)
            if _is_folder(entry, or_unknown=True):
                result.subfolders[names[name]] = entry
                continue
            if self._is_page(entry):
                result.images[names[name]] = entry
            if name in split or (name not in in_parts and extension in ARCHIVE_EXTENSIONS):
                result.archives[names[name]] = entry
            elif name not in in_parts and extension not in IMAGE_EXTENSIONS:
                result.others[names[name]] = entry
        return result

    def _place_entries(self, folder: _Folder, entries: _SortedEntries) -> list[_Found]:
        """Give outputs to the pages and volumes of a folder, in their natural order between its subfolders.

        The files that are left out count for the names, so that a part of an input gets the same names as the whole.
        """
        images, subfolders = entries.images, entries.subfolders
        folder_outputs = folder_names(subfolders)
        outputs = output_names(
            images, extension=extension_below(self._extension, folder.source), folders=folder_outputs.values()
        )
        volumes, inside = self._open_volumes(folder, entries.archives, entries.split)
        taken = [*folder_outputs.values(), *outputs.values()]
        left_out = (name for name in entries.archives if not self._selector.takes(f"{folder.source}{name}"))
        volume_outputs = self._placer.name_outputs([*volumes, *left_out], taken=taken)
        taken += volume_outputs.values()
        found: list[_Found] = []
        for name in sorted({*subfolders, *images, *volumes, *inside}, key=natural_key):
            source = f"{folder.source}{name}"
            if name in images and self._selector.takes(source):
                entry = images[name]
                size, mtime_ns = _size_and_time(entry)
                output = f"{folder.output}{outputs[name]}"
                found.append(Page(source, Path(entry.path), output, size, mtime_ns))
            elif name in subfolders and self._selector.may_enter(source):
                entry = subfolders[name]
                below = _Folder(entry.path, f"{source}/", f"{folder.output}{folder_outputs[name]}/")
                if entry.is_symlink():
                    self._links.append(below)
                else:
                    found.append(below)
            elif name in subfolders and self._selector.excludes_folder(source):
                self._exclude_links_to(subfolders[name])
            if name in volumes:
                found.append(self._placer.place(volumes[name], folder.output, volume_outputs[name]))
            if name in inside:
                found += self._place_inside(folder, name, inside[name], taken)
        return found

    def _exclude_links_to(self, entry: SourceEntry) -> None:
        """Let no link lead into a folder that is excluded. A link that is excluded says nothing about its folder."""
        if not entry.is_symlink() and (identity := self._store.identity(entry.path)) is not None:
            self._excluded.add(identity)

    def _place_inside(
        self, folder: _Folder, name: str, inside: Sequence[OpenedVolume], taken: list[str]
    ) -> list[PlacedVolume]:
        """Place the volumes inside an archive, and add the name of their folder to those that are taken."""
        placed = self._placer.place_inside(f"{folder.source}{name}", inside, folder.output, taken)
        taken += {each.folder.removeprefix(folder.output).split("/")[0] for each in placed}
        return placed

    def _find_split(self, folder: str, entries: Mapping[str, SourceEntry]) -> list[Parts]:
        """Return the archives of a folder that are in several parts."""
        found = []
        for parts in group_parts(name for name, entry in entries.items() if not _is_special(entry)):
            with contextlib.suppress(OSError):
                if are_parts(Path(folder), parts, self._store):
                    found.append(parts)
        return found

    def _take_others(
        self, folder: _Folder, others: dict[str, SourceEntry], images: dict[str, SourceEntry]
    ) -> None:
        """Note the files of a folder that are no pages, and count those that belong to none."""
        by_stem = pages_by_stem(images)
        for name, entry in others.items():
            pages = tuple(f"{folder.source}{page}" for page in sidecar_of(name, by_stem))
            pages = tuple(page for page in pages if self._selector.takes(page))
            if not pages and not self._selector.takes(f"{folder.source}{name}"):
                continue
            if not pages:
                self._passed_over["not an image"] += 1
            if not _is_special(entry):
                self._take_file(folder, name, entry, pages)

    def _take_file(self, folder: _Folder, name: str, entry: SourceEntry, pages: tuple[str, ...] = ()) -> None:
        size, mtime_ns = _size_and_time(entry)
        source, output = f"{folder.source}{name}", f"{folder.output}{name}"
        self._files.append(OtherFile(source, Path(entry.path), output, size, mtime_ns, pages))

    def _open_volumes(
        self, folder: _Folder, archives: Mapping[str, SourceEntry], split: Mapping[str, Parts]
    ) -> tuple[dict[str, OpenedVolume], dict[str, list[OpenedVolume]]]:
        """Open the archives of a folder, one after the other. Archives without pages and volumes are passed over.

        Args:
            folder: where they are.
            archives: by the names of their sources.
            split: those in several parts, by the names of the files that stand for them.

        Returns:
            The volumes; and for each archive that holds volumes, those volumes.
        """
        volumes: dict[str, OpenedVolume] = {}
        inside: dict[str, list[OpenedVolume]] = {}
        for name, entry in archives.items():
            if not self._selector.takes(f"{folder.source}{name}"):
                continue
            if _is_special(entry):
                self._passed_over["not a regular file"] += 1
                continue
            parts = split.get(entry.name)
            path = Path(entry.path)
            size_and_time = _size_and_time(entry) if parts is None else _stat_all_parts(path, self._store)
            page = Page(f"{folder.source}{name}", path, "", *size_and_time)
            if parts is not None and parts.gaps:
                missing = describe_missing(parts)
                volumes[name] = OpenedVolume(page, None, (missing.kind, missing.reason))
                continue
            opened = self._placer.open(page)
            nested = self._placer.open_inside(opened)
            if nested:
                inside[name] = nested
            if not opened.is_without_pages or (not nested and is_volume_name(whole_name(entry.name))):
                volumes[name] = opened
            elif not nested:
                self._passed_over["archive without pages"] += 1
                self._take_file(folder, name, entry)
        return volumes, inside

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
        # A link that is broken or leads round in circles is a page that fails, if it is named like an image. Any other
        # entry of an unknown kind is tried as a folder, so that it is reported.
        return or_unknown and not entry.is_symlink()


def _leads_nowhere(entry: SourceEntry) -> bool:
    """Return whether an entry is a broken link."""
    try:
        return entry.is_symlink() and not entry.is_dir() and not entry.is_file()
    except OSError:
        return True


def _is_special(entry: SourceEntry) -> bool:
    """Return whether an entry is a pipe, socket or device. A file that has vanished is none."""
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
        # Gone, or a broken link. It is still a page, so that its failure is recorded.
        return 0, 0
    return status.st_size, status.st_mtime_ns


def _words(error: OSError) -> str:
    return error.strerror or type(error).__name__
