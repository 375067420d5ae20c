"""The tables of the ledger, as migrations. New ones get the next number.

Times are ISO 8601 in UTC, sizes are bytes, dimensions are pixels, durations are seconds. This module imports no
library: reading a ledger needs the names of the migrations, and only writing one needs sqlite-utils.
"""

from __future__ import annotations

from dataclasses import dataclass

from comic_upscale.ledger.columns import columns_of
from comic_upscale.ledger.records import PageDone

MIGRATION_SET = "comic_upscale"
MIGRATIONS_TABLE = "_sqlite_migrations"
"""The table where sqlite-utils records the migrations of a database."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One step from an older ledger to a newer one."""

    name: str
    """Recorded in every ledger that has seen the step, so it never changes."""
    statements: tuple[str, ...]
    """SQL, run in this order inside one transaction."""


def _progress_view(counted: str = "true", decided: str = "pages.state = 'done'") -> str:
    """Return the view that counts the pages of each job. Migrations run it, so it never changes.

    Args:
        counted: the condition for rows of ``pages`` that count.
        decided: the condition for those among them whose share is the percentage.
    """
    return f"""
    create view progress as
    select
        jobs.id as job,
        jobs.input,
        jobs.model,
        count(pages.id) as total,
        coalesce(sum(pages.state = 'done'), 0) as done,
        coalesce(sum(pages.state = 'failed'), 0) as failed,
        coalesce(sum(pages.state = 'skipped'), 0) as skipped,
        coalesce(sum(pages.state in ('pending', 'working')), 0) as pending,
        round(100.0 * coalesce(sum({decided}), 0) / max(count(pages.id), 1), 1) as percent
    from jobs left join pages on pages.job_id = jobs.id and {counted}
    group by jobs.id
    """


_M001 = (
    """
    create table jobs (
        id integer primary key,
        input text not null,
        output text not null,
        fingerprint text not null,
        settings text not null,
        model text not null,
        model_sha256 text not null,
        created_at text not null,
        unique (input, output, fingerprint)
    )
    """,
    """
    create table runs (
        id integer primary key,
        job_id integer not null references jobs (id) on delete cascade,
        state text not null check (state in ('running', 'finished', 'interrupted', 'failed')),
        started_at text not null,
        heartbeat_at text not null,
        ended_at text,
        error text,
        host text not null,
        pid integer not null,
        process_started real not null,
        device text not null,
        precision text not null,
        versions text not null
    )
    """,
    "create index runs_by_job on runs (job_id, id)",
    """
    create table pages (
        id integer primary key,
        job_id integer not null references jobs (id) on delete cascade,
        source text not null,
        source_size integer not null,
        source_mtime_ns integer not null,
        source_sha256 text,
        state text not null check (state in ('pending', 'working', 'done', 'failed', 'skipped')),
        attempts integer not null default 0,
        claimed integer not null default 0,
        run_id integer references runs (id) on delete set null,
        finished_at text,
        width integer,
        height integer,
        output text not null,
        output_width integer,
        output_height integer,
        output_size integer,
        output_sha256 text,
        decode_seconds real,
        upscale_seconds real,
        encode_seconds real,
        place_seconds real,
        error_kind text,
        error text,
        notes text,
        unique (job_id, source)
    )
    """,
    "create index pages_by_state on pages (job_id, state)",
    "create index pages_by_output on pages (output)",
    "create index pages_by_run on pages (run_id, finished_at)",
    _progress_view(),
    """
    create view failures as
    select jobs.id as job, pages.source, pages.error_kind as kind, pages.error as reason, pages.attempts,
        pages.finished_at as at
    from pages join jobs on jobs.id = pages.job_id
    where pages.state = 'failed'
    order by jobs.id, pages.source
    """,
)

_M004 = (
    "alter table pages add column kind text not null default 'page' check (kind in ('page', 'volume'))",
    "alter table pages add column volume_id integer references pages (id) on delete set null",
    "create index pages_by_volume on pages (volume_id)",
    "drop view progress",
    _progress_view("(pages.kind = 'page' or pages.state = 'failed')"),
)

