"""The commands ``comic-upscale remote``: a remote machine processes the pages, reached by SSH."""

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
        help="HOST, USER@HOST or USER@HOST:PORT; also a name of your ~/.ssh/config.",
        show_default=False,
    ),
]
Job = Annotated[
    str | None, typer.Option("--job", metavar="NAME", help="The job there; left out: the one worked on last.")
]


@dataclass(frozen=True, slots=True, kw_only=True)
class SshOptions:
    """How the user wants a machine to be reached, and what is ours there."""

    host: Annotated[
        str, Opt("HOST, USER@HOST or USER@HOST:PORT, or a name of ~/.ssh/config.", on_command_line=False)
    ]
    port: Annotated[int | None, Opt("SSH port, if it is not part of HOST.", metavar="N")] = None
    identity: Annotated[
        Path | None, Opt("Private key to try first. The keys of your agent are tried too.", metavar="FILE")
    ] = None
    ssh_config: Annotated[
        Path | None, Opt("Configuration file in place of ~/.ssh/config, as for `ssh -F`.", metavar="FILE")
    ] = None
    accept_new_host_key: Annotated[
        bool, Opt("Do not ask about an unknown host key. A key that changed is always refused.")
    ] = False
    remote_dir: Annotated[
        str, Opt("Our folder there: absolute, or below the home folder.", metavar="DIR")
    ] = "comic-upscale"
    remote_python: Annotated[
        str | None,
        Opt("Python there, 3.11 or newer. Default: the one that has PyTorch.", metavar="FILE"),
    ] = None
    container: Annotated[
        str | None,
        Opt(
            "Work in a container of this image, with the Docker there. An image that is missing is pulled, or loaded "
            "from a FILE.tar[.gz] of `docker save`. Default: a virtual environment.",
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
        """The machine, not connected yet.

        Args:
            resources: what a run there works with, as JSON; what is left out is as that machine has it.
            given_up: whether nobody waits any longer for a connection that was lost.
        """
        from comic_upscale.execution.ssh.address import find_address
        from comic_upscale.execution.ssh.connection import Connection
        from comic_upscale.execution.ssh.machine import Machine
        from comic_upscale.execution.ssh.machine import Patience as LinePatience

        address = find_address(self.host, ssh_files(self.ssh_config), port=self.port, identity=self.identity)

        def connect() -> Connection:
            return Connection(address, self._ask)

        return Machine(
            connect,
            LinePatience(self.patience, lambda seconds: _wait(seconds, given_up), _tell_lost),
            base=self.remote_dir,
            python=self.remote_python,
            container=self._image(),
            resources=resources or {},
        )

    def _image(self) -> str | Path | None:
        """The image by its name, or the file that it is in.

        Raises:
            SettingsError: it is neither.
        """
        from comic_upscale.execution.ssh.container import is_image_name

        if self.container is None:
            return None
        if self.container.endswith((".tar", ".tar.gz", ".tgz")):
            path = Path(self.container).expanduser()
            if not path.is_file():
                raise SettingsError(
                    f"--container: {path} is not there; `docker save IMAGE | gzip >{path}` makes it"
                )
            return path
        if not is_image_name(self.container):
            raise SettingsError(f"--container: {self.container!r} names no image")
        return self.container

    def _ask(self, key: HostKey) -> bool:
        typer.echo(f"The key of {key.name} is not known: {key.kind}\n  {key.fingerprint}", err=True)
        if self.accept_new_host_key:
            typer.echo("It is accepted (--accept-new-host-key) and remembered.", err=True)
            return True
        if not sys.stdin.isatty():
            return False
        return typer.confirm("Is that the machine's own? Then it is remembered", default=False, err=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class UpscaleOptions:
    """What ``remote upscale`` does besides the work."""

    poll: Annotated[
        float, Ge(0.1), Le(3600), Opt("Seconds between two polls of the remote machine.", metavar="SECONDS")
    ] = 3.0
    when_done: Annotated[
        str | None,
        Opt(
            "Run this command here once every page is downloaded or has failed: your provider's command that destroys "
            "the machine. If `remote upscale` ends before that, its last line says that this was not run.",
            metavar="COMMAND",
        ),
    ] = None  # fmt: skip

    def __post_init__(self) -> None:
        """Check the numbers."""
        check(self)


SSH, UPSCALE = definitions(SshOptions), definitions(UpscaleOptions)


@dataclass(frozen=True, slots=True)
class RemoteSession:
    """One command that lets a remote machine process the pages of a job.

    Args:
        reach: the machine.
        step: all of it, or one step.
        options: what else is done.
    """

    reach: SshOptions
    step: RemoteStep
    options: UpscaleOptions

    def run(self, given: Given, show: Given) -> None:
        """Do what ``comic-upscale run`` does, with the remote machine in the place of the network.

        Raises:
            Exit: with the exit code.
            ComicUpscaleError: the command ended early.
        """
        shown = ShowOptions(**show.values())
        asked = given.values()
        job = job_settings(asked)
        set_up_logging(verbose=shown.verbose)
        if shown.dry_run:
            show_plan(job, as_json=shown.as_json)
            return
        resources = to_json(job, sent_names(JobSettings, "if-given") & asked.keys())
        raise typer.Exit(self._work(job, resources, shown))

    def _work(self, job: JobSettings, resources: Mapping[str, Any], shown: ShowOptions) -> int:
        from comic_upscale.execution.remote import RemoteOptions
        from comic_upscale.execution.stop import StopRequest

        stop = StopRequest()
        machine = self.reach.machine(resources, given_up=lambda: stop.requested)
        try:
            # Before anything moves on the terminal: there may be a question about the host key.
            machine.base()
            remote_options = RemoteOptions(machine, self.step, self.options.poll)
            code, finished = run_shown(job, stop, shown, remote=remote_options)
        finally:
            machine.close()
        return self._finish(code, finished)

    def _finish(self, code: int, finished: JobFinished) -> int:
        """Return the exit code of the command, after what the user wants done at the end."""
        if self.step != "upscale":
            # One step of several leaves pages to do, and has done what it was asked.
            return 0 if code == 1 and finished.pending else code
        when_done = self.options.when_done
        if when_done is None:
            return code
        if finished.state != "finished" or finished.pending:
            typer.echo(_not_run(f"{finished.pending:,} pages are left"), err=True)
            return code
        # A page that failed is not tried again before somebody looks at it: nothing keeps the machine.
        rest = f"; {finished.failed:,} failed, which the remote machine cannot do" if finished.failed else ""
        typer.echo(f"every page that could be done is here{rest}: {when_done}", err=True)
        ended = subprocess.run(when_done, shell=True, check=False).returncode
        if ended:
            typer.echo(f"it failed with exit code {ended}: THE MACHINE STILL BILLS", err=True)
        return ended or code


def _not_run(why: str) -> str:
    return f"--when-done was NOT run, since {why}: THE MACHINE STILL BILLS"


@contextmanager
def _saying_what_was_not_run(when_done: str | None) -> Iterator[None]:
    """Say below an error that ends the command that the machine was not given back."""
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


def _tell_lost(reason: str) -> None:
    typer.echo(f"note: {reason}; trying again", err=True)


@remote.command("check")
@takes(
    ssh=pick(
        SshOptions, "port", "identity", "ssh_config", "accept_new_host_key", "remote_dir", "remote_python"
    )
)
def check_machine(
    host: Host,
    ssh: Given,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on standard output.")] = False,
) -> None:
    """Check what a machine has: GPU, driver, disk, Python, PyTorch, Docker. Nothing is changed there."""
    from dataclasses import asdict

    from comic_upscale.console.text import printable
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
            typer.echo("it fits")
    if errors:
        raise RemoteError(f"{host} cannot do the work: {'; '.join(errors)}")


def _step(name: RemoteStep, summary: str) -> None:
    """Register a command that takes the options of ``run``."""

    @takes(ssh=SSH, given=JOB, show=SHOW)
    def command(host: Host, ssh: Given, given: Given, show: Given) -> None:
        RemoteSession(SshOptions(host=host, **ssh.values()), name, UpscaleOptions()).run(given, show)

    epilog = f"Example: comic-upscale remote {name} root@203.0.113.7 --input pages/ --scale 2.5"
    remote.command(name, help=summary, epilog=epilog)(command)


_step("push", "Send the package, the weights and the pages; takes the options of `run`, as `upscale` does.")
_step("run", "Start the run there, after `push`, and disconnect; takes the same options as `push`.")
_step("pull", "Download what is done so far; takes the same options as `push`.")


@remote.command(
    epilog="Examples:\n\n"
    "  comic-upscale remote upscale root@203.0.113.7:40022 --input pages/ --scale 2.5\n\n"
    "  comic-upscale remote upscale gpu-box --input v01.cbz --width 2000 --when-done 'vastai destroy instance 123'\n\n"
    "The same command again continues, also with another HOST: pages that are downloaded are not done again.",
)
@takes(ssh=SSH, options=UPSCALE, given=JOB, show=SHOW)
def upscale(host: Host, ssh: Given, options: Given, given: Given, show: Given) -> None:
    """Send pages, upscale them there, and download each once it is done; takes the options of `run`."""
    with _saying_what_was_not_run(options.complete()["when_done"]):
        reach, more = SshOptions(host=host, **ssh.values()), UpscaleOptions(**options.values())
        RemoteSession(reach, "upscale", more).run(given, show)


LOOKED_AFTER = pick(SshOptions, "port", "identity", "ssh_config", "accept_new_host_key", "remote_dir")


@contextmanager
def _at_job(host: str, ssh: Given, job: str | None) -> Iterator[tuple[Machine, str]]:
    machine = SshOptions(host=host, patience=60.0, **ssh.values()).machine()
    try:
        yield machine, machine.choose_job(job)
    finally:
        machine.close()


@remote.command()
@takes(ssh=LOOKED_AFTER)
def status(
    *,
    host: Host,
    job: Job = None,
    watch: Annotated[bool, typer.Option("--watch", help="Keep showing until the run ends.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on standard output.")] = False,
    ssh: Given,
) -> None:
    """Show how far a job is there."""
    from comic_upscale.console.text import printable, status_lines

    with _at_job(host, ssh, job) as (machine, name):
        while True:
            report = _as_status(machine.status(), host)
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


def _as_status(said: dict[str, Any], host: str) -> JobStatus:
    """Read what another machine says of a job; what need not be there and is not as it should be is left out.

    Raises:
        RemoteError: it makes no sense without what is left.
    """
    from comic_upscale.ledger.queries import JobStatus

    values: dict[str, Any] = {
        field.name: _plain(said.get(field.name), str(field.type)) for field in fields(JobStatus)
    }
    status = JobStatus(**values)
    counts = (status.done, status.failed, status.skipped, status.pending)
    known = status.state in ("running", "stopped", "finished") and 0 <= status.percent <= 100
    counted = all(_is_count(said.get(name)) for name in ("total", "done", "failed", "skipped", "pending"))
    placed = not status.alive or None not in (status.pid, status.host, status.started_at)
    if not (known and counted and placed and sum(counts) == status.total):
        raise RemoteError(
            f"{host} says of the job what cannot be understood: its ledger may be damaged, or of another version. "
            "`comic-upscale remote logs` shows what the run itself says"
        )
    return status


def _plain(value: object, kind: str) -> object:
    """A value of a status by the kind that its field has; what that field has for nothing where it is none of it."""
    nothing = None if "None" in kind else False if kind == "bool" else "" if kind == "str" else 0
    if kind == "bool":
        return value is True
    if kind.startswith("str"):
        return value[:500] if isinstance(value, str) else nothing
    if kind.startswith("int"):
        return value if _is_count(value) else nothing
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1e12
    return value if number else nothing


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1e12


@remote.command()
@takes(ssh=LOOKED_AFTER)
def logs(
    *,
    host: Host,
    job: Job = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Keep showing until the run ends.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="How many of the last lines.")] = 50,
    ssh: Given,
) -> None:
    """Show what the run there prints."""
    from comic_upscale.console.text import printable

    rest = b""

    def show(piece: bytes) -> None:
        nonlocal rest
        *whole, rest = (rest + piece).split(b"\n")
        for line in whole:
            typer.echo(printable(line.decode(errors="replace")))

    with _at_job(host, ssh, job) as (machine, _):
        machine.log(show, lines=lines, follow=follow)
    if rest:
        show(b"\n")


@remote.command()
@takes(ssh=LOOKED_AFTER)
def stop(
    *,
    host: Host,
    job: Job = None,
    ssh: Given,
) -> None:
    """Stop the run there as Ctrl-C does: pages in progress are finished and recorded. The machine keeps running."""
    with _at_job(host, ssh, job) as (machine, name):
        said = machine.stop()
    if said == "busy":
        raise RemoteError(f"{name} has not stopped yet; ask again with `comic-upscale remote status {host}`")
    typer.echo(
        f"{name}: {'stopped' if said == 'stopped' else 'no run was there'}. The machine is still rented."
    )


@remote.command(hidden=True)
def listing(
    ledger: Annotated[Path, typer.Option("--ledger", metavar="FILE", help="The ledger itself.")],
    since: Annotated[
        str, typer.Option("--since", metavar="TIME", help="Only what was settled then or later.")
    ] = "",
) -> None:
    """Say what became of every page, for the machine that asked for it."""
    from comic_upscale.execution.ssh.listing import as_lines
    from comic_upscale.ledger.queries import read_settled_pages

    for line in as_lines(read_settled_pages(ledger, since)):
        typer.echo(line)
