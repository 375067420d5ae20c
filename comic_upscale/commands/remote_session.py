"""A command of ``comic-upscale remote`` that has remote machines process the pages of a job."""

from __future__ import annotations

import secrets
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import typer

from comic_upscale.commands.options import Given
from comic_upscale.commands.rented import note
from comic_upscale.commands.run import ShowOptions, job_settings, run_shown, set_up_logging, show_plan
from comic_upscale.commands.ssh_options import SshOptions, UpscaleOptions, script_of
from comic_upscale.errors import ComicUpscaleError, RemoteError
from comic_upscale.settings.job import JobSettings
from comic_upscale.settings.option_json import to_json
from comic_upscale.settings.options import sent_names

if TYPE_CHECKING:
    from comic_upscale.execution.events import JobFinished
    from comic_upscale.execution.remote_host import RemoteStep
    from comic_upscale.execution.ssh.machine import Machine


@dataclass(frozen=True, slots=True)
class RemoteSession:
    """One command that has remote machines process the pages of a job.

    Args:
        machines: how to reach each machine.
        step: everything, or one step.
        options: those of ``remote upscale``.
    """

    machines: Sequence[SshOptions]
    step: RemoteStep
    options: UpscaleOptions
    before_exit: Callable[[], None] = lambda: None
    """Called before a second signal ends the process at once."""

    def run(self, values: Mapping[str, Any], show: Given) -> None:
        """Do what ``comic-upscale run`` does, on the remote machine.

        Raises:
            Exit: always, with the exit code.
            ComicUpscaleError: the command ended early.
        """
        shown = ShowOptions(**show.values())
        job = job_settings(values)
        set_up_logging(verbose=shown.verbose)
        if shown.dry_run:
            show_plan(job, as_json=shown.as_json, here=False)
            return
        resources = to_json(job, sent_names(JobSettings, "if-given") & values.keys())
        raise typer.Exit(self._run_job(job, resources, shown))

    def _run_job(self, job: JobSettings, resources: Mapping[str, Any], shown: ShowOptions) -> int:
        from comic_upscale.execution.remote import RemoteOptions
        from comic_upscale.execution.stop import StopRequest

        stop, options = StopRequest(), self.options
        with ExitStack() as opened:
            machines = self._connect_all(opened, resources, given_up=lambda: stop.requested)
            remote = [
                RemoteOptions(
                    machine, self.step, name, options.poll, options.page_timeout, in_shares=len(machines) > 1
                )
                for name, machine in machines.items()
            ]
            code, finished = run_shown(job, stop, shown, remote=remote, before_exit=self.before_exit)
        return self._finish(code, finished)

    def _connect_all(
        self, opened: ExitStack, resources: Mapping[str, Any], given_up: Callable[[], bool]
    ) -> dict[str, Machine]:
        """Connect to the machines before the display starts, since there may be questions about their host keys.

        No command runs yet: commands belong to the run, whose meter counts their time.

        Raises:
            RemoteError: no machine can be reached.
        """
        machines: dict[str, Machine] = {}
        failures: list[RemoteError] = []
        command = secrets.token_hex(8)
        for ssh in self.machines:
            machine = ssh.machine(resources, given_up=given_up, command=command)
            opened.callback(machine.close)
            try:
                machine.connect()
            except RemoteError as error:
                failures.append(error)
            else:
                machines[ssh.host] = machine
        if not machines:
            raise failures[0]
        for failure in failures:
            note(f"note: continuing without a machine: {failure}")
        return machines

    def _finish(self, code: int, finished: JobFinished) -> int:
        """Run the user's --when-done command if every page is settled; return the exit code."""
        if self.step != "upscale":
            # A single step succeeds even though it leaves pages pending.
            return 0 if code == 1 and finished.pending else code
        when_done = self.options.when_done
        if when_done is None:
            return code
        from comic_upscale.console.text import page_count

        if finished.state != "finished" or finished.pending:
            verb = "is" if finished.pending == 1 else "are"
            pending = (
                f"{page_count(finished.pending)} {verb} pending"
                if finished.pending
                else "the run was stopped"
            )
            typer.echo(_not_run(pending), err=True)
            return code
        # A failed page is not tried again without the user: the machine is no longer needed.
        rest = f", {finished.failed:,} failed" if finished.failed else ""
        # The command may contain a key, and this line may be kept.
        typer.echo(f"every finished page is downloaded{rest}; running --when-done", err=True)
        ended = _run_when_done(when_done)
        if ended:
            typer.echo(f"--when-done failed with exit code {ended}: THE MACHINE IS STILL BILLED", err=True)
        return ended or code


def _run_when_done(when_done: str) -> int:
    """Run the command or the script of ``--when-done``, and return its exit code."""
    script = script_of(when_done)
    if script is None:
        return subprocess.run(when_done, shell=True, check=False).returncode
    return subprocess.run(["sh", str(script.absolute())], check=False).returncode


def _not_run(why: str) -> str:
    return f"--when-done was NOT run because {why}: THE MACHINE IS STILL BILLED"


@contextmanager
def note_if_not_run(when_done: str | None) -> Iterator[None]:
    """Add a note to an error that ends the command: the machine was not returned."""
    try:
        yield
    except ComicUpscaleError as error:
        if when_done is not None:
            error.add_note(_not_run("the command ended early"))
        raise