_M003 = (
    "create table carried (id integer primary key,"
    " job_id integer not null references jobs (id) on delete cascade,"
    " source text not null, output text not null, source_size integer not null,"
    " source_mtime_ns integer not null, sha256 text not null, copied_at text not null,"
    " unique (job_id, output))",
)

_M007 = (
    "alter table pages add column scores text",
    "alter table pages add column suspect text",
    "create view suspects as select pages.job_id as job, pages.source, pages.output, pages.suspect as reasons"
    " from pages where pages.state = 'done' and pages.suspect is not null order by pages.job_id, pages.id",
)

_M009 = (
    "alter table pages add column gone integer not null default 0",
    "drop view progress",
    _progress_view("pages.gone = 0 and (pages.kind = 'page' or pages.state = 'failed')"),
    "drop view suspects",
    "create view suspects as select pages.job_id as job, pages.source, pages.output, pages.suspect as reasons"
    " from pages where pages.state = 'done' and pages.gone = 0 and pages.suspect is not null"
    " order by pages.job_id, pages.id",
    "create view orphans as select pages.job_id as job, pages.source, pages.output from pages"
    " where pages.gone = 1 and pages.state = 'done' order by pages.job_id, pages.id",
)

_M014 = (
    "drop view progress",
    _progress_view(
        "pages.gone = 0 and (case pages.kind when 'page' then"
        # Pages that wait for a volume that failed count with it.
        " not (pages.state = 'skipped' and pages.error_kind is null and exists (select 1 from pages as volumes"
        " where volumes.id = pages.volume_id and volumes.state = 'failed'))"
        " else pages.state = 'failed' end)",
        "pages.state in ('done', 'failed', 'skipped')",
    ),
)

_WRITTEN = (
    # Jobs, the runs that worked on them, and every page; two views for reading.
    Migration("m001_jobs_runs_pages", _M001),
    # Whether `auto` ever chose the model of a job, which then keeps it.
    Migration("m002_model_auto", ("alter table jobs add column model_auto integer not null default 0",)),
    # The files that are not pages and were copied beside the outputs: sidecars, and others on request.
    Migration("m003_carried_files", _M003),
    # Volumes are rows beside their pages; in the view, only those that failed count.
    Migration("m004_volumes", _M004),
    # Which jobs began before gray pages became one channel: they keep the old behaviour.
    Migration(
        "m005_early_gray",
        (
            "alter table jobs add column early_gray integer not null default 0",
            "update jobs set early_gray = 1",
        ),
    ),
    # The price of an hour of a run's machine in dollars, where it was given.
    Migration("m006_price", ("alter table runs add column price real",)),
    # How pages compare with their sources, as JSON, and why some are suspect.
    Migration("m007_gate", _M007),
    # m008_copies is a column of `PageDone`.
    # Whether the last run found the source: 0 yes; 1 no, and the output is an orphan; 2 no, and nothing is left of it.
    Migration("m009_gone", _M009),
    # Dollars of a run for single calls, such as those of a cloud's API, besides its time.
    Migration("m011_billed", ("alter table runs add column billed real",)),
    # The black and the white point of the gray pages of each volume, for levels per volume; null if it needs none.
    Migration(
        "m012_levels",
        (
            "create table levels (id integer primary key,"
            " job_id integer not null references jobs (id) on delete cascade,"
            " volume text not null, black integer, white integer, unique (job_id, volume))",
        ),
    ),
    # What is done of the pages in progress, as JSON, if their engine tells.
    Migration("m013_within", ("alter table runs add column within text",)),
    # The percentage of the view counts failed and skipped pages, as `status` does.
    Migration("m014_decided", _M014),
)
"""The migrations that are written here; those of single columns follow from the fields of `PageDone`."""


def column_migrations(record: type[PageDone]) -> tuple[Migration, ...]:
    """Return the migrations that add the columns of a record to the table ``pages``."""
    return tuple(
        Migration(added.migration, (f"alter table pages add column {added.name} {added.kind}",))
        for added in columns_of(record)
    )


MIGRATIONS = tuple(sorted((*_WRITTEN, *column_migrations(PageDone)), key=lambda migration: migration.name))
"""Every migration that this version knows, oldest first: in the order of their names."""
