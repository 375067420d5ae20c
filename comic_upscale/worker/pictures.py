"""Pictures of the pages of a finished job, which the server shows: small ones, originals, and where results are."""

from __future__ import annotations

import io
import logging
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from comic_upscale.errors import ComicUpscaleError
from comic_upscale.evaluation.picture import WHITE, as_image, flatten
from comic_upscale.imaging.color import profile_space
from comic_upscale.imaging.decode import decode, read_header
from comic_upscale.imaging.formats import IMAGE_EXTENSIONS, extension_of
from comic_upscale.jobs.job_files import Outputs, Sources, job_stores
from comic_upscale.ledger.queries import read_done_pages
from comic_upscale.library.cbz import UNREADABLE
from comic_upscale.server.files import FileStore, FileWriter, StoredFile, store_file
from comic_upscale.server.pictures import PagePictures, Place, to_json
from comic_upscale.settings.paths import default_ledger
from comic_upscale.worker.members import pages_of, start_of

log = logging.getLogger(__name__)

THUMB = (360, 540)
"""The most width and height of a small picture."""
MOST_PAGES = 5000
"""Pages of a job that get pictures."""
MOST_PIXELS = 400_000_000
"""Larger pages get none."""
FAILED, NOT_SHOWN, NO_ORIGINAL = (
    "This page failed",
    "This page cannot be shown",
    "Its original cannot be shown",
)
"""Notes on pages without all pictures. The first two are also drawn in their places."""
_SHEET = (720, 1080)
_LONGEST_WEBP = 16_383
_LARGEST_PROFILE = 8192
_SIGNATURES = (
    (b"\x89PNG\r\n\x1a\n", 0, "image/png"),
    (b"\xff\xd8\xff", 0, "image/jpeg"),
    (b"WEBP", 8, "image/webp"),
    (b"GIF8", 0, "image/gif"),
    (b"ftypavif", 4, "image/avif"),
)


@dataclass(frozen=True, slots=True)
class _Result:
    """A page among the results of a job."""

    name: str
    """Relative to the output folder; in a CBZ ``v01.cbz/012.png``."""
    position: int
    """Of the file among the results."""
    path: Path
    offset: int
    length: int
    is_plain: bool
    """Whether the bytes are in the file as they are, not packed."""
    member: str | None

    @property
    def place(self) -> Place | None:
        """Where the bytes are, if a browser can be sent them from there; the type is not known yet."""
        return Place(self.position, self.offset, self.length, "") if self.is_plain else None

    def read(self) -> bytes:
        if self.member is not None and not self.is_plain:
            with zipfile.ZipFile(self.path) as archive:
                return archive.read(self.member)
        with self.path.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.length)


def store_pictures(
    store: FileStore, prefix: str, output: Path, results: Sequence[str]
) -> list[tuple[str, StoredFile]]:
    """Store the pictures of a finished job, and return the kinds and files: the list, and the bytes.

    A page that cannot be decoded keeps its place and its number. Without any page, nothing is stored.

    Args:
        store: of the server.
        prefix: of the keys.
        output: the output folder of the run, with its ledger.
        results: the files that were stored, relative to that folder, in order of their positions.

    Raises:
        OutputError: the storage cannot be written.
        LedgerError: the ledger cannot be read.
    """
    ledger = default_ledger(output)
    job, rows = read_done_pages(ledger)
    stores = job_stores(ledger, job, output)
    outputs = Outputs(stores.outputs)
    by_name = {name: row for row in rows if (name := outputs.file_of(row)) is not None}
    pages: list[PagePictures] = []
    with closing(Sources(job, stores.sources)) as sources, store.create(f"{prefix}-data") as writer:
        blob = Blob(writer)
        for result in _pages(output, results):
            try:
                row = by_name.get(result.name)
                pages.append(
                    make_pictures(result.name, result.read(), row, sources, blob, place=result.place)
                )
            except UNREADABLE as error:
                log.warning("no pictures of %s: %s", result.name, error)
                pages.append(_result_alone(result, by_name.get(result.name), sources, blob))
            if len(pages) >= MOST_PAGES:
                break
        if not pages:
            return []
        data = writer.commit()
    try:
        listed = store_file(store, f"{prefix}-list", io.BytesIO(to_json(pages)))
    except ComicUpscaleError:
        store.delete(data.key)
        raise
    return [("pictures", listed), ("picturedata", data)]


class Blob:
    """A file of pictures, one after another."""

    def __init__(self, writer: FileWriter) -> None:
        self._writer = writer
        self._size = 0

    def add(self, data: bytes, media_type: str) -> Place:
        """Append a picture, and return its place."""
        self._writer.write(data)
        place = Place(None, self._size, len(data), media_type)
        self._size += len(data)
        return place


