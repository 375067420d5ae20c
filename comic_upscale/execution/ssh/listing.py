"""What a run elsewhere has to tell, as lines of JSON: written there by our own command, read here with distrust."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any, Literal, cast

from comic_upscale.execution.remote_host import RemotePageResult

_NAME = re.compile(r"[0-9a-f]{64}\.[a-z0-9]{1,5}")
_HASH = re.compile(r"[0-9a-f]{64}")
_SCORE = re.compile(r"[a-z_]{1,40}")
_MOST_SCORES = 32
_STAGES = ("decode", "upscale", "encode", "place")
_LONGEST_TEXT = 500
_LARGEST_NUMBER = 1 << 40


def is_page_name(name: object) -> bool:
    """Whether this is a name that we give to pages: a hash and an extension, nothing that could be a path."""
    return isinstance(name, str) and _NAME.fullmatch(name) is not None


def as_lines(rows: Iterable[dict[str, Any]]) -> Iterator[str]:
    """Rows of the ledger as lines of JSON."""
    for row in rows:
        yield json.dumps({key: value for key, value in row.items() if value is not None})


def read_lines(text: str) -> Iterator[tuple[RemotePageResult, str]]:
    """Read what another machine claims of its pages, each with its time; what is not as it should be is left out."""
    for line in text.splitlines():
        try:
            said = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(said, dict) and (page := _read_page(said)) is not None:
            yield page, _text(said.get("at"))


def _read_page(said: dict[str, Any]) -> RemotePageResult | None:
    name, state = said.get("source"), said.get("state")
    if not is_page_name(name) or state not in ("done", "failed", "skipped"):
        return None
    digest = said.get("output_sha256")
    if state == "done" and not (isinstance(digest, str) and _HASH.fullmatch(digest)):
        return None
    seconds = {stage: _seconds(said.get(f"{stage}_seconds")) for stage in _STAGES}
    notes = _text(said.get("notes"))
    return RemotePageResult(
        name=str(name),
        state=cast(Literal["done", "failed", "skipped"], state),
        width=_number(said.get("width")),
        height=_number(said.get("height")),
        output_width=_number(said.get("output_width")),
        output_height=_number(said.get("output_height")),
        size=_number(said.get("output_size")),
        sha256=str(digest or ""),
        seconds={stage: value for stage, value in seconds.items() if value is not None},
        notes=notes,
        kind=re.sub(r"[^a-z0-9-]", "", _text(said.get("kind")))[:40] or "remote",
        reason=_text(said.get("reason")) or notes or "it says no reason",
        scores=_scores(said.get("scores")),
        suspect=_text(said.get("suspect")),
    )


def _scores(value: object) -> dict[str, float]:
    """The gate's scores, which the ledger keeps as JSON in a text."""
    try:
        said = json.loads(value) if isinstance(value, str) else None
    except (ValueError, RecursionError):
        return {}
    if not isinstance(said, dict):
        return {}
    good = {name: number for name, number in said.items() if _SCORE.fullmatch(name) and _is_score(number)}
    return dict(list(good.items())[:_MOST_SCORES])


def _is_score(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e6


def _number(value: object) -> int:
    good = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _LARGEST_NUMBER
    return cast(int, value) if good else 0


def _seconds(value: object) -> float | None:
    # Compared and never converted first: a whole number may be larger than any float.
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1e6
    return float(cast(float, value)) if good else None


def _text(value: object) -> str:
    if not isinstance(value, str):
        return ""
    return "".join(char if char.isprintable() else "?" for char in value[:_LONGEST_TEXT])
