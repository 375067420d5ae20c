"""What a run would do, without doing or writing anything."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

from comic_upscale.errors import PageError
from comic_upscale.jobs.choice import ChosenModel, foreseen_model, kept_model, named_model
from comic_upscale.jobs.plan import Action, decide
from comic_upscale.jobs.records import PageRow
from comic_upscale.jobs.report import read_auto_jobs, read_rows
from comic_upscale.jobs.run import find_pages
from comic_upscale.pages.decode import read_header
from comic_upscale.pages.page import Page
from comic_upscale.pages.size import target_size
from comic_upscale.settings import AUTO_MODEL, JobSettings, path_text


@dataclass(frozen=True, slots=True, kw_only=True)
class PagePreview:
    """What would become of one page."""

    source: str
    output: str
    action: str
    """``do``, ``done`` (already), ``failed`` (before, not tried again) or ``unreadable``."""
    size: tuple[int, int] | None
    """(width, height), upright; None where the header cannot be read."""
    target_size: tuple[int, int] | None
    note: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """What a run would do."""

    input: str
    output: str
    model: str
    """Its name; ``auto`` where only the run, which looks at the devices, can choose."""
    model_auto: bool
    """Whether ``auto`` chooses the model, or chose it when the job began."""
    scale: float
    pages: tuple[PagePreview, ...]
    counts: dict[str, int]
    passed_over: dict[str, int]


def preview(settings: JobSettings) -> Preview:
    """Find the pages, read their headers, and tell what a run would do with each.

    Raises:
        InputError, WeightsError, LedgerError: as a run would.
    """
    discovery = find_pages(settings)
    model = _model(settings)
    rows = {} if model is None else {row.source: row for row in _rows(settings, model)}

    def planned(page: Page) -> PagePreview:
        row = rows.get(page.source)
        if row is None:
            return _preview_page(page, "do", settings)
        decision = decide(row, page, settings.output, retry_failed=settings.retry_failed)
        action = "do" if decision is Action.DO else row.state
        return _preview_page(replace(page, output=row.output), action, settings)

    pages = tuple(planned(page) for page in discovery.pages)
    return Preview(
        input=path_text(settings.input),
        output=path_text(settings.output),
        model=AUTO_MODEL if model is None else model.name,
        model_auto=model is None or model.auto,
        scale=settings.scale,
        pages=pages,
        counts=dict(Counter(page.action for page in pages)),
        passed_over=dict(discovery.passed_over),
    )


def _model(settings: JobSettings) -> ChosenModel | None:
    """Return the model of the job as far as it is known without asking a device; None where it is not."""
    named = named_model(settings)
    if named is not None:
        return named
    earlier = read_auto_jobs(settings.ledger_path, settings.output)
    return kept_model(settings, earlier) or foreseen_model(settings)


def _rows(settings: JobSettings, model: ChosenModel) -> list[PageRow]:
    return read_rows(
        settings.ledger_path,
        input=settings.input,
        output=settings.output,
        fingerprint=settings.fingerprint(model.identity),
    )


def _preview_page(page: Page, action: str, settings: JobSettings) -> PagePreview:
    try:
        header = read_header(page.path)
    except PageError as error:
        # Only the run itself is the judge of a page; here it is a warning.
        unread = "unreadable" if action == "do" else action
        return PagePreview(
            source=page.source,
            output=page.output,
            action=unread,
            size=None,
            target_size=None,
            note=error.reason,
        )
    size = (header.width, header.height)
    too_large = size[0] * size[1] > settings.max_pixels
    return PagePreview(
        source=page.source,
        output=page.output,
        action=action,
        size=size,
        target_size=target_size(*size, settings.scale),
        note=f"more than --max-pixels {settings.max_pixels:,}" if too_large else None,
    )
