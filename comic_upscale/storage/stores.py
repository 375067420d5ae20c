"""Which stores the input and the output of a job are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from comic_upscale.storage.base import OutputStore, SourceStore
from comic_upscale.storage.local import LocalOutputStore, LocalSourceStore


@dataclass(frozen=True, slots=True)
class Stores:
    """Where a job reads and writes."""

    sources: SourceStore
    """The input."""
    outputs: OutputStore
    """The output folder."""


def open_stores(input: Path, output: Path) -> Stores:
    """Return the stores of a job. Nothing is opened or written yet.

    Args:
        input: a folder or a file.
        output: a folder; it need not be there.
    """
    return Stores(LocalSourceStore(input), LocalOutputStore(output))
