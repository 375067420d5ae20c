"""Choosing the stores of a job."""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path

from comic_upscale.settings.paths import replace_folder
from comic_upscale.storage.base import OutputStore, SourceStore
from comic_upscale.storage.local import LocalOutputStore, LocalSourceStore
from comic_upscale.storage.replaced import ReplacedSourceStore


@dataclass(frozen=True, slots=True)
class Stores:
    """The stores of a job."""

    sources: SourceStore
    """The input."""
    outputs: OutputStore
    """The output folder."""


def open_stores(input: Path, output: Path, executor: Executor | None = None) -> Stores:
    """Return the stores of a job. This writes nothing.

    Args:
        input: a folder or a file.
        output: a folder; it need not exist.
        executor: runs what blocks; None for the default executor of the event loop.
    """
    if output == replace_folder(input):
        return Stores(ReplacedSourceStore(input, executor), LocalOutputStore(output, executor))
    return Stores(LocalSourceStore(input, executor), LocalOutputStore(output, executor))
