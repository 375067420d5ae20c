"""The pictures of a job's pages: a list that the worker made, and where the bytes of each picture are.

The server opens no picture. The worker stores one file with small pictures and originals, one after another, and a
list of them in JSON. A result that a browser can show is not stored twice: the list says where in the result it is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from comic_upscale.server.database.schema import files
from comic_upscale.server.files import FileStore

LIST, DATA = "pictures", "picturedata"
"""Kinds of files: the list, and the bytes."""
LIVE_LIST, LIVE_DATA = "livelist", "livedata"
"""The same for some pages of a job that runs. Their positions pair them, and count up."""

Kind: TypeAlias = Literal["thumb", "before", "after"]

TYPES = frozenset(("image/png", "image/jpeg", "image/webp", "image/gif", "image/avif"))
"""Types of images that every browser shows."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the bytes of a picture are."""

    result: int | None
    """The position of the result that contains it; None for the file of pictures."""
    offset: int
    length: int
    media_type: str
    """One of `TYPES`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PagePictures:
    """The pictures of one page."""

    name: str
    """The source of the page, for people."""
    size: tuple[int, int]
    """Width and height of the result."""
    thumb: Place
    after: Place
    """The result, at full size."""
    before: Place | None = None
    """The original, at its own size; None if the result is the original."""
    before_size: tuple[int, int] | None = None
    suspect: str | None = None
    """Why the quality gate suspects the page; None if it does not."""
    note: str | None = None
    """Something else to say about it."""

    def place(self, kind: Kind) -> Place | None:
        """Return where a picture is; None if there is none of that kind."""
        return {"thumb": self.thumb, "before": self.before, "after": self.after}[kind]


def to_json(pages: Sequence[PagePictures]) -> bytes:
    """Return a list of pictures as the worker stores it."""

    def place(each: Place | None) -> list[Any] | None:
        return None if each is None else [each.result, each.offset, each.length, each.media_type]

    return json.dumps(
        [
            {
                "name": page.name, "size": page.size, "thumb": place(page.thumb), "after": place(page.after),
                "before": place(page.before), "before_size": page.before_size, "suspect": page.suspect,
                "note": page.note,
            }
            for page in pages
        ],
        ensure_ascii=False, separators=(",", ":"),
    ).encode()  # fmt: skip


def from_json(data: bytes) -> tuple[PagePictures, ...]:
    """Return the list that `to_json` wrote.

    A worker opens files of strangers, so its list is checked: it decides what the server sends, and as what.

    Raises:
        ValueError: it is none.
    """
    try:
        return tuple(_page(each) for each in json.loads(data))
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError("not a list of pictures") from error


def _page(given: Mapping[str, Any]) -> PagePictures:
    before = given["before"]
    return PagePictures(
        name=str(given["name"]), size=_size(given["size"]), thumb=_place(given["thumb"]), after=_place(given["after"]),
        before=None if before is None else _place(before),
        before_size=None if before is None else _size(given["before_size"]),
        suspect=None if given["suspect"] is None else str(given["suspect"]),
        note=None if given.get("note") is None else str(given["note"]),
    )  # fmt: skip


def _size(given: Sequence[Any]) -> tuple[int, int]:
    width, height = given
    if not all(type(side) is int and side > 0 for side in (width, height)):
        raise ValueError("not a size")
    return width, height


def _place(given: Sequence[Any]) -> Place:
    result, offset, length, media_type = given
    numbers = (offset, length, *(() if result is None else (result,)))
    if media_type not in TYPES or not all(type(number) is int and number >= 0 for number in numbers):
        raise ValueError("not a place")
    return Place(result, offset, length, media_type)


@dataclass(frozen=True, slots=True)
class LiveFiles:
    """Some pages of a job that runs."""

    list: Mapping[str, Any]
    """The row of the list."""
    data: Mapping[str, Any]
    """The row of the bytes."""

    def row_of(self, place: Place) -> Mapping[str, Any] | None:
        """Return the file that contains a picture; None if it is not among these files."""
        is_there = place.result is None and place.offset + place.length <= self.data["size"]
        return self.data if is_there else None


@dataclass(frozen=True, slots=True)
class JobFiles:
    """The stored files of a job, by which places are found."""

    list: Mapping[str, Any] | None
    """The row of the list; None without pictures."""
    data: Mapping[str, Any] | None
    results: Mapping[int, Mapping[str, Any]]
    """Rows by position."""
    live: Sequence[LiveFiles] = ()
    """The pages that are done while the job runs, in the order in which they were stored."""

    def row_of(self, place: Place) -> Mapping[str, Any] | None:
        """Return the file that contains a picture; None if it is gone, or too short."""
        row = self.data if place.result is None else self.results.get(place.result)
        return row if row is not None and place.offset + place.length <= row["size"] else None


def files_of_job(connection: Connection, job_id: str) -> JobFiles:
    """Return the files of a job that may hold pictures."""
    rows = connection.execute(sa.select(files).where(files.c.job_id == job_id)).mappings().all()
    by_kind = {row["kind"]: dict(row) for row in rows if row["kind"] in (LIST, DATA)}
    results = {row["position"]: dict(row) for row in rows if row["kind"] == "result"}
    lists, data = (
        {row["position"]: dict(row) for row in rows if row["kind"] == kind} for kind in (LIVE_LIST, LIVE_DATA)
    )
    live = [LiveFiles(lists[number], data[number]) for number in sorted(lists.keys() & data.keys())]
    return JobFiles(by_kind.get(LIST), by_kind.get(DATA), results, live)


def read_all(store: FileStore, row: Mapping[str, Any]) -> bytes:
    """Return the content of a small file by its row. Blocks; raises `FileNotFoundError`."""
    return b"".join(store.read(row["storage_key"], 0, row["size"]))
