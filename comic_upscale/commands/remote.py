"""The commands ``comic-upscale remote``: a remote machine, reached by SSH, processes the pages."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from comic_upscale.commands.options import Given, takes
from comic_upscale.commands.rented import PANEL, RENT, Rental, RentedUpscale, RentOptions, note
from comic_upscale.commands.run import (
    JOB,
    SHOW,
    ShowOptions,
    job_settings,
    run_shown,
    set_up_logging,
    show_plan,
)
from comic_upscale.commands.selection import FromFile, Pages, with_pages
from comic_upscale.commands.ssh_options import SSH, UPSCALE, SshOptions, UpscaleOptions, script_of
from comic_upscale.errors import ComicUpscaleError, RemoteError, SettingsError
from comic_upscale.settings.job import JobSettings
from comic_upscale.settings.option_json import to_json
from comic_upscale.settings.options import pick, sent_names

if TYPE_CHECKING:
    from comic_upscale.execution.events import JobFinished
    from comic_upscale.execution.remote_host import RemoteStep
    from comic_upscale.execution.ssh.machine import Machine
    from comic_upscale.ledger.status import JobStatus

remote = typer.Typer(no_args_is_help=True, add_completion=False)

Host = Annotated[
    str,
    typer.Argument(
        metavar="HOST",
        help="HOST, USER@HOST or USER@HOST:PORT, or a name from ~/.ssh/config.",
        show_default=False,
    ),
]
HostOrRent = Annotated[
    str | None,
    typer.Argument(
        metavar="[HOST]",
        help="HOST, USER@HOST or USER@HOST:PORT, or a name from ~/.ssh/config or `rent list`. None with --rent.",
        show_default=False,
    ),
]
Rent = Annotated[
    str | None,
    typer.Option(
        "--rent", metavar="PROVIDER[:GPU]", rich_help_panel=PANEL,
        help="Rent a machine for this job, and end it afterwards, also after an error or Ctrl-C: vast, runpod, lambda, "
        "aws or any, such as vast:4090. The offer that is cheapest for this job is taken.",
    ),
]  # fmt: skip
Job = Annotated[
    str | None,
    typer.Option("--job", metavar="NAME", help="Job on the remote machine. Default: the most recent one."),
]


@dataclass(frozen=True, slots=True)
class RemoteSession:
    """One command that has a remote machine process the pages of a job.

    Args:
        ssh: how to reach the machine.
        step: everything, or one step.
        options: those of ``remote upscale``.
    """

    ssh: SshOptions
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
            show_plan(job, as_json=shown.as_json)
            return
        resources = to_json(job, sent_names(JobSettings, "if-given") & values.keys())
        raise typer.Exit(self._run_job(job, resources, shown))

    def _run_job(self, job: JobSettings, resources: Mapping[str, Any], shown: ShowOptions) -> int:
        from comic_upscale.execution.remote import RemoteOptions
        from comic_upscale.execution.stop import StopRequest

        stop = StopRequest()
        machine = self.ssh.machine(resources, given_up=lambda: stop.requested)
        try:
            # Connect before the display starts, since there may be a question about the host key. No command runs yet:
            # commands belong to the run, whose meter counts their time.
            machine.connect()
            options = self.options
            remote_options = RemoteOptions(machine, self.step, options.poll, options.page_timeout)
            code, finished = run_shown(job, stop, shown, remote=remote_options, before_exit=self.before_exit)
        finally:
            machine.close()
        return self._finish(code, finished)

    def _finish(self, code: int, finished: JobFinished) -> int:
        """Run the user's --when-done command if every page is settled; return the exit code."""
        if self.step != "upscale":
            # A single step succeeds even though it leaves pages pending.
            return 0 if code == 1 and finished.pending else code
        when_done = self.options.when_done
        if when_done is None:
            return code
        if finished.state != "finished" or finished.pending:
            typer.echo(_not_run(f"{finished.pending:,} pages are pending"), err=True)
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
def _note_if_not_run(when_done: str | None) -> Iterator[None]:
    """Add a note to an error that ends the command: the machine was not returned."""
    try:
        yield
    except ComicUpscaleError as error:
        if when_done is not None:
            error.add_note(_not_run("the command ended early"))
        raise


