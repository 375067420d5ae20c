"""The header of a run: its pages, model, device and warnings."""

from __future__ import annotations

from comic_upscale.execution.base import ExecutorInfo
from comic_upscale.execution.events import JobStarted
from comic_upscale.imaging.target_size import RESTORES
from comic_upscale.jobs.context import JobContext
from comic_upscale.planning.names import describe_safe_names
from comic_upscale.planning.plan import replaced_note
from comic_upscale.settings.paths import path_text


def announce(context: JobContext, info: ExecutorInfo | None) -> None:
    """Emit the header of a run, and the volumes that cannot be processed.

    Args:
        context: of the run.
        info: the executor of this machine; None if it computes nothing.
    """
    context.emit(_header(context, info))
    for failure in context.plan.refused:
        context.emit(failure)


def _header(context: JobContext, info: ExecutorInfo | None) -> JobStarted:
    settings, plan, model = context.settings, context.plan, context.job.model
    return JobStarted(
        input=path_text(settings.input),
        output=path_text(settings.output),
        ledger=path_text(settings.ledger_path),
        total=plan.total,
        todo=len(plan.todo),
        done=plan.done,
        # Those that this run refuses are recorded as failed already, and reported after the header.
        failed=plan.failed - len(plan.refused),
        skipped=plan.skipped,
        scale=settings.scale,
        size=str(settings.size),
        model=model.name,
        model_auto=model.auto,
        denoise=settings.denoise,
        native_scale=None if info is None else info.native_scale,
        device=None if info is None else info.device,
        precision=None if info is None else info.precision,
        batch="auto" if settings.batch is None else str(settings.batch),
        workers=settings.workers,
        passed_over=dict(context.discovery.passed_over),
        warnings=_warnings(context, info),
        volumes=len(context.discovery.volumes),
        selection=str(context.looked_at or ""),
        profile=settings.profile or "",
        rules=tuple(map(str, settings.rules)),
    )


def _about_scale(scale: float, native_scale: int) -> list[str]:
    if scale == 1 and native_scale != RESTORES:
        return [
            f"at scale 1 this network, which enlarges {native_scale}x, is not used, so pages are only written again; "
            "choose a network of 1x to restore them"
        ]
    if scale <= native_scale:
        return []
    does = "restores pages" if native_scale == RESTORES else f"enlarges {native_scale}x"
    return [f"the network {does}; resampling does the rest up to {scale:g}x, which adds no detail"]


def _warnings(context: JobContext, info: ExecutorInfo | None) -> tuple[str, ...]:
    warnings = [*context.discovery.warnings, *(() if info is None else info.warnings)]
    if renamed := context.plan.renamed:
        warnings.append(describe_safe_names(renamed))
    if context.plan.replaced:
        warnings.append(replaced_note(context.plan.replaced))
    scale, native_scale = context.settings.scale, None if info is None else info.native_scale
    if native_scale is not None and scale is not None:
        warnings += _about_scale(scale, native_scale)
    return tuple(warnings)
