"""Questions before a run changes what is there. Only a terminal is asked."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from comic_upscale.errors import NoJobYetError, SettingsError
from comic_upscale.settings.paths import TRASH, path_text

if TYPE_CHECKING:
    from comic_upscale.settings.job import JobSettings

EXIT_USAGE = 2


def has_terminal() -> bool:
    """Return whether somebody sees a question on standard error and can answer it on standard input."""
    if sys.stdin is None or sys.stderr is None or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    if os.name != "posix":
        return True
    try:
        # The system stops a process in the background that reads from its terminal.
        return os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
    except OSError:
        # It is a terminal, but not that of this session: nothing is stopped.
        return True


def ask_before_changing_input(folders: Sequence[Path], *, may_ask: bool) -> None:
    """Ask whether originals may be replaced.

    Args:
        folders: that hold them.
        may_ask: whether a question may be printed.

    Raises:
        Exit: they may not.
        SettingsError: nobody can be asked.
    """
    if not (may_ask and has_terminal()):
        raise SettingsError("--replace changes the input, and there is nobody to ask: add --yes")
    where = "that folder" if len(folders) == 1 else "each of these folders"
    question = (
        f"The pages and volumes in {' and '.join(map(path_text, folders))} will be replaced by their outputs, each "
        f"once it is verified. The originals stay in {TRASH} of {where}. Replace them?"
    )
    if not typer.confirm(question, err=True):
        typer.echo("nothing was changed", err=True)
        raise typer.Exit(EXIT_USAGE)


def ask_before_redoing(job: JobSettings, *, here: bool = True) -> None:
    """Ask whether a run may replace the outputs of other settings.

    Args:
        job: its settings.
        here: whether this process runs the network. Otherwise its model may not be known yet.

    Raises:
        Exit: it may not.
        ComicUpscaleError: as in `count_replaced`.
    """
    from comic_upscale.planning.plan import replaced_note
    from comic_upscale.planning.preview import count_replaced

    if not job.ledger_path.is_file():
        return
    try:
        count = count_replaced(job, here=here)
    except NoJobYetError:
        return
    # Standard output may be a file.
    note = replaced_note(count, at_most=not here)
    if count and not typer.confirm(f"{note}. Replace them?", err=True):
        typer.echo("nothing was changed", err=True)
        raise typer.Exit(EXIT_USAGE)
