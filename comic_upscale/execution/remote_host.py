"""The seam for remote machines: what one is asked, and what it answers. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

from comic_upscale.settings.job import JobSettings

if TYPE_CHECKING:
    from comic_upscale.models.weights import ResolvedWeights

RemoteStep = Literal["upscale", "push", "run", "pull"]
"""What is asked of a remote machine: everything, or one step of it."""


@dataclass(frozen=True, slots=True)
class Device:
    """What a remote machine computes with."""

    name: str
    """``box: NVIDIA GeForce RTX 4090``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RemotePageResult:
    """What became of a page on a remote machine, as that machine says."""

    name: str
    """Of the page as it was sent."""
    state: Literal["done", "failed", "skipped"]
    width: int = 0
    height: int = 0
    output_width: int = 0
    output_height: int = 0
    size: int = 0
    """Bytes of the output."""
    sha256: str = ""
    """Of the output."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    notes: str = ""
    kind: str = ""
    """Of a failure."""
    reason: str = ""
    scores: Mapping[str, float] = field(default_factory=dict)
    """What the gate measured there, by the names of ``gate/scores.py``."""
    suspect: str = ""
    """Why a person should look at it, as the gate there says; empty for a page that passed."""


@dataclass(frozen=True, slots=True)
class PollResult:
    """What has happened on a remote machine since the last time."""

    alive: bool
    """Whether pages are still being worked on there."""
    exit_code: int | None
    """Of the last run; None where it goes on, never began, or was killed."""
    pages: tuple[RemotePageResult, ...]


class RemoteHost(Protocol):
    """A remote machine that upscales pages. Its methods block, are called from one thread, and may be repeated.

    Each raises `RemoteError` where the machine cannot do its part. A lost connection is retried by the machine
    itself, as far as that is possible.
    """

    def on_progress(self, listener: Callable[[str, int, int], None]) -> None:
        """Tell from now on how far a large file is on its way, with its name, the bytes sent and all of them.

        The listener is called from the thread that a method is called from, now and then.
        """

    def has_accelerator(self) -> bool:
        """Whether it has a device that is faster than a processor."""

    def prepare(self, weights: ResolvedWeights, fingerprint: str, settings: JobSettings) -> Device:
        """Prepare everything but the pages."""

    def list_pages(self) -> frozenset[str]:
        """The names of the pages that are there, whole."""

    def send(self, pages: Sequence[tuple[str, bytes]]) -> None:
        """Send pages; each is called ``HASH.EXTENSION``. Each is there whole, or not at all."""

    def delete(self, names: Iterable[str]) -> None:
        """Remove pages and what became of them."""

    def start(self, *, retry_failed: bool) -> None:
        """Start a run that outlives the connection; nothing happens while one goes on."""

    def stop(self) -> object:
        """Let the run end after what it has in hand, as Ctrl-C does."""

    def poll(self) -> PollResult:
        """Ask what is new."""

    def fetch(self, names: Mapping[str, int]) -> Iterator[tuple[str, bytes]]:
        """Fetch outputs by their names, each of at most the bytes named; what is not there is left out."""

    def last_error(self) -> str:
        """What the last run there said before it ended."""

    def close(self) -> None:
        """Close the connection; what was started goes on."""
