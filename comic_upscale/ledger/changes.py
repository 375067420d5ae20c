"""The part of the ledger for libraries that change: folders that moved, pages that were renamed or deleted."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from comic_upscale.ledger.file import LedgerFile
from comic_upscale.ledger.records import (
    COUNT_ORPHANS,
    LEFT_AS_THEY_ARE,
    NOTHING_LEFT,
    ORPHAN,
    VOLUME,
    CopiedFile,
    OutputOwner,
    PageDone,
)
from comic_upscale.library.sorting import fold
from comic_upscale.settings.paths import MARKER_FOLDER, path_text

# A page that was adopted was not processed here, so it has no seconds.
_ADOPTED = ", ".join(name for name in PageDone.columns() if not name.endswith("_seconds"))
"""The columns of a finished page that another job takes over."""

_FROM_REPLACED = (
    "from pages as mine join pages as other on other.output = mine.output"
    " join jobs as ours on ours.id = mine.job_id join jobs as theirs on theirs.id = other.job_id"
    " where mine.job_id = ? and mine.state = 'pending' and other.state = 'done' and theirs.id <> ours.id"
    " and theirs.input = ours.input and theirs.output = ours.output and mine.output <> ''"
    f" and mine.output not like '{MARKER_FOLDER}/%'"
)
"""Pending pages of a job, and finished pages of other jobs over the same input whose outputs they will replace."""


_IS_FILE = f"other.output <> '' and other.output not like '{MARKER_FOLDER}/%'"
"""Whether a row has an output of its own that the user sees. A page in a CBZ has none."""


@dataclass(frozen=True, slots=True)
class FinishedElsewhere:
    """A finished page of another job over the same input, with an unchanged source."""

    owner: OutputOwner
    size: tuple[int, int]
    """(width, height) of the source, upright."""
    own_settings: str
    """Its settings and traits, as JSON."""
    is_judged: bool
    """Whether the quality gate compared it with its source."""

    @property
    def source(self) -> str:
        """The source of the page."""
        return self.owner.source


@dataclass(frozen=True, slots=True)
class KnownVolume:
    """A finished volume of another job, which may be one that was found."""

    row_id: int
    source_size: int
    """Bytes of the archive."""
    source_mtime_ns: int
    source_sha256: str | None
    """Of the archive; None in ledgers from earlier versions."""
    output: str
    """The CBZ, relative to the output folder; empty if the pages are in a folder."""
    output_size: int | None
    """Bytes of the CBZ."""


@dataclass(frozen=True, slots=True)
class MovedRow:
    """The new place of a page or volume whose source was renamed."""

    row_id: int
    source: str
    output: str
    """Relative to the output folder."""
    size: int
    """Bytes of the source."""
    mtime_ns: int
    """Modification time of the source, nanoseconds since the epoch."""
    volume_id: int | None = None
    """The row of its volume."""


@dataclass(frozen=True, slots=True)
class RecordedOutput:
    """An output as the ledger has it, with everything that is needed to recognise its file."""

    row_id: int
    job_id: int
    source: str
    kind: str
    """``page`` or ``volume``."""
    output: str
    """Relative to the output folder; empty for a volume whose pages are in a folder."""
    size: int | None
    """Bytes; None before it was first done."""
    sha256: str | None
    volume_id: int | None


@dataclass(frozen=True, slots=True)
class GoneOutput:
    """A row whose source was no longer in the input at the last run."""

    row_id: int
    source: str
    output: str
    """Relative to the output folder; empty for a volume whose pages are in a folder."""
    sha256: str | None
    """Of the output."""


@dataclass(frozen=True, slots=True)
class EarlierOutput:
    """An output of an earlier job over the same folders, whose name is not that of an output of the job."""

    row_id: int
    source: str
    output: str
    """Relative to the output folder."""
    size: int | None
    """Bytes."""
    sha256: str | None
    instead: str | None
    """The output of the job for the same source. None if the job has none, because the source is gone, and empty for
    a volume that became a folder."""
    instead_size: int | None
    """Bytes of that output."""
    instead_row: int | None
    """Its row."""


@dataclass(frozen=True, slots=True)
class SourceRow:
    """A row of a source that several jobs may have."""

    id: int
    source: str
    state: str
    is_of_job: bool
    """Whether it belongs to the job in question."""
    has_its_input: bool
    """Whether its job has the same input as that job."""


class LibraryChanges(LedgerFile):
    """What happens to records when files outside of our control move. Arguments and errors as in `LedgerFile`."""

    def move_jobs(self, output: Path) -> None:
        """Set the output folder of every job of this ledger to ``output``.

        This is for a ledger inside the output folder, which may have been moved with it. A ledger with jobs into
        several folders is not changed.
        """
        with self._translate_errors(), self._db.atomic():
            self._db.execute(
                "update jobs set output = ? where (select count(distinct output) from jobs) = 1",
                [path_text(output)],
            )

    def move_inputs(self, input: Path) -> None:
        """Set the input of every job of this ledger to ``input``, where its sources now are.

        A ledger with jobs over several inputs is not changed.
        """
        with self._translate_errors(), self._db.atomic():
            self._db.execute(
                "update jobs set input = ? where (select count(distinct input) from jobs) = 1",
                [path_text(input)],
            )

    def earlier_names(self, job_id: int) -> list[tuple[str, str]]:
        """Return (source, output) of the pages of other jobs over the same folders; the latest job comes last."""
        with self._translate_errors():
            cursor = self._db.execute(
                "select pages.source, pages.output from pages join jobs on jobs.id = pages.job_id"
                " where (jobs.input, jobs.output) = (select input, output from jobs where id = ?)"
                " and jobs.id <> ? order by pages.id",
                [job_id, job_id],
            )
            return [(str(row[0]), str(row[1])) for row in cursor]

    def owners(self, output_folder: Path, output: str) -> list[OutputOwner]:
        """Return the pages, of any job into this folder, that wrote or may have written the file ``output``."""
        with self._translate_errors():
            cursor = self._db.execute(
                "select jobs.input, jobs.fingerprint, pages.id, pages.source, pages.source_sha256,"
                " pages.state, pages.output_size, pages.claimed"
                " from pages join jobs on jobs.id = pages.job_id"
                " where pages.output = ? and jobs.output = ?"
                " and (pages.claimed > 0 or pages.output_size is not null)",
                [output, path_text(output_folder)],
            )
            return [OutputOwner(*row) for row in cursor]

    def count_replaced(self, job_id: int, *, left_out: Set[int] = frozenset()) -> int:
        """Return the number of finished outputs of other jobs over the same input that a job is about to replace.

        Args:
            job_id: id of the job.
            left_out: rows that this run does not look at. They may be pending.
        """
        with self._translate_errors():
            cursor = self._db.execute(f"select distinct mine.id {_FROM_REPLACED}", [job_id])
            return len({int(row[0]) for row in cursor} - left_out)

    def replaced_outputs(self, job_id: int) -> dict[str, tuple[str, str]]:
        """Return the pages whose finished outputs a job would replace, as `count_replaced` counts them for all rows.

        Returns:
            For each source of the job: the model and the settings, as JSON, of the newest job that made the output.
        """
        with self._translate_errors():
            cursor = self._db.execute(
                f"select mine.source, theirs.model, theirs.settings {_FROM_REPLACED} order by theirs.id",
                [job_id],
            )
            return {str(source): (str(model), str(settings)) for source, model, settings in cursor}

    def finished_elsewhere(self, job_id: int) -> list[FinishedElsewhere]:
        """Return finished pages of other jobs whose sources are those of pending pages, the newest job first.

        Only pages that record their own settings, and that are not suspect, are among them.
        """
        with self._translate_errors():
            cursor = self._db.execute(
                "select theirs.input, theirs.fingerprint, other.id, other.source, other.source_sha256, other.state,"
                " other.output_size, other.claimed, other.width, other.height, other.own_settings,"
                f" other.scores is not null {_FROM_REPLACED} and other.source = mine.source"
                " and other.source_size = mine.source_size and other.source_mtime_ns = mine.source_mtime_ns"
                " and other.own_settings is not null and other.suspect is null and other.claimed = 0"
                " and mine.claimed = 0 order by theirs.id desc",
                [job_id],
            )
            return [
                FinishedElsewhere(
                    OutputOwner(*row[:8]), (int(row[8]), int(row[9])), str(row[10]), bool(row[11])
                )
                for row in cursor
            ]

    # Claims of dead runs

    def abandoned_claims(self, output: Path) -> list[tuple[int, str]]:
        """Return the pages that were in flight in dead runs into a folder: (row id, output). Part files may exist."""
        with self._translate_errors():
            cursor = self._db.execute(
                "select pages.id, pages.output from pages join jobs on jobs.id = pages.job_id"
                " where jobs.output = ? and pages.claimed > 0",
                [path_text(output)],
            )
            return [(int(row_id), str(output)) for row_id, output in cursor]

    def settle_claims(self, found: Iterable[tuple[int, int | None]]) -> None:
        """Close the claims of dead runs, so that a file that comes later is never taken for ours.

        A file that exists at the output now may be the dead run's, so its size is recorded as that of our output.

        Args:
            found: (row id, bytes of the file at its output; None if there is none) of each abandoned page.
        """
        with self._translate_errors(), self._db.atomic():
            for row_id, size in found:
                self._db.execute(
                    "update pages set claimed = 0, output_size = coalesce(?, output_size),"
                    " state = case when state = 'working' or (state = 'done' and ? is not output_size)"
                    " then 'pending' else state end where id = ?",
                    [size, size, row_id],
                )

    def claim_unrecorded(self, output: Path, is_ours: Callable[[str, int | None], bool]) -> int:
        """Open a claim for each page whose output was written after this copy of the ledger was made.

        Args:
            output: the output folder.
            is_ours: says of an output, and of its recorded size, whether another object of ours is in its place.

        Returns:
            How many there are.
        """
        with self._translate_errors(), self._db.atomic():
            rows = self._db.execute(
                "select pages.id, pages.output, case pages.state when 'done' then pages.output_size end"
                " from pages join jobs on jobs.id = pages.job_id"
                " where jobs.output = ? and pages.claimed = 0 and pages.output <> ''",
                [path_text(output)],
            ).fetchall()
            found = [[row_id] for row_id, name, size in rows if is_ours(str(name), size)]
            for parameters in found:
                self._db.execute("update pages set claimed = 1 where id = ?", parameters)
            return len(found)

    # Sources that are gone

    def mark_gone(
        self, job_id: int, orphans: Iterable[int], others: Iterable[int], *, left_out: Set[int] = frozenset()
    ) -> None:
        """Record which sources of a job are no longer in the input; all other sources are there.

        Args:
            job_id: id of the job.
            orphans: rows whose outputs still exist.
            others: rows without an output.
            left_out: rows whose sources were not looked at. They stay as they are.
        """
        with self._translate_errors(), self._db.atomic():
            wanted = dict.fromkeys(orphans, ORPHAN) | dict.fromkeys(others, NOTHING_LEFT)
            now_gone = self._db.execute("select id, gone from pages where job_id = ? and gone <> 0", [job_id])
            recorded = dict(now_gone.fetchall())
            for row_id in (recorded.keys() | wanted.keys()) - left_out:
                gone = wanted.get(row_id, 0)
                if recorded.get(row_id, 0) != gone:
                    self._db.execute("update pages set gone = ? where id = ?", [gone, row_id])

    def count_orphans(self, job_id: int) -> int:
        """Return the number of outputs of a job whose sources are no longer in the input."""
        with self._translate_errors():
            return int(self._db.execute(COUNT_ORPHANS, [job_id]).fetchone()[0])

    def gone_outputs(self, job_id: int) -> list[GoneOutput]:
        """Return the rows of a job whose sources were no longer in the input at the last run."""
        with self._translate_errors():
            cursor = self._db.execute(
                "select id, source, output, output_sha256 from pages where job_id = ? and gone <> 0 order by id",
                [job_id],
            )
            return [GoneOutput(row[0], str(row[1]), str(row[2]), row[3]) for row in cursor]

    def outputs_in_use(self, output_folder: Path) -> dict[str, set[str]]:
        """Return the sources of the finished outputs of all jobs into a folder, by case-folded output.

        Outputs whose sources are gone are left out.
        """
        with self._translate_errors():
            cursor = self._db.execute(
                "select pages.output, pages.source from pages join jobs on jobs.id = pages.job_id"
                " where jobs.output = ? and pages.gone = 0 and pages.state = 'done'",
                [path_text(output_folder)],
            )
            found: dict[str, set[str]] = {}
            for output, source in cursor:
                found.setdefault(fold(str(output)), set()).add(str(source))
            return found

    def earlier_outputs(self, job_id: int) -> list[EarlierOutput]:
        """Return finished outputs of other jobs over the same folders, for sources that a job needs them no longer for.

        Those are sources that the job has done, that are gone, or that it never had. A page of a volume is done once
        its volume is. The latest job comes last.
        """
        with self._translate_errors():
            cursor = self._db.execute(
                "select other.id, other.source, other.output, other.output_size, other.output_sha256,"
                " case when mine.gone = 0 then coalesce(nullif(volumes.output, ''), mine.output) end,"
                " case when volumes.output <> '' then volumes.output_size else mine.output_size end, mine.id"
                " from jobs as ours join jobs as theirs on theirs.input = ours.input and theirs.output = ours.output"
                " and theirs.id <> ours.id join pages as other on other.job_id = theirs.id"
                " left join pages as mine on mine.job_id = ours.id and mine.source = other.source"
                " left join pages as volumes on volumes.id = mine.volume_id"
                f" where ours.id = ? and other.state = 'done' and {_IS_FILE}"
                " and (mine.id is null or mine.gone <> 0 or (mine.state = 'done'"
                " and (volumes.id is null or volumes.output = '' or volumes.state = 'done'))) order by other.id",
                [job_id],
            )
            return [EarlierOutput(*row) for row in cursor]

    def outputs_of_volume(self, row_id: int) -> list[tuple[str, int | None]]:
        """Return output and bytes of every page of a volume that became a folder."""
        with self._translate_errors():
            cursor = self._db.execute("select output, output_size from pages where volume_id = ?", [row_id])
            return [(str(row[0]), row[1]) for row in cursor]

    def standing_outputs(self, job_id: int) -> list[tuple[int, str]]:
        """Return (row, output) of every finished output in the folder of a job, of any job into it."""
        with self._translate_errors():
            cursor = self._db.execute(
                "select other.id, other.output from pages as other join jobs on jobs.id = other.job_id"
                f" where other.state = 'done' and {_IS_FILE}"
                " and jobs.output = (select output from jobs where id = ?)",
                [job_id],
            )
            return [(int(row[0]), str(row[1])) for row in cursor]

    def copies_of(self, job_id: int) -> list[CopiedFile]:
        """Return the files that this job and other jobs over the same folders copied beside the outputs."""
        with self._translate_errors():
            cursor = self._db.execute(
                "select source, carried.output, source_size, source_mtime_ns, sha256 from carried where job_id in"
                " (select id from jobs where (input, output) = (select input, output from jobs where id = ?))"
                " order by copied_at, carried.id",
                [job_id],
            )
            copies = [CopiedFile(str(row[0]), str(row[1]), *row[2:]) for row in cursor]
            return list({copy.output: copy for copy in copies}.values())

    def levels(self, job_id: int) -> dict[str, tuple[int, int] | None]:
        """Return the black and the white point of the volumes of a job whose pages were measured; None for none."""
        with self._translate_errors():
            cursor = self._db.execute("select volume, black, white from levels where job_id = ?", [job_id])
            # Points that cannot be are measured again.
            return {
                str(volume): None if black is None or white is None else (int(black), int(white))
                for volume, black, white in cursor
                if black is None or white is None or 0 <= black < white <= 255
            }

    def rows_of_sources(self, job_id: int, sources: Set[str]) -> list[SourceRow]:
        """Return the rows of these sources in all jobs of the ledger, compared with one job."""
        with self._translate_errors():
            cursor = self._db.execute(
                "select pages.id, source, state, job_id = ?1, input = (select input from jobs where id = ?1)"
                " from pages join jobs on jobs.id = job_id where source in (select value from json_each(?2))",
                [job_id, json.dumps(sorted(sources))],
            )
            return [SourceRow(row[0], str(row[1]), str(row[2]), bool(row[3]), bool(row[4])) for row in cursor]

    def record_levels(self, job_id: int, volume: str, points: tuple[int, int] | None) -> None:
        """Record the points of a volume, before the first page that gets them is done."""
        with self._translate_errors(), self._db.atomic():
            self._db.execute(
                "insert or replace into levels (job_id, volume, black, white) values (?, ?, ?, ?)",
                [job_id, volume, *(points or (None, None))],
            )

    def outputs(self, job_id: int, row_ids: Iterable[int]) -> dict[int, RecordedOutput]:
        """Return the recorded outputs of rows of a job, by row."""
        with self._translate_errors():
            cursor = self._db.execute(
                "select id, job_id, source, kind, output, output_size, output_sha256, volume_id from pages"
                " where job_id = ? and id in (select value from json_each(?))",
                [job_id, json.dumps(sorted(row_ids))],
            )
            return {row[0]: RecordedOutput(*row) for row in cursor}

    def forget_rows(self, row_ids: Sequence[int]) -> None:
        """Delete rows, and the pages of volumes among them: their outputs were removed, or belong to the user now."""
        with self._translate_errors(), self._db.atomic():
            self._delete_rows(row_ids)

    def replace_rows(self, pairs: Iterable[tuple[int, int]]) -> None:
        """Record that new pages and volumes will replace the outputs of rows whose sources are gone.

        The file at the output counts as one of the new row, so it may be replaced. The old row is deleted. That of a
        volume stays, because pages may still be copied out of its CBZ until that is replaced.

        Args:
            pairs: (old row, new row) of each.
        """
        with self._translate_errors(), self._db.atomic():
            for old, new in pairs:
                size = "select output_size from pages where id = ?"
                self._db.execute(f"update pages set output_size = ({size}) where id = ?", [old, new])
                kind = self._db.execute("select kind from pages where id = ?", [old]).fetchone()
                if kind is not None and kind[0] != VOLUME:
                    self._delete_rows([old])

    def _delete_rows(self, row_ids: Sequence[int], except_ids: str = "[]") -> None:
        chosen = json.dumps(list(row_ids))
        # Pages before their volumes, to which they refer.
        for column in ("volume_id", "id"):
            self._db.execute(
                f"delete from pages where {column} in (select value from json_each(?))"
                " and id not in (select value from json_each(?))",
                [chosen, except_ids],
            )

    def forget_copies(self, output_folder: Path, outputs: Iterable[str]) -> None:
        """Delete the records of copied files that are not pages, by output."""
        with self._translate_errors(), self._db.atomic():
            for output in outputs:
                self._db.execute(
                    "delete from carried where output = ? and job_id in (select id from jobs where output = ?)",
                    [output, path_text(output_folder)],
                )

    # Sources that were renamed

    def move_rows(
        self, job_id: int, moves: Sequence[MovedRow], output_folder: Path, replaced: Sequence[int] = ()
    ) -> None:
        """Record that sources were renamed and their outputs moved with them, all in one transaction.

        A row that the job already has for a new source is replaced. Rows of other jobs whose outputs were replaced
        are no longer done.

        Args:
            job_id: id of the job.
            moves: new places.
            output_folder: output folder of the job.
            replaced: rows whose outputs were replaced, in addition; they are deleted.
        """
        with self._translate_errors(), self._db.atomic():
            moving = json.dumps([move.row_id for move in moves])
            sources = json.dumps([move.source for move in moves])
            cursor = self._db.execute(
                "select id from pages where job_id = ? and source in (select value from json_each(?))"
                " and id not in (select value from json_each(?))",
                [job_id, sources, moving],
            )
            self._delete_rows([*(int(row[0]) for row in cursor), *replaced], moving)
            # Two pages may have swapped names, which are unique. No source begins with a slash.
            self._db.execute(
                "update pages set source = '/' || id where id in (select value from json_each(?))", [moving]
            )
            for move in moves:
                self._db.execute(
                    "update pages set source = ?, output = ?, source_size = ?, source_mtime_ns = ?, gone = 0,"
                    " volume_id = ? where id = ?",
                    [move.source, move.output, move.size, move.mtime_ns, move.volume_id, move.row_id],
                )
                self._db.execute(
                    "update pages set state = case state when 'done' then 'pending' else state end, claimed = 0"
                    " where output = ? and output <> '' and (state = 'done' or claimed > 0)"
                    " and job_id in (select id from jobs where output = ?)"
                    " and id not in (select value from json_each(?))",
                    [move.output, path_text(output_folder), moving],
                )

    def page_rows_of(self, volume_id: int) -> list[tuple[int, str, str, int, str | None]]:
        """Return (row, source, state, bytes of the source, SHA-256 of the source) of the pages of a volume.

        For a skipped page, the state is the kind of its error, if it has one.
        """
        with self._translate_errors():
            cursor = self._db.execute(
                "select id, source, case state when 'skipped' then coalesce(error_kind, state) else state end,"
                " source_size, source_sha256 from pages where volume_id = ? order by id",
                [volume_id],
            )
            return [(row[0], str(row[1]), str(row[2]), row[3], row[4]) for row in cursor]

    def sizes_in_volume(self, volume_id: int) -> dict[str, int | None]:
        """Return the bytes of the finished pages of a volume, by their names in its archive."""
        with self._translate_errors():
            cursor = self._db.execute(
                "select substr(pages.source, length(volumes.source) + 2), pages.output_size from pages"
                " join pages as volumes on volumes.id = pages.volume_id"
                " where pages.volume_id = ? and pages.state = 'done' and pages.gone = 0",
                [volume_id],
            )
            return dict(cursor.fetchall())

    # Folders that were moved

    def adopt(self, row_id: int, owner: OutputOwner) -> None:
        """Copy the record of the same page from another job with the same fingerprint."""
        columns = f"state, claimed, finished_at, {_ADOPTED}"
        with self._translate_errors(), self._db.atomic():
            self._db.execute(
                f"update pages set ({columns}) = (select {columns} from pages where id = ?) where id = ?",
                [owner.row_id, row_id],
            )

    def volume_sources(self, job_id: int) -> set[str]:
        """Return the sources of the volumes of a job."""
        with self._translate_errors():
            cursor = self._db.execute(
                "select source from pages where job_id = ? and kind = ?", [job_id, VOLUME]
            )
            return {str(row[0]) for row in cursor}

    def known_volumes(
        self, job_id: int, output_folder: Path, fingerprint: str, source: str
    ) -> list[KnownVolume]:
        """Return the finished volumes with this source in other jobs with this fingerprint, the latest first.

        Args:
            job_id: the job that looks for them.
            output_folder: output folder of the jobs.
            fingerprint: fingerprint of the jobs.
            source: of the volume.
        """
        with self._translate_errors():
            cursor = self._db.execute(
                "select pages.id, source_size, source_mtime_ns, source_sha256, pages.output, output_size"
                " from pages join jobs on jobs.id = pages.job_id where jobs.output = ? and jobs.fingerprint = ?"
                " and jobs.id <> ? and pages.kind = ? and pages.state = 'done' and pages.source = ?"
                " order by pages.id desc",
                [path_text(output_folder), fingerprint, job_id, VOLUME, source],
            )
            return [KnownVolume(*row) for row in cursor]

    def adopt_volume(self, job_id: int, matching: int, mtime_ns: int) -> None:
        """Copy a volume and its pages into another job that has none of them.

        Args:
            job_id: the other job.
            matching: row of the volume.
            mtime_ns: time of the archive as it is now; its content is the same.
        """
        columns = f"source, source_size, state, attempts, finished_at, output, kind, error_kind, {_ADOPTED}"
        with self._translate_errors(), self._db.atomic():
            cursor = self._db.execute(
                f"insert into pages (job_id, source_mtime_ns, {columns}) select ?, ?, {columns} from pages"
                " where id = ?",
                [job_id, mtime_ns, matching],
            )
            self._db.execute(
                f"insert into pages (job_id, volume_id, source_mtime_ns, {columns}) select ?, ?, ?, {columns}"
                " from pages where volume_id = ? and gone = 0 and (state = 'done' or error_kind in (?, ?))",
                [job_id, cursor.lastrowid, mtime_ns, matching, *LEFT_AS_THEY_ARE],
            )
