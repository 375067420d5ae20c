"""The report of a job: figures from its ledger and crops of its pages, in one HTML file.

The file needs no network and no server. It contains images, style and script, and its content security policy forbids
all requests. File names are untrusted: the template escapes them, and the policy allows only the script with its hash.
"""

from __future__ import annotations

import base64
import hashlib
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from comic_upscale.console.printable import printable
from comic_upscale.console.text import duration, megabytes, model_name, rate
from comic_upscale.errors import PageError, SettingsError
from comic_upscale.jobs.job_files import Outputs, Sources, job_stores
from comic_upscale.ledger.queries import Failure, read_done_pages, read_failures, read_run_rows
from comic_upscale.ledger.status import JobStatus, read_status
from comic_upscale.ledger.values import recorded_settings
from comic_upscale.reporting.charts import rate_chart, stage_chart
from comic_upscale.reporting.inspection import Gallery, Selected, Selection, choose, decode_both
from comic_upscale.reporting.place import MARK, check_place
from comic_upscale.reporting.timeline import Timeline, make_timeline
from comic_upscale.reporting.views import MOST_PIXELS, QUALITY, View, data_uri, make_view
from comic_upscale.storage.atomic import write_whole
from comic_upscale.version import __version__

LOOK_AT = 200
"""The default number of pages without scores to compare with their sources."""

SHOW = 20
"""Pages of each kind that are shown."""

MOST_FAILURES = 500
"""Failures that are listed."""

_HIDDEN_SETTINGS = frozenset(
    ("input", "output", "ledger", "scale", "size", "weights_folders", "weights_cache")
)

OnStep = Callable[[str, int, int], None]
"""Called with the name of the step, the amount done, and the total."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The content of a report."""

    status: JobStatus
    settings: Mapping[str, Any]
    runs: Sequence[Mapping[str, Any]]
    timeline: Timeline
    source_bytes: int
    """Of all pages that are done."""
    output_bytes: int
    """Of all pages that are done."""
    typical_size: tuple[int, int] | None
    """Median width and height of the outputs; None if no page is done."""
    failures: Sequence[Failure]
    choice: Selection
    worst: Sequence[View]
    random: Sequence[View]
    made_at: str
    """ISO 8601, UTC."""


