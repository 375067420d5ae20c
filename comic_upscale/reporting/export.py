"""Export a finished job for a training set, from its ledger: one row per page, as CSV or JSON."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import io
import json
import os
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any, Literal, TypeAlias, get_args

from comic_upscale.errors import OutputError, PageError, SettingsError
from comic_upscale.jobs.job_files import Outputs, Sources, job_stores, output_folder
from comic_upscale.ledger.queries import read_copied, read_done_pages
from comic_upscale.ledger.records import CopiedFile
from comic_upscale.ledger.status import read_status
from comic_upscale.library.cbz import UNREADABLE, open_cbz
from comic_upscale.library.sidecars import CAPTION_EXTENSIONS
from comic_upscale.library.sorting import natural_key
from comic_upscale.settings.paths import replace_folder
from comic_upscale.settings.places import is_bucket
from comic_upscale.storage.atomic import write_whole
from comic_upscale.storage.base import GONE, sha256_of
from comic_upscale.storage.replaced import Trash
from comic_upscale.storage.stores import Stores

ExportFormat: TypeAlias = Literal["imagefolder", "csv", "jsonl"]
EXPORT_FORMATS: tuple[ExportFormat, ...] = get_args(ExportFormat)

METADATA_NAMES = ("metadata.jsonl", "metadata.csv")
"""The metadata files that Hugging Face's ``imagefolder`` expects beside the images."""

_LONGEST_CAPTION = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportRow:
    """A finished page."""

    file: str
    """The output, relative to the folder of the export; of a page in a volume the CBZ and the page's name in it,
    ``v01.cbz/012.png``."""
    source: str
    """Relative to the input folder; of a page in a volume the volume and the page's name in it."""
    source_sha256: str
    source_bytes: int
    source_width: int
    source_height: int
    sha256: str
    """Of the output."""
    bytes: int
    """Of the output."""
    width: int
    """Of the output, pixels."""
    height: int
    """Of the output, pixels."""
    scale: float
    """Output height over source height."""
    model: str
    model_sha256: str
    caption: str | None
    """The text of the page's ``.txt`` or ``.caption``: the file beside the output, or else beside the source; for a
    page in a CBZ, the file in the CBZ."""
    volume: str | None
    """The CBZ that contains the page, relative to the output folder; None for a separate file."""


@dataclass(frozen=True, slots=True)
class Export:
    """The rows of a job, and their folder."""

    folder: Path
    """The output folder; with ``--replace`` the input, whose files the outputs are."""
    rows: tuple[ExportRow, ...]
    """The rows in natural order of the sources."""
    missing: int
    """Pages left out: done in the ledger, but their output no longer exists or waits for other pages of its volume."""
    orphans: int = 0
    """Outputs left out because their sources are no longer in the input."""

    @property
    def files(self) -> tuple[ExportRow, ...]:
        """The rows of pages that are separate files. An imagefolder can contain no others."""
        return tuple(row for row in self.rows if row.volume is None)


def read_export(ledger: Path, folder: Path | None = None) -> Export:
    """Return the finished pages of the newest job of a ledger.

    Args:
        ledger: the file.
        folder: the output folder of the job; None for the one that the ledger names.

    Raises:
        InputError: the file does not exist, or contains no job yet.
        LedgerError: the file cannot be read.
    """
    job, pages = read_done_pages(ledger)
    output = folder or output_folder(ledger, job)
    folder = _folder_of_images(output)
    stores = job_stores(ledger, job, folder)
    replaces = folder != output
    find = _Replacements(folder).file_of if replaces else Outputs(stores.outputs).file_of
    copied = read_copied(ledger)
    there = [(file, page) for page in pages if (file := find(page)) is not None]
    with (
        contextlib.closing(Sources(job, stores.sources)) as sources,
        contextlib.closing(_Captions(stores, sources, copied, replaces=replaces)) as captions,
    ):
        rows = [
            ExportRow(
                file=file,
                source=page["source"],
                source_sha256=page["source_sha256"],
                source_bytes=page["source_size"],
                source_width=page["width"],
                source_height=page["height"],
                sha256=page["output_sha256"],
                bytes=page["output_size"],
                width=page["output_width"],
                height=page["output_height"],
                scale=round(page["output_height"] / page["height"], 4),
                model=job["model"],
                model_sha256=job["model_sha256"],
                caption=captions.of(file, page),
                volume=page["volume_output"] or None,
            )
            for file, page in there
        ]
    rows.sort(key=lambda row: natural_key(row.source))
    orphans = read_status(ledger).orphans
    return Export(folder, tuple(rows), len(pages) - len(there), orphans)


