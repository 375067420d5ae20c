"""The results of a remote run, as lines of JSON: written there by our own command, validated here."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import IO, Any, Literal, cast

from comic_upscale.execution.remote_host import RemotePageResult

_NAME = re.compile(r"[0-9a-f]{64}(\.p\d{1,2}){0,64}\.[a-z0-9]{1,5}")
_HASH = re.compile(r"[0-9a-f]{64}")
_SCORE = re.compile(r"[a-z_]{1,40}")
_MOST_SCORES = 32
_STAGES = ("decode", "upscale", "encode", "place")
_LONGEST_TEXT = 500
_LONGEST_SENT = 4096
"""Characters. Longer than the scores of a page, which the other side must be able to read."""
_LONGEST_LINE = 1 << 18
"""Bytes; the rest of a longer line is read as further lines, which are invalid."""
_PAGE_LINE = re.compile(rb"([0-9a-f]{64}(?:\.p\d{1,2}){0,64}\.[a-z0-9]{1,5}) (\d{1,12})\n")
_LARGEST_NUMBER = 1 << 40


def is_page_name(name: object) -> bool:
    """Return whether this is a valid name of a page: a hash, rules, and an extension, and so never a path."""
    return isinstance(name, str) and _NAME.fullmatch(name) is not None


def as_lines(rows: Iterable[dict[str, Any]]) -> Iterator[str]:
    """Yield rows of the ledger as lines of JSON."""
    for row in rows:
        yield json.dumps({key: _cut(value) for key, value in row.items() if value is not None})


def _cut(value: object) -> object:
    return value[:_LONGEST_SENT] if isinstance(value, str) else value


def read_lines(lines: IO[bytes]) -> Iterator[tuple[RemotePageResult, str]]:
    """Yield the results that a remote machine reports, each with its time; skip invalid ones.

    One line at a time is in memory, however many there are.
    """
    while line := lines.readline(_LONGEST_LINE):
        if len(line) < 2:
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict) and (page := _read_page(record)) is not None:
            yield page, _text(record.get("at"))


def read_pages(data: bytes, sizes: Mapping[str, int]) -> Iterator[tuple[str, bytes]]:
    """Yield the pages that a remote machine sent: for each a line with name and size, then its bytes.

    Args:
        data: all that it sent.
        sizes: the names that it was asked for, with the most bytes of each.

    Raises:
        ValueError: it sent something else.
    """
    at = 0
    seen = set[str]()
    while at < len(data):
        line = _PAGE_LINE.match(data, at)
        if line is None:
            raise ValueError("a page does not begin with its name and size")
        name, size = line[1].decode(), int(line[2])
        if name not in sizes or name in seen or size > sizes[name]:
            raise ValueError("a page was not asked for")
        at = line.end() + size
        if at > len(data):
            raise ValueError("the last page is cut off")
        seen.add(name)
        yield name, data[line.end() : at]


def _read_page(record: dict[str, Any]) -> RemotePageResult | None:
    name, state = record.get("source"), record.get("state")
    if not is_page_name(name) or state not in ("done", "failed", "skipped"):
        return None
    digest = record.get("output_sha256")
    if state == "done" and not (isinstance(digest, str) and _HASH.fullmatch(digest)):
        return None
    seconds = {stage: _seconds(record.get(f"{stage}_seconds")) for stage in _STAGES}
    notes = _text(record.get("notes"))
    return RemotePageResult(
        name=str(name),
        state=cast(Literal["done", "failed", "skipped"], state),
        width=_number(record.get("width")),
        height=_number(record.get("height")),
        output_width=_number(record.get("output_width")),
        output_height=_number(record.get("output_height")),
        size=_number(record.get("output_size")),
        sha256=str(digest or ""),
        seconds={stage: value for stage, value in seconds.items() if value is not None},
        notes=notes,
        kind=re.sub(r"[^a-z0-9-]", "", _text(record.get("kind")))[:40] or "remote",
        reason=_text(record.get("reason")) or notes or "no reason given",
        scores=_scores(record.get("scores")),
        suspect=_text(record.get("suspect")),
    )


def _scores(value: object) -> dict[str, float]:
    """Return the scores of the gate, which the ledger stores as JSON text."""
    try:
        scores = json.loads(value) if isinstance(value, str) else None
    except (ValueError, RecursionError):
        return {}
    if not isinstance(scores, dict):
        return {}
    valid = {name: number for name, number in scores.items() if _SCORE.fullmatch(name) and _is_score(number)}
    return dict(list(valid.items())[:_MOST_SCORES])


def _is_score(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e6


def _number(value: object) -> int:
    valid = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _LARGEST_NUMBER
    return cast(int, value) if valid else 0


def _seconds(value: object) -> float | None:
    # Compare before converting: an integer may be larger than any float.
    valid = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1e6
    return float(cast(float, value)) if valid else None


def _text(value: object) -> str:
    if not isinstance(value, str):
        return ""
    return "".join(char if char.isprintable() else "?" for char in value[:_LONGEST_TEXT])
