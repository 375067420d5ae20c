"""Settling what a job is, once, before anything is planned: its model, how gray pages are written, its fingerprint.

A run and a preview of it both ask here, so what `--dry-run` shows is what a run does.
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
    """What a ledger knows of earlier jobs into the same folder, as far as it decides what a job is."""

    auto_jobs: tuple[AutoJob, ...] = ()
    """Jobs whose model ``auto`` chose, the newest first."""
    early_jobs: frozenset[str] = frozenset()
    """Fingerprints of jobs that a version began which kept every page's channels."""


@dataclass(frozen=True, slots=True)
class ResolvedJob:
    """A job with nothing left open."""

    settings: JobSettings
    """With the model in the place of ``auto``, and with ``gray`` as the job began."""
    model: SelectedModel
    """What the job computes with."""
    fingerprint: str
    """The hash of what decides the outputs, 32 hexadecimal digits."""


def resolve(
    settings: JobSettings, history: JobHistory, model: SelectedModel | None = None
) -> ResolvedJob | None:
    """Settle what a job is.

    Args:
        settings: as they were asked for.
        history: of the output folder.
        model: that the settings name, or that was chosen for a new job; None where ``auto`` leaves it open.

    Returns:
        The job; None where ``auto`` leaves the model open and no earlier job has settled it.
    """
    if model is None:
        model = kept_model(settings, history.auto_jobs)
    if model is None:
        return None
    settled = with_legacy_gray(model.settle(settings), model, history.early_jobs)
    return ResolvedJob(settled, model, job_fingerprint(settled, model.identity))
