"""Displays of a run: a live bar on a terminal, lines in a log, JSON for a program."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Protocol

from rich.console import Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, TaskProgressColumn, TextColumn
from rich.progress import Progress as RichProgress
from rich.table import Table
from rich.text import Text
from tqdm import tqdm

from comic_upscale.console.printable import printable
from comic_upscale.console.streams import make_console
from comic_upscale.console.text import (
    PAUSED,
    duration,
    failed_before_lines,
    failure_line,
    header_lines,
    hooks_lines,
    page_line,
    part_text,
    rate,
    stopping_line,
    summary_lines,
)
from comic_upscale.errors import OutputError
from comic_upscale.execution.events import (
    Event,
    Fetching,
    HooksFinished,
    JobFinished,
    JobStarted,
    Note,
    Preparing,
    Progress,
    Sending,
)
from comic_upscale.execution.stop import StopRequest
from comic_upscale.ledger.records import INCOMPLETE, PageDone, PageFailed, PageSkipped, VolumeDone
from comic_upscale.settings.paths import path_text
from comic_upscale.version import __version__

LOG_INTERVAL_SECONDS = 10.0


class Display(Protocol):
    """Shows events; called on the thread of the event loop."""

    def __call__(self, event: Event) -> None:
        """Show one event."""

    def close(self) -> None:
        """Restore the terminal; called once, also after an error."""


def event_as_json(event: Event) -> str:
    """Return an event as one line of JSON. The key ``event`` holds its kind, for example ``page_done``."""
    name = re.sub(r"(?<!^)(?=[A-Z])", "_", type(event).__name__).lower()
    return json.dumps({"event": name, **dataclasses.asdict(event)})


class JsonDisplay:
    """Prints one JSON object per line on standard output, and nothing else."""

    def __init__(self, on_broken_pipe: Callable[[], None]) -> None:
        self._on_broken_pipe = on_broken_pipe

    def __call__(self, event: Event) -> None:
        """Print one event."""
        write_line(event_as_json(event), self._on_broken_pipe)

    def close(self) -> None:
        """Do nothing: there is nothing to restore."""


class QuietDisplay:
    """Prints failures only, on standard error, and at the end why the exit code is not 0 if nothing said it."""

    def __init__(self) -> None:
        self._told: set[str] = set()
        """Failed pages that were printed."""

    def __call__(self, event: Event) -> None:
        """Print a failure; ignore other events."""
        lines: list[str] = []
        if isinstance(event, PageFailed):
            if event.kind != INCOMPLETE:
                self._told.add(event.source)
            lines = [printable(failure_line(event.source, event.kind, event.reason))]
        elif isinstance(event, JobFinished):
            lines = failed_before_lines(event, len(self._told))
            self._told.clear()
        elif isinstance(event, HooksFinished):
            lines = hooks_lines(event)
        for line in lines:
            print(line, file=sys.stderr)  # noqa: T201

    def close(self) -> None:
        """Do nothing: there is nothing to restore."""


class LogDisplay:
    """Writes lines for a log (nohup, Docker, SSH): complete lines, at intervals, without control characters.

    Args:
        write: writes a line.
        verbose: whether to write a line for every page.
    """

    def __init__(self, write: Callable[[str], None], *, verbose: bool) -> None:
        self._write = write
        self._verbose = verbose
        self._told: set[str] = set()
        """Failed pages that were printed."""
        self._stopping = self._paused = False
        self._start = self._last = time.monotonic()
        self._before: int | None = None
        """Pages that were settled before the run."""

    def __call__(self, event: Event) -> None:
        """Print an event, if it belongs in a log."""
        if isinstance(event, Preparing):
            self._line(event.what)
        elif isinstance(event, Note):
            self._line(printable(event.text))
        elif isinstance(event, HooksFinished):
            for line in hooks_lines(event):
                self._line(line)
        elif isinstance(event, Fetching):
            self._at_interval(
                f"downloading {event.name}: {event.done_bytes:,} of {event.total_bytes:,} bytes"
            )
        elif isinstance(event, Sending):
            self._at_interval(f"sending {event.name}: {event.done_bytes:,} of {event.total_bytes:,} bytes")
        elif isinstance(event, JobStarted):
            self._start = self._last = time.monotonic()
            self._before = None
            for label, text in header_lines(event):
                self._line(f"{label:>11}: {text}")
            for warning in event.warnings:
                self._line(f"note: {printable(warning)}")
        elif isinstance(event, PageFailed):
            self._told.add(event.source)
            self._line(printable(failure_line(event.source, event.kind, event.reason)))
        elif isinstance(event, (PageDone, PageSkipped, VolumeDone)) and self._verbose:
            self._line(page_line(event))
        elif isinstance(event, Progress):
            if event.stopping and not self._stopping:
                self._line(stopping_line(event))
            self._stopping = event.stopping is not None
            if event.paused != self._paused:
                self._line(PAUSED if event.paused else "resumed")
            self._paused = event.paused
            if not event.paused:
                self._at_interval(self._meter(event))
        elif isinstance(event, JobFinished):
            for line in summary_lines(event, self._told):
                self._line(line)

    def _meter(self, event: Progress) -> str:
        completed = event.total - event.pending
        if self._before is None:
            self._before = completed
        meter = tqdm.format_meter(
            completed,
            event.total,
            time.monotonic() - self._start,
            ncols=60,
            ascii=True,
            unit="page",
            rate=event.pages_per_second,
            initial=self._before,
        )
        bottleneck = f", bottleneck: {event.bottleneck}" if event.bottleneck else ""
        failed = f", {event.failed} failed" if event.failed else ""
        doing = f", {event.doing}" if event.doing else ""
        within = "".join(f", {printable(text)}" for text in _within(event))
        return f"{meter}{failed}{bottleneck}{doing}{within}"

    def _at_interval(self, line: str) -> None:
        if time.monotonic() - self._last >= LOG_INTERVAL_SECONDS:
            self._last = time.monotonic()
            self._line(line)

    def _line(self, line: str) -> None:
        self._write(line)

    def close(self) -> None:
        """Do nothing: there is nothing to restore."""


class LogFileDisplay:
    """Writes every page to a file, with times, beside another display.

    The file is rotated at 10 MB, and five old ones are kept.

    Args:
        path: of the file; lines are added to it.
        display: the other display.

    Raises:
        OutputError: the file cannot be written.
    """

    def __init__(self, path: Path, display: Display) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handler = RotatingFileHandler(path, maxBytes=10_000_000, backupCount=5, encoding="utf-8")
        except OSError as error:
            raise OutputError(
                f"the log {path_text(path)} cannot be written: {error.strerror or error}"
            ) from error
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        self._handler, self._display = handler, display
        self._lines = LogDisplay(self._write, verbose=True)

    def __call__(self, event: Event) -> None:
        """Show and write one event."""
        self._lines(event)
        self._display(event)

    def _write(self, line: str) -> None:
        self._handler.handle(logging.makeLogRecord({"msg": line}))

    def close(self) -> None:
        """Close the file and the other display."""
        self._handler.close()
        self._display.close()


class LiveDisplay:
    """Shows a live progress bar on a terminal.

    Args:
        verbose: whether to print a line for every page.
        stop: of the run. A request is shown at once, also before the first page.
    """

    def __init__(self, *, verbose: bool, stop: StopRequest) -> None:
        self._console = make_console()
        self._verbose = verbose
        self._stop = stop
        self._told: set[str] = set()
        self._status = self._console.status("starting")
        self._live: Live | None = None
        self._bar = RichProgress(
            BarColumn(bar_width=None),
            TaskProgressColumn(),
            MofNCompleteColumn(),
            TextColumn("pages"),
            TextColumn("{task.fields[rate]}"),
            TextColumn("{task.fields[eta]}"),
            TextColumn("{task.fields[failed]}", style="red"),
            console=self._console,
            expand=True,
        )
        self._task = self._bar.add_task("", total=None, rate="", eta="", failed="")

    def __call__(self, event: Event) -> None:
        """Show one event."""
        if isinstance(event, Preparing):
            self._status.update(Preparation(event.what, self._stop))
            self._status.start()
        elif isinstance(event, Note):
            self.close()
            self._console.print(Text(printable(event.text)))
        elif isinstance(event, HooksFinished):
            for line in hooks_lines(event):
                self._console.print(Text(line, style="red"))
        elif isinstance(event, (Fetching, Sending)):
            doing = "downloading" if isinstance(event, Fetching) else "sending"
            share = f"{event.done_bytes / 1e6:.1f} of {event.total_bytes / 1e6:.1f} MB"
            self._status.update(Preparation(printable(f"{doing} {event.name}: {share}"), self._stop))
        elif isinstance(event, JobStarted):
            self._status.stop()
            self._console.print(_header(event))
            for warning in event.warnings:
                self._console.print(Text(f"note: {printable(warning)}", style="yellow"))
        elif isinstance(event, PageFailed):
            self._told.add(event.source)
            self._console.print(
                Text(printable(failure_line(event.source, event.kind, event.reason)), style="red")
            )
        elif isinstance(event, (PageDone, PageSkipped, VolumeDone)) and self._verbose:
            self._console.print(Text(page_line(event), style="dim"))
        elif isinstance(event, Progress):
            self._show(event)
        elif isinstance(event, JobFinished):
            self.close()
            for number, line in enumerate(summary_lines(event, self._told)):
                self._console.print(Text(line, style="bold" if number == 0 else ""))

    def _show(self, event: Progress) -> None:
        if self._live is None:
            self._live = Live(console=self._console, refresh_per_second=4, transient=True)
            self._live.start()
        self._bar.update(
            self._task,
            total=event.total,
            completed=event.total - event.pending,
            rate=rate(event.pages_per_second),
            eta=f"{duration(event.eta_seconds)} left" if event.eta_seconds else "",
            failed=f"{event.failed} failed" if event.failed else "",
        )
        current = f"in progress: {printable(event.in_hand)}" if event.in_hand else "reading the first pages"
        if event.within:
            current = printable(f"in progress: {'; '.join(_within(event))}")
        current = PAUSED if event.paused else event.doing or current
        bottleneck = f"   bottleneck: {event.bottleneck}" if event.bottleneck else ""
        text = stopping_line(event) if event.stopping else current + bottleneck
        self._live.update(Group(self._bar, Text(text, style="dim", no_wrap=True, overflow="ellipsis")))

    def close(self) -> None:
        """Stop the bar and restore the cursor."""
        self._status.stop()
        if self._live is not None:
            self._live.stop()
            self._live = None


@dataclass(frozen=True, slots=True)
class Preparation:
    """What a run does before its first page, and whether it stops after that. The terminal asks again and again."""

    what: str
    stop: StopRequest

    def __rich__(self) -> Text:
        """Return what is shown now."""
        return Text(f"{self.what}: stopping after this" if self.stop.requested else self.what)


def write_line(line: str, on_broken_pipe: Callable[[], None]) -> None:
    """Print a line at once. If the pipe is broken, call ``on_broken_pipe`` and discard all later output."""
    try:
        print(line, flush=True)  # noqa: T201
    except OSError:
        silence_stdout()
        on_broken_pipe()


def silence_stdout() -> None:
    """Redirect standard output to the null device: Python would report a broken pipe again at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _within(event: Progress) -> list[str]:
    """Return what is done of the pages in progress that take minutes."""
    return [f"{page.source}: {part_text(page.unit, page.done, page.total)}" for page in event.within]


def _header(event: JobStarted) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_row(Text("comic-upscale", style="bold"), Text(__version__))
    for label, text in header_lines(event):
        grid.add_row(Text(label, style="dim"), Text(text))
    return grid
