"""Choosing the stores of a job."""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path

from comic_upscale.settings.paths import replace_folder
from comic_upscale.settings.places import is_bucket
from comic_upscale.storage.base import OutputStore, SourceStore
from comic_upscale.storage.local import LocalOutputStore, LocalSourceStore
from comic_upscale.storage.replaced_view import ReplacedSourceStore


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
        input: a folder, a file, or the path that stands for a place in a bucket.
        output: a folder, which need not exist, or a place in a bucket.
        executor: runs what blocks; None for the default executor of the event loop.
    """
    if output == replace_folder(input):
        return Stores(ReplacedSourceStore(input, executor), LocalOutputStore(output, executor))
    return Stores(open_sources(input, executor), open_outputs(output, executor))


def open_sources(input: Path, executor: Executor | None = None) -> SourceStore:
    """Return the store of an input; arguments as for `open_stores`."""
    if not is_bucket(input):
        return LocalSourceStore(input, executor)
    from comic_upscale.storage.object_sources import ObjectSourceStore

    return ObjectSourceStore(input, executor)


def open_outputs(output: Path, executor: Executor | None = None) -> OutputStore:
    """Return the store of the outputs of a job; arguments as for `open_stores`."""
    if not is_bucket(output):
        return LocalOutputStore(output, executor)
    from comic_upscale.storage.object_outputs import ObjectOutputStore

    return ObjectOutputStore(output, executor)