def _folder_of_images(output: Path) -> Path:
    """Return the folder that has the images of a job: with ``--replace``, that is the input."""
    library = output.parent.parent
    return library if output == replace_folder(library) else output


class _Replacements:
    """The outputs of a job that took the places of originals.

    Args:
        library: the input of the job.
    """

    def __init__(self, library: Path) -> None:
        self._in_force = {
            record.output_sha256: record.new for record in Trash(library).in_force() if not record.edited
        }

    def file_of(self, page: Mapping[str, Any]) -> str | None:
        """Return the path of the output of a page, relative to the library; None if its original is still there.

        Args:
            page: a row of `read_done_pages`. One in a volume has no path: its volume was replaced as a whole.
        """
        return None if page["volume_output"] else self._in_force.get(page["output_sha256"])


def as_text(rows: Iterable[ExportRow], format: ExportFormat, *, suffix: str = ".jsonl") -> str:
    """Return rows as text. The same rows always give the same text.

    Args:
        rows: rows of an export.
        format: ``imagefolder`` has only ``file_name`` and ``text`` (empty without a caption), the others have all
            columns.
        suffix: suffix of an imagefolder's metadata: ``.jsonl`` or ``.csv``.
    """
    if format == "imagefolder":
        records: list[dict[str, object]] = [
            {"file_name": row.file, "text": row.caption or ""} for row in rows
        ]
        columns = ["file_name", "text"]
    else:
        records = [dataclasses.asdict(row) for row in rows]
        columns = [field.name for field in dataclasses.fields(ExportRow)]
        suffix = f".{format}"
    if suffix == ".csv":
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)
        return buffer.getvalue()
    return "".join(f"{json.dumps(record, ensure_ascii=False)}\n" for record in records)


def metadata_path(export: Export, requested: Path | None) -> Path:
    """Return the path of the metadata of an imagefolder, by default ``metadata.jsonl`` in the output folder.

    Args:
        export: export of the job.
        requested: ``metadata.jsonl`` or ``metadata.csv`` in that folder, or the folder; None for the default.

    Raises:
        SettingsError: the path is anywhere else, where the images would not be found.
    """
    if is_bucket(export.folder):
        raise SettingsError(
            "an imagefolder has its metadata beside the images, and these are in a bucket: copy them to a folder, or "
            "choose --format jsonl or csv"
        )
    path = export.folder / METADATA_NAMES[0] if requested is None else requested
    if path.is_dir():
        path = path / METADATA_NAMES[0]
    if path.name not in METADATA_NAMES or not _is_same(path.parent, export.folder):
        raise SettingsError(
            f"an imagefolder has its metadata beside the images: leave --output out, or use "
            f"{' or '.join(str(export.folder / name) for name in METADATA_NAMES)}"
        )
    return path


def write_export(text: str, path: Path, *, overwrite: bool) -> None:
    """Write an export completely or not at all. A file with the same content is left as it is.

    Raises:
        SettingsError: another file exists and may not be replaced.
        OutputError: the export cannot be written.
    """
    data = text.encode()
    try:
        if os.path.lexists(path):
            if path.is_file() and path.read_bytes() == data:
                return
            if not overwrite or path.is_dir():
                raise SettingsError(
                    f"{path} exists with other content: allow --overwrite, or choose another --output"
                )
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}") from error
    write_whole(data, path)


