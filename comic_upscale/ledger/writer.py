"""The ledger: one SQLite file that records every page of a job.

Only the thread that opened a ledger may use it (a rule of SQLite). The file is in WAL mode, so other processes can
read it while a run writes. Every commit is flushed to the disk (``synchronous=full``), so recorded pages survive a
power cut.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from comic_upscale.ledger.changes import LibraryChanges
from comic_upscale.ledger.records import (
    COUNT_VOLUMES,
    COUNTED,
    INCOMPLETE,
    LEFT_AS_THEY_ARE,
    SELECT_AUTO_JOBS,
    SELECT_CARRIED,
    SELECT_DONE_ROWS,
    SELECT_EARLY_JOBS,
    SELECT_PRICE,
    SELECT_ROWS,
    SELECT_SPENT,
    SELECT_START_SECONDS,
    VOLUME,
    AutoJob,
    CopiedFile,
    DoneRow,
    PageDone,
    PageFailed,
    PageResult,
    PageRow,
    PageSkipped,
    VolumeDone,
    now,
    stage_seconds,
)
from comic_upscale.library.page import Page
from comic_upscale.settings.paths import MARKER_FOLDER, path_text

_NO_VOLUMES: Mapping[str, int] = {}

_UPDATE_DONE = (
    "update pages set state = 'done', claimed = 0, finished_at = ?, error_kind = null, error = null, "
    + ", ".join(f"{column} = ?" for column in PageDone.columns())
    + " where id = ?"
)
"""Records a finished page. Parameters: its time, its columns, its row."""


@dataclass(frozen=True, slots=True)
class BoundPage:
    """The output of a page of a volume."""

    state: str
    output: str
    """Where it waits, relative to the output folder. It may already be in the volume."""
    width: int | None
    height: int | None
    size: int | None
    sha256: str | None
    error_kind: str | None

    @property
    def is_settled(self) -> bool:
        """Whether its result is final in this run: done, failed or skipped."""
        skipped = self.state == "skipped" and self.error_kind in LEFT_AS_THEY_ARE
        return skipped or self.state in ("done", "failed")


class Ledger(LibraryChanges):
    """The open ledger, for the run that holds the job's lock.

    Args:
        path: the file; created with its folder if it does not exist.

    Raises:
        LedgerError: the file cannot be opened or written.
        LedgerVersionError: it was written by a newer version.
        LedgerDamagedError: it is not a ledger, or SQLite finds it damaged.
    """

    # Jobs and runs

    def open_job(
        self,
        *,
        input: Path,
        output: Path,
        fingerprint: str,
        settings: str,
        model: str,
        model_sha256: str,
        model_auto: bool = False,
    ) -> int:
        """Return the id of the job with this input, output and fingerprint. A new job is created.

        A model that ``auto`` selected once stays marked as such, even if it is named later.
        """
        with self._translate_errors(), self._db.atomic():
            self._db.execute(
                "insert or ignore into jobs"
                " (input, output, fingerprint, settings, model, model_sha256, created_at)"
                " values (?, ?, ?, ?, ?, ?, ?)",
                [path_text(input), path_text(output), fingerprint, settings, model, model_sha256, now()],
            )
            row = self._db.execute(
                "select id from jobs where input = ? and output = ? and fingerprint = ?",
                [path_text(input), path_text(output), fingerprint],
            ).fetchone()
            self._db.execute(
                "update jobs set settings = ?, model_auto = max(model_auto, ?) where id = ?",
                [settings, model_auto, row[0]],
            )
            return int(row[0])

    def find_job(self, input: Path, output: Path, fingerprint: str) -> int | None:
        """Return the id of a job; None if there is none."""
        with self._translate_errors():
            row = self._db.execute(
                "select id from jobs where input = ? and output = ? and fingerprint = ?",
                [path_text(input), path_text(output), fingerprint],
            ).fetchone()
            return None if row is None else int(row[0])

    def auto_jobs(self, output: Path) -> list[AutoJob]:
        """Return the jobs into a folder whose model ``auto`` selected, the newest first."""
        with self._translate_errors():
            cursor = self._db.execute(SELECT_AUTO_JOBS, [path_text(output)])
            return [AutoJob(*row) for row in cursor]

    def early_jobs(self, output: Path) -> set[str]:
        """Return the fingerprints of the jobs into a folder that began before ``--gray`` existed."""
        with self._translate_errors():
            cursor = self._db.execute(SELECT_EARLY_JOBS, [path_text(output)])
            return {str(row[0]) for row in cursor}

    def start_run(
        self,
        job_id: int,
        *,
        versions: dict[str, str],
        device: str = "",
        precision: str = "",
        price: float | None = None,
    ) -> int:
        """Record that this process starts to work on a job, and return the id of the run.

        A run that is still marked as running must be dead, because the caller holds the lock. It is closed as
        interrupted at its last heartbeat.
        """
        time = now()
        with self._translate_errors(), self._db.atomic():
            self._db.execute(
                "update runs set state = 'interrupted', ended_at = heartbeat_at,"
                " error = 'the process ended without a word' where state = 'running'"
            )
            cursor = self._db.execute(
                "insert into runs (job_id, state, started_at, heartbeat_at, host, pid, process_started,"
                " device, precision, versions, price) values (?, 'running', ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    job_id, time, time, socket.gethostname(), os.getpid(), psutil.Process().create_time(),
                    device, precision, json.dumps(versions), price,
                ],
            )  # fmt: skip
            assert cursor.lastrowid is not None
            return cursor.lastrowid

    def spent(self, job_id: int) -> tuple[float | None, float]:
        """Return the price of an hour in the last run that had a price, and the cost of all runs, in dollars.

        A run without a price does not count. A run that died counts up to its last heartbeat.
        """
        with self._translate_errors():
            price = self._db.execute(SELECT_PRICE, [job_id]).fetchone()
            return None if price is None else price[0], self._db.execute(SELECT_SPENT, [job_id]).fetchone()[0]

    def start_seconds(self, job_id: int) -> float:
        """Return the shortest time until the first page of a run of a job on this machine; 0 if unknown."""
        with self._translate_errors():
            found = self._db.execute(SELECT_START_SECONDS, [job_id, socket.gethostname()]).fetchone()[0]
            return max(0.0, found or 0.0)

    def set_device(self, run_id: int, *, device: str, precision: str) -> None:
        """Record the device and precision of a run, when its network is loaded."""
        with self._translate_errors(), self._db.atomic():
            self._db.execute(
                "update runs set device = ?, precision = ?, heartbeat_at = ? where id = ?",
                [device, precision, now(), run_id],
            )

    def heartbeat(self, run_id: int, within: str | None = None) -> None:
        """Record that the run is alive, and what is done of its pages in progress: JSON, or None if nobody tells."""
        with self._translate_errors(), self._db.atomic():
            self._db.execute(
                "update runs set heartbeat_at = ?, within = ? where id = ?", [now(), within, run_id]
            )

    def bill(self, run_id: int, dollars: float) -> None:
        """Record the dollars of a call of a run, before it is made; negative for one that was not billed after all."""
        with self._translate_errors(), self._db.atomic():
            self._db.execute(
                "update runs set billed = coalesce(billed, 0.0) + ? where id = ?", [dollars, run_id]
            )

    def end_run(self, run_id: int, state: str, error: str | None = None) -> None:
        """Record the end of a run: ``finished``, ``interrupted`` or ``failed``.

        Pages that it had claimed and not finished become pending again. Only after an error may one of them have been
        placed without being recorded, so only then do their claims stay open.
        """
        time = now()
        with self._translate_errors(), self._db.atomic():
            self._db.execute(
                "update pages set state = 'pending', claimed = case when ? then 1 else claimed = 2 end"
                " where run_id = ? and state = 'working'",
                [state == "failed", run_id],
            )
            self._db.execute(
                "update runs set state = ?, error = ?, heartbeat_at = ?, ended_at = ?, within = null where id = ?",
                [state, error, time, time, run_id],
            )

    # Pages

    def rows(self, job_id: int) -> list[PageRow]:
        """Return every page of a job, in the order of discovery."""
        with self._translate_errors():
            cursor = self._db.execute(SELECT_ROWS, [job_id])
            return [PageRow(*row) for row in cursor]

    def done_rows(self, job_id: int) -> list[DoneRow]:
        """Return every page and volume of a job whose source is there, with what decides about replacing it."""
        with self._translate_errors():
            return [DoneRow(*row) for row in self._db.execute(SELECT_DONE_ROWS, [job_id])]

    def computed(self, job_id: int, sizes: Set[int]) -> list[tuple[int, str, str, str]]:
        """Return the finished pages of a job that are not copies and whose sources have one of these sizes.

        Returns:
            (row id, SHA-256 of the source, source, output) of each.
        """
        with self._translate_errors():
            cursor = self._db.execute(
                "select id, source_sha256, source, output from pages where job_id = ? and state = 'done'"
                " and source_sha256 is not null and copied_from is null"
                " and source_size in (select value from json_each(?)) order by id",
                [job_id, json.dumps(sorted(sizes))],
            )
            return [
                (int(row_id), str(sha256), str(source), str(output))
                for row_id, sha256, source, output in cursor
            ]

    def done_page(self, row_id: int) -> dict[str, Any] | None:
        """Return a finished page by its columns, as in `read_done_pages`; None if it is no longer done."""
        with self._translate_errors():
            cursor = self._db.execute(
                "select pages.*, volumes.source as volume_source, volumes.output as volume_output from pages"
                " left join pages as volumes on volumes.id = pages.volume_id"
                " where pages.id = ? and pages.state = 'done'",
                [row_id],
            )
            names = [column[0] for column in cursor.description]
            row = cursor.fetchone()
            return None if row is None else dict(zip(names, row, strict=True))

    def add_pages(
        self, job_id: int, pages: Sequence[Page], volume_ids: Mapping[str, int] = _NO_VOLUMES
    ) -> list[int]:
        """Record pending pages, and return their row ids in the same order.

        Args:
            job_id: id of the job.
            pages: pages that are new to the job.
            volume_ids: the rows of the volumes that contain pages, by source.
        """
        with self._translate_errors(), self._db.atomic():
            return [
                int(
                    self._db.execute(
                        "insert into pages (job_id, source, source_size, source_mtime_ns, state, output, volume_id)"
                        " values (?, ?, ?, ?, 'pending', ?, ?)",
                        [
                            job_id, page.source, page.size, page.mtime_ns, page.output,
                            volume_ids[page.member.volume] if page.member else None,
                        ],
                    ).lastrowid
                    or 0
                )
                for page in pages
            ]  # fmt: skip

    def add_volumes(self, job_id: int, volumes: Sequence[Page]) -> list[int]:
        """Record pending volumes, as files, and return their row ids in the same order."""
        with self._translate_errors(), self._db.atomic():
            return [
                int(
                    self._db.execute(
                        "insert into pages (job_id, source, source_size, source_mtime_ns, state, output, kind)"
                        " values (?, ?, ?, ?, 'pending', ?, ?)",
                        [job_id, entry.source, entry.size, entry.mtime_ns, entry.output, VOLUME],
                    ).lastrowid
                    or 0
                )
                for entry in volumes
            ]

    def bound_pages(self, volume_id: int) -> dict[str, BoundPage]:
        """Return the recorded outputs of a volume's pages, by source."""
        with self._translate_errors():
            cursor = self._db.execute(
                "select source, state, output, output_width, output_height, output_size, output_sha256,"
                " error_kind from pages where volume_id = ?",
                [volume_id],
            )
            return {row[0]: BoundPage(*row[1:]) for row in cursor}

    def page_ids(self, volume_id: int) -> dict[str, int]:
        """Return the rows of a volume's pages, by source."""
        with self._translate_errors():
            cursor = self._db.execute("select source, id from pages where volume_id = ?", [volume_id])
            return {str(source): int(row_id) for source, row_id in cursor}

    def record_volumes(self, volumes: Iterable[VolumeDone]) -> None:
        """Record finished volumes."""
        with self._translate_errors(), self._db.atomic():
            for volume in volumes:
                self._db.execute(
                    "update pages set state = 'done', claimed = 0, finished_at = null, output_size = ?,"
                    " output_sha256 = ?, source_sha256 = ?, error_kind = null, error = null, notes = ? where id = ?",
                    [
                        volume.output_size,
                        volume.output_sha256,
                        volume.source_sha256,
                        "; ".join(volume.notes) or None,
                        volume.row_id,
                    ],
                )

    def wait_for_pages(self, waiting: Iterable[tuple[int, str]]) -> None:
        """Record that volumes wait for failed pages.

        Args:
            waiting: (row id, reason) of each volume.
        """
        with self._translate_errors(), self._db.atomic():
            for row_id, reason in waiting:
                self._db.execute(
                    "update pages set state = 'pending', error_kind = ?, error = ? where id = ?",
                    [INCOMPLETE, reason, row_id],
                )

    def volume_counts(self, job_id: int) -> tuple[int, int, int]:
        """Return the number of volumes of a job, of those done, and of those among them whose archives end early.

        Removed volumes do not count.
        """
        with self._translate_errors():
            row = self._db.execute(COUNT_VOLUMES, [job_id]).fetchone()
            return int(row[0]), int(row[1] or 0), int(row[2] or 0)

    def count_noted(self, job_id: int, note: str) -> int:
        """Return the number of finished pages of a job with a text in their notes."""
        with self._translate_errors():
            cursor = self._db.execute(
                "select count(*) from pages where job_id = ? and state = 'done' and gone = 0 and instr(notes, ?)",
                [job_id, note],
            )
            return int(cursor.fetchone()[0])

    def volume_notes(self, job_id: int) -> list[tuple[str, str]]:
        """Return (source, notes) of the written volumes of a job that have notes, in their order."""
        with self._translate_errors():
            cursor = self._db.execute(
                "select source, notes from pages where job_id = ? and kind = ? and state = 'done' and gone = 0"
                " and notes is not null order by id",
                [job_id, VOLUME],
            )
            return [(str(source), str(notes)) for source, notes in cursor]

    def reopen(self, changes: Iterable[tuple[int, int, int]]) -> None:
        """Make pages pending again.

        Args:
            changes: (row id, bytes of the source, its modification time in ns), as they are now.
        """
        with self._translate_errors(), self._db.atomic():
            for row_id, size, mtime_ns in changes:
                self._db.execute(
                    "update pages set state = 'pending', error_kind = null, error = null,"
                    " source_size = ?, source_mtime_ns = ? where id = ?",
                    [size, mtime_ns, row_id],
                )

    def touch(self, changes: Iterable[tuple[int, int, int]]) -> None:
        """Record the new size and time of sources whose content did not change; arguments as in `reopen`."""
        with self._translate_errors(), self._db.atomic():
            for row_id, size, mtime_ns in changes:
                self._db.execute(
                    "update pages set source_size = ?, source_mtime_ns = ? where id = ?",
                    [size, mtime_ns, row_id],
                )

    def skip(self, row_ids: Iterable[int], reason: str) -> None:
        """Record pages as skipped, for a reason."""
        with self._translate_errors(), self._db.atomic():
            for row_id in row_ids:
                self._db.execute(
                    "update pages set state = 'skipped', error_kind = null, error = null, notes = ?"
                    " where id = ?",
                    [reason, row_id],
                )

    def claim(self, run_id: int, output_folder: Path, claims: Iterable[tuple[int, str]]) -> None:
        """Record that this run starts to process pages, before any output is written.

        A claim is open until the page has a result or the run ends gracefully. Until then, the file at its output
        counts as ours: after a crash between placing a file and recording it, the page is processed again and
        replaces that file. A page of another job with the same output is no longer done, because its file will be
        replaced. A claim that a dead run left open becomes 2, and 1 again if this run does not process the page.

        Args:
            run_id: this run.
            output_folder: the folder of this job.
            claims: (row id, output relative to the folder) of each page.
        """
        folder = path_text(output_folder)
        with self._translate_errors(), self._db.atomic():
            for row_id, output in claims:
                self._db.execute(
                    "update pages set state = 'pending' where output = ? and state = 'done' and id <> ?"
                    " and job_id in (select id from jobs where output = ?)",
                    [output, row_id, folder],
                )
                self._db.execute(
                    "update pages set state = 'working', claimed = 1 + (claimed > 0),"
                    " attempts = attempts + 1, run_id = ?, finished_at = null,"
                    " error_kind = null, error = null, notes = null, copied_from = null where id = ?",
                    [run_id, row_id],
                )

    def carried(self, output_folder: Path) -> dict[str, CopiedFile]:
        """Return the files that any job copied beside the outputs of a folder: the latest file by output."""
        with self._translate_errors():
            cursor = self._db.execute(SELECT_CARRIED, [path_text(output_folder)])
            return {str(row[1]): CopiedFile(*row) for row in cursor}

    def record_carried(self, job_id: int, files: Iterable[CopiedFile]) -> None:
        """Record copied files. Earlier records of the same outputs are replaced."""
        time = now()
        with self._translate_errors(), self._db.atomic():
            for file in files:
                self._db.execute(
                    "insert or replace into carried (job_id, source, output, source_size, source_mtime_ns, sha256,"
                    " copied_at) values (?, ?, ?, ?, ?, ?, ?)",
                    [
                        job_id,
                        file.source,
                        file.output,
                        file.source_size,
                        file.source_mtime_ns,
                        file.sha256,
                        time,
                    ],
                )

    def failures(self, job_id: int, limit: int) -> list[tuple[str, str, str]]:
        """Return the first ``limit`` failed pages and volumes that wait for failed pages, in the order of discovery.

        Args:
            job_id: id of the job.
            limit: the most failures; -1 for all.

        Returns:
            (source, kind, reason) of each.
        """
        with self._translate_errors():
            return [
                (row[0], row[1], row[2])
                for row in self._db.execute(
                    "select source, error_kind, error from pages where job_id = ?"
                    " and (state = 'failed' or error_kind = ?) order by id limit ?",
                    [job_id, INCOMPLETE, limit],
                )
            ]

    def suspects(self, job_id: int) -> int:
        """Return the number of finished pages of a job that are suspect."""
        with self._translate_errors():
            cursor = self._db.execute(
                "select count(*) from pages where job_id = ? and state = 'done' and gone = 0"
                " and suspect is not null",
                [job_id],
            )
            return int(cursor.fetchone()[0])

    def output_bytes(self, job_id: int) -> int:
        """Return the bytes of a job's outputs. A page in a CBZ counts with its CBZ."""
        with self._translate_errors():
            cursor = self._db.execute(
                "select coalesce(sum(output_size), 0) from pages where job_id = ? and state = 'done' and gone = 0"
                f" and output not like '{MARKER_FOLDER}/%'",
                [job_id],
            )
            return int(cursor.fetchone()[0])

    def counts(self, job_id: int) -> dict[str, int]:
        """Return the number of pages of a job in each state. States without a page are left out.

        A volume that failed as a whole counts as a page.
        """
        with self._translate_errors():
            cursor = self._db.execute(
                f"select state, count(*) from pages where job_id = ? and {COUNTED} group by state", [job_id]
            )
            return {str(state): int(count) for state, count in cursor}

    def record(self, results: Iterable[PageResult]) -> None:
        """Record the results of pages, all in one transaction."""
        time = now()
        with self._translate_errors(), self._db.atomic():
            for result in results:
                if isinstance(result, PageDone):
                    self._record_done(result, time)
                elif isinstance(result, PageSkipped):
                    self._record_skipped(result, time)
                else:
                    self._record_failed(result, time)

    def _record_done(self, page: PageDone, time: str) -> None:
        self._db.execute(_UPDATE_DONE, [time, *page.values(), page.row_id])

        # A file that another job's dead run may have left at this output has been replaced.
        self._db.execute(
            "update pages set claimed = 0, state = case state when 'working' then 'pending' else state end"
            " where output = ? and id <> ? and claimed > 0 and job_id in (select id from jobs where output ="
            " (select jobs.output from jobs join pages on pages.job_id = jobs.id where pages.id = ?))",
            [page.output, page.row_id, page.row_id],
        )

    def _record_skipped(self, page: PageSkipped, time: str) -> None:
        self._db.execute(
            "update pages set state = 'skipped', claimed = (claimed = 2), finished_at = ?, width = ?, height = ?,"
            " error_kind = ?, error = null, notes = ? where id = ?",
            [time, page.width, page.height, page.kind, page.reason, page.row_id],
        )

    def _record_failed(self, page: PageFailed, time: str) -> None:
        self._db.execute(
            "update pages set state = 'failed', claimed = (claimed = 2), finished_at = ?,"
            " decode_seconds = ?, upscale_seconds = ?, encode_seconds = ?, place_seconds = ?,"
            " error_kind = ?, error = ? where id = ?",
            [time, *stage_seconds(page.seconds), page.kind, page.reason, page.row_id],
        )
