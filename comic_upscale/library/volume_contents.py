"""The content of a volume, under safe names: its pages, its other files, and the volumes inside it."""

from __future__ import annotations

import posixpath
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence

from comic_upscale.errors import PageError
from comic_upscale.imaging.formats import (
    ARCHIVE_EXTENSIONS,
    IMAGE_EXTENSIONS,
    VOLUME_EXTENSIONS,
    extension_of,
)
from comic_upscale.library.archives import Container, Entry, encrypted
from comic_upscale.library.comicinfo import NAME as COMICINFO
from comic_upscale.library.comicinfo import ComicFacts, is_comicinfo, written
from comic_upscale.library.epub import EMBEDDED, Book, read_book
from comic_upscale.library.member_names import is_litter, is_merely_hidden, safe_name
from comic_upscale.library.naming import (
    Extension,
    extension_below,
    free_number,
    is_valid,
    output_names,
    valid_names,
)
from comic_upscale.library.pdf import PdfContainer
from comic_upscale.library.sorting import fold, natural_key
from comic_upscale.library.volume import Contents, Member, Nested
from comic_upscale.settings.job import VolumeRules

NO_PAGES = "no-pages"
"""The kind of failure of a volume without an image."""


def read_contents(name: str, container: Container, rules: VolumeRules, extension: Extension) -> Contents:
    """Read the directory of an open volume, and of an EPUB its spine; no page is read.

    Args:
        name: of its file; of an archive in parts, the name that it would have in one piece.
        container: the volume.
        rules: which volumes are refused.
        extension: of the outputs, by the names of their pages in the volume.

    Raises:
        PageError: ``NO_PAGES``; ``"encrypted"``; ``"bomb"``.
    """
    entries = container.entries()
    names, notes = name_members(entries)
    notes = [*container.notes, *notes]
    made: list[Member] = []
    sizes = {index: entry.size for index, entry in enumerate(entries)}
    is_epub = _is_epub(name, names)
    if is_epub:
        book = read_epub(container, names, entries, rules)
        sizes.update((EMBEDDED + number, len(data)) for number, data in enumerate(book.embedded))
        items, made, more_notes = _book_items(book, names, rules)
        notes += more_notes
    else:
        items = list(names.items())
        if isinstance(container, PdfContainer) and container.right_to_left:
            made = _made_comicinfo(ComicFacts("", "", right_to_left=True))
    pages = [(index, name) for index, name in items if extension_of(name) in IMAGE_EXTENSIONS]
    if not pages:
        raise PageError(NO_PAGES, "The volume holds no image")
    protected = {index for index, entry in enumerate(entries) if entry.encrypted}
    if any(index in protected for index, _ in pages):
        raise encrypted()
    # The images in an EPUB are its pages: whatever else it holds is not for the new volume.
    nested = () if is_epub else list_nested(items, entries, VOLUME_EXTENSIONS)
    inside = {each.index for each in nested}
    items = [(index, name) for index, name in items if index not in inside]
    locked = {index for index, _ in items if index in protected}
    if locked:
        notes.append(f"{len(locked)} member(s) that are protected by a password were left out")
        items = [(index, name) for index, name in items if index not in locked]
    carried = sum(extension_of(name) in ARCHIVE_EXTENSIONS for _, name in items)
    if carried:
        notes.append(f"{carried} archive(s) inside were not opened, and are carried along as they are")
    targets = _targets([name for _, name in pages], extension)
    members = tuple(Member(index, name, sizes[index], targets.get(name)) for index, name in items)
    return Contents((*members, *made), container.in_order, tuple(notes), container.comment, nested)


def list_nested(
    items: Iterable[tuple[int, str]], entries: Sequence[Entry], extensions: Collection[str]
) -> tuple[Nested, ...]:
    """Return the archives among the members of an archive.

    Args:
        items: (index, safe name) of members.
        entries: the directory.
        extensions: of the archives that count, without the dot.
    """
    return tuple(
        Nested(index, name, entries[index].size)
        for index, name in items
        if index < len(entries) and extension_of(name) in extensions
    )


def _book_items(
    book: Book, names: dict[int, str], rules: VolumeRules
) -> tuple[list[tuple[int, str]], list[Member], list[str]]:
    """Return the pages of an EPUB in reading order with its ``ComicInfo.xml``, a generated one, and notes."""
    images = {index for index, name in names.items() if extension_of(name) in IMAGE_EXTENSIONS}
    if not book.pages and images:
        raise PageError(
            "unsupported",
            "None of the documents in the EPUB's spine shows an image that was found, and the EPUB holds "
            f"{len(images)}. Unpack it and use the folder of its images",
        )
    if len(book.pages) > rules.max_members:
        raise PageError(
            "bomb", f"The EPUB shows more than {rules.max_members:,} pages: --max-members allows more"
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


def read_epub(
    container: Container, names: dict[int, str], entries: Sequence[Entry], rules: VolumeRules
) -> Book:
    """Read the spine of an EPUB.

    Args:
        container: the EPUB.
        names: index to safe name.
        entries: its directory.
        rules: the limits.
    """
    return read_book(
        {name: index for index, name in names.items()},
        [entry.size for entry in entries],
        container.read,
        max_pixels=rules.max_pixels,
    )


def is_volume_name(name: str) -> bool:
    """Return whether a file is a comic by its name. Without a page, it is then a failure and not just ignored."""
    return extension_of(name) in VOLUME_EXTENSIONS


def name_members(entries: Sequence[Entry]) -> tuple[dict[int, str], list[str]]:
    """Give every member a unique, safe name, except those that are left out.

    Returns:
        Index to name in the order of the directory; and notes about members that were left out or renamed.
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
    unknown = sum(not is_valid(name) for name in names.values())
    renamed = left_out.pop("renamed", 0)
    notes = [f"{count} member(s) {what} were left out" for what, count in left_out.items()]
    if renamed:
        notes.append(f"{renamed} member(s) of a name that another has were given a number")
    if unknown:
        notes.append(f"{unknown} member(s) have names in an unknown encoding: their bytes are written as %XX")
    valid = valid_names(list(names.values()))
    return {index: valid[name] for index, name in names.items()}, notes


def _is_epub(name: str, names: dict[int, str]) -> bool:
    return extension_of(name) == "epub" or "META-INF/container.xml" in names.values()


def _in_reading_order(short: Sequence[str]) -> list[str]:
    """Return the names of an EPUB's pages, with numbers before them if their own order is not the reading order.

    Readers of a CBZ sort its pages by name.
    """
    if len({fold(name) for name in short}) == len(short) and list(short) == sorted(short, key=natural_key):
        return list(short)
    return [f"{at:04d}_{name}" for at, name in enumerate(short, 1)]


def _targets(pages: Iterable[str], extension: Extension) -> dict[str, str]:
    """Name the outputs of pages inside the new volume, folder by folder."""
    folders: defaultdict[str, list[str]] = defaultdict(list)
    for name in pages:
        folders[posixpath.dirname(name)].append(name)
    below = {parent for folder in folders for parent in _parents(folder)}
    targets: dict[str, str] = {}
    for folder, names in folders.items():
        own = {name: posixpath.basename(name) for name in names}
        beside = [posixpath.basename(other) for other in below if posixpath.dirname(other) == folder]
        outputs = output_names(
            own.values(), extension=extension_below(extension, f"{folder}/" if folder else ""), folders=beside
        )
        targets.update((name, posixpath.join(folder, outputs[short])) for name, short in own.items())
    return targets


def _parents(folder: str) -> list[str]:
    parts = folder.split("/") if folder else []
    return ["/".join(parts[: end + 1]) for end in range(len(parts))]
