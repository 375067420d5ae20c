"""The commands ``comic-upscale remote``: a remote machine, reached by SSH, processes the pages."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from annotated_types import Ge, Le

from comic_upscale.commands.environment import ssh_files
from comic_upscale.commands.options import Given, takes
from comic_upscale.commands.run import (
    JOB,
    SHOW,
    ShowOptions,
    job_settings,
    run_shown,
    set_up_logging,
    show_plan,
)
from comic_upscale.errors import ComicUpscaleError, RemoteError, SettingsError
from comic_upscale.settings.job import JobSettings
from comic_upscale.settings.options import Opt, check, definitions, pick, sent_names, to_json

if TYPE_CHECKING:
    from comic_upscale.execution.events import JobFinished
    from comic_upscale.execution.remote_host import RemoteStep
    from comic_upscale.execution.ssh.connection import Connection, HostKey
    from comic_upscale.execution.ssh.machine import Machine
    from comic_upscale.ledger.queries import JobStatus

remote = typer.Typer(no_args_is_help=True, add_completion=False)

Host = Annotated[
    str,
    typer.Argument(
        metavar="HOST",
        help="HOST, USER@HOST or USER@HOST:PORT, or a name from ~/.ssh/config.",
        show_default=False,
    ),
]
Job = Annotated[
    str | None,
    typer.Option("--job", metavar="NAME", help="Job on the remote machine. Default: the most recent one."),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class SshOptions:
    """How to reach a machine, and which folder and Python to use there."""

    host: Annotated[
        str, Opt("HOST, USER@HOST or USER@HOST:PORT, or a name from ~/.ssh/config.", on_command_line=False)
    ]
    port: Annotated[int | None, Opt("SSH port, if HOST does not name it.", metavar="N")] = None
    identity: Annotated[
        Path | None,
        Opt("Private key to try first. The keys of your SSH agent are tried too.", metavar="FILE"),
    ] = None
    ssh_config: Annotated[
        Path | None, Opt("SSH configuration file in place of ~/.ssh/config, as for `ssh -F`.", metavar="FILE")
    ] = None
    accept_new_host_key: Annotated[
        bool, Opt("Accept an unknown host key without asking. A changed key is always refused.")
    ] = False
    remote_dir: Annotated[
        str,
        Opt("Folder to use on the remote machine: absolute, or relative to the home folder.", metavar="DIR"),
    ] = "comic-upscale"
    remote_python: Annotated[
        str | None,
        Opt("Python on the remote machine, 3.11 or newer. Default: one that has PyTorch.", metavar="FILE"),
    ] = None
    container: Annotated[
        str | None,
        Opt(
            "Run in a container of this image, with Docker on the remote machine. A missing image is pulled, or "
            "loaded from a FILE.tar[.gz] of `docker save`. Default: a virtual environment.",
            metavar="IMAGE|FILE",
        ),
    ] = None  # fmt: skip
    patience: Annotated[
        float, Ge(0), Opt("Seconds to keep retrying a lost connection.", metavar="SECONDS")
    ] = 300.0

    def __post_init__(self) -> None:
        """Check the numbers."""
        check(self)

    def machine(
        self, resources: Mapping[str, Any] | None = None, *, given_up: Callable[[], bool] = lambda: False
    ) -> Machine:
        """Return the machine, not connected yet.

        Args:
            resources: resource settings for the run there, as JSON. The machine uses its own defaults for the rest.
            given_up: returns True when retrying a lost connection should end.
        """
        from comic_upscale.execution.ssh.address import find_address
        from comic_upscale.execution.ssh.connection import Connection
        from comic_upscale.execution.ssh.machine import Machine
        from comic_upscale.retries import RetryPolicy

        address = find_address(self.host, ssh_files(self.ssh_config), port=self.port, identity=self.identity)

        def connect() -> Connection:
            return Connection(address, self._ask)

        return Machine(
            connect,
            RetryPolicy(self.patience, lambda seconds: _wait(seconds, given_up), _report_loss),
            base=self.remote_dir,
            python=self.remote_python,
            container=self._image(),
            resources=resources or {},
        )

    def _image(self) -> str | Path | None:
        """Return the name of the image, or the file to load it from.

        Raises:
            SettingsError: --container is neither a valid image name nor an existing file.
        """
        from comic_upscale.execution.ssh.container import is_image_name

        if self.container is None:
            return None
        if self.container.endswith((".tar", ".tar.gz", ".tgz")):
            path = Path(self.container).expanduser()
            if not path.is_file():
                raise SettingsError(
                    f"--container: {path} does not exist; create it with `docker save IMAGE | gzip >{path}`"
                )
            return path
        if not is_image_name(self.container):
            raise SettingsError(f"--container: {self.container!r} is not an image name")
        return self.container

    def _ask(self, key: HostKey) -> bool:
        typer.echo(f"The host key of {key.name} is unknown: {key.kind}\n  {key.fingerprint}", err=True)
        if self.accept_new_host_key:
            typer.echo("It is accepted (--accept-new-host-key) and added to the known hosts.", err=True)
            return True
        if not sys.stdin.isatty():
            return False
        return typer.confirm(
            "Is this the key of the machine? It is then added to the known hosts", default=False, err=True
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class UpscaleOptions:
    """Options of ``remote upscale`` alone."""

    poll: Annotated[
        float, Ge(0.1), Le(3600), Opt("Seconds between two polls of the remote machine.", metavar="SECONDS")
    ] = 3.0
    when_done: Annotated[
        str | None,
        Opt(
            "Run this command on this machine once every page is downloaded or has failed, for example your "
            "provider's command that destroys the machine. If `remote upscale` ends earlier, its last line says that "
            "COMMAND was not run.",
            metavar="COMMAND",
        ),
    ] = None  # fmt: skip

    def __post_init__(self) -> None:
        """Check the numbers."""
        check(self)


SSH, UPSCALE = definitions(SshOptions), definitions(UpscaleOptions)


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

    def run(self, given: Given, show: Given) -> None:
        """Do what ``comic-upscale run`` does, on the remote machine.

        Raises:
            Exit: always, with the exit code.
            ComicUpscaleError: the command ended early.
        """
        shown = ShowOptions(**show.values())
        values = given.values()
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
            # Connect before the display starts, since there may be a question about the host key.
            machine.base()
            remote_options = RemoteOptions(machine, self.step, self.options.poll)
            code, finished = run_shown(job, stop, shown, remote=remote_options)
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
        typer.echo(f"every finished page is downloaded{rest}; running --when-done: {when_done}", err=True)
        ended = subprocess.run(when_done, shell=True, check=False).returncode
        if ended:
            typer.echo(f"--when-done failed with exit code {ended}: THE MACHINE IS STILL BILLED", err=True)
        return ended or code


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


def _wait(seconds: float, given_up: Callable[[], bool]) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if given_up():
            return True
        time.sleep(min(0.1, max(0.0, until - time.monotonic())))
    return given_up()


def _report_loss(reason: str) -> None:
    typer.echo(f"note: {reason}; retrying", err=True)


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
    """Check a machine: GPU, driver, disk, Python, PyTorch, Docker. This changes nothing on it."""
    from dataclasses import asdict

    from comic_upscale.console.printable import printable
    from comic_upscale.execution.ssh.probe import describe

    machine = SshOptions(host=host, patience=0.0, **ssh.values()).machine()
    try:
        report = machine.report()
    finally:
        machine.close()
    errors, warnings = report.errors(), report.warnings()
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


def _step(name: RemoteStep, summary: str) -> None:
    """Register a command that takes the options of ``run``."""

    @takes(ssh=SSH, given=JOB, show=SHOW)
    def command(host: Host, ssh: Given, given: Given, show: Given) -> None:
        RemoteSession(SshOptions(host=host, **ssh.values()), name, UpscaleOptions()).run(given, show)

    epilog = f"Example: comic-upscale remote {name} root@203.0.113.7 --input pages/ --scale 2.5"
    remote.command(name, help=summary, epilog=epilog)(command)


_step("push", "Send the package, the weights and the pages. Takes the options of `run`, like `upscale`.")
_step("run", "Start the remote run, after `push`, and disconnect. Takes the same options as `push`.")
_step("pull", "Download the pages that are done so far. Takes the same options as `push`.")


@remote.command(
    epilog="Examples:\n\n"
    "  comic-upscale remote upscale root@203.0.113.7:40022 --input pages/ --scale 2.5\n\n"
    "  comic-upscale remote upscale gpu-box --input v01.cbz --width 2000 --when-done 'vastai destroy instance 123'\n\n"
    "Run the same command again to continue, even with another HOST. Downloaded pages are not done again.",
)
@takes(ssh=SSH, options=UPSCALE, given=JOB, show=SHOW)
def upscale(host: Host, ssh: Given, options: Given, given: Given, show: Given) -> None:
    """Send pages, upscale them remotely, and download each once it is done. Takes the options of `run`."""
    with _note_if_not_run(options.complete()["when_done"]):
        connection, own = SshOptions(host=host, **ssh.values()), UpscaleOptions(**options.values())
        RemoteSession(connection, "upscale", own).run(given, show)


JOB_SSH = pick(SshOptions, "port", "identity", "ssh_config", "accept_new_host_key", "remote_dir")


@contextmanager
def _open_job(host: str, ssh: Given, job: str | None) -> Iterator[tuple[Machine, str]]:
    machine = SshOptions(host=host, patience=60.0, **ssh.values()).machine()
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
                typer.echo(json.dumps({field.name: getattr(report, field.name) for field in fields(report)}))
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
    from comic_upscale.ledger.queries import JobStatus

    values: dict[str, Any] = {
        field.name: _coerce(answer.get(field.name), str(field.type)) for field in fields(JobStatus)
    }
    status = JobStatus(**values)
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
    from comic_upscale.console.printable import printable

    rest = b""

    def show(piece: bytes) -> None:
        nonlocal rest
        *whole, rest = (rest + piece).split(b"\n")
        for line in whole:
            typer.echo(printable(line.decode(errors="replace")))

    with _open_job(host, ssh, job) as (machine, _):
        machine.log(show, lines=lines, follow=follow)
    if rest:
        show(b"\n")


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