@remote.command("check")
@takes(
    ssh=pick(
        SshOptions, "port", "identity", "ssh_config", "accept_new_host_key", "remote_dir", "remote_python"
    )
)
def check_machine(
    host: Host,
    ssh: Given,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check a machine: GPU, driver, disk, Python, PyTorch, Docker, and a page in both directions.

    Nothing remains on it.
    """
    from dataclasses import asdict

    from comic_upscale.console.printable import printable
    from comic_upscale.execution.ssh.probe import describe

    machine = SshOptions(host=host, **ssh.values()).machine(patience=0.0)
    try:
        report = machine.report()
        errors, warnings = report.errors(), report.warnings()
        if not errors:
            errors += _rehearsal_errors(machine)
    finally:
        machine.close()
    if as_json:
        typer.echo(json.dumps({**asdict(report), "complaints": errors, "remarks": warnings}))
    else:
        for label, text in describe(report):
            typer.echo(printable(f"{label:>8}: {text}"))
        for warning in warnings:
            typer.echo(printable(f"note: {warning}"))
        if not errors:
            typer.echo("ready: this machine can upscale pages")
    if errors:
        raise RemoteError(f"{host} does not meet the requirements: {'; '.join(errors)}")


def _rehearsal_errors(machine: Machine) -> list[str]:
    """Try what a job does; return what fails."""
    from comic_upscale.errors import ConnectionLostError

    try:
        machine.rehearse()
    except ConnectionLostError:
        raise
    except RemoteError as error:
        return [str(error)]
    return []


def _step(name: RemoteStep, summary: str) -> None:
    """Register a command that takes the options of ``run``."""

    @takes(ssh=SSH, given=JOB, show=SHOW)
    def command(
        host: Host, pages: Pages = None, *, from_file: FromFile = None, ssh: Given, given: Given, show: Given
    ) -> None:
        values = with_pages(given.values(), pages, from_file)
        RemoteSession(SshOptions(host=host, **ssh.values()), name, UpscaleOptions()).run(values, show)

    epilog = f"Example: comic-upscale remote {name} root@203.0.113.7 --input pages/ --scale 2.5"
    remote.command(name, help=summary, epilog=epilog)(command)


_step("push", "Send the package, the weights and the pages. Takes the options of `run`, like `upscale`.")
_step("run", "Start the remote run, after `push`, and disconnect. Takes the same options as `push`.")
_step("pull", "Download the pages that are done so far. Takes the same options as `push`.")


@remote.command(
    epilog="Examples:\n\n"
    "  comic-upscale remote upscale root@203.0.113.7:40022 --input pages/ --scale 2.5\n\n"
    "  comic-upscale remote upscale gpu-box --input v01.cbz --width 2000 --when-done 'vastai destroy instance 123'\n\n"
    "  comic-upscale remote upscale --rent vast:4090 --input pages/ --max-hours 3\n\n"
    "Run the same command again to continue, even with another HOST. Downloaded pages are not done again.",
)
@takes(ssh=SSH, options=UPSCALE, renting=RENT, given=JOB, show=SHOW)
def upscale(
    host: HostOrRent = None,
    pages: Pages = None,
    *,
    from_file: FromFile = None,
    rent: Rent = None,
    ssh: Given,
    options: Given,
    renting: Given,
    given: Given,
    show: Given,
) -> None:
    """Send pages, upscale them remotely, and download each once it is done. Takes the options of `run`."""
    if rent is not None:
        named = [Path(host), *(pages or ())] if host is not None else pages
        values = with_pages(given.values(), named, from_file)
        _upscale_rented(rent, RentOptions(**renting.values()), ssh.values(), options, values, show)
        return
    if host is None:
        raise SettingsError("name a remote machine: HOST, or --rent PROVIDER to rent one")
    if given_names := renting.values():
        flag = next(option.flag for option in RENT if option.name in given_names)
        raise SettingsError(f"{flag} is about a rented machine: it needs --rent")
    with _note_if_not_run(options.complete()["when_done"]):
        connection, own = SshOptions(host=host, **ssh.values()), UpscaleOptions(**options.values())
        values = with_pages(given.values(), pages, from_file)
        RemoteSession(connection, "upscale", own).run(values, show)


def _upscale_rented(
    target: str,
    renting: RentOptions,
    ssh: dict[str, Any],
    options: Given,
    values: dict[str, Any],
    show: Given,
) -> None:
    """Do ``remote upscale`` on a machine that is rented for it, and ended afterwards."""
    shown, own = ShowOptions(**show.values()), UpscaleOptions(**options.values())
    if own.when_done is not None:
        raise SettingsError("--rent ends the machine itself: leave out --when-done")
    if shown.dry_run:
        show_plan(job_settings(values), as_json=shown.as_json)
        return

    def use(rental: Rental, priced: dict[str, Any]) -> None:
        def end_quietly() -> None:
            try:
                rental.end()
            except Exception as error:
                note(str(error))

        RemoteSession(rental.ssh, "upscale", own, end_quietly).run(priced, show)

    RentedUpscale(target, renting, ssh).run(values, use)


LONGEST_LINE = 1 << 16
"""Bytes of a line of a remote log; a longer one is shown in pieces."""

JOB_SSH = pick(SshOptions, "port", "identity", "ssh_config", "accept_new_host_key", "remote_dir")


@contextmanager
def _open_job(host: str, ssh: Given, job: str | None) -> Iterator[tuple[Machine, str]]:
    machine = SshOptions(host=host, **ssh.values()).machine(patience=60.0)
    try:
        yield machine, machine.choose_job(job)
    finally:
        machine.close()


@remote.command()
@takes(ssh=JOB_SSH)
def status(
    *,
    host: Host,
    job: Job = None,
    watch: Annotated[bool, typer.Option("--watch", help="Update until the run ends.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    ssh: Given,
) -> None:
    """Show the progress of a job on the remote machine."""
    from comic_upscale.console.printable import printable
    from comic_upscale.console.text import status_lines

    with _open_job(host, ssh, job) as (machine, name):
        while True:
            report = _read_status(machine.status(), host)
            if as_json:
                typer.echo(json.dumps(asdict(report)))
            elif watch:
                typer.echo(printable(status_lines(report)[0]))
            else:
                typer.echo(printable(f"job:    {name}"))
                for line in status_lines(report):
                    typer.echo(printable(line))
            if not watch or not report.alive:
                return
            time.sleep(5.0)


def _read_status(answer: dict[str, Any], host: str) -> JobStatus:
    """Read the status that a remote machine reports; optional values of a wrong type are dropped.

    Raises:
        RemoteError: a required value is missing, or the values contradict each other.
    """
    from comic_upscale.ledger.status import JobStatus, read_shares

    values: dict[str, Any] = {
        field.name: _coerce(answer.get(field.name), str(field.type)) for field in fields(JobStatus)
    }
    status = JobStatus(**{**values, "within": read_shares(answer.get("within"))})
    counts = (status.done, status.failed, status.skipped, status.pending)
    known = status.state in ("running", "stopped", "finished") and 0 <= status.percent <= 100
    counted = all(_is_count(answer.get(name)) for name in ("total", "done", "failed", "skipped", "pending"))
    placed = not status.alive or None not in (status.pid, status.host, status.started_at)
    if not (known and counted and placed and sum(counts) == status.total):
        raise RemoteError(
            f"{host} returned an invalid status of the job: its ledger may be damaged, or from another version. "
            "`comic-upscale remote logs` shows the output of the run"
        )
    return status


def _coerce(value: object, kind: str) -> object:
    """Return a value if it fits the type of its field, else the empty value of that type."""
    empty = None if "None" in kind else False if kind == "bool" else "" if kind == "str" else 0
    if kind == "bool":
        return value is True
    if kind.startswith("str"):
        return value[:500] if isinstance(value, str) else empty
    if kind.startswith("int"):
        return value if _is_count(value) else empty
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1e12
    return value if number else empty


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1e12


@remote.command()
@takes(ssh=JOB_SSH)
def logs(
    *,
    host: Host,
    job: Job = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Update until the run ends.")] = False,
    lines: Annotated[
        int, typer.Option("--lines", "-n", min=0, help="Number of lines to show from the end.")
    ] = 50,
    ssh: Given,
) -> None:
    """Show the output of the remote run."""
    shown = _LogLines()
    with _open_job(host, ssh, job) as (machine, _):
        machine.log(shown.take, lines=lines, follow=follow)
    shown.end()


class _LogLines:
    """Prints the lines of a stream, without control characters; a line without end is printed in pieces."""

    def __init__(self) -> None:
        self.rest = b""

    def take(self, piece: bytes) -> None:
        *lines, self.rest = (self.rest + piece).split(b"\n")
        for line in lines:
            self._print(line)
        if len(self.rest) > LONGEST_LINE:
            self.end()

    def end(self) -> None:
        if self.rest:
            self._print(self.rest)
        self.rest = b""

    def _print(self, line: bytes) -> None:
        from comic_upscale.console.printable import printable

        typer.echo(printable(line.decode(errors="replace")))


@remote.command()
@takes(ssh=JOB_SSH)
def stop(
    *,
    host: Host,
    job: Job = None,
    ssh: Given,
) -> None:
    """Stop the remote run as Ctrl-C does: pages in flight are finished and recorded. The machine stays rented."""
    with _open_job(host, ssh, job) as (machine, name):
        state = machine.stop()
    if state == "busy":
        raise RemoteError(
            f"{name} has not stopped yet; check again with `comic-upscale remote status {host}`"
        )
    typer.echo(
        f"{name}: {'stopped' if state == 'stopped' else 'no run was active'}. The machine is still rented."
    )


@remote.command(hidden=True)
def listing(
    ledger: Annotated[Path, typer.Option("--ledger", metavar="FILE", help="The ledger file.")],
    since: Annotated[
        str, typer.Option("--since", metavar="TIME", help="Only pages settled at this time or later.")
    ] = "",
) -> None:
    """Print the result of every page, for the machine that started the run."""
    from comic_upscale.execution.ssh.listing import as_lines
    from comic_upscale.ledger.queries import read_settled_pages

    for line in as_lines(read_settled_pages(ledger, since)):
        typer.echo(line)
