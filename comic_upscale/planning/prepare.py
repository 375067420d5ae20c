"""Preparing a job: open it in the ledger, settle what dead runs left, follow renames, and plan the pending work.

A run prepares its job on the real ledger and the real outputs. A preview prepares it on copies, so it foresees exactly
what a run does.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from pathlib import PurePath

from comic_upscale.ledger.writer import Ledger
from comic_upscale.library.discover import Discovery
from comic_upscale.library.source_reader import SourceReader
from comic_upscale.planning.follow_renames import MovedOutput, follow_renames
from comic_upscale.planning.hashes import SourceHashes
from comic_upscale.planning.plan import Plan, make_plan
from comic_upscale.settings.job import JobSettings
from comic_upscale.storage.base import OutputStore, size_of


@dataclass(frozen=True, slots=True)
class JobRecord:
    """What the ledger records of a job when it begins."""

    settings: JobSettings
    fingerprint: str
    model: str
    model_identity: str
    model_auto: bool
    """Whether ``auto`` selected the model."""


@dataclass(frozen=True, slots=True)
class PreparedJob:
    """A job that is ready to run."""

    job_id: int
    moved: tuple[MovedOutput, ...]
    """Outputs that moved with their renamed sources."""
    plan: Plan


def prepare_job(
    job: JobRecord,
    discovery: Discovery,
    sources: SourceReader,
    outputs: OutputStore,
    source_folders: Set[PurePath],
    ledger: Ledger,
) -> PreparedJob:
    """Prepare a job; on the thread of the ledger.

    Args:
        job: the job.
        discovery: of its input.
        sources: reads the sources.
        outputs: store of the outputs.
        source_folders: the real folders of the pages; nothing is written there.
        ledger: the open ledger.

    Raises:
        OutputError: no more files can be written.
        LedgerError: the ledger cannot be used.
    """
    settings = job.settings
    job_id = ledger.open_job(
        input=settings.input,
        output=settings.output,
        fingerprint=job.fingerprint,
        settings=settings.as_json(),
        model=job.model,
        model_sha256=job.model_identity,
        model_auto=job.model_auto,
    )
    _settle_claims(ledger, settings, outputs)
    hashes = SourceHashes(sources)
    moved = follow_renames(
        ledger, job_id, discovery, settings, sources=hashes, outputs=outputs, source_folders=source_folders
    )
    plan = make_plan(
        ledger,
        job_id,
        discovery.pages,
        settings,
        sources=sources,
        outputs=outputs,
        volumes=discovery.volumes,
        fingerprint=job.fingerprint,
        model_identity=job.model_identity,
        unread=discovery.unread,
        hashes=hashes,
        selector=discovery.selector,
    )
    return PreparedJob(job_id, moved, plan)


def _settle_claims(ledger: Ledger, settings: JobSettings, outputs: OutputStore) -> None:
    """Remove the unfinished files of runs that died, and close their claims."""
    claims = ledger.abandoned_claims(settings.output)
    outputs.sweep((output, row_id) for row_id, output in claims)
    ledger.settle_claims((row_id, size_of(outputs, output)) for row_id, output in claims)