def _pages(output: Path, results: Sequence[str]) -> Iterator[_Result]:
    """Yield the pages among the results, in the order of a reader."""
    for position, name in enumerate(results):
        path = output / name
        if extension_of(name) in ("cbz", "zip"):
            yield from _members(name, position, path)
        elif extension_of(name) in IMAGE_EXTENSIONS:
            yield _Result(name, position, path, 0, path.stat().st_size, True, None)


def _members(volume: str, position: int, path: Path) -> Iterator[_Result]:
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        for info in pages_of(archive):
            yield _Result(
                f"{volume}/{info.filename}", position, path, start_of(file, info), info.file_size,
                info.compress_type == zipfile.ZIP_STORED, info.filename,
            )  # fmt: skip


def make_pictures(
    name: str,
    after: bytes,
    row: Mapping[str, Any] | None,
    sources: Sources,
    blob: Blob,
    *,
    place: Place | None = None,
) -> PagePictures:
    """Make the pictures of a page, and append them to a file.

    Args:
        name: of the page; that of its source counts if there is a row.
        after: the result, an image file.
        row: of `read_done_pages`; None for a page that was not upscaled.
        sources: of the job.
        blob: the file.
        place: where the result is among the results, so that it is not stored twice; None to append it.

    Raises:
        PageError: an image cannot be read or decoded.
    """
    source = None if row is None else sources.read(row)
    shown = _upright(source if source is not None else after)
    media_type = media_type_of(after)
    size = shown.size if row is None else (int(row["output_width"]), int(row["output_height"]))
    small = shown.copy()
    small.thumbnail(THUMB, Image.Resampling.LANCZOS)
    if media_type is None:
        shown_after = blob.add(_webp(_upright(after), 90), "image/webp")
    elif place is not None:
        shown_after = replace(place, media_type=media_type)
    else:
        shown_after = blob.add(after, media_type)
    before = None
    if source is not None:
        kind = media_type_of(source)
        before = blob.add(_webp(shown, 92), "image/webp") if kind is None else blob.add(source, kind)
    return PagePictures(
        name=name if row is None else str(row["source"]),
        size=size,
        thumb=blob.add(_webp(small, 80), "image/webp"),
        after=shown_after,
        before=before,
        before_size=None if before is None else shown.size,
        suspect=None if row is None else row.get("suspect") or None,
    )


def _result_alone(
    result: _Result, row: Mapping[str, Any] | None, sources: Sources, blob: Blob
) -> PagePictures:
    """Return a page of which not all pictures can be made. Its original may be gone, or too large."""
    if row is None:
        return _page_without_pictures(result, FAILED, blob)
    try:
        page = make_pictures(result.name, result.read(), None, sources, blob, place=result.place)
        page = replace(page, suspect=row.get("suspect") or None, note=NO_ORIGINAL)
    except UNREADABLE:
        page = _page_without_pictures(result, NOT_SHOWN, blob)
    return replace(page, name=str(row["source"]))


def _page_without_pictures(result: _Result, words: str, blob: Blob) -> PagePictures:
    """Return a page whose pictures cannot be made: the file itself where a browser may show it, or a sheet with words.

    A page that failed is its original here, such as a JPEG that ends early: browsers show what there is of it.
    """
    sheet = after = blob.add(_webp(_draw_sheet(words), 80), "image/webp")
    size = _SHEET
    try:
        data = result.read()
        header, media_type = read_header(data), media_type_of(data)
        if media_type is not None and header.width * header.height <= MOST_PIXELS:
            size = header.width, header.height
            place = result.place
            after = blob.add(data, media_type) if place is None else replace(place, media_type=media_type)
    except UNREADABLE:
        # The log has the reason already.
        pass
    return PagePictures(name=result.name, size=size, thumb=sheet, after=after, note=words)


def _draw_sheet(words: str) -> Image.Image:
    """Return a page with some words in its middle."""
    sheet = Image.new("L", _SHEET, 235)
    middle = (_SHEET[0] // 2, _SHEET[1] // 2)
    ImageDraw.Draw(sheet).text(middle, words, fill=60, font=ImageFont.load_default(48), anchor="mm")
    return sheet


def media_type_of(data: bytes) -> str | None:
    """Return the type of an image that every browser shows, by its first bytes; None for any other."""
    for signature, offset, media_type in _SIGNATURES:
        if data[offset : offset + len(signature)] == signature:
            return media_type
    return None


def _upright(data: bytes) -> Image.Image:
    pixels = decode(data, max_pixels=MOST_PIXELS)
    image = as_image(flatten(pixels, WHITE))
    profile = pixels.icc_profile
    if profile is not None and len(profile) <= _LARGEST_PROFILE and profile_space(profile) == "RGB":
        image.info["icc_profile"] = profile
    return image


def _webp(image: Image.Image, quality: int) -> bytes:
    profile = image.info.get("icc_profile")
    if max(image.size) > _LONGEST_WEBP:
        image = image.copy()
        image.thumbnail((_LONGEST_WEBP, _LONGEST_WEBP), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=quality, method=2, icc_profile=profile)
    return buffer.getvalue()
