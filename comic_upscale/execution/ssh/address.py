"""Where another machine is and how it is reached: what the user said, completed by their OpenSSH configuration."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from comic_upscale.errors import SettingsError

if TYPE_CHECKING:
    from paramiko.config import SSHConfig, SSHConfigDict

SSH_PORT = 22
MOST_JUMPS = 8

_TARGET = re.compile(
    r"(?:(?P<user>[^@\s]+)@)?"
    r"(?:\[(?P<six>[^\]\s]+)\]|(?P<host>[^:@\s]+|[0-9a-fA-F:]+))"
    r"(?::(?P<port>\d{1,5}))?"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SshFiles:
    """The user's files of OpenSSH, and their name here."""

    user: str
    """Who logs in where nothing else is said."""
    config: Path
    """``~/.ssh/config``, or the file that stands in its place; need not be there."""
    known_hosts: Path
    """Where new host keys are written, unless the configuration names another file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """One machine, and the way to it."""

    name: str
    """What the user called it."""
    host: str
    port: int = SSH_PORT
    user: str
    keys: tuple[Path, ...] = ()
    """Private keys to try, besides the agent's and the usual ones."""
    only_these_keys: bool = False
    """Whether the agent's and the usual keys are left alone (``IdentitiesOnly``)."""
    known_hosts: tuple[Path, ...]
    """Files of host keys; new ones are written to the first."""
    key_alias: str | None = None
    """The name that the host key is known under (``HostKeyAlias``)."""
    jumps: tuple[Address, ...] = ()
    """Machines on the way, the nearest first (``ProxyJump``)."""
    proxy_command: str | None = None

    @property
    def key_name(self) -> str:
        """How a file of known hosts names this machine: ``host``, or ``[host]:port``."""
        if self.key_alias is not None:
            return self.key_alias
        return self.host if self.port == SSH_PORT else f"[{self.host}]:{self.port}"


def find_address(
    target: str, files: SshFiles, *, port: int | None = None, identity: Path | None = None
) -> Address:
    """Complete what the user said of a machine by their OpenSSH configuration.

    Args:
        target: ``host``, ``user@host``, ``user@host:port``, ``ssh://user@host:port``; a host may be a name of
            the configuration.
        files: the user's.
        port: overrides the others.
        identity: a private key to try first.

    Raises:
        SettingsError: the target or the configuration cannot be read.
    """
    address = _look_up(target, files, jumped=0)
    if port is not None:
        address = replace(address, port=port)
    if identity is not None:
        address = replace(address, keys=(identity.expanduser(), *address.keys))
    return address


def _look_up(target: str, files: SshFiles, *, jumped: int) -> Address:
    from paramiko.ssh_exception import ConfigParseError

    user, name, port = _split(target)
    try:
        found = _configuration(files.config).lookup(name)
    except ConfigParseError as error:
        raise SettingsError(f"{files.config} cannot be read: {error}") from error
    known = tuple(Path(path).expanduser() for path in found.get("userknownhostsfile", "").split())
    return Address(
        name=target,
        host=found.get("hostname", name),
        port=port or int(found.get("port", SSH_PORT)),
        user=user or found.get("user", files.user),
        keys=tuple(Path(path).expanduser() for path in found.get("identityfile", [])),
        only_these_keys=found.get("identitiesonly", "no").lower() == "yes",
        known_hosts=known or (files.known_hosts,),
        key_alias=found.get("hostkeyalias"),
        jumps=_jumps(found, files, jumped),
        proxy_command=_proxy_command(found),
    )


def _configuration(path: Path) -> SSHConfig:
    from paramiko.config import SSHConfig

    try:
        return SSHConfig.from_path(str(path)) if path.is_file() else SSHConfig()
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror or error}") from error


def _jumps(found: SSHConfigDict, files: SshFiles, jumped: int) -> tuple[Address, ...]:
    names = found.get("proxyjump", "none")
    if names.lower() == "none":
        return ()
    if jumped >= MOST_JUMPS:
        raise SettingsError(
            f"{files.config} leads through more than {MOST_JUMPS} jump hosts: is there a circle?"
        )
    way: list[Address] = []
    for name in names.split(","):
        jump = _look_up(name.strip(), files, jumped=jumped + 1)
        # As OpenSSH does: the way to the first one counts, the next are reached through those before.
        way += [*jump.jumps, replace(jump, jumps=())] if not way else [replace(jump, jumps=())]
    return tuple(way)


def _proxy_command(found: SSHConfigDict) -> str | None:
    command = found.get("proxycommand")
    return None if command is None or command.lower() == "none" else str(command)


def _split(target: str) -> tuple[str | None, str, int | None]:
    """Split ``user@host:port`` into its parts."""
    text = target.removeprefix("ssh://").rstrip("/")
    match = _TARGET.fullmatch(text)
    # What begins with a dash would be an option to the programs that names are given to.
    if match is None or text.startswith("-"):
        raise SettingsError(f"{target!r} names no machine: say HOST, USER@HOST or USER@HOST:PORT")
    port = match["port"]
    return match["user"], match["six"] or match["host"], None if port is None else int(port)
