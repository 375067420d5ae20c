"""Preview a run, without processing or writing anything."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TypeAlias

from comic_upscale.engines.base import Calls
from comic_upscale.engines.registry import count_calls
from comic_upscale.errors import PageError
from comic_upscale.imaging.codecs import FORMATS
from comic_upscale.imaging.decode import read_header
from comic_upscale.imaging.encode import check_target, quality_for
from comic_upscale.imaging.formats import extension_of, written_format
from comic_upscale.imaging.target_size import find_target, needs_network, skip_reason, turned
from comic_upscale.ledger.queries import (
    read_auto_jobs,
    read_bytes_per_pixel,
    read_early_jobs,
    read_job_header,
)
from comic_upscale.library.page import Page
from comic_upscale.library.page_rules import PageRules
from comic_upscale.library.source_reader import SourceReader
from comic_upscale.library.volume import Volume
from comic_upscale.models.default_model import assumed_native_scale
from comic_upscale.planning.discovery import find_pages
from comic_upscale.planning.foresight import Foresight, foresee
from comic_upscale.planning.model_selection import choose_model, named_model, predict_models
from comic_upscale.planning.names import describe_safe_names
from comic_upscale.planning.output_marks import OutputMarks
from comic_upscale.planning.resolve import JobHistory, ResolvedJob, resolve
from comic_upscale.planning.selection import has_selection_of, with_recorded_selection
from comic_upscale.settings.job import AUTO_MODEL, FormatName, JobSettings
from comic_upscale.settings.paths import path_text
from comic_upscale.storage.marker import check_output_folder
from comic_upscale.storage.replaced_view import ReplacedSourceStore
from comic_upscale.storage.stores import Stores, open_stores

_GRAY_MODES = frozenset(("1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "F"))
_DITHERED_SHARE = 0.5
"""The bytes of a page in the grays of a screen, divided by those of a page in 256 grays: about, for PNG."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PagePreview:
    """The preview of one page."""

    source: str
    output: str
    action: str
    """``do``, ``move`` (the source was renamed, and its output moves with it), ``skip``, ``refuse`` (it will fail; the
    note says why), ``done`` (already), ``failed`` (earlier, not retried) or ``unreadable``."""
    size: tuple[int, int] | None
    """(width, height), upright; None if the header cannot be read."""
    target_size: tuple[int, int] | None
    color: str | None = None
    """``gray`` or ``colour`` according to the header; gray for a gray screen. A colour file may contain only gray."""
    estimated_bytes: int | None = None
    """Bytes of the output; None if none will be written."""
    note: str | None = None
    source_bytes: int = 0
    """Of the source."""
    encoding: str | None = None
    """Encoding of the output: ``png``, ``webp-lossy``; None if none will be written."""
    again: str | None = None
    """Why a page with a finished output is done again: how that output was made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """The preview of a run."""

    input: str
    output: str
    model: str
    """Name of the model; ``auto`` if only the run can select it, because it checks the devices."""
    model_auto: bool
    """Whether ``auto`` selects the model, or selected it when the job began."""
    scale: float | None
    """The requested scale; None for a size of another kind."""
    size: str
    """The requested size as text."""
    pages: tuple[PagePreview, ...]
    counts: dict[str, int]
    passed_over: dict[str, int]
    estimated_bytes: int
    """Bytes of all outputs to be written."""
    bytes_per_pixel: float | None
    """The basis of the estimate as measured in this ledger; None if a constant is used."""
    sidecars: int
    """Sidecar files that would be copied beside the outputs of their pages."""
    others: int
    """Other files that would be copied: with ``--copy-others``, and from volumes that become folders."""
    orphans: int = 0
    """Outputs whose sources are no longer in the input."""
    warnings: tuple[str, ...] = ()
    """Warnings about the outputs as a whole."""
    replaced: int = 0
    """Finished outputs that were made with other settings and would be replaced."""
    selection: str = ""
    """The part of the input that the run looks at, for display; empty for all of it."""
    profile: str = ""
    """The profile of the job: a name or the path of a file; empty for none."""
    rules: tuple[str, ...] = ()
    """The rules for single pages, for display. Only the run knows which pages they match."""
    calls: Calls | None = None
    """Calls of the service that draws the pages, by their sizes; None for an engine that is billed by time."""


OnPage: TypeAlias = Callable[[PagePreview], None]


def preview(settings: JobSettings, on_page: OnPage | None = None, *, here: bool = True) -> Preview:
    """Find the pages, read their headers, and return what a run would do with each.

    Where only the run can select the model, this is what it would do on a GPU. A warning says what differs on a CPU.

    Args:
        settings: settings of the job.
        on_page: called for each page as soon as its header is read, in order.
        here: whether this machine processes the pages.

    Raises:
        SettingsError, InputError, WeightsError, LedgerError: as a run would.
    """
    check_output_folder(settings.folder)
    settings = with_recorded_selection(settings)
    stores = _open_stores(settings)
    discovery = find_pages(settings, stores.sources)
    job, *possible = _resolve(settings, here=here)
    settings = job.settings
    with closing(SourceReader(stores.sources, discovery.volumes, settings.volume_rules)) as sources:
        foresight = foresee(job, stores, discovery, sources)
        doubts = [
            _describe_doubt(foresight, other, foresee(other, stores, discovery, sources))
            for other in possible
            if settings.ledger_path.is_file()
        ]
        measured = {
            suffix: read_bytes_per_pixel(settings.ledger_path, suffix=suffix, quality=settings.quality)
            for suffix in {PurePosixPath(page.output).suffix for page in discovery.pages}
        }
        pages: list[PagePreview] = []

        def add(page: PagePreview) -> None:
            pages.append(page)
            if on_page is not None:
                on_page(page)

        rules = PageRules(settings)
        refused_names = {name for name, _ in foresight.renamed}
        for page in discovery.pages:
            foreseen = foresight.pages[page.source]
            gets_safe_name = page.output in refused_names and page.output != foreseen.output
            page = replace(page, output=foreseen.output)
            described = _preview_page(
                page, foreseen.action, settings, measured, sources, rules.format_of(page.source)
            )
            if gets_safe_name:
                described = _with_note(described, f"as {path_text(Path(foreseen.output))}")
            if described.action == "do":
                # A volume has one output for all its pages.
                of_volume = None if page.member is None else foresight.again.get(page.member.volume)
                described = replace(described, again=foresight.again.get(page.source, of_volume))
            add(_with_obstacle(described, foreseen.obstacle))
    for volume in discovery.volumes:
        if volume.failure is not None:
            add(_preview_unreadable_volume(volume, volume.failure[1]))
    sidecars = sum(bool(file.pages) for file in discovery.files)
    others = sum(
        not file.pages and (settings.copy_others or file.member is not None) for file in discovery.files
    )
    known = [value for value in measured.values() if value is not None]
    return Preview(
        input=path_text(settings.input),
        output=path_text(settings.output),
        model=AUTO_MODEL if possible else job.model.name,
        model_auto=job.model.auto,
        scale=settings.scale,
        size=str(settings.size),
        pages=tuple(pages),
        counts=dict(Counter(page.action for page in pages)),
        passed_over=dict(discovery.passed_over),
        estimated_bytes=sum(page.estimated_bytes or 0 for page in pages),
        bytes_per_pixel=round(sum(known) / len(known), 4) if known and len(known) == len(measured) else None,
        sidecars=sidecars if settings.sidecars == "copy" else 0,
        others=others,
        orphans=foresight.orphans,
        warnings=(
            *((describe_safe_names(foresight.renamed),) if foresight.renamed else ()),
            *filter(None, doubts),
        ),
        replaced=len(foresight.again),
        selection=str(settings.selection or ""),
        profile=settings.profile or "",
        rules=tuple(map(str, settings.rules)),
        calls=count_calls(settings, sizes_through_engine(pages, settings)),
    )


def sizes_through_engine(
    pages: Iterable[PagePreview], settings: JobSettings
) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Return (size, target size) of those pages that a run would put through its engine."""
    native_scale = assumed_native_scale(settings)
    return [
        (page.size, page.target_size)
        for page in pages
        if page.action == "do"
        and page.size
        and page.target_size
        and needs_network(page.size, page.target_size, native_scale)
    ]


