"""The tables of the ledger, as migrations that are only ever added to.

Times are ISO 8601 in UTC, sizes are bytes, dimensions are pixels, durations are seconds.
"""

from __future__ import annotations

from sqlite_utils import Database, Migrations

from comic_upscale.ledger.records import MIGRATION_SET

MIGRATIONS = Migrations(MIGRATION_SET)


@MIGRATIONS()
def m001_jobs_runs_pages(db: Database) -> None:
    """Jobs, the runs that worked on them, and every page; two views that read well."""
    for statement in _M001:
        db.execute(statement)


@MIGRATIONS()
def m002_model_auto(db: Database) -> None:
    """Whether ``auto`` ever chose the model of a job, which then keeps it."""
    db.execute("alter table jobs add column model_auto integer not null default 0")


@MIGRATIONS()
def m003_carried_files(db: Database) -> None:
    """The files that are no pages and were copied beside the outputs: sidecars, and others on request."""
    db.execute(
        "create table carried (id integer primary key,"
        " job_id integer not null references jobs (id) on delete cascade,"
        " source text not null, output text not null, source_size integer not null,"
        " source_mtime_ns integer not null, sha256 text not null, copied_at text not null,"
        " unique (job_id, output))"
    )


@MIGRATIONS()
def m004_volumes(db: Database) -> None:
    """Volumes are rows beside their pages; in the view, only those that failed count."""
    for statement in _M004:
        db.execute(statement)


@MIGRATIONS()
def m005_early_gray(db: Database) -> None:
    """Which jobs began before gray pages became one channel: they go on as they began."""
    db.execute("alter table jobs add column early_gray integer not null default 0")
    db.execute("update jobs set early_gray = 1")


@MIGRATIONS()
def m006_price(db: Database) -> None:
    """What an hour of a run's machine cost, in dollars, where that was said."""
    db.execute("alter table runs add column price real")


@MIGRATIONS()
def m007_gate(db: Database) -> None:
    """How pages compare with their sources, as JSON, and why some should be looked at."""
    db.execute("alter table pages add column scores text")
    db.execute("alter table pages add column suspect text")
    db.execute(
        "create view suspects as select pages.job_id as job, pages.source, pages.output, pages.suspect as reasons"
        " from pages where pages.state = 'done' and pages.suspect is not null order by pages.job_id, pages.id"
    )


@MIGRATIONS()
def m008_copies(db: Database) -> None:
    """Of a page whose output was copied: the source of the same page that it was copied from."""
    db.execute("alter table pages add column copied_from text")


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
    """
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
        round(100.0 * coalesce(sum(pages.state = 'done'), 0) / max(count(pages.id), 1), 1) as percent
    from jobs left join pages on pages.job_id = jobs.id
    group by jobs.id
    """,
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
    """
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
        round(100.0 * coalesce(sum(pages.state = 'done'), 0) / max(count(pages.id), 1), 1) as percent
    from jobs left join pages
        on pages.job_id = jobs.id and (pages.kind = 'page' or pages.state = 'failed')
    group by jobs.id
    """,
)
