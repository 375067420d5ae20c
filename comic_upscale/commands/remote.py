"""The commands ``comic-upscale remote``: a remote machine, reached by SSH, processes the pages."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from comic_upscale.commands.options import Given, takes
from comic_upscale.commands.remote_session import RemoteSession, note_if_not_run
from comic_upscale.commands.rented import PANEL, RENT, Rental, RentedUpscale, RentOptions, note
from comic_upscale.commands.run import (
    JOB,
    SHOW,
    ShowOptions,
    job_settings,
    show_plan,
)
from comic_upscale.commands.selection import FromFile, Pages, with_pages
from comic_upscale.commands.ssh_options import (
    SSH,
    UPSCALE,
    SshOptions,
    UpscaleOptions,
    check_different,
)
from comic_upscale.errors import RemoteError, SettingsError
from comic_upscale.settings.options import pick

if TYPE_CHECKING:
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
        "aws, sky or any, such as vast:4090. The offer that is cheapest for this job is taken.",
    ),
]  # fmt: skip
Machines = Annotated[
    int,
    typer.Option(
        "--machines", metavar="N", min=1, max=100, rich_help_panel=PANEL,
        help="How many machines --rent rents, one after another. They share the pages.",
    ),
]  # fmt: skip
Also = Annotated[
    list[str] | None,
    typer.Option(
        "--also", metavar="HOST",
        help="Another machine for the same job, reached with the same options. Repeatable. The faster a machine is, "
        "the more pages it takes.",
    ),
]  # fmt: skip
Job = Annotated[
    str | None,
    typer.Option("--job", metavar="NAME", help="Job on the remote machine. Default: the most recent one."),
]


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
        typer.echo(json.dumps({**asdict(report), "errors": errors, "warnings": warnings}))
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
        RemoteSession([SshOptions(host=host, **ssh.values())], name, UpscaleOptions()).run(values, show)

    epilog = f"Example: comic-upscale remote {name} root@203.0.113.7 --input pages/ --scale 2.5"
    remote.command(name, help=summary, epilog=epilog)(command)


_step("push", "Send the package, the weights and the pages. Takes the options of `run`, like `upscale`.")
_step("run", "Start the remote run, after `push`, and disconnect. Takes the same options as `push`.")
_step("pull", "Download the pages that are done so far. Takes the same options as `push`.")


@remote.command(
    epilog="Examples:\n\n"
    "  comic-upscale remote upscale root@203.0.113.7:40022 --input pages/ --scale 2.5\n\n"
    "  comic-upscale remote upscale gpu-box --also gpu-box-2 --input library/ --scale 2\n\n"
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
    also: Also = None,
    rent: Rent = None,
    machines: Machines = 1,
    ssh: Given,
    options: Given,
    renting: Given,
    given: Given,
    show: Given,
) -> None:
    """Send pages, upscale them remotely, and download each once it is done. Takes the options of `run`."""
    if rent is not None:
        if also:
            raise SettingsError("--also adds a machine that you already have: with --rent, use --machines")
        named = [Path(host), *(pages or ())] if host is not None else pages
        values = with_pages(given.values(), named, from_file)
        rented = RentedUpscale(rent, RentOptions(**renting.values()), ssh.values(), machines)
        _upscale_rented(rented, options, values, show)
        return
    if host is None:
        raise SettingsError("name a remote machine: HOST, or --rent PROVIDER to rent one")
    if given_names := renting.values():
        flag = next(option.flag for option in RENT if option.name in given_names)
        raise SettingsError(f"{flag} works with --rent only")
    if machines != 1:
        raise SettingsError(
            "--machines works with --rent only: add a machine that you already have by --also"
        )
    with note_if_not_run(options.complete()["when_done"]):
        hosts = [SshOptions(host=each, **ssh.values()) for each in (host, *(also or ()))]
        check_different(hosts)
        values = with_pages(given.values(), pages, from_file)
        RemoteSession(hosts, "upscale", UpscaleOptions(**options.values())).run(values, show)


def _upscale_rented(rented: RentedUpscale, options: Given, values: dict[str, Any], show: Given) -> None:
    """Do ``remote upscale`` on machines that are rented for it, and ended afterwards."""
    shown, own = ShowOptions(**show.values()), UpscaleOptions(**options.values())
    if own.when_done is not None:
        raise SettingsError("--rent ends the machine itself: leave out --when-done")
    if shown.dry_run:
        show_plan(job_settings(values), as_json=shown.as_json, here=False)
        return

    def use(rentals: Sequence[Rental], priced: dict[str, Any]) -> None:
        def end_quietly() -> None:
            for rental in rentals:
                try:
                    rental.end()
                except Exception as error:
                    note(str(error))

        RemoteSession([rental.ssh for rental in rentals], "upscale", own, end_quietly).run(priced, show)

    rented.run(values, use)


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
