"""The command ``comic-upscale status``."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from comic_upscale.commands.environment import requested_ledger, state_folder
from comic_upscale.commands.recorded_job import JobFolder, LedgerFile

if TYPE_CHECKING:
    from comic_upscale.jobs.service import JobService


STARTS_WITHIN_SECONDS = 60.0
"""How long ``--watch`` waits for the job of a run that has just started."""


def status(
    ctx: typer.Context,
    job: JobFolder = None,
    ledger: LedgerFile = None,
    watch: Annotated[bool, typer.Option("--watch", help="Update until the run ends.")] = False,
    failures: Annotated[
        bool, typer.Option("--failures", help="List every failed page with its reason.")
    ] = False,
    suspects: Annotated[
        bool, typer.Option("--suspects", help="List every suspect page with its reasons.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show the progress of a job, from its ledger. Default: the job that you started last."""
    ctx.find_root().meta["json"] = as_json
    from comic_upscale.jobs.service import JobService

    service = JobService(state_folder())
    path = service.find_ledger(job, requested_ledger(job, ledger))
    if watch:
        _watch(service, path, as_json=as_json)
    if failures or suspects or not watch:
        _print_status(service, path, failures=failures, suspects=suspects, as_json=as_json)


def _print_status(
    service: JobService, ledger: Path, *, failures: bool, suspects: bool, as_json: bool
) -> None:
    from comic_upscale.console.printable import printable
    from comic_upscale.console.text import failure_line, status_lines

    report = service.status(ledger)
    failed = service.failures(ledger) if failures else []
    suspect_pages = service.suspects(ledger) if suspects else []
    if as_json:
        extra: dict[str, object] = {}
        if failures:
            extra["failures"] = [asdict(failure) for failure in failed]
        if suspects:
            # Replaces their number.
            extra["suspects"] = [asdict(page) for page in suspect_pages]
        typer.echo(json.dumps({**asdict(report), **extra}))
        return
    for line in status_lines(report):
        typer.echo(line)
    for failure in failed:
        typer.echo(printable(f"  {failure_line(failure.source, failure.kind, failure.reason)}"))
    for page in suspect_pages:
        typer.echo(printable(f"  suspect: {page.source}: {page.reasons}"))


def _wait_for_job(service: JobService, ledger: Path) -> None:
    """Wait while a run starts: its ledger exists before its job does.

    Raises:
        NoJobYetError: there is no job after a minute.
    """
    from comic_upscale.errors import NoJobYetError

    deadline = time.monotonic() + STARTS_WITHIN_SECONDS
    while True:
        try:
            service.status(ledger)
        except NoJobYetError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)
        else:
            return


def _watch(service: JobService, ledger: Path, *, as_json: bool) -> None:
    """Show the status again and again, until no run is alive."""
    from comic_upscale.console.text import status_lines

    _wait_for_job(service, ledger)
    if as_json or not sys.stdout.isatty():
        while True:
            report = service.status(ledger)
            line = json.dumps(asdict(report)) if as_json else status_lines(report)[0]
            typer.echo(line)
            if not report.alive:
                return
            time.sleep(2.0 if as_json else 10.0)

    from rich.live import Live
    from rich.text import Text

    from comic_upscale.console.streams import make_console

    report = service.status(ledger)
    with Live(console=make_console(), refresh_per_second=4) as live:
        while True:
            report = service.status(ledger)
            live.update(Text("\n".join(status_lines(report))))
            if not report.alive:
                return
            time.sleep(1.0)
