"""The ledger of a library that changes, and ledgers from before this was recorded."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from comic_upscale.ledger.changes import MovedRow
from comic_upscale.ledger.queries import read_done_pages, read_failures, read_suspects
from comic_upscale.ledger.schema import MIGRATION_SET, MIGRATIONS, MIGRATIONS_TABLE
from comic_upscale.ledger.status import read_status
from comic_upscale.ledger.writer import Ledger
from tests.ledger.test_queries import add_job, done, start


def make_old_ledger(path: Path, until: str) -> None:
    """A ledger of the version whose last migration is given, with a finished and a failed page."""
    connection = sqlite3.connect(path)
    connection.execute(f"create table {MIGRATIONS_TABLE} (migration_set text, name text, applied_at text)")
    for migration in MIGRATIONS:
        for statement in migration.statements:
            connection.execute(statement)
        connection.execute(
            f"insert into {MIGRATIONS_TABLE} values (?, ?, '2026-01-01')", [MIGRATION_SET, migration.name]
        )
        if migration.name == until:
            break
    connection.execute(
        "insert into jobs (id, input, output, fingerprint, settings, model, model_sha256, created_at)"
        " values (1, '/in', '/out', 'f', '{}', 'm', 'h', '2026-01-01T00:00:00.000Z')"
    )
    connection.execute(
        "insert into pages (job_id, source, source_size, source_mtime_ns, state, output, output_size, output_sha256,"
        " source_sha256, width, height, output_width, output_height, suspect)"
        " values (1, 'a.png', 1, 1, 'done', 'a.png', 3, 'o', 's', 1, 1, 2, 2, 'seams'),"
        " (1, 'b.png', 1, 1, 'failed', 'b.png', null, null, null, null, null, null, null, null)"
    )
    connection.commit()
    connection.close()


def test_a_ledger_from_before_orphans_were_recorded_is_read_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite3"
    make_old_ledger(path, "m008_copies")
    for _ in range(2):
        status = read_status(path)
        assert (status.total, status.done, status.failed, status.suspects, status.orphans) == (2, 1, 1, 1, 0)
        assert [page["source"] for page in read_done_pages(path)[1]] == ["a.png"]
        assert [page.source for page in read_suspects(path)] == ["a.png"]
        assert [failure.source for failure in read_failures(path)] == ["b.png"]
        # A run of this version opens it.
        ledger = Ledger(path)
        assert [row.state for row in ledger.rows(1)] == ["done", "failed"]
        ledger.close()


def test_a_copy_in_memory_changes_nothing_on_the_disk(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite3")
    job, rows = add_job(ledger, 2, tmp_path)
    copy = Ledger(ledger.path, as_copy=True)
    assert len(copy.rows(job)) == 2
    copy.forget_rows(rows)
    assert (len(copy.rows(job)), len(ledger.rows(job))) == (0, 2)
    copy.close()
    ledger.close()
    Ledger(tmp_path / "nowhere" / "ledger.sqlite3", as_copy=True).close()
    assert not (tmp_path / "nowhere").exists()


def test_rows_that_swap_names_keep_their_records(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite3")
    job, (one, two, three) = add_job(ledger, 3, tmp_path)
    ledger.record([done(one), done(two), done(three)])
    ledger.move_rows(
        job, [MovedRow(one, "1.png", "1.png", 5, 6), MovedRow(two, "2.png", "2.png", 7, 8)], tmp_path / "out"
    )
    rows = {row.source: row for row in ledger.rows(job)}
    # The third page's source holds the second one's content now, so its own record is gone.
    assert {source: (row.id, row.state, row.output) for source, row in rows.items()} == {
        "1.png": (one, "done", "1.png"), "2.png": (two, "done", "2.png"),
    }  # fmt: skip
    ledger.close()


def test_marks_of_gone_sources_come_and_go(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite3")
    job, rows = add_job(ledger, 3, tmp_path)
    start(ledger, job)
    ledger.record([done(row) for row in rows])
    ledger.mark_gone(job, rows[:1], rows[1:2])
    assert (ledger.counts(job), ledger.count_orphans(job)) == ({"done": 1}, 1)
    assert [row.row_id for row in ledger.gone_outputs(job)] == rows[:2]
    ledger.mark_gone(job, (), ())
    assert (ledger.counts(job), ledger.count_orphans(job)) == ({"done": 3}, 0)
    ledger.close()
