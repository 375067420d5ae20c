"""The values of a ledger, checked before anything uses them: a ledger may come from a stranger.

SQLite stores any value in any column, whatever its type. Each column of the schema has a rule here, as a condition in
SQL, so that SQLite checks a table in one pass. Every way to open a ledger runs these checks. A ledger that passes them
is safe to calculate with, and none of its names leads out of the folders of the job.
"""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Final

from comic_upscale.errors import LedgerDamagedError
from comic_upscale.ledger.columns import columns_of
from comic_upscale.ledger.records import PageDone, damage_message

_COUNT: Final = "typeof({0}) = 'integer' and {0} between 0 and 2147483647"
_BYTES: Final = "typeof({0}) = 'integer' and {0} between 0 and 9007199254740991"
_SIDE: Final = "typeof({0}) = 'integer' and {0} between 1 and 2147483647"
_INTEGER: Final = "typeof({0}) = 'integer'"
_SECONDS: Final = "typeof({0}) in ('real', 'integer') and {0} between 0 and 1e9"
_NUMBER: Final = "typeof({0}) in ('real', 'integer') and {0} between 0 and 1e15"
_TEXT: Final = "typeof({0}) = 'text'"
_NAME: Final = (
    "typeof({0}) = 'text' and {0} not like '/%' and instr({0}, char(0)) = 0"
    " and (instr({0}, '..') = 0 or '/' || {0} || '/' not like '%/../%')"
)
"""A POSIX path relative to a folder of the job; empty for a volume whose pages go into a folder."""
_OUTPUT: Final = f"{_NAME} and ({{0}} not like '.comic-upscale%' or {{0}} like '.comic-upscale/volumes/%')"
"""The same for an output. In the marker folder, only pages that wait for their volume are outputs."""
_PATH: Final = "typeof({0}) = 'text' and {0} <> '' and instr({0}, char(0)) = 0"
_TIME: Final = (
    "typeof({0}) = 'text' and {0} between '1970' and '3' and julianday({0}) is not null and"
    " {0} glob '[1-2][0-9][0-9][0-9]-[0-1][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-5][0-9]*Z'"
)

_JOBS: Final = {
    "id": _INTEGER,
    "input": _PATH,
    "output": _PATH,
    "fingerprint": _TEXT,
    "settings": _TEXT,
    "model": _TEXT,
    "model_sha256": _TEXT,
    "created_at": _TIME,
    "model_auto": _COUNT,
    "early_gray": _COUNT,
}
_RUNS: Final = {
    "id": _INTEGER,
    "job_id": _INTEGER,
    "state": "{0} in ('running', 'finished', 'interrupted', 'failed')",
    "started_at": _TIME,
    "heartbeat_at": _TIME,
    "ended_at": f"{{0}} is null or {_TIME}",
    "error": f"{{0}} is null or {_TEXT}",
    "host": _TEXT,
    "pid": _COUNT,
    "process_started": _NUMBER,
    "device": _TEXT,
    "precision": _TEXT,
    "versions": _TEXT,
    "price": f"{{0}} is null or {_NUMBER}",
    "billed": f"{{0}} is null or {_NUMBER}",
    "within": f"{{0}} is null or {_TEXT}",
}
_IF_DONE: Final = "({0} is null and (state <> 'done' or kind <> 'page')) or "
"""Before the rule of a column that every finished page fills."""
_PAGES: Final = {
    "id": _INTEGER,
    "job_id": _INTEGER,
    "source": _NAME,
    "source_size": _BYTES,
    "source_mtime_ns": _INTEGER,
    "source_sha256": _IF_DONE + _TEXT,
    "state": "{0} in ('pending', 'working', 'done', 'failed', 'skipped')",
    "attempts": _COUNT,
    "claimed": _COUNT,
    "run_id": f"{{0}} is null or {_INTEGER}",
    "finished_at": f"{{0}} is null or {_TIME}",
    "width": _IF_DONE + _SIDE,
    "height": _IF_DONE + _SIDE,
    "output": _OUTPUT,
    "output_width": _IF_DONE + _SIDE,
    "output_height": _IF_DONE + _SIDE,
    "output_size": _IF_DONE + _BYTES,
    "output_sha256": _IF_DONE + _TEXT,
    "decode_seconds": f"{{0}} is null or {_SECONDS}",
    "upscale_seconds": f"{{0}} is null or {_SECONDS}",
    "encode_seconds": f"{{0}} is null or {_SECONDS}",
    "place_seconds": f"{{0}} is null or {_SECONDS}",
    "error_kind": f"{{0}} is null or {_TEXT}",
    "error": f"{{0}} is null or {_TEXT}",
    "notes": f"{{0}} is null or {_TEXT}",
    "kind": "{0} in ('page', 'volume')",
    "volume_id": f"{{0}} is null or {_INTEGER}",
    "scores": f"{{0}} is null or {_TEXT}",
    "suspect": f"{{0}} is null or {_TEXT}",
    "gone": "typeof({0}) = 'integer' and {0} between 0 and 2",
}
_OF_TYPE: Final = {"text": _TEXT, "integer": _INTEGER, "real": _NUMBER}
"""The rules of the columns that finished pages define themselves, by type."""
_CARRIED: Final = {
    "id": _INTEGER,
    "job_id": _INTEGER,
    "source": _NAME,
    "output": _OUTPUT,
    "source_size": _BYTES,
    "source_mtime_ns": _INTEGER,
    "sha256": _TEXT,
    "copied_at": _TIME,
}
_SHADE: Final = "{0} is null or (typeof({0}) = 'integer' and {0} between 0 and 255)"
_LEVELS: Final = {
    "id": _INTEGER,
    "job_id": _INTEGER,
    # A folder of pages is a volume, too: that at the top has no name.
    "volume": _TEXT,
    "black": _SHADE,
    "white": _SHADE,
}
RULES: Final[Mapping[str, Mapping[str, str]]] = {
    "jobs": _JOBS,
    "runs": _RUNS,
    "pages": {
        **{each.name: f"{{0}} is null or {_OF_TYPE[each.kind]}" for each in columns_of(PageDone)},
        **_PAGES,
    },
    "carried": _CARRIED,
    "levels": _LEVELS,
}
"""The condition that every value of a column meets, by table and column. ``{0}`` stands for the column."""

