"""Host keys: a known key is compared, an unknown key is asked about, and a changed key is refused.

The user decides. No key is accepted silently.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import paramiko
from paramiko.hostkeys import HostKeyEntry, InvalidHostKey

from comic_upscale.errors import HostKeyError
from comic_upscale.execution.ssh.address import Address
from comic_upscale.settings.paths import quoted

SYSTEM_KNOWN_HOSTS = Path("/etc/ssh/ssh_known_hosts")


@dataclass(frozen=True, slots=True)
class HostKey:
    """The host key that a machine presents."""

    name: str
    """The machine, as known-hosts files name it."""
    kind: str
    """``ssh-ed25519`` and the like."""
    fingerprint: str
    """``SHA256:...``, as ``ssh-keygen -l`` shows it."""


AskHostKey = Callable[[HostKey], bool]
"""Asks the user whether to accept an unknown host key."""


def load_known_hosts(client: paramiko.SSHClient, address: Address) -> None:
    """Load the known host keys into the client, and skip the lines that it does not understand."""
    known = client.get_host_keys()
    for line in _known_lines(address):
        entry = None
        # paramiko rejects a whole file for one marked or broken line.
        with contextlib.suppress(InvalidHostKey):
            entry = None if line.startswith("@") else HostKeyEntry.from_line(line)
        if entry is not None and entry.key is not None:
            for name in entry.hostnames or ():
                known.add(name, entry.key.get_name(), entry.key)


def _known_lines(address: Address) -> Iterator[str]:
    for path in (SYSTEM_KNOWN_HOSTS, *address.known_hosts):
        with contextlib.suppress(OSError):
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
                if line.strip() and not line.lstrip().startswith("#"):
                    yield line.strip()


def policy(address: Address, ask: AskHostKey) -> paramiko.MissingHostKeyPolicy:
    """Return paramiko's policy for a machine none of whose keys is known: ask the user."""

    class AskTheUser(paramiko.MissingHostKeyPolicy):
        """Called if no key of this machine is known. A key of another kind than the known one counts as changed."""

        def missing_host_key(self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey) -> None:
            shown = _describe(address, key)
            if _is_revoked(address, key):
                raise HostKeyError(f"{address.name} presents a revoked host key: {shown.fingerprint}")
            if not ask(shown):
                raise HostKeyError(
                    f"the host key of {shown.name} is unknown: {shown.kind} {shown.fingerprint}. Compare it with the "
                    "one that the provider shows; to accept it, answer yes or give --accept-new-host-key"
                )
            _remember(address, hostname, key)

    return AskTheUser()


def _describe(address: Address, key: paramiko.PKey) -> HostKey:
    digest = base64.b64encode(hashlib.sha256(key.asbytes()).digest()).decode().rstrip("=")
    return HostKey(address.key_name, key.get_name(), f"SHA256:{digest}")


def key_changed(address: Address, key: paramiko.PKey) -> HostKeyError:
    """Return the error for a key that differs from the known one."""
    shown = _describe(address, key)
    return HostKeyError(
        f"the host key of {shown.name} differs from the one in {address.known_hosts[0]}: it is now {shown.kind} "
        f"{shown.fingerprint}. Somebody may intercept the connection, or the machine was reinstalled. If you are sure "
        f"that it was reinstalled: ssh-keygen -f {quoted(str(address.known_hosts[0]))} -R {quoted(shown.name)}"
    )


def _is_revoked(address: Address, key: paramiko.PKey) -> bool:
    return any(
        line.startswith("@revoked") and key.get_base64() in line.split() for line in _known_lines(address)
    )


def _remember(address: Address, hostname: str, key: paramiko.PKey) -> None:
    """Add a line to the user's known hosts; the other lines stay unchanged."""
    path = address.known_hosts[0]
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        old = path.read_bytes() if path.is_file() else b""
        with path.open("ab") as file:
            if old and not old.endswith(b"\n"):
                file.write(b"\n")
            file.write(f"{hostname} {key.get_name()} {key.get_base64()}\n".encode())
    except OSError as error:
        raise HostKeyError(
            f"the host key of {address.name} cannot be written to {path}: {error.strerror or error}"
        ) from error
