"""The interface for user interfaces: preview a job, run it, stop it, and read its status.

The commands use it, and any other user interface can. It never prints or exits. It imports nothing heavy until a job
is previewed or run, so that a status is returned at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from comic_upscale.ledger.pausing import pause_job, resume_job
from comic_upscale.ledger.queries import Failure, Suspect, read_failures, read_suspects
from comic_upscale.ledger.recent import choose_ledger, is_remembered, remember_ledger
from comic_upscale.ledger.status import JobStatus, read_status

if TYPE_CHECKING:
    from comic_upscale.engines.registry import OpenEngines
    from comic_upscale.execution.events import Event, JobFinished, Listener
    from comic_upscale.execution.ray.options import RayOptions
    from comic_upscale.execution.remote import RemoteOptions
    from comic_upscale.execution.stop import StopRequest
    from comic_upscale.jobs.page_watch import PageWatch
    from comic_upscale.jobs.prune import PruneResult
    from comic_upscale.planning.preview import OnPage, Preview
    from comic_upscale.settings.job import JobSettings
    from comic_upscale.settings.selection import Selection


class JobService:
    """The jobs of one user.

    Args:
        state_folder: records which jobs were run; None for jobs that no user of this machine started, as on a server.
    """

    def __init__(self, state_folder: Path | None = None) -> None:
        self._state_folder = state_folder

    def preview(self, settings: JobSettings, on_page: OnPage | None = None, *, here: bool = True) -> Preview:
        """Return what a run would do, and write nothing; arguments and errors as for `planning.preview.preview`."""
        from comic_upscale.planning.preview import preview

        return preview(settings, on_page, here=here)

    def run(
        self,
        settings: JobSettings,
        *,
        on_event: Listener,
        stop: StopRequest,
        remote: Sequence[RemoteOptions] = (),
        open_engines: OpenEngines | None = None,
        watch: PageWatch | None = None,
        worker: Path | None = None,
        cluster: RayOptions | None = None,
        only: Selection | None = None,
        resumes: bool = False,
    ) -> JobFinished:
        """Run a job to its end, and record it as the most recent one of the user.

        Args:
            settings: of the job.
            on_event: called with every event, on the calling thread.
            stop: stops it gracefully, from any thread.
            remote: remote machines that process the pages, as for `run_job`.
            open_engines: opens the engines, for a caller that keeps them between jobs. Default: those of the registry.
            watch: receives the pages in flight, and can refuse a page.
            worker: the socket of a worker of this machine, as for `run_job`.
            cluster: the Ray cluster that processes the pages.
            only: the part of the input that this run looks at, as for `run_job`.
            resumes: whether a job that is paused goes on.

        Raises:
            ComicUpscaleError: as `run_job`.
        """
        from comic_upscale.engines import registry
        from comic_upscale.jobs.run import run_job

        noted = False

        def note(event: Event) -> None:
            nonlocal noted
            if self._state_folder is not None:
                noted = noted or remember_ledger(self._state_folder, settings.ledger_path)
            on_event(event)

        opener = open_engines or registry.open_engines
        return run_job(
            settings,
            on_event=note,
            stop=stop,
            remote=remote,
            open_engines=opener,
            watch=watch,
            worker=worker,
            cluster=cluster,
            only=only,
            resumes=resumes,
        )

    def find_ledger(self, job: Path | None = None, ledger: Path | None = None) -> Path:
        """Return the ledger of a job.

        Args:
            job: its output folder.
            ledger: the ledger file. Without both, the most recent job is used.

        Raises:
            SettingsError: both are given.
            InputError: there is no ledger.
        """
        return choose_ledger(job, ledger, self._state_folder)

    def status(self, ledger: Path) -> JobStatus:
        """Return the status of a job; errors as for `ledger.status.read_status`."""
        return read_status(ledger)

    def has_run(self, ledger: Path) -> bool:
        """Return whether this user has run a job with this ledger, also if the ledger's drive is away now."""
        return self._state_folder is not None and is_remembered(self._state_folder, ledger)

    def pause(self, output: Path) -> bool:
        """Pause the job of an output folder; result and errors as for `ledger.pausing.pause_job`."""
        return pause_job(output)

    def resume(self, output: Path) -> bool:
        """Let a paused job go on; result and errors as for `ledger.pausing.resume_job`."""
        return resume_job(output)

    def failures(self, ledger: Path) -> list[Failure]:
        """Return the failed pages of a job with reasons; errors as for `status`."""
        return read_failures(ledger)

    def prune(self, ledger: Path, *, remove: bool, folder: Path | None = None) -> PruneResult:
        """List or remove the outputs whose sources are gone; arguments and errors as for `jobs.prune.prune`."""
        from comic_upscale.jobs.prune import prune

        return prune(ledger, remove=remove, folder=folder)

    def suspects(self, ledger: Path) -> list[Suspect]:
        """Return the suspect pages of a job with reasons; errors as for `status`."""
        return read_suspects(ledger)
