"""The options that name a job by its records, ``--job`` and ``--ledger``, for every command that reads one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from comic_upscale.commands.environment import requested_ledger, state_folder

JobFolder = Annotated[Path | None, typer.Option("--job", metavar="DIR", help="The output folder of a job.")]
LedgerFile = Annotated[
    Path | None, typer.Option("--ledger", metavar="FILE", help="The ledger file of a job.")
]
LedgerOfFolder = Annotated[
    Path | None,
    typer.Option(
        "--ledger",
        metavar="FILE",
        help="The ledger file of a job. If the output folder does not know it, --job must name the folder, too.",
    ),
]
"""The same for a command that also uses the output folder."""


def find_job(job: Path | None, ledger: Path | None) -> tuple[Path, Path]:
    """Return the ledger and the output folder of a job; arguments and errors as in `ledger.recent.choose_job`."""
    from comic_upscale.ledger.recent import choose_job

    return choose_job(job, requested_ledger(job, ledger), state_folder())
