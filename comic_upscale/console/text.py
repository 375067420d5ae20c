"""Text for people: numbers, headers and summaries, as plain lines without control characters."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
from collections import Counter
from collections.abc import Collection
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from comic_upscale.console.printable import printable
from comic_upscale.ledger.records import PageDone, PageSkipped, VolumeDone
from comic_upscale.ledger.status import JobStatus, seconds_since
from comic_upscale.settings.paths import MARKER_FOLDER, TRASH, quoted

if TYPE_CHECKING:
    from comic_upscale.costs.ranges import Range
    from comic_upscale.engines.base import Calls
    from comic_upscale.execution.events import HooksFinished, JobFinished, JobStarted, Progress
    from comic_upscale.planning.preview import PagePreview, Preview


SHOWN_WARNINGS = 10


def duration(seconds: float | None) -> str:
    """Return ``7 s``, ``3:05`` or ``2:10:00``; a dash for an unknown or infinite duration."""
    if seconds is None or not math.isfinite(seconds):
        return "-"
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def local_time(time: str) -> str:
    """Return an ISO 8601 time by the clock of this machine, to the minute; the text itself if it is not a time."""
    try:
        return datetime.fromisoformat(time).astimezone().strftime("%Y-%m-%d %H:%M")
    except (ValueError, OverflowError, OSError):
        return time


def page_count(count: int) -> str:
    """Return ``1 page`` or ``2,000 pages``."""
    return "1 page" if count == 1 else f"{count:,} pages"


def rate(pages_per_second: float | None) -> str:
    """Return ``2.4 pages/s``, or ``3.1 s/page`` for a slow rate; a dash for an unknown rate."""
    if not pages_per_second:
        return "-"
    if pages_per_second < 1:
        return f"{1 / pages_per_second:.1f} s/page"
    return f"{pages_per_second:.1f} pages/s"


def preview_as_json(value: Preview, seconds: Range | None = None) -> str:
    """Return a preview as one line of JSON, with the expected seconds of the run; None if they are not known."""
    known = None if seconds is None else dataclasses.asdict(seconds)
    return json.dumps({**dataclasses.asdict(value), "seconds": known})


def plan_line(page: PagePreview) -> str:
    """Return the planned action of a page as a table row. Columns have fixed widths, so rows can be printed singly."""
    size = "" if page.size is None else f"{page.size[0]}x{page.size[1]}"
    target = "" if page.target_size is None else f"{page.target_size[0]}x{page.target_size[1]}"
    arrow = "->" if target else "  "
    weight = "" if page.estimated_bytes is None else megabytes(page.estimated_bytes)
    notes = "; ".join(note for note in (page.again, page.note) if note)
    note = f"  ({notes})" if notes else ""
    action = _action_of(page)
    row = f"{action:>10}  {size:>11} {arrow} {target:<11} {page.color or '':<6} {weight:>9}  {page.source}{note}"
    return printable(row)


def plan_header() -> str:
    """Return the column titles of `plan_line`."""
    return f"{'':>10}  {'pixels':>11}    {'become':<11} {'kind':<6} {'about':>9}  page"


def calls_text(calls: Calls) -> str:
    """Return what the calls of a service will cost."""
    count = "1 call" if calls.count == 1 else f"{calls.count:,} calls"
    return f"{count} of the service: {about_money(calls.dollars)} (--max-cost sets a limit)"


def plan_summary(preview: Preview) -> list[str]:
    """Return a summary of a planned run as text."""
    counts = ", ".join(f"{count:,} {what}" for what, count in Counter(map(_action_of, preview.pages)).items())
    passed_over = ", ".join(f"{reason}: {count:,}" for reason, count in preview.passed_over.items())
    lines = [
        f"{page_count(len(preview.pages))}: {counts}"
        + (f"; ignored files: {passed_over}" if passed_over else "")
    ]
    if preview.estimated_bytes:
        basis = "assumed"
        if preview.bytes_per_pixel is not None:
            basis = f"{preview.bytes_per_pixel:.2f} bytes per pixel, measured by this job"
        lines.append(f"outputs: about {megabytes(preview.estimated_bytes)} ({basis})")
    if preview.calls is not None:
        lines.append(calls_text(preview.calls))
    also = [
        f"{count:,} {what}{'s' if count != 1 else ''}"
        for count, what in ((preview.sidecars, "sidecar"), (preview.others, "other file"))
        if count
    ]
    if also:
        lines.append(f"also copied: {', '.join(also)}")
    lines += preview.warnings
    if preview.replaced:
        from comic_upscale.planning.plan import replaced_note

        lines.append(replaced_note(preview.replaced))
    if preview.orphans:
        lines.append(orphans_line(preview.orphans, _short(preview.output)))
    if preview.selection:
        lines.append(f"selection: {preview.selection}")
    if preview.profile:
        lines.append(f"profile: {_short(preview.profile)}")
    lines += [f"rule {number}: {rule}" for number, rule in enumerate(preview.rules, start=1)]
    lines.append(f"model {_model_of_plan(preview)}, {preview.size}, into {_short(preview.output)}")
    lines.append("nothing was written (--dry-run)")
    return [printable(line) for line in lines]


def _action_of(page: PagePreview) -> str:
    """Return the word for what a run would do with a page."""
    return "again" if page.again is not None and page.action == "do" else page.action


def megabytes(size: int) -> str:
    """Return ``12.3 MB``, ``1.24 GB`` or ``3.1 kB``."""
    if 0 < size < 1e5:
        return f"{size / 1e3:,.1f} kB"
    return f"{size / 1e9:,.2f} GB" if size >= 1e9 else f"{size / 1e6:,.1f} MB"


def megapixels(pixels: int) -> str:
    """Return ``1,234``, ``2.5`` or ``0.06``: at least two significant digits."""
    return f"{pixels / 1e6:,.0f}" if pixels >= 1e7 else f"{pixels / 1e6:.2g}"


def _model_of_plan(preview: Preview) -> str:
    from comic_upscale.models.default_model import CPU_DEFAULT, GPU_DEFAULT
    from comic_upscale.settings.job import AUTO_MODEL

    if preview.model == AUTO_MODEL:
        return f"{AUTO_MODEL} ({GPU_DEFAULT} on a GPU, else {CPU_DEFAULT})"
    return model_name(preview.model, chosen=preview.model_auto)


def model_name(name: str, *, chosen: bool) -> str:
    """Return the name of a model for display: ``comic-compact-x3 (auto)`` where ``auto`` chose it."""
    return f"{name} (auto)" if chosen else name


def header_lines(event: JobStarted) -> list[tuple[str, str]]:
    """Return the header of a run, as (label, text) pairs."""
    counts = [f"{event.total:,} page{'s' if event.total != 1 else ''}"]
    counts += [
        f"{count:,} {what}"
        for count, what in (
            (event.done, "done before"),
            (event.failed, "failed before"),
            (event.skipped, "skipped"),
            (event.todo, "pending"),
        )
        if count and count != event.total
    ]
    if event.volumes:
        counts.append(f"{event.volumes:,} volume{'s' if event.volumes != 1 else ''}")
    passed_over = ", ".join(f"{reason}: {count:,}" for reason, count in event.passed_over.items() if count)
    lines = [
        ("input", f"{_short(event.input)}: {', '.join(counts)}"),
        ("output", _short(event.output)),
        ("ledger", _short(event.ledger)),
    ]
    if passed_over:
        lines.insert(1, ("ignored", passed_over))
    if event.selection:
        lines.insert(1, ("selection", event.selection))
    for number, rule in enumerate(event.rules, start=1):
        lines.insert(-2, (f"rule {number}", rule))
    if event.profile:
        lines.insert(-2 - len(event.rules), ("profile", _short(event.profile)))
    if event.device is not None:
        model = model_name(event.model, chosen=event.model_auto)
        network = "" if event.native_scale is None else f" x{event.native_scale} network,"
        strength = "" if event.denoise is None else f" denoise {event.denoise:g},"
        lines.insert(-2, ("model", f"{model},{network}{strength} {event.size}"))
        lines.insert(
            -2,
            (
                "device",
                f"{event.device},{f' {event.precision},' if event.precision else ''} batch {event.batch}, "
                f"{event.workers} worker{'s' if event.workers != 1 else ''}",
            ),
        )
    return [(label, printable(text)) for label, text in lines]


def page_line(event: PageDone | PageSkipped | VolumeDone) -> str:
    """Return the result of a page or a volume, with its notes."""
    if isinstance(event, PageSkipped):
        return printable(f"skipped: {event.source}: {event.reason}")
    notes = f": {'; '.join(event.notes)}" if event.notes else ""
    if isinstance(event, VolumeDone):
        return printable(f"complete: {event.output or event.source} ({page_count(event.pages)}){notes}")
    # Until its volume is written, the output has an internal name that means nothing to the user.
    name = event.source if event.output.startswith(f"{MARKER_FOLDER}/") else event.output
    return printable(f"done: {name} ({event.output_width}x{event.output_height}){notes}")


def stopping_line(event: Progress) -> str:
    """Return the line for a run that is stopping."""
    return f"stopping ({event.stopping}): finishing pages in flight; press Ctrl-C to end at once"


NEXT_STEPS = {
    "push": "the pages are on the remote machine; `comic-upscale remote run` with the same options starts the run",
    "run": "the remote run continues; `comic-upscale remote status` shows its progress, `remote pull` downloads pages",
    "pull": "the finished pages are downloaded; run the same command again for the rest",
}
"""The next step after each step of ``comic-upscale remote``, where pages are pending."""


def summary_lines(event: JobFinished, told: Collection[str] = ()) -> list[str]:
    """Return the summary of a run as text.

    Args:
        event: the end of the run.
        told: sources of failed pages that were printed before. They are not repeated.
    """
    skipped = f", {event.skipped:,} skipped" if event.skipped else ""
    pending = f", {event.pending:,} pending" if event.pending else ""
    lines = [f"{event.done:,} of {page_count(event.total)} done, {event.failed:,} failed{skipped}{pending}"]
    if event.volumes:
        lines += volumes_lines(event.volumes, event.volumes_done, event.volumes_cut)
    if event.done_now:
        now = f"{event.done_now:,} in this run: {duration(event.seconds)}, {rate(event.pages_per_second)}"
        lines.append(now)
        if event.copied_now:
            lines.append(f"{event.copied_now:,} of them copied from identical pages")
    elif event.state == "finished" and not (
        event.pending or event.failed or event.carried_now or event.moved_now
    ):
        lines.append("nothing left to do")
    if event.moved_now:
        outputs = "1 output" if event.moved_now == 1 else f"{event.moved_now:,} outputs"
        lines.append(f"{outputs} moved, because the sources were renamed")
    if event.carried_now:
        lines.append(f"{event.carried_now:,} other file{'s' if event.carried_now != 1 else ''} copied")
    lines += [f"  note: {warning}" for warning in event.warnings[:SHOWN_WARNINGS]]
    if len(event.warnings) > SHOWN_WARNINGS:
        lines.append(f"  and {len(event.warnings) - SHOWN_WARNINGS:,} more notes")
    lines += [
        f"  {failure_line(source, kind, reason)}"
        for source, kind, reason in event.failures
        if source not in told
    ]
    if event.failed > len(event.failures):
        lines.append(f"  and {event.failed - len(event.failures):,} more: comic-upscale status --failures")
    if event.failed:
        lines.append("use --retry-failed to try the failed pages again")
    if event.suspects:
        lines.append(suspects_line(event.suspects))
    if event.orphans:
        lines.append(orphans_line(event.orphans, _short(event.output)))
    if event.earlier:
        lines.append(earlier_line(event.earlier, event.earlier_bytes, _short(event.output)))
    if event.replaced:
        lines += replaced_lines(event)
    if event.spent is not None and event.price is not None:
        lines.append(spent_line(event.spent, event.price, None))
    if event.stopped_by == "max-cost":
        lines.append(
            f"stopped early ({event.reason}); run the same command with a higher --max-cost to continue"
        )
    elif event.state == "interrupted" and event.step is not None:
        lines.append(NEXT_STEPS[event.step])
    elif event.state == "interrupted":
        lines.append(f"stopped early ({event.reason}); run the same command again to continue")
    size = f" ({megabytes(event.output_bytes)})" if event.output_bytes else ""
    lines.append(f"output: {_short(event.output)}{size}")
    if event.done_now:
        lines.append(f"before and after: comic-upscale report --job {quoted(_short(event.output))} --open")
    return [printable(line) for line in lines]


def suspects_line(count: int) -> str:
    """Return the number of suspect pages, and how to list them."""
    what = f"{page_count(count)} {'is' if count == 1 else 'are'}"
    return f"{what} suspect: comic-upscale status --suspects lists them, comic-upscale report shows them"


def orphans_line(count: int, output: str) -> str:
    """Return the number of outputs without a source, and how to remove them."""
    what = "1 output has no source" if count == 1 else f"{count:,} outputs have no source"
    return (
        f"{what} any more: comic-upscale prune --job {quoted(output)} lists them, and removes them with --yes"
    )


def earlier_line(count: int, size: int, output: str) -> str:
    """Return the number of outputs of earlier settings beside those of the job, and how to remove them."""
    what = "1 output of earlier settings is" if count == 1 else f"{count:,} outputs of earlier settings are"
    prune = f"comic-upscale prune --job {quoted(output)}"
    return f"{what} still in the folder ({megabytes(size)}): {prune} lists them, and removes them with --yes"


def replaced_lines(event: JobFinished) -> list[str]:
    """Return how many originals are replaced, where they are, and how to get them back."""
    if not event.replaced_now:
        # Perhaps they were pruned since. `restore` tells.
        return [
            f"{event.replaced:,} original{' was' if event.replaced == 1 else 's were'} replaced by earlier runs"
        ]
    library = quoted(_short(str(Path(event.output).parent.parent)))
    now = f"{event.replaced_now:,} original{'' if event.replaced_now == 1 else 's'} replaced by this run, "
    return [
        f"{now}{event.replaced:,} in all; they are in {TRASH} of {library}",
        f"comic-upscale restore {library} puts them back; comic-upscale prune --trash {library} frees their space",
    ]


def money(amount: float | None) -> str:
    """Return ``$1.20``, ``$0.042`` or ``<$0.001``: cents, with more digits below ten cents; a dash for None."""
    if amount is None:
        return "-"
    if amount >= 0.1 or amount == 0:
        return f"${amount:,.2f}"
    return f"${amount:.3f}" if amount >= 0.001 else "<$0.001"


def about_money(amount: float | None) -> str:
    """Return ``about $1.20``, or ``less than $0.001``."""
    text = money(amount)
    return f"less than {text[1:]}" if text.startswith("<") else f"about {text}"


def spent_line(spent: float, price: float, to_come: float | None) -> str:
    """Return what a job has cost so far, and the expected rest if known."""
    more = f", {about_money(to_come)} to go" if to_come else ""
    hourly = f", at {money(price)} per hour" if price else ""
    return f"spent: {money(spent)}{more}{hourly}"


def volumes_lines(volumes: int, done: int, cut: int) -> list[str]:
    """Return the number of complete volumes as text, and of those whose archives end early."""
    lines = [f"{done - cut:,} of {volumes:,} volume{'s' if volumes != 1 else ''} complete"]
    if cut:
        lines.append(
            f"{cut:,} volume{'s have' if cut != 1 else ' has'} only the pages before a cut or damage in the archive: "
            "copy or download it again"
        )
    return lines


def failure_line(source: str, kind: str, reason: str) -> str:
    """Return the line for a page or a volume that is not done."""
    return f"{'incomplete' if kind == 'incomplete' else 'failed'}: {source}: {reason} [{kind}]"


def failed_before_lines(event: JobFinished, told: int) -> list[str]:
    """Return what else of a run that has ended is not done, for a user who saw only its failures.

    Args:
        event: the end of the run.
        told: how many failures the user saw.
    """
    lines = []
    if event.failed > told:
        status = f"comic-upscale status --job {quoted(_short(event.output))} --failures"
        lines.append(
            f"{page_count(event.failed - told)} failed in earlier runs: {status} lists them, --retry-failed tries again"
        )
    if event.volumes_cut:
        lines += volumes_lines(event.volumes, event.volumes_done, event.volumes_cut)[1:]
    if event.stopped_by is not None:
        lines.append(f"stopped early ({event.reason})")
    return [printable(line) for line in lines]


def _percent(report: JobStatus) -> str:
    """Return how far a job is. One with failed pages is not said to be done that far."""
    return f"{report.percent:g} %{' decided' if report.failed else ''}"


def status_lines(report: JobStatus) -> list[str]:
    """Return the status of a job as text."""
    skipped = f", {report.skipped:,} skipped" if report.skipped else ""
    lines = [
        f"{report.state}: {_percent(report)}, {report.done:,} of {report.total:,} done, "
        f"{report.failed:,} failed{skipped}, {report.pending:,} pending"
    ]
    if report.volumes:
        lines += volumes_lines(report.volumes, report.volumes_done, report.volumes_cut)
    if report.suspects:
        lines.append(suspects_line(report.suspects))
    if report.orphans:
        lines.append(orphans_line(report.orphans, _short(report.output)))
    if report.paused_since is not None:
        lines += _pause_lines(report)
    if report.alive:
        lines += [
            f"in progress: {page.source}: {part_text(page.unit, page.done, page.total)}"
            for page in report.within
        ]
    if report.alive and report.paused_since is None:
        left = "" if report.eta_seconds is None else f", {duration(report.eta_seconds)} left"
        now = (
            rate(report.pages_per_second) if report.pages_per_second else "no rate yet: fewer than two pages"
        )
        lines.append(f"{now}{left}")
    elif not report.alive and report.last_seen is not None:
        seconds = seconds_since(report.last_seen)
        # In the future, if a clock was set back or the clock of another host is ahead.
        seen = (
            f"{duration(seconds)} ago"
            if seconds >= 0
            else f"at {local_time(report.last_seen)} by the clock of {report.host}"
        )
        # The reason comes last: it may be a whole sentence with advice.
        how = {
            "died": f"the run died unexpectedly, last seen {seen}",
            "interrupted": f"the run was stopped {seen} ({report.run_error})",
            "failed": f"the run failed {seen}: {report.run_error}",
        }.get(report.run_state or "", f"the run ended {seen}")
        lines.append(f"not running: {how}")
    if report.spent is not None and report.price is not None:
        lines.append(spent_line(report.spent, report.price, report.to_come))
    if report.alive:
        lines.append(f"process {report.pid} on {report.host}, since {local_time(report.started_at or '')}")
    strength = "" if report.denoise is None else f", denoise {report.denoise:g}"
    device = f" on {report.device}, {report.precision}" if report.device else ""
    lines.append(f"input:  {report.input}")
    if report.selection:
        lines.append(f"        {report.selection}")
    if report.profile:
        lines.append(f"profile: {_short(report.profile)}")
    lines += [
        f"output: {report.output}",
        f"model:  {model_name(report.model, chosen=report.model_auto)}{strength}{device}",
        f"ledger: {report.ledger}",
    ]
    if report.state == "stopped":
        lines.append("run the same command again to continue")
    return [printable(line) for line in lines]


def _pause_lines(report: JobStatus) -> list[str]:
    seconds = max(seconds_since(report.paused_since or ""), 0.0)
    go_on = f"comic-upscale resume {quoted(_short(report.output))}"
    if not report.alive:
        return [f"paused {duration(seconds)} ago, no run is active: a watch waits for `{go_on}`"]
    lines = [f"paused {duration(seconds)} ago: `{go_on}` continues"]
    if report.price:
        cost = money(report.price * seconds / 3600)
        lines.append(f"the machine still costs {money(report.price)} per hour: {cost} since the pause")
    return lines


PAUSED = "paused: no further page begins until `comic-upscale resume`"
"""The state of a run that another process has paused."""


def part_text(unit: str, done: float, total: int) -> str:
    """Return what is done of a page that takes minutes: ``tile 3 of 48, 5 %``."""
    return f"{unit} {min(int(done) + 1, total):,} of {total:,}, {100 * done / max(total, 1):.0f} %"


def hooks_lines(event: HooksFinished) -> list[str]:
    """Return how many hooks failed and why, as text; nothing if none did."""
    if not event.failures:
        return []
    what = "1 hook" if event.ran == 1 else f"{event.ran:,} hooks"
    lines = [f"{len(event.failures):,} of {what} failed; the pages are not affected"]
    for (hook, reason), times in Counter(event.failures).items():
        lines.append(f"  {hook}: {reason}" + (f" ({times:,} times)" if times > 1 else ""))
    return [printable(line) for line in lines]


def _short(path: str) -> str:
    """Return the path relative to the current folder, if it is inside."""
    with contextlib.suppress(ValueError, OSError):
        relative = str(Path(path).relative_to(Path.cwd()))
        return relative if relative != "." else path
    return path
