"""The commands ``comic-upscale remote``: another machine does the work, reached by SSH."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from comic_upscale.commands.environment import ssh_files
from comic_upscale.errors import ComicUpscaleError, RemoteError, SettingsError

if TYPE_CHECKING:
    from comic_upscale.execution.events import JobFinished
    from comic_upscale.execution.remote import RemoteOptions
    from comic_upscale.execution.remote_host import RemoteStep
    from comic_upscale.execution.ssh.connection import Connection, HostKey
    from comic_upscale.execution.ssh.machine import Machine
    from comic_upscale.execution.stop import StopRequest
    from comic_upscale.ledger.queries import JobStatus

remote = typer.Typer(
    no_args_is_help=True,
    help="Let another machine do the work: a rented GPU, or any Linux machine that SSH reaches.",
)

POLL_SECONDS = 3.0

AS_RUN = {"allow_extra_args": True, "ignore_unknown_options": True}
"""For commands that take the options of ``run`` besides their own."""

STAYS_HERE = frozenset(
    (
        "input", "output", "ledger", "weights_dir", "model", "sidecars", "copy_others", "archive_output",
        "keep_original_on_failure", "pdf_dpi", "max_members", "max_unpacked", "max_ratio", "overwrite",
        "retry_failed", "max_failures", "dry_run", "as_json", "verbose", "quiet",
    )
)  # fmt: skip
"""Options of ``run`` that concern this machine; all others go along to the other one."""

Host = Annotated[
    str,
    typer.Argument(
        metavar="HOST",
        help="HOST, USER@HOST or USER@HOST:PORT; also a name of your ~/.ssh/config.",
        show_default=False,
    ),
]
Port = Annotated[int | None, typer.Option("--port", metavar="N", help="SSH port, where not in HOST.")]
Identity = Annotated[
    Path | None,
    typer.Option("--identity", metavar="FILE", help="Private key to try first; your agent's are tried too."),
]
SshConfig = Annotated[
    Path | None,
    typer.Option("--ssh-config", metavar="FILE", help="In place of ~/.ssh/config, as `ssh -F` takes it."),
]
AcceptKey = Annotated[
    bool,
    typer.Option(
        "--accept-new-host-key",
        help="Do not ask about a host key that is unknown. One that changed is always refused.",
    ),
]
RemoteDir = Annotated[
    str,
    typer.Option("--remote-dir", metavar="DIR", help="Our folder there, absolute or below the home folder."),
]
RemotePython = Annotated[
    str | None,
    typer.Option(
        "--remote-python", metavar="FILE", help="Python there, 3.11 or newer; left out: the one with PyTorch."
    ),
]
AnImage = Annotated[
    str | None,
    typer.Option(
        "--container", metavar="IMAGE|FILE",
        help="Work in a container of this image, by the Docker there; it is pulled, or loaded from a FILE.tar[.gz] of "
        "`docker save`, where it is not there. Left out: a virtual environment.",
    ),
]  # fmt: skip
Patience = Annotated[
    float,
    typer.Option("--patience", metavar="SECONDS", help="How long a line that broke is tried to be mended."),
]
Poll = Annotated[
    float,
    typer.Option("--poll", metavar="SECONDS", help="How often the machine is asked what is new."),
]
Job = Annotated[
    str | None, typer.Option("--job", metavar="NAME", help="The job there; left out: the one worked on last.")
]


@dataclass(frozen=True, slots=True, kw_only=True)
class SshOptions:
    """How the user wants a machine to be reached."""

    host: str
    port: int | None
    identity: Path | None
    ssh_config: Path | None
    accept_new_host_key: bool
    remote_dir: str
    remote_python: str | None
    patience: float
    container: str | None = None

    def machine(
        self, options: Sequence[str] = (), *, given_up: Callable[[], bool] = lambda: False
    ) -> Machine:
        """The machine, not called yet."""
        from comic_upscale.execution.ssh.address import find_address
        from comic_upscale.execution.ssh.connection import Connection
        from comic_upscale.execution.ssh.machine import Machine
        from comic_upscale.execution.ssh.machine import Patience as LinePatience

        if self.patience < 0:
            raise SettingsError(f"--patience must be 0 or more, not {self.patience:g}")
        address = find_address(self.host, ssh_files(self.ssh_config), port=self.port, identity=self.identity)

        def connect() -> Connection:
            return Connection(address, self._ask)

        return Machine(
            connect,
            LinePatience(self.patience, lambda seconds: _wait(seconds, given_up), _tell_lost),
            base=self.remote_dir,
            python=self.remote_python,
            container=self._image(),
            options=options,
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


class RemoteSession:
    """What stands in the way of ``run`` where another machine does the work.

    Args:
        reach: the machine.
        ask: what it shall do.
        poll: seconds between two questions for what is new.
        when_done: a command of the user's for when nothing is left that the machine could do: every page is home,
            or has failed.

    Raises:
        SettingsError: a time that makes no sense.
    """

    def __init__(
        self, reach: SshOptions, ask: RemoteStep, *, poll: float = POLL_SECONDS, when_done: str | None = None
    ) -> None:
        if not 0.1 <= poll <= 3600:
            raise SettingsError(f"--poll must be between 0.1 and 3600 seconds, not {poll:g}")
        self._reach = reach
        self._ask = ask
        self._poll = poll
        self._when_done = when_done

    @contextmanager
    def open(self, ctx: typer.Context, stop: StopRequest) -> Iterator[RemoteOptions]:
        """The machine as a remote host, connected and ready to be asked; disconnected at the end.

        Args:
            ctx: of the command ``run``, whose options go along.
            stop: ends the waiting for a line that broke.
        """
        from comic_upscale.execution.remote import RemoteOptions

        machine = self._reach.machine(_options_there(ctx), given_up=lambda: stop.requested)
        try:
            # Before anything moves on the terminal: there may be a question about the host key.
            machine.base()
            yield RemoteOptions(machine, self._ask, self._poll)
        finally:
            machine.close()

    def finish(self, code: int, finished: JobFinished) -> int:
        """Return the exit code of the command, after what the user wants done at the end."""
        if self._ask != "upscale":
            # One step of several leaves pages to do, and has done what it was asked.
            return 0 if code == 1 and finished.pending else code
        if self._when_done is None:
            return code
        if finished.state != "finished" or finished.pending:
            typer.echo(self._not_run(f"{finished.pending:,} pages are left"), err=True)
            return code
        # A page that failed is not tried again before somebody looks at it: nothing keeps the machine.
        rest = f"; {finished.failed:,} failed, which this machine does not mend" if finished.failed else ""
        typer.echo(f"every page that could be done is here{rest}: {self._when_done}", err=True)
        ended = subprocess.run(self._when_done, shell=True, check=False).returncode
        if ended:
            typer.echo(f"it failed with exit code {ended}: THE MACHINE STILL BILLS", err=True)
        return ended or code

    def note_on(self, error: ComicUpscaleError) -> None:
        """Say below an error that ended the command what the user must not take for done."""
        if self._when_done is not None:
            error.add_note(self._not_run("the command ended early"))

    def _not_run(self, why: str) -> str:
        return f"--when-done was NOT run, since {why}: THE MACHINE STILL BILLS"


def _options_there(ctx: typer.Context) -> list[str]:
    """The options of ``run`` that the user gave and that concern the other machine."""
    options: list[str] = []
    for parameter in ctx.command.params:
        source = ctx.get_parameter_source(parameter.name or "")
        if source is None or source.name != "COMMANDLINE" or parameter.name in STAYS_HERE:
            continue
        value = ctx.params[str(parameter.name)]
        name = max(parameter.opts, key=len)
        if value is False:
            options += parameter.secondary_opts
        elif value is True:
            options += [name]
        elif isinstance(value, list | tuple):
            options += [word for each in value for word in (name, str(each))]
        else:
            options += [name, "auto" if value is None else str(value)]
    return options


def _wait(seconds: float, given_up: Callable[[], bool]) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if given_up():
            return True
        time.sleep(min(0.1, max(0.0, until - time.monotonic())))
    return given_up()


def _tell_lost(reason: str) -> None:
    typer.echo(f"note: {reason}; trying again", err=True)


def _as_run(ctx: typer.Context, door: RemoteSession) -> None:
    """Do what ``run`` does with the options that are left, with another machine in the place of the network."""
    group = cast(Any, ctx.find_root().command)
    command = group.commands["run"]
    with command.make_context(ctx.info_name, list(ctx.args), parent=ctx.parent, obj=door) as inner:
        try:
            command.invoke(inner)
        except ComicUpscaleError as error:
            door.note_on(error)
            raise


@remote.command()
def check(
    ctx: typer.Context,
    host: Host,
    port: Port = None,
    identity: Identity = None,
    ssh_config: SshConfig = None,
    accept_new_host_key: AcceptKey = False,
    remote_dir: RemoteDir = "comic-upscale",
    remote_python: RemotePython = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on standard output.")] = False,
) -> None:
    """Look at a machine: GPU, driver, disk, Python, PyTorch, Docker; nothing is changed there."""
    from dataclasses import asdict

    from comic_upscale.console.text import printable
    from comic_upscale.execution.ssh.probe import describe

    ctx.find_root().meta["json"] = as_json
    machine = SshOptions(
        host=host, port=port, identity=identity, ssh_config=ssh_config, accept_new_host_key=accept_new_host_key,
        remote_dir=remote_dir, remote_python=remote_python, patience=0.0,
    ).machine()  # fmt: skip
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

    def command(
        ctx: typer.Context,
        host: Host,
        port: Port = None,
        identity: Identity = None,
        ssh_config: SshConfig = None,
        accept_new_host_key: AcceptKey = False,
        remote_dir: RemoteDir = "comic-upscale",
        remote_python: RemotePython = None,
        container: AnImage = None,
        patience: Patience = 300.0,
    ) -> None:
        reach = SshOptions(
            host=host, port=port, identity=identity, ssh_config=ssh_config, accept_new_host_key=accept_new_host_key,
            remote_dir=remote_dir, remote_python=remote_python, patience=patience, container=container,
        )  # fmt: skip
        _as_run(ctx, RemoteSession(reach, name))

    command.__doc__ = summary
    epilog = f"Example: comic-upscale remote {name} root@203.0.113.7 --input pages/ --scale 2.5"
    remote.command(name, context_settings=AS_RUN, epilog=epilog)(command)


_step("push", "Send the package, the weights and the pages; takes the options of `run`, as `upscale` does.")
_step("run", "Let the run begin there, after `push`, and hang up; takes the same options as `push`.")
_step("pull", "Fetch what is done by now; takes the same options as `push`.")


@remote.command(
    context_settings=AS_RUN,
    epilog="Examples:\n\n"
    "  comic-upscale remote upscale root@203.0.113.7:40022 --input pages/ --scale 2.5\n\n"
    "  comic-upscale remote upscale gpu-box --input v01.cbz --width 2000 --when-done 'vastai destroy instance 123'\n\n"
    "The same command again continues, also with another HOST: pages that are home are not done again.",
)
def upscale(
    ctx: typer.Context,
    host: Host,
    port: Port = None,
    identity: Identity = None,
    ssh_config: SshConfig = None,
    accept_new_host_key: AcceptKey = False,
    remote_dir: RemoteDir = "comic-upscale",
    remote_python: RemotePython = None,
    container: AnImage = None,
    patience: Patience = 300.0,
    poll: Poll = POLL_SECONDS,
    when_done: Annotated[
        str | None,
        typer.Option(
            "--when-done", metavar="COMMAND",
            help="Run this here once every page is home or has failed: the provider's command that destroys the "
            "machine. Where the command ends before that, its last line says that this was not run.",
        ),
    ] = None,
) -> None:  # fmt: skip
    """Send pages, let them be upscaled there, bring each home once it is done; takes the options of `run`."""
    reach = SshOptions(
        host=host, port=port, identity=identity, ssh_config=ssh_config, accept_new_host_key=accept_new_host_key,
        remote_dir=remote_dir, remote_python=remote_python, patience=patience, container=container,
    )  # fmt: skip
    _as_run(ctx, RemoteSession(reach, "upscale", poll=poll, when_done=when_done))


@contextmanager
def _at_job(
    host: str,
    port: int | None,
    identity: Path | None,
    ssh_config: Path | None,
    accept: bool,
    remote_dir: str,
    job: str | None,
) -> Iterator[tuple[Machine, str]]:
    machine = SshOptions(
        host=host, port=port, identity=identity, ssh_config=ssh_config, accept_new_host_key=accept,
        remote_dir=remote_dir, remote_python=None, patience=60.0,
    ).machine()  # fmt: skip
    try:
        yield machine, machine.choose_job(job)
    finally:
        machine.close()


@remote.command()
def status(
    ctx: typer.Context,
    host: Host,
    job: Job = None,
    watch: Annotated[bool, typer.Option("--watch", help="Keep showing until the run ends.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on standard output.")] = False,
    port: Port = None,
    identity: Identity = None,
    ssh_config: SshConfig = None,
    accept_new_host_key: AcceptKey = False,
    remote_dir: RemoteDir = "comic-upscale",
) -> None:
    """Tell how far a job is there."""
    from comic_upscale.console.text import printable, status_lines

    ctx.find_root().meta["json"] = as_json
    with _at_job(host, port, identity, ssh_config, accept_new_host_key, remote_dir, job) as (machine, name):
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
def logs(
    host: Host,
    job: Job = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the run ends.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="How many of the last lines.")] = 50,
    port: Port = None,
    identity: Identity = None,
    ssh_config: SshConfig = None,
    accept_new_host_key: AcceptKey = False,
    remote_dir: RemoteDir = "comic-upscale",
) -> None:
    """Show what the run there says."""
    from comic_upscale.console.text import printable

    rest = b""

    def show(piece: bytes) -> None:
        nonlocal rest
        *whole, rest = (rest + piece).split(b"\n")
        for line in whole:
            typer.echo(printable(line.decode(errors="replace")))

    with _at_job(host, port, identity, ssh_config, accept_new_host_key, remote_dir, job) as (machine, _):
        machine.log(show, lines=lines, follow=follow)
    if rest:
        show(b"\n")


@remote.command()
def stop(
    host: Host,
    job: Job = None,
    port: Port = None,
    identity: Identity = None,
    ssh_config: SshConfig = None,
    accept_new_host_key: AcceptKey = False,
    remote_dir: RemoteDir = "comic-upscale",
) -> None:
    """Stop the run there as Ctrl-C does: what is in hand is finished and recorded. The machine itself goes on."""
    with _at_job(host, port, identity, ssh_config, accept_new_host_key, remote_dir, job) as (machine, name):
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
