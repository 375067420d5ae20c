"""Resolving a job before it is planned: its model, how gray pages are written, and its fingerprint.

A run and its preview both use this module, so `--dry-run` shows what a run does.
"""

from __future__ import annotations

from dataclasses import dataclass

from comic_upscale.ledger.records import AutoJob
from comic_upscale.planning.model_selection import (
    SelectedModel,
    find_job_model,
    job_fingerprint,
    with_legacy_gray,
    with_rule_networks,
)
from comic_upscale.settings.job import JobSettings


@dataclass(frozen=True, slots=True)
class JobHistory:
    """The earlier jobs into the same folder that influence a new one."""

    auto_jobs: tuple[AutoJob, ...] = ()
    """Jobs whose model was chosen by ``auto``, newest first."""
    early_jobs: frozenset[str] = frozenset()
    """Fingerprints of jobs that began when every page kept its channels."""


@dataclass(frozen=True, slots=True)
class ResolvedJob:
    """A job whose model, gray mode and fingerprint are decided."""

    settings: JobSettings
    """Settings with the model instead of ``auto``, and with the ``gray`` mode with which the job began."""
    model: SelectedModel
    """The model of the job."""
    fingerprint: str
    """The hash of everything that decides the outputs, 32 hexadecimal digits."""


def resolve(
    settings: JobSettings, history: JobHistory, model: SelectedModel | None = None
) -> ResolvedJob | None:
    """Resolve a job.

    Args:
        settings: as requested.
        history: of the output folder.
        model: named by the settings, or chosen for a new job; None if ``auto`` leaves it open.

    Returns:
        The job; None if ``auto`` leaves the model open and no earlier job has settled it.
    """
    if model is None:
        model = find_job_model(settings, history.auto_jobs)
    if model is None:
        return None
    named = with_rule_networks(model.apply_to(settings))
    resolved = with_legacy_gray(named, model, history.early_jobs)
    return ResolvedJob(resolved, model, job_fingerprint(resolved, model.identity))