_SETTINGS: Final[Mapping[str, tuple[type, ...]]] = {
    "size": (str,),
    "scale": (int, float),
    "format": (str,),
    "quality": (int,),
    "workers": (int,),
    "max_members": (int,),
    "max_unpacked": (int,),
    "max_ratio": (int, float),
    "pdf_dpi": (int,),
    "max_pixels": (int,),
}
"""The types of those recorded settings of a job that reports and estimates use. Each may also be null."""


def check_values(connection: sqlite3.Connection, path: Path, *, pages: Collection[str] | None = None) -> None:
    """Check that every value of a ledger has the type and form of its column.

    Args:
        connection: of the ledger, with a schema of any version.
        path: of the ledger, for messages.
        pages: the columns of ``pages`` that will be used; None for all. A status only counts pages, so it uses none.

    Raises:
        LedgerDamagedError: a value has not; the message names the first one. Or the ledger has a trigger, or a view in
            the place of a table.
    """
    _check_schema(connection, path)
    for table, rules in RULES.items():
        there = [str(column[1]) for column in connection.execute(f"pragma table_info({table})")]
        wanted = rules.keys() if table != "pages" or pages is None else pages
        checked = {column: rules[column] for column in there if column in rules and column in wanted}
        if checked:
            _check_table(connection, path, table, checked, has_kind="kind" in there)
        if table == "jobs" and "settings" in there:
            for row in connection.execute("select distinct settings from jobs").fetchall():
                _check_settings(path, row[0])
        if table == "runs" and "versions" in there:
            for row in connection.execute("select distinct versions from runs").fetchall():
                _parse_object(path, "the versions of a run", row[0])


def recorded_settings(text: str) -> dict[str, Any]:
    """Return the recorded settings of a job, from any version, of a ledger whose values were checked."""
    settings: dict[str, Any] = json.loads(text)
    return settings


def _check_settings(path: Path, text: object) -> None:
    record = _parse_object(path, "the settings of a job", text)
    for name, types in _SETTINGS.items():
        value = record.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, types)):
            raise damaged(path, f"the setting {name} of a job is {_shown(value)}")
        if isinstance(value, int | float) and not (_is_finite(value) and 0 <= value <= 1 << 53):
            raise damaged(path, f"the setting {name} of a job is {_shown(value)}")


def damaged(path: Path, reason: str) -> LedgerDamagedError:
    """Return the error for a damaged ledger, with what to do."""
    return LedgerDamagedError(damage_message(path, reason))


def _check_schema(connection: sqlite3.Connection, path: Path) -> None:
    """Refuse triggers, and views in the place of tables: this package creates none, and they run SQL of strangers."""
    odd = connection.execute(
        "select type, name from sqlite_master where type = 'trigger' or (name in"
        f" ({', '.join('?' * len(RULES))}) and type <> 'table') or sql like 'create virtual%' limit 1",
        [*RULES],
    ).fetchone()
    if odd is not None:
        raise damaged(path, f"it has a {odd[0]} {_shown(odd[1])}, which no ledger has")


def _check_table(
    connection: sqlite3.Connection, path: Path, table: str, rules: Mapping[str, str], *, has_kind: bool
) -> None:
    cases = " ".join(
        f"when ({rule.format(column)}) is not true then '{column}'" for column, rule in rules.items()
    )
    if not has_kind:
        cases = cases.replace(" or kind <> 'page'", "")
    found = connection.execute(
        f"select rowid, case {cases} end as odd from {table} where odd is not null limit 1"
    ).fetchone()
    if found is None:
        return
    row_id, column = found
    # Text that is not Unicode cannot be read as text.
    value = _quoted(connection, f"select quote({column}) from {table} where rowid = ?", row_id)
    raise damaged(path, f"{column} of row {row_id} in {table} is {value}")


def _quoted(connection: sqlite3.Connection, query: str, row_id: int) -> str:
    try:
        return _shown(connection.execute(query, [row_id]).fetchone()[0], quote=False)
    except sqlite3.Error:
        return "not Unicode"


def _parse_object(path: Path, what: str, text: object) -> dict[str, Any]:
    try:
        record = json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict):
        raise damaged(path, f"{what} are not a JSON object")
    return record


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _shown(value: object, *, quote: bool = True) -> str:
    """Return a value as short text."""
    try:
        text = repr(value) if quote else str(value)
    except ValueError:
        # More digits than Python turns into text.
        return "a huge number"
    return text if len(text) <= 60 else f"{text[:57]}..."
