"""Jobs as whoever offers them to people sees them: previewed, run, stopped, and asked how far they are.

The commands use it, and so does whatever else is to offer jobs. It prints nothing and exits nowhere. Imports nothing
heavy until a job is previewed or run, so that asking for a status answers at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from comic_upscale.ledger.queries import (
    Failure,
    JobStatus,
    Suspect,
    read_failures,
    read_status,
    read_suspects,
)
from comic_upscale.ledger.recent import choose_ledger, remember_ledger

if TYPE_CHECKING:
    from comic_upscale.execution.events import Event, JobFinished, Listener
    from comic_upscale.execution.remote import RemoteOptions
    from comic_upscale.execution.stop import StopRequest
    from comic_upscale.planning.preview import OnPage, Preview
    from comic_upscale.settings.job import JobSettings


class JobService:
    """The jobs of one user.

    Args:
        state_folder: where it is noted which jobs were run.
    """

    def __init__(self, state_folder: Path) -> None:
        self._state_folder = state_folder

    def preview(self, settings: JobSettings, on_page: OnPage | None = None) -> Preview:
        """Tell what a run would do, and write nothing; arguments and errors as of `planning.preview.preview`."""
        from comic_upscale.planning.preview import preview

        return preview(settings, on_page)

    def run(
        self,
        settings: JobSettings,
        *,
        on_event: Listener,
        stop: StopRequest,
        remote: RemoteOptions | None = None,
    ) -> JobFinished:
        """Run a job to its end, and note it as the one that was run last.

        Args:
            settings: what to do.
            on_event: told of everything that happens, on the calling thread.
            stop: stops it gracefully, from any thread.
            remote: a remote machine that does the pages.

        Raises:
            ComicUpscaleError: as `run_job`.
        """
        from comic_upscale.jobs.run import run_job

        noted = False

        def note(event: Event) -> None:
            nonlocal noted
            noted = noted or remember_ledger(self._state_folder, settings.ledger_path)
            on_event(event)

        return run_job(settings, on_event=note, stop=stop, remote=remote)

    def find_ledger(self, job: Path | None = None, ledger: Path | None = None) -> Path:
        """Return the ledger of a job.

        Args:
            job: its output folder.
            ledger: the ledger itself; without either, that of the job that was run last.

        Raises:
            SettingsError: it is named in two ways.
            InputError: there is none.
        """
        return choose_ledger(job, ledger, self._state_folder)

    def status(self, ledger: Path) -> JobStatus:
        """How far a job is; errors as of `ledger.queries.read_status`."""
        return read_status(ledger)

    def failures(self, ledger: Path) -> list[Failure]:
        """The pages of a job that failed, and why; errors as `status`."""
        return read_failures(ledger)

    def suspects(self, ledger: Path) -> list[Suspect]:
        """The pages of a job that a person should look at, and why; errors as `status`."""
        return read_suspects(ledger)
