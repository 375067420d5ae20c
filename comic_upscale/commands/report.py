"""The command ``comic-upscale report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from comic_upscale.commands.environment import default_workers
from comic_upscale.commands.evaluate import progress
from comic_upscale.commands.recorded_job import JobFolder, LedgerOfFolder, find_job
from comic_upscale.console.printable import printable
from comic_upscale.settings.paths import path_text


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
    from comic_upscale.reporting.place import NAME, check_place
    from comic_upscale.settings.places import is_bucket

    path, folder = find_job(job, ledger)
    target = output or (Path(NAME) if is_bucket(folder) else folder / NAME)
    # Comparing pages takes long, and so does importing what compares them.
    if not overwrite:
        check_place(target)
    typer.echo(printable(f"making the report of {path_text(folder)}..."), err=True)
    from comic_upscale.console.text import page_count
    from comic_upscale.reporting.report import make_report, write_report

    with progress() as on_step:
        made = make_report(
            path, folder, look_at=look_at, show=show, workers=default_workers(), on_step=on_step
        )
    size = write_report(made, target, overwrite=overwrite)
    choice = made.choice
    compared = f"{choice.looked_at:,} of {choice.done:,} pages compared"
    typer.echo(f"{target} ({size / 1e6:.1f} MB; {compared})")
    for reason, count in choice.left_out.items():
        typer.echo(f"note: {page_count(count)} could not be compared: {reason}", err=True)
    if sheet is not None:
        from comic_upscale.reporting.contact import contact_sheet
        from comic_upscale.storage.atomic import write_whole

        write_whole(contact_sheet(made), sheet)
        typer.echo(f"{sheet}")
    if open_it:
        import webbrowser

        if not webbrowser.open(target.absolute().as_uri()):
            typer.echo("note: could not start a browser; open the file yourself", err=True)