def make_report(
    ledger: Path,
    folder: Path | None = None,
    *,
    look_at: int = LOOK_AT,
    show: int = SHOW,
    workers: int = 2,
    on_step: OnStep | None = None,
) -> Report:
    """Read the newest job of a ledger, compare pages with their sources, and crop those to show.

    Args:
        ledger: ledger of the job. The job need not be finished.
        folder: the output folder of the job; None for the one that the ledger names.
        look_at: the number of pages without scores to compare; of more pages, always the same sample.
        show: pages of each kind, worst and random.
        workers: threads.
        on_step: called with the progress.

    Raises:
        SettingsError: a number is below 1.
        InputError: the ledger does not exist, or contains no job.
        LedgerError: the ledger cannot be read.
    """
    if look_at < 1 or show < 1 or workers < 1:
        raise SettingsError(
            "the numbers of pages to compare, pages to show and workers must each be at least 1"
        )
    job, rows = read_done_pages(ledger)
    runs = read_run_rows(ledger)
    stores = job_stores(ledger, job, folder)
    sources, outputs = Sources(job, stores.sources), Outputs(stores.outputs)
    gallery = Gallery(sources, outputs)

    def progress_of(what: str) -> Callable[[int, int], None] | None:
        return None if on_step is None else lambda done, total: on_step(what, done, total)

    with closing(sources):
        choice = choose(
            rows,
            gallery,
            look_at=look_at,
            show=show,
            seed=job["id"],
            workers=workers,
            on_inspected=progress_of("comparing pages with their sources"),
        )
        views = _views([*choice.worst, *choice.random], gallery, progress_of("cropping images"))
    return Report(
        status=read_status(ledger),
        settings=recorded_settings(job["settings"]),
        runs=runs,
        timeline=make_timeline(runs, rows),
        source_bytes=sum(row["source_size"] for row in rows),
        output_bytes=sum(row["output_size"] for row in rows),
        typical_size=_typical([(row["output_width"], row["output_height"]) for row in rows]),
        failures=read_failures(ledger),
        choice=choice,
        worst=[views[id(chosen)] for chosen in choice.worst if id(chosen) in views],
        random=[views[id(chosen)] for chosen in choice.random if id(chosen) in views],
        made_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _views(
    chosen: Sequence[Selected], gallery: Gallery, on_progress: Callable[[int, int], None] | None
) -> dict[int, View]:
    """Crop the pages to show, one at a time. Pages that are gone by now are left out."""
    by_row = {each.inspected.row["id"]: each for each in chosen}
    views: dict[int, View] = {}
    for number, row in enumerate(gallery.in_reading_order([each.inspected.row for each in chosen]), 1):
        each = by_row[row["id"]]
        try:
            views[id(each)] = make_view(each, *decode_both(row, gallery.read(row)))
        except PageError:
            continue
        finally:
            if on_progress is not None:
                on_progress(number, len(chosen))
    return views


def _typical(sizes: Sequence[tuple[int, int]]) -> tuple[int, int] | None:
    if not sizes:
        return None
    return round(statistics.median(w for w, _ in sizes)), round(statistics.median(h for _, h in sizes))


def as_html(report: Report) -> str:
    """Return a report as one HTML file. The same report always gives the same text."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("comic_upscale.reporting", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script, _, _ = environment.loader.get_source(environment, "report.js")  # type: ignore[union-attr]
    style, _, _ = environment.loader.get_source(environment, "report.css")  # type: ignore[union-attr]
    return environment.get_template("report.html").render(
        mark=Markup(MARK),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"),
        style=Markup(style),
        report=report,
        status=report.status,
        summary=_summary(report),
        settings=_settings(report.settings),
        failures=report.failures[:MOST_FAILURES],
        kinds=Counter(failure.kind for failure in report.failures).most_common(),
        groups=[
            ("worst", "Least like their sources", report.worst),
            ("random", "Chosen at random", report.random),
        ],
        charts=[Markup(chart) for chart in _charts(report) if chart is not None],
        stages=report.timeline.spreads,
        most_pixels=MOST_PIXELS,
        quality=QUALITY,
        data_uri=data_uri,
        printable=printable,
        version=__version__,
    )


def _charts(report: Report) -> list[str | None]:
    return [rate_chart(report.timeline), stage_chart(report.timeline)]


def _summary(report: Report) -> list[tuple[str, str]]:
    """Return the summary as (label, text)."""
    status, timeline = report.status, report.timeline
    devices = dict.fromkeys(f"{run['device']}, {run['precision']}" for run in report.runs if run["device"])
    hosts = dict.fromkeys(run["host"] for run in report.runs)
    runs = f"{len(report.runs)} run{'s' if len(report.runs) != 1 else ''}"
    lines = [
        ("pages", _counts(status)),
        ("working time", f"{duration(timeline.seconds)} in {runs}"),
        ("starting and loading", duration(timeline.start_seconds)),
        ("rate", rate(timeline.rate)),
        ("sources", megabytes(report.source_bytes)),
        ("outputs", _outputs(report)),
        ("model", model_name(status.model, chosen=status.model_auto)),
        *([] if status.denoise is None else [("denoise", f"{status.denoise:g}")]),
        ("size", _size(report.settings)),
        ("device", "; ".join(devices) or "not needed"),
        ("machine", ", ".join(hosts) or "-"),
        ("input", status.input),
        ("output", status.output),
    ]
    if status.orphans:
        lines.insert(1, ("outputs without a source", f"{status.orphans:,}, left out of this report"))
    if status.volumes:
        complete = status.volumes_done - status.volumes_cut
        cut = f", {status.volumes_cut:,} with only the pages before a cut" if status.volumes_cut else ""
        lines.insert(1, ("volumes", f"{complete:,} of {status.volumes:,} complete{cut}"))
    return [(label, printable(str(text))) for label, text in lines]


def _size(settings: Mapping[str, Any]) -> str:
    """Return the requested size: ``x2.5``, or the text of another size. Earlier versions had a separate scale."""
    size = settings.get("size")
    if not size:
        return f"x{settings.get('scale') or '?'}"
    return f"x{size.removeprefix('scale ')}" if str(size).startswith("scale ") else str(size)


def _counts(status: JobStatus) -> str:
    others = [
        f"{count:,} {what}"
        for count, what in (
            (status.failed, "failed"),
            (status.skipped, "skipped"),
            (status.pending, "to do"),
        )
        if count
    ]
    return ", ".join([f"{status.done:,} of {status.total:,} done", *others])


def _outputs(report: Report) -> str:
    size = report.typical_size
    typical = "" if size is None else f", typically {size[0]} x {size[1]} pixels"
    return f"{megabytes(report.output_bytes)}{typical}"


def _settings(settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the settings that differ from their defaults, as text, without paths."""
    return [
        (name.replace("_", " "), printable(str(value)))
        for name, value in settings.items()
        if name not in _HIDDEN_SETTINGS and value not in (None, False, [], "")
    ]


def write_report(report: Report, path: Path, *, overwrite: bool = False) -> int:
    """Write a report as HTML, completely or not at all, and return its bytes. An earlier report is replaced.

    Args:
        report: the report.
        path: path of the file.
        overwrite: also replace a file that is not a report of comic-upscale.

    Raises:
        SettingsError: such a file exists.
        OutputError: the report cannot be written.
    """
    if not overwrite:
        check_place(path)
    data = as_html(report).encode()
    write_whole(data, path)
    return len(data)
