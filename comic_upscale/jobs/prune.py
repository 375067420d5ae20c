"""Pruning: list the outputs that no page needs any more, and remove them.

Their sources are no longer in the input, or a job with other settings made outputs under other names.

Only a run decides that a source is gone, because it moves the outputs of renamed sources first. Pruning looks at the
input once more, and never removes a file whose content is not the recorded one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from comic_upscale.errors import InputError, LedgerError, PageError, SettingsError
from comic_upscale.jobs.earlier import find_earlier
from comic_upscale.jobs.job_files import output_folder
from comic_upscale.jobs.paid_answers import find_unneeded
from comic_upscale.ledger.changes import GoneOutput
from comic_upscale.ledger.lock import hold_job
from comic_upscale.ledger.queries import read_newest_job
from comic_upscale.ledger.writer import Ledger
from comic_upscale.library.discover import Discovery
from comic_upscale.library.sorting import fold
from comic_upscale.library.volume_placing import LOOSE_PAGES
from comic_upscale.planning.discovery import find_pages
from comic_upscale.planning.gone import hidden_prefixes
from comic_upscale.planning.output_checks import is_among_sources, source_folders
from comic_upscale.settings.job import JobSettings
from comic_upscale.settings.paths import MARKER_FOLDER, answers_folder, default_ledger, path_text
from comic_upscale.storage.answers import AnswerStore
from comic_upscale.storage.base import OutputStore, StoredObject, sha256_of
from comic_upscale.storage.stores import Stores, open_stores

EDITED = "it was edited since it was written, and is yours now"


@dataclass(frozen=True, slots=True)
class PrunedFile:
    """A file in the output folder whose source is gone, or has another output now."""

    output: str
    """Relative to the output folder."""
    source: str
    """The source."""
    size: int
    """Bytes."""
    kept: str | None = None
    """Why it stays; None for a file that is removed."""
    instead: str | None = None
    """The output that the source has now; None if the source is gone."""


@dataclass(frozen=True, slots=True)
class PruneResult:
    """What pruning found, and whether it removed it."""

    output: str
    """The output folder."""
    removed: bool
    """Whether the files were removed; otherwise they were only listed."""
    files: tuple[PrunedFile, ...]
    """Files to remove, and files that stay, in the order of the ledger."""
    unplanned: int
    """Sources that went away since the last run. Only a run tells renamed sources from deleted ones."""
    answers: int = 0
    """Pages with answers of a service that was paid by call, which no run needs any more. They are removed, too."""
    answer_bytes: int = 0
    """Bytes of these answers."""

    @property
    def to_remove(self) -> tuple[PrunedFile, ...]:
        """The files that are, or would be, removed."""
        return tuple(file for file in self.files if file.kept is None)


def prune(ledger: Path, *, remove: bool, folder: Path | None = None) -> PruneResult:
    """Find outputs of the newest job whose sources are gone, and those of earlier jobs, and remove them if asked to.

    Args:
        ledger: ledger of the job.
        remove: whether to remove the files.
        folder: the output folder of the job; None for the one that the ledger names.

    Raises:
        InputError: the ledger has no job; or the input is missing, holds no page, or has none of the job's pages.
        LedgerError: the ledger cannot be used, or a run is working on the job.
        OutputError: the output folder cannot be written to.
    """
    job = read_newest_job(ledger)
    settings = _settings_of(job, ledger, folder or output_folder(ledger, job))
    stores = open_stores(settings.input, settings.output)
    # Refuses an input that is missing or empty, such as a drive that is not mounted.
    discovery = find_pages(settings, stores.sources)
    with hold_job(settings.folder, ledger), closing(Ledger(ledger)) as opened:
        if ledger == default_ledger(settings.output):
            opened.move_jobs(settings.output)
        pruning = _Pruning(opened, int(job["id"]), settings, stores, discovery)
        return pruning.run(remove=remove)


def _settings_of(job: dict[str, Any], ledger: Path, folder: Path) -> JobSettings:
    try:
        settings = JobSettings.from_json(job["settings"])
        return replace(settings, output=folder, ledger=ledger)
    except (SettingsError, TypeError) as error:
        raise LedgerError(
            f"the settings of the job in {ledger} cannot be used ({error}): run the job again, then prune"
        ) from None


@dataclass(slots=True)
class _Decided:
    """The decisions about the files of a job."""

    files: list[PrunedFile] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    """Rows to forget."""
    earlier: dict[str, int] = field(default_factory=dict)
    """Rows of earlier jobs to forget, by output."""
    copies: list[str] = field(default_factory=list)
    """Records of copied files to forget, by output."""
    loose: list[str] = field(default_factory=list)
    """Pages that waited for the CBZ of a volume that is gone."""


class _Pruning:
    def __init__(
        self, ledger: Ledger, job_id: int, settings: JobSettings, stores: Stores, discovery: Discovery
    ) -> None:
        self._ledger, self._job_id, self._settings = ledger, job_id, settings
        self._sources, self._outputs = stores.sources, stores.outputs
        self._discovery = discovery
        self._folders = source_folders(discovery.pages, stores.sources)
        self._found = {page.source for page in discovery.pages}
        self._found |= {volume.entry.source for volume in discovery.volumes}
        self._hidden = hidden_prefixes(discovery.volumes, discovery.unread)

    def run(self, *, remove: bool) -> PruneResult:
        """Decide about every file, and remove those that may be removed."""
        rows = self._ledger.rows(self._job_id)
        done = [row for row in rows if row.state == "done"]
        if done and not any(row.source in self._found for row in rows):
            raise InputError(
                f"none of the {len(done):,} finished pages and volumes of this job is in {self._settings.input} any "
                "more: check that the right folder or drive is there. If all of them were replaced, run the job first"
            )
        gone = self._ledger.gone_outputs(self._job_id)
        marked = {row.row_id for row in gone}
        unplanned = sum(row.id not in marked and self._is_gone(row.source) for row in done)
        decided = _Decided()
        in_use = self._ledger.outputs_in_use(self._settings.output)
        for row in gone:
            if self._is_gone(row.source):
                self._decide_row(row, in_use, decided)
        self._decide_copies(in_use, decided)
        self._decide_earlier({row.source for row in rows} - {row.source for row in gone}, decided)
        files = decided.files
        answers = AnswerStore(answers_folder(self._settings.folder))
        unneeded = find_unneeded(answers, self._ledger, self._job_id, self._is_gone)
        answer_bytes = answers.size(unneeded)
        if remove:
            files = list(self._remove(decided))
            answers.forget(unneeded)
        return PruneResult(
            path_text(self._settings.output), remove, tuple(files), unplanned, len(unneeded), answer_bytes
        )

    def _is_gone(self, source: str) -> bool:
        """Return whether a page or volume is no longer in the input. One that was not looked at is not gone."""
        if not self._discovery.selector.looks_at(source):
            return False
        return source not in self._found and not source.startswith(self._hidden)

    def _decide_row(self, row: GoneOutput, in_use: Mapping[str, Set[str]], decided: _Decided) -> None:
        if row.output.startswith(f"{LOOSE_PAGES}/"):
            if not self._below_empty_folder(row.source):
                decided.loose.append(row.output)
                decided.rows.append(row.row_id)
            return
        existing = _stat(self._outputs, row.output) if row.output else None
        if existing is None or in_use.get(fold(row.output), set()) - {row.source}:
            # Nothing is left of it: the file is gone, or another page's now. Pages in folders have rows of their own.
            if row.output or not self._below_empty_folder(row.source):
                decided.rows.append(row.row_id)
            return
        file = self._judge(row.source, row.output, row.sha256, existing)
        decided.files.append(file)
        if file.kept in (None, EDITED):
            decided.rows.append(row.row_id)

    def _decide_copies(self, in_use: Mapping[str, Set[str]], decided: _Decided) -> None:
        """Decide about the copies of sidecars and other files."""
        there = {file.source for file in self._discovery.files}
        for copy in self._ledger.copies_of(self._job_id):
            if copy.source in there or not self._is_gone(copy.source):
                continue
            existing = _stat(self._outputs, copy.output)
            if existing is None or fold(copy.output) in in_use:
                decided.copies.append(copy.output)
                continue
            file = self._judge(copy.source, copy.output, copy.sha256, existing)
            decided.files.append(file)
            if file.kept in (None, EDITED):
                decided.copies.append(copy.output)

    def _decide_earlier(self, current: Set[str], decided: _Decided) -> None:
        """Decide about outputs of earlier jobs.

        Args:
            current: sources that the job has, and that its last run has found.
            decided: gets the decisions.
        """
        if self._settings.replace_sources:
            return
        for each in find_earlier(self._ledger, self._job_id, self._outputs):
            is_there = each.source in self._found
            # A source that went away since the last run may have been renamed.
            if not is_there if each.source in current else not self._is_gone(each.source):
                continue
            existing = _stat(self._outputs, each.output)
            if existing is None:
                continue
            file = self._judge(each.source, each.output, each.sha256, existing)
            decided.files.append(replace(file, instead=each.instead if is_there else None))
            if file.kept in (None, EDITED):
                decided.earlier[each.output] = each.row_id

    def _judge(self, source: str, output: str, sha256: str | None, existing: StoredObject) -> PrunedFile:
        """Decide about one file."""
        kept: str | None = None
        if existing.kind != "file":
            kept = "it is not a file"
        elif (folder := self._below_empty_folder(source)) is not None:
            kept = f"{folder} is empty: if it belongs to a drive, mount it; if its pages are deleted, delete the folder"
        elif not self._is_inside(source, output):
            kept = "it is not inside the output folder, or among the sources"
        elif sha256 is None or sha256_of(self._outputs, output) != sha256:
            kept = EDITED
        return PrunedFile(output, source, max(0, existing.size), kept)

    def _below_empty_folder(self, source: str) -> str | None:
        """Return the folder above a source that exists and is empty, as the place of an unmounted drive is."""
        return next(
            (folder.rstrip("/") for folder in self._discovery.empty_folders if source.startswith(folder)),
            None,
        )

    def _is_inside(self, source: str, output: str) -> bool:
        """Return whether an output is really inside the output folder, and not among the sources."""
        if output.split("/")[0] == MARKER_FOLDER:
            return False
        try:
            address = self._sources.address(source)
            inside = self._outputs.real_folder(output).is_relative_to(self._outputs.real_folder())
            return inside and not is_among_sources(
                output, address, self._sources, self._outputs, self._folders
            )
        except (OSError, PageError):
            return False

    def _remove(self, decided: _Decided) -> Iterator[PrunedFile]:
        """Remove the files, then forget their records, and yield what became of each."""
        self._outputs.prepare()
        failed: set[str] = set()
        for file in decided.files:
            if file.kept is None:
                self._outputs.delete([file.output])
                if _stat(self._outputs, file.output) is not None:
                    failed.add(file.output)
                    file = replace(file, kept="it cannot be removed: check the permissions of its folder")
            yield file
        self._outputs.delete(decided.loose, below=LOOSE_PAGES)
        still_there = self._ledger.outputs(self._job_id, decided.rows)
        self._ledger.forget_rows([row for row in decided.rows if still_there[row].output not in failed])
        self._ledger.forget_rows([row for output, row in decided.earlier.items() if output not in failed])
        self._ledger.forget_copies(
            self._settings.output, [output for output in decided.copies if output not in failed]
        )


def _stat(outputs: OutputStore, name: str) -> StoredObject | None:
    try:
        return outputs.stat(name)
    except PageError:
        return None
