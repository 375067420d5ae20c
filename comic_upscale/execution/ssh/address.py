"""The address of a remote machine: the user's target, completed by their OpenSSH configuration."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from comic_upscale.errors import SettingsError
from comic_upscale.settings.paths import expand_user

if TYPE_CHECKING:
    from paramiko.config import SSHConfig, SSHConfigDict

SSH_PORT = 22
_LAST_PORT = 65535
MOST_JUMPS = 8

_TARGET = re.compile(
    r"(?:(?P<user>[^@\s]+)@)?"
    r"(?:\[(?P<six>[^\]\s]+)\]|(?P<host>[^:@\s]+|[0-9a-fA-F:]+))"
    r"(?::(?P<port>\d{1,5}))?"
)
_KNOWN_HOSTS = re.compile(
    r"^(?P<key>[ \t]*UserKnownHostsFile(?:[ \t]*=[ \t]*|[ \t]+))(?P<files>\S.*?)[ \t]*$",
    re.IGNORECASE | re.MULTILINE,
)
_WORD = re.compile(r'"([^"]*)"|([^\s"]+)')


@dataclass(frozen=True, slots=True, kw_only=True)
class SshFiles:
    """The OpenSSH files of the user, and their local user name."""

    user: str
    """The default user for logging in."""
    config: Path
    """``~/.ssh/config``, or its replacement; the file need not exist."""
    known_hosts: Path
    """Where new host keys are written, unless the configuration names another file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """One machine, and how to reach it."""

    name: str
    """The name that the user gave it."""
    host: str
    port: int = SSH_PORT
    user: str
    keys: tuple[Path, ...] = ()
    """Private keys to try, besides those of the agent and the default ones."""
    only_these_keys: bool = False
    """Whether the keys of the agent and the default keys are not used (``IdentitiesOnly``)."""
    known_hosts: tuple[Path, ...]
    """Known-hosts files; new keys are written to the first."""
    key_alias: str | None = None
    """The name that the host key is known under (``HostKeyAlias``)."""
    jumps: tuple[Address, ...] = ()
    """Jump hosts, the nearest first (``ProxyJump``)."""
    proxy_command: str | None = None

    @property
    def key_name(self) -> str:
        """The name of this machine in a known-hosts file: ``host``, or ``[host]:port``."""
        if self.key_alias is not None:
            return self.key_alias
        return self.host if self.port == SSH_PORT else f"[{self.host}]:{self.port}"


def find_address(
    target: str, files: SshFiles, *, port: int | None = None, identity: Path | None = None
) -> Address:
    """Return the address of a machine: the user's target, completed by their OpenSSH configuration.

    Args:
        target: ``host``, ``user@host``, ``user@host:port``, ``ssh://user@host:port``; a host may be a name from
            the configuration.
        files: the user's.
        port: overrides the port of the target and of the configuration.
        identity: a private key to try first.

    Raises:
        SettingsError: the target or the configuration cannot be read.
    """
    address = _look_up(target, files, jumped=0)
    if port is not None:
        address = replace(address, port=port)
    if identity is not None:
        address = replace(address, keys=(expand_user(identity), *address.keys))
    return address


def _look_up(target: str, files: SshFiles, *, jumped: int) -> Address:
    from paramiko.ssh_exception import ConfigParseError

    user, name, port = _split(target)
    try:
        found = _configuration(files.config).lookup(name)
    except ConfigParseError as error:
        raise SettingsError(f"{files.config} cannot be read: {error}") from error
    known = tuple(expand_user(Path(path)) for path in _words(found.get("userknownhostsfile", "")))
    return Address(
        name=target,
        host=found.get("hostname", name),
        port=port or _port(found.get("port", str(SSH_PORT)), f"{files.config}, for {name},"),
        user=user or found.get("user", files.user),
        keys=tuple(expand_user(Path(path)) for path in found.get("identityfile", [])),
        only_these_keys=found.get("identitiesonly", "no").lower() == "yes",
        known_hosts=known or (files.known_hosts,),
        key_alias=found.get("hostkeyalias"),
        jumps=_jumps(found, files, jumped),
        proxy_command=_proxy_command(found),
    )


def _configuration(path: Path) -> SSHConfig:
    from paramiko.config import SSHConfig

    try:
        text = path.read_text(encoding="utf-8-sig", errors="surrogateescape") if path.is_file() else ""
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror or error}") from error
    # paramiko removes the outer quotes of a value, and here they say where a path ends. So it gets quotes of its own.
    return SSHConfig.from_text(_KNOWN_HOSTS.sub(r'\g<key>"\g<files>"', text))


def _words(text: str) -> list[str]:
    """Return the words of a value. One in double quotes may contain spaces. A backslash is part of a Windows path."""
    return [quoted or plain for quoted, plain in _WORD.findall(text) if quoted or plain]


def _jumps(found: SSHConfigDict, files: SshFiles, jumped: int) -> tuple[Address, ...]:
    names = found.get("proxyjump", "none")
    if names.lower() == "none":
        return ()
    if jumped >= MOST_JUMPS:
        raise SettingsError(
            f"{files.config} leads through more than {MOST_JUMPS} jump hosts: check ProxyJump for a loop"
        )
    hosts: list[Address] = []
    for name in names.split(","):
        jump = _look_up(name.strip(), files, jumped=jumped + 1)
        # Like OpenSSH: only the first host may need jumps of its own, the next are reached through those before.
        hosts += [*jump.jumps, replace(jump, jumps=())] if not hosts else [replace(jump, jumps=())]
    return tuple(hosts)


def _proxy_command(found: SSHConfigDict) -> str | None:
    command = found.get("proxycommand")
    return None if command is None or command.lower() == "none" else str(command)


def _split(target: str) -> tuple[str | None, str, int | None]:
    """Split ``user@host:port`` into its parts."""
    text = target.removeprefix("ssh://").rstrip("/")
    match = _TARGET.fullmatch(text)
    # A leading dash would turn the name into an option of the programs that receive it.
    if match is None or text.startswith("-"):
        raise SettingsError(f"{target!r} is not a machine: give HOST, USER@HOST or USER@HOST:PORT")
    port = match["port"]
    return match["user"], match["six"] or match["host"], None if port is None else _port(port, repr(target))


def _port(text: str, origin: str) -> int:
    """Return the number of a port.

    Raises:
        SettingsError: there is no such port. Some systems would quietly connect to another one.
    """
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= _LAST_PORT):
        raise SettingsError(
            f"{origin} has no valid port: it must be between 1 and {_LAST_PORT}, not {text[:20]!r}"
        )
    return int(text)
