"""A remote machine in a folder: what the one over SSH does, without the SSH, and with an engine that a test gives."""

from __future__ import annotations

import hashlib
import io
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from comic_upscale.errors import EXIT_CEILING, ComicUpscaleError, InputError
from comic_upscale.execution.remote_host import Device, PollResult
from comic_upscale.execution.ssh.listing import as_lines, read_lines
from comic_upscale.execution.stop import StopRequest
from comic_upscale.jobs.run import run_job
from comic_upscale.ledger.queries import read_settled_pages
from comic_upscale.models.weights import ResolvedWeights
from comic_upscale.settings.job import JobSettings
from tests.fakes import NearestEngine


class FolderMachine:
    """A `RemoteHost` that keeps real runs of its own going, each on a thread, over pages in a folder.

    Args:
        folder: its disk.
        engine: what it computes with.
    """

    def __init__(self, folder: Path, engine: NearestEngine) -> None:
        self.folder = folder
        self._engine = engine
        self._settings: JobSettings | None = None
        self._run: threading.Thread | None = None
        self._stop = StopRequest()
        self._exit_code: int | None = None
        self._said = ""
        self._since = "0"
        self.sent: list[str] = []
        """Names of the pages that were sent, in their order."""
        self.polls = 0
        """How often it was asked what is new."""

    @property
    def input(self) -> Path:
        """Where pages arrive."""
        return self.folder / "input"

    def on_progress(self, listener: Callable[[str, int, int], None]) -> None:
        pass

    def has_accelerator(self) -> bool:
        return False

    def prepare(
        self,
        weights: ResolvedWeights,
        fingerprint: str,
        settings: JobSettings,
        of_rules: Sequence[tuple[str, ResolvedWeights]] = (),
    ) -> Device:
        self.input.mkdir(parents=True, exist_ok=True)
        self._settings = replace(
            settings, input=self.input, output=self.folder / "output", model=str(weights.path), ledger=None,
            sidecars="skip", copy_others=False, gray=settings.gray_mode, max_failures=None, price=None, max_cost=None,
        )  # fmt: skip
        return Device("folder: processor")

    def list_pages(self) -> frozenset[str]:
        return frozenset(path.name for path in self.input.iterdir())

    def send(self, pages: Sequence[tuple[str, bytes]]) -> None:
        for name, data in pages:
            assert hashlib.sha256(data).hexdigest() == name.partition(".")[0]
            (self.folder / "incoming.part").write_bytes(data)
            (self.folder / "incoming.part").replace(self.input / name)
            self.sent.append(name)

    def delete(self, names: Iterable[str]) -> None:
        for name in names:
            (self.input / name).unlink(missing_ok=True)
            (self.folder / "output" / name).unlink(missing_ok=True)

    def start(self, *, retry_failed: bool) -> None:
        assert self._run is None or not self._run.is_alive(), "never two runs at once"
        assert self._settings is not None
        settings = replace(self._settings, retry_failed=retry_failed)
        self._exit_code = None
        self._run = threading.Thread(target=self._work, args=(settings,))
        self._run.start()

    def _work(self, settings: JobSettings) -> None:
        try:
            finished = run_job(settings, open_engines=lambda *_: [self._engine], stop=self._stop)
        except ComicUpscaleError as error:
            self._exit_code, self._said = error.exit_code, str(error)
        except Exception as error:
            # A program that dies of a bug of its own.
            self._exit_code, self._said = 1, repr(error)
        else:
            self._exit_code = EXIT_CEILING if finished.stopped_by else int(finished.failed > 0)

    def stop(self) -> str:
        self._stop.request("SIGTERM")
        self.wait()
        return "stopped"

    def wait(self) -> None:
        """Wait until no run is left."""
        if self._run is not None:
            self._run.join(60)
            assert not self._run.is_alive(), "the run there does not end"

    def poll(self) -> PollResult:
        self.polls += 1
        alive = self._run is not None and self._run.is_alive()
        try:
            ledger = self.folder / "output" / ".comic-upscale" / "ledger.sqlite3"
            lines = "\n".join(as_lines(read_settled_pages(ledger, self._since if alive else "0")))
        except ComicUpscaleError as error:
            # While it runs, its ledger may not be ready to be read.
            if not alive and not isinstance(error, InputError):
                raise
            lines = ""
        pages = list(read_lines(io.BytesIO(lines.encode())))
        self._since = max([self._since, *(at for _, at in pages)])
        return PollResult(alive, None if alive else self._exit_code, tuple(page for page, _ in pages))

    def fetch(self, names: Mapping[str, int]) -> Iterator[tuple[str, bytes]]:
        for name in names:
            path = self.folder / "output" / name
            if path.is_file():
                yield name, path.read_bytes()

    def last_error(self) -> str:
        return self._said

    def private_names(self) -> tuple[str, ...]:
        return ("folder",)

    def abort(self) -> None:
        self.aborted = True

    def recover(self) -> None:
        self.aborted = False

    def close(self) -> None:
        return None