def count_replaced(settings: JobSettings, *, here: bool = True) -> int:
    """Return the number of finished outputs that a run would replace, because they were made with other settings.

    There must be a ledger with a job.

    The input is listed only if the last run into the folder had other settings or another selection. If ``auto`` has
    to select a model, the devices are checked as the run checks them.

    Args:
        settings: settings of the job.
        here: whether this machine processes the pages. Otherwise, where ``auto`` leaves the model open, the result is
            the largest number that is possible.

    Raises:
        InputError, WeightsError, LedgerError, DeviceError: as a run would.
    """
    check_output_folder(settings.folder)
    settings = with_recorded_selection(settings)
    header = read_job_header(settings.ledger_path)
    # A run over another part may have left pages of earlier settings.
    jobs = [
        job
        for job in _resolve(settings, here=here, for_certain=here)
        if job.fingerprint != header["fingerprint"] or not has_selection_of(job.settings, header)
    ]
    if not jobs:
        return 0
    stores = _open_stores(settings)
    discovery = find_pages(settings, stores.sources)
    with closing(SourceReader(stores.sources, discovery.volumes, settings.volume_rules)) as sources:
        return max(len(foresee(job, stores, discovery, sources).again) for job in jobs)


def _open_stores(settings: JobSettings) -> Stores:
    stores = open_stores(settings.input, settings.output)
    if isinstance(stores.sources, ReplacedSourceStore):
        stores.sources.follow_changes(OutputMarks())
    return stores


