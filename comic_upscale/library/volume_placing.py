"""Open the archives of an input, and decide where they, their pages and the volumes inside them go."""

from __future__ import annotations

import contextlib
import posixpath
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

from comic_upscale.errors import PageError
from comic_upscale.imaging.formats import extension_of
from comic_upscale.library.archives import Tally
from comic_upscale.library.books.names import extension_of_volume
from comic_upscale.library.naming import Extension, extension_below, free_name, output_names
from comic_upscale.library.nested import DEEPEST, Unpacker, nested_entry
from comic_upscale.library.page import MemberOf, Page
from comic_upscale.library.parts import whole_name
from comic_upscale.library.sidecars import OtherFile, pages_by_stem, sidecar_of
from comic_upscale.library.sorting import fold, natural_key
from comic_upscale.library.volume import Contents, Nested, Volume
from comic_upscale.library.volume_contents import NO_PAGES, is_volume_name
from comic_upscale.settings.job import ArchiveOutput, VolumeRules
from comic_upscale.settings.paths import MARKER_FOLDER
from comic_upscale.storage.base import SourceStore

LOOSE_PAGES = f"{MARKER_FOLDER}/volumes"
"""Where, in the output folder, the finished pages of a volume wait for the others."""

_MOST_NOTES = 20


@dataclass(frozen=True, slots=True)
class OpenedVolume:
    """An archive whose directory was read, or could not be read. The place of its output is not known yet."""

    entry: Page
    """The archive as a file."""
    contents: Contents | None
    """None if it could not be opened, or is no volume."""
    failure: tuple[str, str] | None
    """(kind, reason) if there are no contents."""

    @property
    def is_without_pages(self) -> bool:
        """Whether it could be opened, but holds no image."""
        return self.failure is not None and self.failure[0] == NO_PAGES


@dataclass(frozen=True, slots=True)
class PlacedVolume:
    """A volume, its pages and its files, with the places of their outputs."""

    volume: Volume
    """The archive."""
    folder: str
    """Prefix of the outputs of its folder: empty, or ending in a slash."""
    pages: list[Page]
    """Its pages."""
    files: list[OtherFile]
    """Its other files, if its pages go into a folder; none if they go into one file."""


