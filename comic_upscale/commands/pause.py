"""The commands ``comic-upscale pause`` and ``comic-upscale resume``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from comic_upscale.commands.environment import requested_ledger, state_folder
from comic_upscale.commands.recorded_job import JobFolder
from comic_upscale.errors import SettingsError

if TYPE_CHECKING:
    from comic_upscale.jobs.service import JobService

Folder = Annotated[
    Path | None,
    typer.Argument(
        metavar="[FOLDER]", show_default=False,
        help="The output folder of the job. Default: the job that you started last.",
    ),
]  # fmt: skip


def pause(folder: Folder = None, job: JobFolder = None) -> None:
    """Pause a run that another process works on. Pages on a device are finished, and no other begins."""
    from comic_upscale.console.text import money
    from comic_upscale.ledger.status import read_status
    from comic_upscale.settings.paths import path_text

    service, ledger, output = _find(folder, job)
    is_new = service.pause(output)
    typer.echo(f"{'paused' if is_new else 'already paused'}: {path_text(output)}")
    if ledger is None:
        return
    status = read_status(ledger)
    if not status.alive:
        typer.echo(
            "no run is active there: a watch waits until `comic-upscale resume`, and `run` clears the pause"
        )
    elif status.price:
        typer.echo(f"the run keeps its machine, which costs {money(status.price)} per hour")


def resume(folder: Folder = None, job: JobFolder = None) -> None:
    """Let a paused run continue."""
    from comic_upscale.settings.paths import path_text

    service, _, output = _find(folder, job)
    was_paused = service.resume(output)
    typer.echo(f"{'resumed' if was_paused else 'it was not paused'}: {path_text(output)}")


def _find(folder: Path | None, job: Path | None) -> tuple[JobService, Path | None, Path]:
    """Return the service, and the ledger and the output folder of a job. The ledger may be elsewhere, and then is None.

    Raises:
        SettingsError: a folder is given twice.
        InputError: no job is known.
        LedgerError: the ledger cannot be used.
    """
    if folder is not None and job is not None:
        raise SettingsError("the folder is given twice, as an argument and with --job: leave out one of them")
    folder = job if folder is None else folder
    from comic_upscale.jobs.service import JobService
    from comic_upscale.ledger.recent import choose_job
    from comic_upscale.settings.paths import absolute, default_ledger, job_folder
    from comic_upscale.settings.places import is_bucket

    state = state_folder()
    if folder is not None:
        output = job_folder(absolute(folder))
        ledger = default_ledger(output)
        return JobService(state), ledger if ledger.is_file() else None, output
    path, output = choose_job(None, requested_ledger(None, None), state)
    # A job with outputs in a bucket has its lock beside its ledger.
    folder = absolute(path).parent if is_bucket(output) else absolute(output)
    return JobService(state), path, folder