def _resolve(settings: JobSettings, *, here: bool, for_certain: bool = False) -> list[ResolvedJob]:
    """Return the job; if only the run can select its model, that on a GPU and that on a CPU.

    Args:
        settings: settings of the job.
        here: whether this machine processes the pages.
        for_certain: whether the devices are checked where that is needed to know the model. May import torch.
    """
    ledger, output = settings.ledger_path, settings.output
    model = named_model(settings)
    history = JobHistory(
        tuple(read_auto_jobs(ledger, output)) if model is None else (),
        frozenset(read_early_jobs(ledger, output)),
    )
    known = resolve(settings, history, model)
    if known is not None:
        return [known]
    models = [choose_model(settings)] if for_certain else predict_models(settings, here=here)
    jobs = (resolve(settings, history, each) for each in models)
    return [job for job in jobs if job is not None]


def _describe_doubt(foresight: Foresight, other: ResolvedJob, otherwise: Foresight) -> str | None:
    """Return what a run does otherwise if it finds no GPU; None if that concerns no finished output."""
    count = len(otherwise.again)
    if len(foresight.again) == count:
        return None
    return (
        f"this is the plan for a GPU, and only the run checks the devices: on a CPU, its model is {other.model.name}, "
        f"and it replaces {count or 'no'} finished output{'' if count == 1 else 's'}"
    )


def _with_note(page: PagePreview, note: str) -> PagePreview:
    return replace(page, note=f"{page.note}; {note}" if page.note else note)


def _with_obstacle(page: PagePreview, obstacle: str | None) -> PagePreview:
    """Return a page that would be processed, if something is in the way of its output."""
    if obstacle is None or page.action not in ("do", "move"):
        return page
    return replace(page, action="refuse", estimated_bytes=None, encoding=None, note=obstacle)


def _preview_unreadable_volume(volume: Volume, reason: str) -> PagePreview:
    return _without_size(volume.entry, "unreadable", reason)


def _preview_page(
    page: Page,
    action: str,
    settings: JobSettings,
    measured: Mapping[str, float | None],
    sources: SourceReader,
    asked: FormatName,
) -> PagePreview:
    try:
        inside = page.member is not None
        header = read_header(sources.read_now(page) if inside else partial(sources.open, page))
    except PageError as error:
        # Only the run itself decides about a page. In a preview, this is a warning.
        return _without_size(page, "unreadable" if action == "do" else action, error.reason)
    size = (header.width, header.height)
    described = PagePreview(
        source=page.source,
        output=page.output,
        action=action,
        size=size,
        target_size=None,
        color="gray" if header.mode in _GRAY_MODES or _has_gray_screen(settings) else "colour",
        source_bytes=page.size,
    )
    if action in ("do", "skip") and (reason := skip_reason(size, settings)) is not None:
        goes_in = "; goes into its volume unchanged" if _goes_into_cbz(page, settings) else ""
        return replace(described, action="skip", note=f"{reason}{goes_in}")
    try:
        target = find_target(*size, settings.size)
    except PageError as error:
        return replace(described, action="refuse" if action == "do" else action, note=error.reason)
    format = written_format(extension_of(page.output), asked)
    if action == "do":
        try:
            check_target(*target.size, format)
        except PageError as error:
            return replace(described, action="refuse", target_size=target.size, note=error.reason)
    notes = list(target.notes)
    if size[0] * size[1] > settings.max_pixels:
        notes.append(f"more than --max-pixels {settings.max_pixels:,}")
    if not needs_network(turned(size, settings.size), target.size, assumed_native_scale(settings)):
        notes.append("large enough: no network")
    if settings.crop_margins:
        notes.append("before its margins are cropped")
    described = replace(described, target_size=target.size, note="; ".join(notes) or None)
    if action != "do":
        return described
    # A rule that sets the format may also set its quality, which the estimate leaves out.
    given = settings.quality if asked == settings.format else None
    quality = quality_for(format, asked, given, lossless=header.lossless)
    a_pixel = measured.get(PurePosixPath(page.output).suffix)
    if a_pixel is None:
        a_pixel = FORMATS[format].assumed(quality).bytes_per_pixel(gray=described.color == "gray")
        if format == "png" and _has_gray_screen(settings):
            a_pixel *= _DITHERED_SHARE
    return replace(
        described,
        encoding=FORMATS[format].encoding(quality),
        estimated_bytes=round(target.size[0] * target.size[1] * a_pixel),
    )


def _has_gray_screen(settings: JobSettings) -> bool:
    return settings.screen is not None and settings.screen.levels is not None


def _goes_into_cbz(page: Page, settings: JobSettings) -> bool:
    return page.member is not None and settings.archive_output != "folder"


def _without_size(page: Page, action: str, note: str) -> PagePreview:
    return PagePreview(
        source=page.source, output=page.output, action=action, size=None, target_size=None, note=note
    )