class _Captions:
    """Reads the captions of pages from files or CBZs. The last CBZ stays open.

    Args:
        stores: of the job.
        sources: of the job.
        copied: the files that runs have copied beside the outputs, by output.
        replaces: whether the outputs are in the places of the sources. Then captions have kept their names.
    """

    def __init__(
        self, stores: Stores, sources: Sources, copied: Mapping[str, CopiedFile], *, replaces: bool
    ) -> None:
        self._stores = stores
        self._sources = sources
        self._copied, self._replaces = copied, replaces
        self._volume: str | None = None
        self._archive: zipfile.ZipFile | None = None
        self._held = contextlib.ExitStack()
        self._members: frozenset[str] = frozenset()

    def of(self, file: str, page: Mapping[str, Any]) -> str | None:
        """Return the caption of a page; None if it has none.

        Args:
            file: as `Outputs.file_of` gives it.
            page: a row of `read_done_pages`.
        """
        volume = page["volume_output"]
        if not volume:
            return _first(self._beside(file, page))
        self._open(volume)
        inside = (file.removeprefix(f"{volume}/"), page["source"].removeprefix(f"{page['volume_source']}/"))
        return _first(self._text(name) for each in inside for name in _caption_names(each))

    def _beside(self, output: str, page: Mapping[str, Any]) -> Iterator[str | None]:
        """Yield the captions beside an output, then those beside its source; None for each missing one.

        The ledger or the folder may come from a stranger. So nothing is read through a link that leads out of the
        folder, and nothing beside a source that is not the file that was upscaled.
        """
        pages = (output, page["source"]) if self._replaces else (output,)
        for name in dict.fromkeys(name for each in pages for name in _caption_names(each)):
            text = _text(partial(self._open_output, name))
            if text is not None and not self._was_deleted(name, page):
                yield text
        if self._sources.is_unchanged(page):
            for name in _caption_names(page["source"]):
                yield _text(partial(self._open_source, name))

    def _was_deleted(self, name: str, page: Mapping[str, Any]) -> bool:
        """Return whether a caption beside an output is the copy of one that the input has no longer."""
        copy = self._copied.get(name)
        if copy is None:
            return False
        try:
            self._stores.sources.stat(self._stores.sources.address(copy.source))
            return False
        except FileNotFoundError:
            # An edited copy is somebody's own. Without the page itself, the whole input may be away.
            return sha256_of(self._stores.outputs, name) == copy.sha256 and self._sources.is_unchanged(page)
        except (OSError, PageError):
            return False

    def _open_output(self, name: str) -> IO[bytes]:
        found = self._stores.outputs.stat(name)
        if found is None or found.kind != "file" or self._stores.outputs.leads_outside(name):
            raise PageError(GONE, "There is no caption")
        return self._stores.outputs.open(name)

    def _open_source(self, name: str) -> IO[bytes]:
        path = self._stores.sources.address(name)
        if self._stores.sources.stat(path).kind != "file":
            raise PageError(GONE, "There is no caption")
        return self._stores.sources.open(path)

    def _open(self, volume: str) -> None:
        if volume == self._volume:
            return
        self.close()
        self._volume = volume
        with contextlib.suppress(*UNREADABLE):
            self._archive = self._held.enter_context(open_cbz(self._stores.outputs, volume))
            self._members = frozenset(self._archive.namelist())

    def _text(self, name: str) -> str | None:
        if self._archive is None or name not in self._members:
            return None
        # A ZIP that somebody edited may raise any error.
        with contextlib.suppress(Exception), self._archive.open(name) as file:
            return _decoded(file)
        return None

    def close(self) -> None:
        """Close the CBZ that is open."""
        self._held.close()
        self._volume, self._archive, self._members = None, None, frozenset()


def _caption_names(page: str) -> Iterator[str]:
    """Yield the possible names of a page's caption, from the page's name."""
    path = PurePosixPath(page)
    for extension in CAPTION_EXTENSIONS:
        yield str(path.with_suffix(f".{extension}"))
        yield str(path.with_name(f"{path.name}.{extension}"))


def _first(texts: Iterable[str | None]) -> str | None:
    return next((text for text in texts if text is not None), None)


def _text(open: Callable[[], IO[bytes]]) -> str | None:
    try:
        with open() as file:
            return _decoded(file)
    except (OSError, PageError):
        return None


def _decoded(file: IO[bytes]) -> str:
    return file.read(_LONGEST_CAPTION).decode("utf-8-sig", errors="replace").strip()


def _is_same(one: Path, other: Path) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)
