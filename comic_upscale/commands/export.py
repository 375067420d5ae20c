"""The command ``comic-upscale export``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from comic_upscale.commands.recorded_job import JobFolder, LedgerOfFolder, find_job
from comic_upscale.errors import SettingsError


def export(
    job: JobFolder = None,
    ledger: LedgerOfFolder = None,
    format: Annotated[
        str,
        typer.Option(
            "--format", "-f", metavar="imagefolder|csv|jsonl",
            help="imagefolder: a metadata.jsonl beside the pages, with file_name and text, for Hugging Face datasets. "
            "csv and jsonl: everything that the ledger records about a page.",
        ),
    ] = "imagefolder",
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="PATH",
            help="File to write. Default: metadata.jsonl beside the pages for imagefolder, else standard output.",
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file with different content.")] = False,
) -> None:  # fmt: skip
    """Write the metadata of a training set: pages, sources, hashes, sizes, model and captions."""
    from comic_upscale.console.text import page_count
    from comic_upscale.reporting.export import (
        EXPORT_FORMATS,
        as_text,
        metadata_path,
        read_export,
        write_export,
    )

    if format not in EXPORT_FORMATS:
        raise SettingsError(f"--format must be one of {', '.join(EXPORT_FORMATS)}, not {format!r}")
    found = read_export(*find_job(job, ledger))
    path = metadata_path(found, output) if format == "imagefolder" else output
    rows = found.files if format == "imagefolder" else found.rows
    text = as_text(rows, format, suffix=".jsonl" if path is None else path.suffix)
    if path is None:
        # A program gets the bytes as they are, a terminal no control characters.
        typer.echo(text if sys.stdout.isatty() else text.encode(), nl=False)
    else:
        write_export(text, path, overwrite=overwrite)
    notes = f"; left out {found.missing:,} whose outputs are missing" if found.missing else ""
    if found.orphans:
        notes += f"; left out {found.orphans:,} whose sources are gone: comic-upscale prune removes them"
    if without := sum(row.caption is None for row in rows):
        notes += f"; {without:,} {'have' if without > 1 else 'has'} no caption"
    if len(rows) < len(found.rows):
        notes += f"; left out {len(found.rows) - len(rows):,} in volumes: csv and jsonl list them"
    typer.echo(f"{page_count(len(rows))} exported{f' into {path}' if path else ''}{notes}", err=True)
