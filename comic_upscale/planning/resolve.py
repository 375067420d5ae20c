"""Resolve a job once, before anything is planned: its model, its gray mode and its fingerprint.

A run and its preview both use this module, so a run does what `--dry-run` shows.
"""

from __future__ import annotations

from dataclasses import dataclass

from comic_upscale.ledger.records import AutoJob
from comic_upscale.planning.model_selection import (
    SelectedModel,
    job_fingerprint,
    kept_model,
    with_legacy_gray,
)
from comic_upscale.settings.job import JobSettings


@dataclass(frozen=True, slots=True)
class JobHistory:
    """What the ledger knows of earlier jobs into the same folder, as far as resolving a job needs it."""

    auto_jobs: tuple[AutoJob, ...] = ()
    """Jobs whose model ``auto`` selected, the newest first."""
    early_jobs: frozenset[str] = frozenset()
    """Fingerprints of jobs that began before ``--gray`` existed."""


@dataclass(frozen=True, slots=True)
class ResolvedJob:
    """A job whose model, gray mode and fingerprint are decided."""

    settings: JobSettings
    """Settings with the model instead of ``auto``, and with the ``gray`` mode with which the job began."""
    model: SelectedModel
    """The model of the job."""
    fingerprint: str
    """The hash of what decides the outputs, 32 hexadecimal digits."""


def resolve(
    settings: JobSettings, history: JobHistory, model: SelectedModel | None = None
) -> ResolvedJob | None:
    """Resolve a job.

    Args:
        settings: the requested settings.
        history: earlier jobs into the output folder.
        model: the model in the settings, or the one selected for a new job; None if ``auto`` is still open.

    Returns:
        The job; None if the model is ``auto`` and no earlier job decides it.
    """
    if model is None:
        model = kept_model(settings, history.auto_jobs)
    if model is None:
        return None
    settled = with_legacy_gray(model.settle(settings), model, history.early_jobs)
    return ResolvedJob(settled, model, job_fingerprint(settled, model.identity))
