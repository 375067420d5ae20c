"""The interface of a remote machine that upscales pages. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

from comic_upscale.settings.job import JobSettings

if TYPE_CHECKING:
    from comic_upscale.models.weights import ResolvedWeights

RemoteStep = Literal["upscale", "push", "run", "pull"]
"""What to do on a remote machine: everything, or one step."""


@dataclass(frozen=True, slots=True)
class Device:
    """The device of a remote machine."""

    name: str
    """``remote: NVIDIA GeForce RTX 4090``, without the name of the machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RemotePageResult:
    """The result of a page, as the remote machine reports it."""

    name: str
    """Name under which the page was sent."""
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
    """The scores of the remote quality gate, by the names of ``gate/scores.py``."""
    suspect: str = ""
    """Why the remote quality gate rejected the page; empty for a page that passed."""


@dataclass(frozen=True, slots=True)
class PollResult:
    """What has changed on a remote machine since the last poll."""

    alive: bool
    """Whether a run is active there."""
    exit_code: int | None
    """Exit code of the last run; None if it is active, never started, or was killed."""
    pages: tuple[RemotePageResult, ...]


class RemoteHost(Protocol):
    """A remote machine that upscales pages. Its methods block, are called from one thread, and may be repeated.

    Each method raises `RemoteError` if the machine cannot do its part. The implementation retries a lost connection
    itself, as far as possible.
    """

    def on_progress(self, listener: Callable[[str, int, int], None]) -> None:
        """Report the progress of large uploads from now on: name, bytes sent, total bytes.

        The listener is called on the thread that calls the method, now and then.
        """

    def private_names(self) -> tuple[str, ...]:
        """Return the names and addresses of the machine, which belong in no record; the longest first."""

    def abort(self) -> None:
        """Break off the call in progress, which then raises, and refuse others until `recover`.

        Unlike the other methods it may be called from any thread, and returns at once.
        """

    def recover(self) -> None:
        """Accept calls again after `abort`; may be called without one."""

    def has_accelerator(self) -> bool:
        """Return whether it has a GPU that can be used."""

    def prepare(
        self,
        weights: ResolvedWeights,
        fingerprint: str,
        settings: JobSettings,
        of_rules: Sequence[tuple[str, ResolvedWeights]] = (),
    ) -> Device:
        """Prepare everything except the pages.

        Args:
            weights: those of the job.
            fingerprint: of the job.
            settings: of the job.
            of_rules: the weights of other models, with the names that the rules of the settings have for them.
        """

    def list_pages(self) -> frozenset[str]:
        """Return the names of the pages that are complete on the machine."""

    def send(self, pages: Sequence[tuple[str, bytes]]) -> None:
        """Send pages, each named ``HASH.EXTENSION``, or ``HASH.p0.p3.EXTENSION`` if rules match its path.

        Each arrives complete, or not at all.
        """

    def delete(self, names: Iterable[str]) -> None:
        """Remove pages and their outputs."""

    def start(self, *, retry_failed: bool) -> None:
        """Start a run that outlives the connection; do nothing if one is active."""

    def stop(self) -> str:
        """Stop the run after its pages in flight, as Ctrl-C does.

        Returns:
            ``stopped``, ``idle`` (no run was active), or ``busy`` (it has not ended yet).
        """

    def poll(self) -> PollResult:
        """Return what has changed since the last poll."""

    def fetch(self, names: Mapping[str, int]) -> Iterator[tuple[str, bytes]]:
        """Fetch outputs by name, each of at most the given number of bytes; skip outputs that do not exist."""

    def last_error(self) -> str:
        """Return the last output of the last run."""

    def close(self) -> None:
        """Close the connection; a run continues."""
