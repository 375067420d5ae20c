"""Options of the commands ``comic-upscale remote``: how to reach a machine, and what to do there."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from annotated_types import Ge, Le

from comic_upscale.commands.environment import ssh_files
from comic_upscale.commands.rent_environment import rented_ssh_config
from comic_upscale.errors import SettingsError
from comic_upscale.settings.options import Opt, check, definitions
from comic_upscale.settings.paths import expand_user, path_text

if TYPE_CHECKING:
    from comic_upscale.execution.ssh.address import Address
    from comic_upscale.execution.ssh.connection import Connection
    from comic_upscale.execution.ssh.host_keys import HostKey
    from comic_upscale.execution.ssh.machine import Machine


DEFAULT_PATIENCE = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SshOptions:
    """How to reach a machine, and which folder and Python to use there."""

    host: Annotated[
        str, Opt("HOST, USER@HOST or USER@HOST:PORT, or a name from ~/.ssh/config.", on_command_line=False)
    ]
    port: Annotated[int | None, Ge(1), Le(65535), Opt("SSH port, if HOST does not name it.", metavar="N")] = (
        None
    )
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
        float | None, Ge(0),
        Opt(
            "Seconds to keep retrying a lost connection. If you give it, a machine that is still starting is retried, "
            "too.",
            metavar="SECONDS", default_text=f"{DEFAULT_PATIENCE:g}",
        ),
    ] = None  # fmt: skip

    def __post_init__(self) -> None:
        """Check the numbers, and that the named files exist."""
        check(self)
        for flag, path in (("--ssh-config", self.ssh_config), ("--identity", self.identity)):
            # As a missing file has no effect, a mistyped name would go unnoticed.
            if path is not None and not expand_user(path).is_file():
                raise SettingsError(f"{flag} must name a file, but {path_text(path)} is not one")

    def machine(
        self,
        resources: Mapping[str, Any] | None = None,
        *,
        patience: float = DEFAULT_PATIENCE,
        given_up: Callable[[], bool] = lambda: False,
        command: str = "",
    ) -> Machine:
        """Return the machine, not connected yet.

        Args:
            resources: resource settings for the run there, as JSON. The machine uses its own defaults for the rest.
            patience: seconds to retry a lost connection if ``--patience`` is not given.
            given_up: returns True when retrying a lost connection should end.
            command: the same for all machines of one command.
        """
        from comic_upscale.execution.ssh.machine import Machine
        from comic_upscale.retries import RetryPolicy

        return Machine(
            self._connector(),
            RetryPolicy(
                patience if self.patience is None else self.patience,
                lambda seconds: _wait(seconds, given_up),
                _report_loss,
            ),
            base=self.remote_dir,
            python=self.remote_python,
            container=self._image(),
            resources=resources or {},
            may_be_starting=self.patience is not None,
            command=command,
        )

    def connection(self) -> Connection:
        """Return a connection to the machine, not open yet."""
        return self._connector()()

    def address(self) -> Address:
        """Return the address of the machine."""
        from comic_upscale.execution.ssh.address import find_address

        # A machine that `rent` launched has a configuration of its own.
        config = self.ssh_config or rented_ssh_config(self.host)
        return find_address(self.host, ssh_files(config), port=self.port, identity=self.identity)

    def _connector(self) -> Callable[[], Connection]:
        from comic_upscale.execution.ssh.connection import Connection

        address = self.address()
        return lambda: Connection(address, self._ask)

    def _image(self) -> str | Path | None:
        """Return the name of the image, or the file to load it from.

        Raises:
            SettingsError: --container is neither a valid image name nor an existing file.
        """
        from comic_upscale.execution.ssh.container import is_image_name

        if self.container is None:
            return None
        if self.container.endswith((".tar", ".tar.gz", ".tgz")):
            path = expand_user(Path(self.container))
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
    page_timeout: Annotated[
        float,
        Ge(0),
        Opt(
            "Stop the remote run and end if it finishes no page for this long. 0: no limit.", metavar="SECONDS"
        ),
    ] = 1800.0  # fmt: skip
    when_done: Annotated[
        str | None,
        Opt(
            "Run this command on this machine once every page is downloaded or has failed, for example your "
            "provider's command that destroys the machine. If `remote upscale` ends earlier, its last line says that "
            "COMMAND was not run. @FILE runs a shell script: other users see the words of a COMMAND, such as a key.",
            metavar="COMMAND|@FILE",
        ),
    ] = None  # fmt: skip

    def __post_init__(self) -> None:
        """Check the numbers, and that the script exists before hours of work."""
        check(self)
        script = None if self.when_done is None else script_of(self.when_done)
        if script is not None and not script.is_file():
            raise SettingsError(f"--when-done: {script} does not exist")


SSH, UPSCALE = definitions(SshOptions), definitions(UpscaleOptions)


def check_different(machines: Sequence[SshOptions]) -> None:
    """Check that no machine is named twice: two connections would work in one folder.

    Raises:
        SettingsError: one is.
    """
    names: dict[tuple[object, ...], str] = {}
    for machine in machines:
        address = machine.address()
        place = (address.user, address.host, address.port, address.jumps)
        if place in names:
            raise SettingsError(
                f"--also: {machine.host} and {names[place]} are the same machine: name it once"
            )
        names[place] = machine.host


def script_of(when_done: str) -> Path | None:
    """Return the script that ``--when-done @FILE`` names; None for a command."""
    return expand_user(Path(when_done[1:])) if when_done.startswith("@") else None


def _wait(seconds: float, given_up: Callable[[], bool]) -> bool:
    # Called by `Link`, which waits in short pieces.
    time.sleep(seconds)
    return given_up()


def _report_loss(reason: str) -> None:
    typer.echo(f"note: {reason}; retrying", err=True)