@dataclass(frozen=True, slots=True)
class VolumePlacer:
    """Opens the archives of an input, and decides where they go."""

    store: SourceStore
    """Where the input is."""
    rules: VolumeRules
    """How volumes are read, and which are refused."""
    archive_output: ArchiveOutput
    """What volumes become."""
    extension: Extension
    """Of the outputs, by the sources of their pages."""

    def open(self, entry: Page) -> OpenedVolume:
        """Read the directory of an archive."""
        with contextlib.closing(Unpacker(self.rules, self.store)) as unpacker:
            return self._open(entry, unpacker)

    def _open(self, entry: Page, unpacker: Unpacker) -> OpenedVolume:
        try:
            return OpenedVolume(
                entry,
                unpacker.list(entry, extension=extension_below(self.extension, f"{entry.source}/")),
                None,
            )
        except PageError as error:
            return OpenedVolume(entry, None, (error.kind, error.reason))

    def open_inside(self, around: OpenedVolume) -> list[OpenedVolume]:
        """Open the volumes inside an archive, at any depth up to `DEEPEST`, in natural order."""
        tally = Tally(around.entry.size, self.rules)
        with contextlib.closing(Unpacker(self.rules, self.store)) as unpacker:
            found = list(self._open_inside(around, unpacker, tally, depth=1))
        return sorted(found, key=lambda opened: natural_key(opened.entry.source))

    def _open_inside(
        self, around: OpenedVolume, unpacker: Unpacker, tally: Tally, depth: int
    ) -> Iterator[OpenedVolume]:
        for nested in _nested_in(around, unpacker):
            entry = nested_entry(around.entry, nested)
            try:
                # All of them are unpacked to the disk, one after the other: together they must not be a bomb.
                tally.add(nested.size)
            except PageError as error:
                yield OpenedVolume(entry, None, (error.kind, error.reason))
                return
            if depth > DEEPEST:
                reason = f"The archive is inside {DEEPEST} others, and deeper ones are not opened: unpack those first."
                yield OpenedVolume(entry, None, ("unsupported", reason))
                continue
            opened = self._open(entry, unpacker)
            inside = list(self._open_inside(opened, unpacker, tally, depth + 1))
            # Without a page and without a volume, it is an archive of anything, unless its name says otherwise.
            if not opened.is_without_pages or (not inside and is_volume_name(nested.name)):
                yield opened
            yield from inside

    def place_inside(
        self, around: str, inside: Sequence[OpenedVolume], folder: str, taken: Collection[str]
    ) -> list[PlacedVolume]:
        """Decide where the volumes inside an archive go: into a folder with the name of the archive.

        Args:
            around: source of the archive.
            inside: the volumes.
            folder: prefix of the outputs of the archive's folder.
            taken: names of outputs there.
        """
        if not inside:
            return []
        name = whole_name(posixpath.basename(around))
        own = free_name(name.rpartition(".")[0], "", {fold(other) for other in taken})
        volumes: defaultdict[str, dict[str, OpenedVolume]] = defaultdict(dict)
        deeper: defaultdict[str, defaultdict[str, list[OpenedVolume]]] = defaultdict(
            lambda: defaultdict(list)
        )
        for opened in inside:
            child = _child_of(around, opened.entry)
            below, name = posixpath.split(child.removeprefix(f"{around}/"))
            if child == opened.entry.source:
                volumes[below][name] = opened
            else:
                deeper[below][child].append(opened)
        folders = volumes.keys() | deeper.keys()
        placed = []
        for below in sorted(folders):
            place = posixpath.join(folder, own, below, "")
            prefix = f"{below}/" if below else ""
            used = {
                other[len(prefix) :].split("/")[0]
                for other in folders
                if other != below and other.startswith(prefix)
            }
            names = self.name_outputs(volumes[below], taken=used)
            placed += [self.place(opened, place, names[name]) for name, opened in volumes[below].items()]
            used |= set(names.values())
            for child, others in deeper[below].items():
                found = self.place_inside(child, others, place, used)
                placed += found
                used |= {each.folder.removeprefix(place).split("/")[0] for each in found}
        return sorted(placed, key=lambda each: natural_key(each.volume.entry.source))

    def name_outputs(self, names: Collection[str], *, taken: Collection[str]) -> dict[str, str]:
        """Name the outputs of the archives of one folder, so that no name is in ``taken``."""
        # An archive in parts gets the name that it would have in one piece, unless another archive has that name.
        whole = {name: whole_name(name) for name in names}
        times = Counter(whole.values())
        whole = {name: alias if times[alias] == 1 else name for name, alias in whole.items()}
        if self.archive_output != "folder":
            extension = extension_of_volume(self.archive_output)
            # A KEPUB has two extensions, and its output must not have three.
            plain = {name: alias.replace(".kepub.epub", ".epub") for name, alias in whole.items()}
            if len({fold(alias) for alias in plain.values()}) == len(plain):
                whole = plain
            outputs = output_names(whole.values(), extension=extension, folders=taken)
            return {name: outputs[alias] for name, alias in whole.items()}
        outputs = {}
        folded = {fold(name) for name in taken}
        for name in sorted(names, key=natural_key):
            outputs[name] = free_name(whole[name].rpartition(".")[0], "", folded)
            folded.add(fold(outputs[name]))
        return outputs

    def place(self, opened: OpenedVolume, folder: str, name: str) -> PlacedVolume:
        """Decide where a volume and its pages go.

        Args:
            opened: the archive.
            folder: prefix of the outputs of its folder.
            name: of its own output there.
        """
        entry = replace(opened.entry, output="" if self.archive_output == "folder" else f"{folder}{name}")
        pages = []
        for number, member in enumerate(opened.contents.pages if opened.contents else (), 1):
            output = f"{folder}{name}/{member.target}"
            if self.archive_output != "folder":
                # By number, so that no name of an archive becomes a path; the extension is one of ours.
                output = f"{LOOSE_PAGES}/{folder}{name}/{number:05d}.{extension_of(member.target or '')}"
            where = MemberOf(entry.source, member.index, entry.member)
            source = f"{entry.source}/{member.name}"
            pages.append(Page(source, entry.path, output, member.size, entry.mtime_ns, where))
        files = _files_of(opened, f"{folder}{name}") if self.archive_output == "folder" else []
        return PlacedVolume(Volume(entry, opened.contents, opened.failure), folder, pages, files)


def _child_of(around: str, entry: Page) -> str:
    """Return the source of the archive that is directly inside another one, and is or holds a volume."""
    child, member = entry.source, entry.member
    while member is not None and member.volume != around:
        child, member = member.volume, member.around
    return child


def _nested_in(around: OpenedVolume, unpacker: Unpacker) -> Sequence[Nested]:
    """Return the archives inside an archive: those that are volumes by their names, or all if it holds no page."""
    if around.contents is not None:
        return around.contents.nested
    if around.is_without_pages:
        with contextlib.suppress(PageError):
            return unpacker.find_nested(around.entry)
    return ()


def _files_of(opened: OpenedVolume, output: str) -> list[OtherFile]:
    """Return the files of a volume that are no pages.

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
        # A ComicInfo.xml that was made from the words of an EPUB is for readers of CBZs.
        if member.is_page or member.content is not None:
            continue
        folder, name = posixpath.split(member.name)
        own_pages = tuple(
            f"{entry.source}/{posixpath.join(folder, page)}"
            for page in sidecar_of(name, by_stem.get(folder, {}))
        )
        where = MemberOf(entry.source, member.index, entry.member)
        source, target = f"{entry.source}/{member.name}", f"{output}/{member.name}"
        files.append(OtherFile(source, entry.path, target, member.size, entry.mtime_ns, own_pages, where))
    return files


def describe_notes(volumes: Sequence[Volume]) -> tuple[str, ...]:
    """Return the notes of volumes as sentences, at most the first 20."""
    notes = [
        f"{volume.entry.source}: {note}."
        for volume in volumes
        if volume.contents
        for note in volume.contents.notes
    ]
    more = len(notes) - _MOST_NOTES
    return (*notes[:_MOST_NOTES], *([f"{more} more notes on volumes are not shown."] if more > 0 else []))
