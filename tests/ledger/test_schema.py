"""The tables of the ledger: migrations that never change, and records that fill the columns."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from comic_upscale.errors import LedgerError
from comic_upscale.ledger.columns import column
from comic_upscale.ledger.records import PageDone
from comic_upscale.ledger.schema import MIGRATION_SET, MIGRATIONS, MIGRATIONS_TABLE, column_migrations
from comic_upscale.ledger.writer import Ledger
from tests.ledger.test_queries import add_job, done

RECORDED = (
    "m001_jobs_runs_pages", "m002_model_auto", "m003_carried_files", "m004_volumes", "m005_early_gray", "m006_price",
    "m007_gate", "m008_copies", "m009_gone", "m010_own_settings", "m011_billed", "m012_levels",
    "m013_within", "m014_decided",
)  # fmt: skip
"""Names that ledgers of users hold: another name would make these ledgers look newer than the program."""


def test_the_names_of_migrations_stay_and_new_ones_come_at_the_end(tmp_path: Path) -> None:
    names = tuple(migration.name for migration in MIGRATIONS)
    assert names[: len(RECORDED)] == RECORDED
    Ledger(tmp_path / "ledger.sqlite3").close()
    with closing(sqlite3.connect(tmp_path / "ledger.sqlite3")) as ledger, ledger:
        applied = ledger.execute(
            f"select name from {MIGRATIONS_TABLE} where migration_set = ? order by rowid", [MIGRATION_SET]
        )
        assert tuple(name for (name,) in applied) == names


def test_a_path_that_is_too_long_for_sqlite_is_named(tmp_path: Path) -> None:
    folder = tmp_path.joinpath(*["x" * 90] * 6)
    folder.mkdir(parents=True)
    with pytest.raises(
        LedgerError, match="bytes, and SQLite takes 504: choose an output folder with a shorter path"
    ):
        Ledger(folder / "ledger.sqlite3")


def test_every_column_of_a_finished_page_is_recorded(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite3")
    _, (row_id,) = add_job(ledger, 1, tmp_path)
    page = replace(
        done(row_id), seconds={"decode": 0.25, "upscale": 0.5, "encode": 1.0, "place": 2.0}, notes=("a", "b"),
        scores={"ssim": 0.5}, suspect=("c",), copied_from="x.png", own_settings="{}",
    )  # fmt: skip
    ledger.record([page])
    recorded = ledger.done_page(row_id)
    ledger.close()
    assert recorded is not None
    assert tuple(recorded[column] for column in PageDone.columns()) == page.values()
    assert None not in page.values()


@dataclass(frozen=True, slots=True, kw_only=True)
class PageWithOneMore(PageDone):
    """A record with one more column: one field."""

    moire: float | None = column("real", "m999_moire")


def test_a_field_is_a_column_with_its_migration_and_its_value(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite3")
    _, (row_id,) = add_job(ledger, 1, tmp_path)
    ledger.close()
    *older, added = column_migrations(PageWithOneMore)
    assert [each.name for each in (*older, added)] == ["m010_own_settings", "m008_copies", "m999_moire"]
    before = done(row_id)
    page = PageWithOneMore(
        **before.facts(), source=before.source, output=before.output, output_size=before.output_size,
        output_sha256=before.output_sha256, moire=0.5,
    )  # fmt: skip
    with closing(sqlite3.connect(tmp_path / "ledger.sqlite3")) as db, db:
        for statement in added.statements:
            db.execute(statement)
        columns = ", ".join(f"{name} = ?" for name in page.columns())
        db.execute(f"update pages set {columns} where id = ?", [*page.values(), row_id])
        assert db.execute("select moire, output_sha256 from pages").fetchone() == (0.5, before.output_sha256)


def test_migrations_have_numbers_of_their_own_in_order() -> None:
    numbers = [migration.name.partition("_")[0] for migration in MIGRATIONS]
    assert numbers == [f"m{number:03}" for number in range(1, len(MIGRATIONS) + 1)]
