"""The command ``comic-upscale report``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from comic_upscale.commands.environment import default_workers
from comic_upscale.commands.recorded_job import JobFolder, LedgerOfFolder, find_job

if TYPE_CHECKING:
    from comic_upscale.reporting.report import OnStep


def report(
    job: JobFolder = None,
    ledger: LedgerOfFolder = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="File to write. Default: report.html in the output folder."
        ),
    ] = None,
    sheet: Annotated[
        Path | None,
        typer.Option(
            "--sheet", metavar="FILE", help="Also write a contact sheet, a PNG with crops before and after."
        ),
    ] = None,
    look_at: Annotated[
        int,
        typer.Option(
            "--look-at", metavar="N", help="Compare at most N of the pages that the gate has not scored. If "
            "there are more, a fixed sample is used.",
        ),
    ] = 200,
    show: Annotated[
        int, typer.Option("--show", metavar="N", help="Show N of the worst pages and N random ones.")
    ] = 20,
    open_it: Annotated[bool, typer.Option("--open", help="Open the report in the browser.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Also replace a file that is not one of our reports.")
    ] = False,
) -> None:  # fmt: skip
    """Write a report of a job: one HTML file with its figures, failures, and its worst pages before and after.

    The file opens offline in any browser. While a job runs, its report covers the pages that are done.
    """
    from comic_upscale.reporting.report import NAME, make_report, write_report
    from comic_upscale.settings.places import is_bucket

    path, folder = find_job(job, ledger)
    target = output or (Path(NAME) if is_bucket(folder) else folder / NAME)
    with _Steps() as on_step:
        made = make_report(
            path, folder, look_at=look_at, show=show, workers=default_workers(), on_step=on_step
        )
    size = write_report(made, target, overwrite=overwrite)
    choice = made.choice
    compared = f"{choice.looked_at:,} of {choice.done:,} pages compared"
    typer.echo(f"{target} ({size / 1e6:.1f} MB; {compared})")
    for reason, count in choice.left_out.items():
        typer.echo(f"note: {count:,} pages could not be compared: {reason}", err=True)
    if sheet is not None:
        from comic_upscale.reporting.contact import contact_sheet
        from comic_upscale.storage.atomic import write_whole

        write_whole(contact_sheet(made), sheet)
        typer.echo(f"{sheet}")
    if open_it:
        import webbrowser

        if not webbrowser.open(target.absolute().as_uri()):
            typer.echo("note: could not start a browser; open the file yourself", err=True)


class _Steps:
    """A progress bar on standard error while pages are compared; silent where that is not a terminal."""

    def __enter__(self) -> OnStep:
        from rich.progress import Progress

        from comic_upscale.console.streams import make_console

        console = make_console(stderr=True)
        self._bar = Progress(console=console, transient=True, disable=not console.is_terminal)
        self._bar.start()
        tasks: dict[str, object] = {}

        def on_step(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = self._bar.add_task(what, total=total)
            self._bar.update(tasks[what], completed=done)  # type: ignore[arg-type]

        return on_step

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
