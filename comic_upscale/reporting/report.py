"""The report of a job: what its ledger knows and what its pages show, put into one HTML file.

The file needs no network and no server: pictures, style and script are in it, and its content security policy
lets the browser fetch nothing. All names in it come from strangers: the template escapes them, and no script
runs but the one whose hash the policy names.
"""

from __future__ import annotations

import base64
import hashlib
import json
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from comic_upscale.console.text import duration, megabytes, model_name, printable, rate
from comic_upscale.errors import OutputError, PageError, SettingsError
from comic_upscale.jobs.job_files import Outputs, Sources, job_stores, output_folder
from comic_upscale.ledger.queries import (
    Failure,
    JobStatus,
    read_done_pages,
    read_failures,
    read_run_rows,
    read_status,
)
from comic_upscale.reporting.charts import rate_chart, stage_chart
from comic_upscale.reporting.inspection import Choice, Chosen, Gallery, choose, decode_both
from comic_upscale.reporting.timeline import Timeline, make_timeline
from comic_upscale.reporting.views import MOST_PIXELS, QUALITY, View, data_uri, make_view
from comic_upscale.storage.atomic import write_whole
from comic_upscale.version import __version__

NAME = "report.html"
"""What the report is called in the output folder."""

MARK = "<!-- report of comic-upscale -->"
"""A file that begins so is ours, and may be replaced."""

LOOK_AT = 200
"""Pages without scores that are compared with their sources, unless more are asked for."""

SHOW = 20
"""Pages of each kind that are shown."""

MOST_FAILURES = 500
"""Failures that are listed."""

_HIDDEN_SETTINGS = frozenset(
    ("input", "output", "ledger", "scale", "size", "weights_folders", "weights_cache")
)

OnStep = Callable[[str, int, int], None]
"""Told what is being done, how much of it is done, and of how much."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Everything that a report shows."""

    status: JobStatus
    settings: Mapping[str, Any]
    runs: Sequence[Mapping[str, Any]]
    timeline: Timeline
    source_bytes: int
    """Of all pages that are done."""
    output_bytes: int
    """Of all pages that are done."""
    typical_size: tuple[int, int] | None
    """Median width and height of the outputs; None where none is done."""
    failures: Sequence[Failure]
    choice: Choice
    worst: Sequence[View]
    random: Sequence[View]
    made_at: str
    """ISO 8601, UTC."""


def make_report(
    ledger: Path,
    *,
    look_at: int = LOOK_AT,
    show: int = SHOW,
    workers: int = 2,
    on_step: OnStep | None = None,
) -> Report:
    """Read the newest job of a ledger, compare pages with their sources, and cut those that are shown.

    Args:
        ledger: of the job, which need not be finished.
        look_at: pages without scores that are compared; of more, a sample, always the same.
        show: pages of each kind, worst and random.
        workers: threads.
        on_step: told how far it is.

    Raises:
        SettingsError: a number below 1.
        InputError: the ledger is not there, or holds no job.
        LedgerError: it cannot be read.
    """
    if look_at < 1 or show < 1 or workers < 1:
        raise SettingsError("pages to look at, pages to show and workers must each be at least 1")
    job, rows = read_done_pages(ledger)
    runs = read_run_rows(ledger)
    stores = job_stores(ledger, job)
    sources, outputs = Sources(job, stores.sources), Outputs(stores.outputs)
    gallery = Gallery(sources, outputs)

    def tell(what: str) -> Callable[[int, int], None] | None:
        return None if on_step is None else lambda done, total: on_step(what, done, total)

    with closing(sources):
        choice = choose(
            rows,
            gallery,
            look_at=look_at,
            show=show,
            seed=job["id"],
            workers=workers,
            on_looked=tell("comparing pages with their sources"),
        )
        views = _views([*choice.worst, *choice.random], gallery, tell("cutting pictures"))
    return Report(
        status=read_status(ledger),
        settings=json.loads(job["settings"]),
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
    chosen: Sequence[Chosen], gallery: Gallery, tell: Callable[[int, int], None] | None
) -> dict[int, View]:
    """Cut the pages that are shown, one at a time; one that has gone meanwhile is left out."""
    by_row = {each.looked.row["id"]: each for each in chosen}
    views: dict[int, View] = {}
    for number, row in enumerate(gallery.in_reading_order([each.looked.row for each in chosen]), 1):
        each = by_row[row["id"]]
        try:
            views[id(each)] = make_view(each, *decode_both(row, gallery.read(row)))
        except PageError:
            continue
        finally:
            if tell is not None:
                tell(number, len(chosen))
    return views


def _typical(sizes: Sequence[tuple[int, int]]) -> tuple[int, int] | None:
    if not sizes:
        return None
    return round(statistics.median(w for w, _ in sizes)), round(statistics.median(h for _, h in sizes))


def as_html(report: Report) -> str:
    """Return a report as one HTML file: the same report, the same text."""
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
            ("random", "Taken at random", report.random),
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
    """What stands at the top, as (label, text)."""
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
        ("size", _size(report.settings)),
        ("device", "; ".join(devices) or "none was needed"),
        ("machine", ", ".join(hosts) or "-"),
        ("input", status.input),
        ("output", status.output),
    ]
    if status.volumes:
        lines.insert(1, ("volumes", f"{status.volumes_done:,} of {status.volumes:,} complete"))
    return [(label, printable(str(text))) for label, text in lines]


def _size(settings: Mapping[str, Any]) -> str:
    """The size that a job's settings ask for: ``x2.5``, or another one in words; earlier versions had a scale apart."""
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
    """The settings that were set, in words; paths are said elsewhere."""
    return [
        (name.replace("_", " "), printable(str(value)))
        for name, value in settings.items()
        if name not in _HIDDEN_SETTINGS and value not in (None, False, [], "")
    ]


def write_report(report: Report, path: Path, *, overwrite: bool = False) -> int:
    """Write a report as HTML, whole or not at all, and return its bytes; an earlier report is replaced.

    Args:
        report: to be written.
        path: of the file.
        overwrite: replace a file that is no report of ours, too.

    Raises:
        SettingsError: such a file stands there.
        OutputError: it cannot be written.
    """
    if not overwrite:
        _check_free(path, f"{MARK}\n".encode())
    data = as_html(report).encode()
    write_whole(data, path)
    return len(data)


def _check_free(path: Path, beginning: bytes) -> None:
    try:
        if path.is_dir():
            raise SettingsError(f"{path} is a folder: name a file with --output")
        if not path.exists():
            return
        with path.open("rb") as file:
            ours = file.read(len(beginning)) == beginning
    except OSError as error:
        raise OutputError(f"{path} cannot be read: {error.strerror or error}") from error
    if not ours:
        raise SettingsError(f"{path} is no report of ours: allow --overwrite, or choose another --output")


def default_path(ledger: Path, status: JobStatus) -> Path:
    """Where a report goes: ``report.html`` in the output folder."""
    return output_folder(ledger, {"output": status.output}) / NAME
