"""An SSH connection to a remote machine: it runs commands and streams bytes both ways.

The user decides about host keys: a known key is compared, an unknown key is asked about, and a changed key is
refused. No key is accepted silently.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from comic_upscale.errors import ConnectionLostError, HostKeyError, RemoteError
from comic_upscale.execution.ssh.address import SSH_PORT, Address

if TYPE_CHECKING:
    import paramiko

CONNECT_SECONDS = 20.0
SILENCE_SECONDS = 60.0
"""After this many seconds without a byte in either direction, the connection counts as lost."""

KEEPALIVE_SECONDS = 15
CHUNK_BYTES = 1 << 18
WINDOW_BYTES = 1 << 24
"""Bytes that may be in transit unconfirmed: enough for a fast connection with high latency."""

MOST_ANSWER_BYTES = 1 << 28
"""More than any expected answer; the machine may be hostile or faulty."""

MOST_ERROR_BYTES = 1 << 16
"""How much of the end of a command's standard error is kept."""

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


@dataclass(frozen=True, slots=True)
class Ended:
    """The result of a command on the remote machine."""

    code: int
    """Exit code; -1 if a signal ended the command."""
    output: bytes
    errors: str
    """What it wrote to standard error."""


class Connection:
    """One SSH connection, and those to the jump hosts on the way.

    Args:
        address: of the machine.
        ask: whether to accept an unknown host key.

    Raises:
        ConnectionLostError: the machine cannot be reached.
        HostKeyError: its host key has changed, or the user does not accept it.
        RemoteError: the login failed.
    """

    def __init__(self, address: Address, ask: AskHostKey) -> None:
        self.address = address
        self._clients: list[paramiko.SSHClient] = []
        try:
            for step in (*address.jumps, address):
                self._clients.append(
                    _connect(step, ask, through=self._clients[-1] if self._clients else None)
                )
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the connection; a run on the remote machine continues."""
        for client in reversed(self._clients):
            with contextlib.suppress(Exception):
                client.close()

    def is_alive(self) -> bool:
        """Return False if the connection is known to be lost."""
        transport = self._clients[-1].get_transport()
        return transport is not None and transport.is_active()

    def run(
        self,
        command: str,
        *,
        feed: Iterable[bytes] = (),
        sink: Callable[[bytes], None] | None = None,
        silence: float = SILENCE_SECONDS,
    ) -> Ended:
        """Run a shell command on the remote machine, and wait until it ends.

        Args:
            command: for ``sh``.
            feed: bytes for its standard input, which is then closed.
            sink: takes the output as it arrives; by default the output is collected.
            silence: seconds without a byte in either direction after which the connection counts as lost.

        Raises:
            ConnectionLostError: the connection was lost.
        """
        with _translate_errors(self.address):
            transport = self._clients[-1].get_transport()
            if transport is None or not transport.is_active():
                raise ConnectionLostError(
                    f"the connection to {self.address.name} is lost: run the same command again"
                )
            channel = transport.open_session(window_size=WINDOW_BYTES, timeout=CONNECT_SECONDS)
            try:
                return _run(channel, command, feed, sink, silence)
            finally:
                channel.close()

    def check(self, command: str, *, feed: Iterable[bytes] = (), silence: float = SILENCE_SECONDS) -> bytes:
        """Run a command that must succeed, and return its output.

        Raises:
            RemoteError: the command failed; the message contains its output.
            ConnectionLostError: the connection was lost.
        """
        ended = self.run(command, feed=feed, silence=silence)
        if ended.code:
            message = printable_tail(ended.errors or ended.output.decode(errors="replace"))
            raise RemoteError(
                f"{self.address.name}: {message or f'a command failed with exit code {ended.code}'}"
            )
        return ended.output


def printable_tail(text: str, lines: int = 5) -> str:
    """Return the last lines of untrusted output, without control characters, as one line."""
    kept = [line.strip() for line in text.splitlines() if line.strip()][-lines:]
    return "".join(char if char.isprintable() else "?" for char in "; ".join(kept))[:1000]


def _run(
    channel: paramiko.Channel,
    command: str,
    feed: Iterable[bytes],
    sink: Callable[[bytes], None] | None,
    silence: float,
) -> Ended:
    collected = bytearray()

    def collect(piece: bytes) -> None:
        collected.extend(piece)
        if len(collected) > MOST_ANSWER_BYTES:
            raise RemoteError("the remote machine sent more output than allowed")

    take = sink or collect
    channel.settimeout(silence)
    channel.exec_command(command)
    # A command that ends early closes its input. Its output tells the reason, the failed write does not.
    with contextlib.suppress(OSError):
        for piece in feed:
            channel.sendall(piece)
    channel.shutdown_write()
    errors = bytearray()
    while piece := channel.recv(CHUNK_BYTES):
        take(piece)
        while channel.recv_stderr_ready():
            errors = (errors + channel.recv_stderr(CHUNK_BYTES))[-MOST_ERROR_BYTES:]
    while piece := channel.recv_stderr(CHUNK_BYTES):
        errors = (errors + piece)[-MOST_ERROR_BYTES:]
    if not channel.status_event.wait(silence):
        raise ConnectionLostError("the remote machine did not return the exit code of a command")
    transport = channel.get_transport()
    if channel.exit_status == -1 and not transport.is_active():
        raise ConnectionLostError("the connection was lost while a command ran")
    return Ended(channel.exit_status, bytes(collected), errors.decode(errors="replace"))


@contextlib.contextmanager
def _translate_errors(address: Address) -> Iterator[None]:
    """Turn the errors of a lost connection into `ConnectionLostError`."""
    import paramiko

    try:
        yield
    except RemoteError:
        raise
    except (paramiko.SSHException, EOFError, OSError) as error:
        raise ConnectionLostError(
            f"the connection to {address.name} was lost ({error or type(error).__name__}): run the same command again"
        ) from error


def _connect(address: Address, ask: AskHostKey, *, through: paramiko.SSHClient | None) -> paramiko.SSHClient:
    import paramiko

    logging.getLogger("paramiko").setLevel(logging.CRITICAL)
    client = paramiko.SSHClient()
    try:
        _load_known_hosts(client, address)
        client.set_missing_host_key_policy(_policy(address, ask))
        client.connect(
            address.key_alias or address.host,
            # An alias is looked up without a port; the socket below has the real address.
            port=SSH_PORT if address.key_alias else address.port,
            username=address.user,
            # paramiko accepts a list, but its types do not say so.
            key_filename=cast(Any, [str(path) for path in address.keys if path.is_file()] or None),
            allow_agent=not address.only_these_keys,
            look_for_keys=not address.only_these_keys,
            timeout=CONNECT_SECONDS,
            banner_timeout=CONNECT_SECONDS,
            auth_timeout=CONNECT_SECONDS,
            sock=_socket(address, through),
        )
    except paramiko.BadHostKeyException as error:
        client.close()
        raise _key_changed(address, _describe(address, error.key)) from error
    except paramiko.PasswordRequiredException as error:
        client.close()
        raise RemoteError(
            f"the private key for {address.name} has a passphrase: add it to the agent with `ssh-add`, then run "
            "the same command again"
        ) from error
    except paramiko.AuthenticationException as error:
        client.close()
        raise RemoteError(
            f"{address.name} refused the login of {address.user}: name the user (USER@HOST) and the key (--identity "
            "FILE), and check that `ssh` itself can log in"
        ) from error
    except (paramiko.SSHException, EOFError, OSError) as error:
        client.close()
        raise ConnectionLostError(
            f"{address.name} ({address.host}, port {address.port}) cannot be reached: "
            f"{getattr(error, 'strerror', None) or error or type(error).__name__}"
        ) from error
    except BaseException:
        client.close()
        raise
    transport = client.get_transport()
    assert transport is not None
    transport.set_keepalive(KEEPALIVE_SECONDS)
    _set_tcp_timeout(transport)
    return client


def _socket(address: Address, through: paramiko.SSHClient | None) -> Any:
    """Return the transport of the connection: the previous jump host, a proxy command, or a new socket."""
    import socket

    import paramiko

    if through is not None:
        transport = through.get_transport()
        assert transport is not None
        return transport.open_channel(
            "direct-tcpip", (address.host, address.port), ("127.0.0.1", 0), timeout=CONNECT_SECONDS
        )
    if address.proxy_command is not None:
        return paramiko.ProxyCommand(address.proxy_command)
    # Our own socket, since the client is given the name of the host key, not the address.
    opened = socket.create_connection((address.host, address.port), timeout=CONNECT_SECONDS)
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return opened


def _set_tcp_timeout(transport: paramiko.Transport) -> None:
    """Have the system close the connection when sent data is not confirmed, for example after a laptop slept."""
    import socket

    option = getattr(socket, "TCP_USER_TIMEOUT", None)
    if option is not None and isinstance(transport.sock, socket.socket):
        transport.sock.setsockopt(socket.IPPROTO_TCP, option, int(SILENCE_SECONDS * 1000))


# Host keys


def _load_known_hosts(client: paramiko.SSHClient, address: Address) -> None:
    """Load the known host keys into the client, and skip the lines that it does not understand."""
    from paramiko.hostkeys import HostKeyEntry, InvalidHostKey

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


def _policy(address: Address, ask: AskHostKey) -> paramiko.MissingHostKeyPolicy:
    import paramiko

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


def _key_changed(address: Address, shown: HostKey) -> HostKeyError:
    return HostKeyError(
        f"the host key of {shown.name} differs from the one in {address.known_hosts[0]}: it is now {shown.kind} "
        f"{shown.fingerprint}. Somebody may intercept the connection, or the machine was reinstalled. If you are sure "
        f"that it was reinstalled: ssh-keygen -f {address.known_hosts[0]} -R '{shown.name}'"
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
