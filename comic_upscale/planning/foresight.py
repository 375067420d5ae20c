"""What a run would do with each page: the job is planned as a run plans it, on a copy of its ledger."""

from __future__ import annotations

import ntpath
import os
import sys
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath, PureWindowsPath

from comic_upscale.errors import PageError
from comic_upscale.ledger.records import LEFT_AS_THEY_ARE, PAGE, VOLUME
from comic_upscale.ledger.writer import Ledger
from comic_upscale.library.discover import Discovery
from comic_upscale.library.source_reader import SourceReader
from comic_upscale.planning.other_settings import describe_other_settings
from comic_upscale.planning.output_checks import PlannedPage, may_write, source_folders
from comic_upscale.planning.prepare import JobRecord, prepare_job
from comic_upscale.planning.resolve import ResolvedJob
from comic_upscale.settings.paths import default_ledger
from comic_upscale.storage.dry import DryOutputStore
from comic_upscale.storage.stores import Stores


@dataclass(frozen=True, slots=True)
class ForeseenPage:
    """What a run would do with a page."""

    output: str
    """Its output, relative to the output folder."""
    action: str
    """``do``, ``move``, ``skip``, or the state in the ledger."""
    obstacle: str | None = None
    """Why its output cannot be written; None if it can, or if none will be written."""


@dataclass(frozen=True, slots=True)
class Foresight:
    """What a run would do."""

    pages: Mapping[str, ForeseenPage]
    """By source."""
    orphans: int
    """Outputs whose sources are no longer in the input."""
    renamed: tuple[tuple[str, str], ...]
    """Names of outputs that the output disk does not allow, and the names in their place."""
    again: Mapping[str, str]
    """Pages whose finished outputs of other jobs the run would replace, by source: how those were made."""


def foresee(job: ResolvedJob, stores: Stores, discovery: Discovery, sources: SourceReader) -> Foresight:
    """Plan a job without changing its ledger or its outputs.

    Args:
        job: the job.
        stores: stores of the job.
        discovery: of the input.
        sources: reads the sources.

    Raises:
        LedgerError: the ledger cannot be read.
    """
    settings = job.settings
    with closing(Ledger(settings.ledger_path, as_copy=True)) as ledger:
        if settings.ledger_path == default_ledger(settings.output):
            ledger.move_jobs(settings.output)
        return _Foreseer(job, stores, discovery, sources, ledger).run()


class _Foreseer:
    def __init__(
        self,
        job: ResolvedJob,
        stores: Stores,
        discovery: Discovery,
        sources: SourceReader,
        ledger: Ledger,
    ) -> None:
        self._settings, self._discovery, self._sources, self._ledger = (
            job.settings,
            discovery,
            sources,
            ledger,
        )
        self._outputs = DryOutputStore(stores.outputs)
        self._folders = source_folders(discovery.pages, stores.sources)
        model = job.model
        self._record = JobRecord(job.settings, job.fingerprint, model.name, model.identity, model.auto)

    def run(self) -> Foresight:
        """Plan the job, and check the outputs as a run does before it processes pages."""
        prepared = prepare_job(
            self._record, self._discovery, self._sources, self._outputs, self._folders, self._ledger
        )
        rows = self._ledger.rows(prepared.job_id)
        by_source = {row.source: row for row in rows if row.kind == PAGE}
        volumes = {row.source: row for row in rows if row.kind == VOLUME}
        # Volumes that an earlier run could not write are among the failures, too.
        failures = self._ledger.failures(prepared.job_id, limit=-1)
        refused = {source: f"{reason} [{kind}]" for source, kind, reason in failures if source in volumes}
        todo = {page.source: page for page in prepared.plan.todo}
        moved = {each.to for each in prepared.moved}
        pages: dict[str, ForeseenPage] = {}
        for page in self._discovery.pages:
            row = by_source[page.source]
            volume = None if page.member is None else page.member.volume
            if page.source in todo:
                pages[page.source] = self._to_do(todo[page.source])
            elif volume in refused and row.state != "done":
                pages[page.source] = ForeseenPage(row.output, "do", refused[volume])
            elif row.output in moved or (volume in volumes and volumes[volume].output in moved):
                pages[page.source] = ForeseenPage(row.output, "move")
            else:
                skipped = row.state == "skipped" and row.error_kind in LEFT_AS_THEY_ARE
                pages[page.source] = ForeseenPage(row.output, "skip" if skipped else row.state)
        return Foresight(
            pages,
            orphans=self._ledger.count_orphans(prepared.job_id),
            renamed=prepared.plan.renamed,
            again=self._again(prepared.job_id),
        )

    def _again(self, job_id: int) -> dict[str, str]:
        reasons: dict[tuple[str, str], str] = {}
        found = {}
        for source, made in self._ledger.replaced_outputs(job_id).items():
            if not self._discovery.selector.looks_at(source):
                continue
            if made not in reasons:
                reasons[made] = describe_other_settings(self._settings, self._record.model, *made)
            found[source] = reasons[made]
        return found

    def _to_do(self, page: PlannedPage) -> ForeseenPage:
        """Check that the output of a pending page may be written."""
        reserved = reserved_part(page.output, windows=os.name == "nt")
        if reserved is not None:
            return ForeseenPage(
                page.output, "do", f"{reserved} is a name that Windows reserves: rename the source"
            )
        try:
            owner = may_write(
                partial(self._ledger.owners, self._settings.output),
                page,
                settings=self._settings,
                fingerprint=self._record.fingerprint,
                sources=self._sources,
                outputs=self._outputs,
                source_folders=self._folders,
            )
        except PageError as error:
            return ForeseenPage(page.output, "do", f"{error.reason} [{error.kind}]")
        # Another job has done the page: the input folder was moved.
        return ForeseenPage(page.output, "do" if owner is None else "done")


def reserved_part(output: str, *, windows: bool) -> str | None:
    """Return the part of an output's name that the system reserves, such as ``con`` or ``nul.png``; None if none is.

    Args:
        output: POSIX path, relative to the output folder.
        windows: whether the rules of Windows hold.
    """
    if not windows:
        return None
    return next((part for part in PurePosixPath(output).parts if _is_reserved(part)), None)


def _is_reserved(part: str) -> bool:
    if sys.version_info >= (3, 13):
        return ntpath.isreserved(part)
    else:
        return PureWindowsPath(part).is_reserved()
