"""A line to another machine: one SSH connection, commands run over it, bytes streamed both ways.

Host keys are the user's affair: a key that is known is compared, one that is unknown is asked about, and one
that has changed is refused. Nothing is ever waved through.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from comic_upscale.errors import ConnectionLostError, HostKeyError, RemoteError
from comic_upscale.execution.ssh.address import SSH_PORT, Address

if TYPE_CHECKING:
    import paramiko

T = TypeVar("T")

CONNECT_SECONDS = 20.0
SILENCE_SECONDS = 60.0
"""A command that says nothing for so long, and nothing goes to it, is taken for lost."""

KEEPALIVE_SECONDS = 15
CHUNK_BYTES = 1 << 18
WINDOW_BYTES = 1 << 24
"""What may be on the way to us unconfirmed: enough for a fast line with a long delay."""

MOST_ANSWER_BYTES = 1 << 28
"""More than any answer that is waited for; a machine may be hostile, or mad."""

MOST_COMPLAINT_BYTES = 1 << 16
"""How much of what a command complains of is kept: the end."""

SYSTEM_KNOWN_HOSTS = Path("/etc/ssh/ssh_known_hosts")


@dataclass(frozen=True, slots=True)
class HostKey:
    """A key that a machine shows."""

    name: str
    """The machine, as files of known hosts name it."""
    kind: str
    """``ssh-ed25519`` and the like."""
    fingerprint: str
    """``SHA256:...``, as ``ssh-keygen -l`` shows it."""


AskHostKey = Callable[[HostKey], bool]
"""Asks the user whether an unknown key is the machine's own."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command on the other machine ended."""

    code: int
    """Its exit code; -1 where a signal ended it."""
    output: bytes
    errors: str
    """What it wrote to standard error."""


class Connection:
    """One SSH connection, and those to the jump hosts on the way.

    Args:
        address: of the machine.
        ask: about host keys that are unknown.

    Raises:
        ConnectionLostError: the machine cannot be reached.
        HostKeyError: its key is another one than before, or the user does not know it.
        RemoteError: it does not let the user in.
    """

    def __init__(self, address: Address, ask: AskHostKey) -> None:
        self.address = address
        self._clients: list[paramiko.SSHClient] = []
        try:
            for step in (*address.jumps, address):
                self._clients.append(
                    _connected(step, ask, through=self._clients[-1] if self._clients else None)
                )
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the connection; what was started on the other machine goes on."""
        for client in reversed(self._clients):
            with contextlib.suppress(Exception):
                client.close()

    def is_alive(self) -> bool:
        """Whether the line is not known to be broken."""
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
        """Run a command of the other machine's shell, and wait for its end.

        Args:
            command: for ``sh``.
            feed: goes to its standard input, which then ends.
            sink: takes its output as it comes; left out, the output is collected.
            silence: seconds without a byte in either direction after which the line counts as lost.

        Raises:
            ConnectionLostError: the line broke.
        """
        with _lost_when_broken(self.address):
            transport = self._clients[-1].get_transport()
            if transport is None or not transport.is_active():
                raise ConnectionLostError(
                    f"the connection to {self.address.name} is gone: run the same command again"
                )
            channel = transport.open_session(window_size=WINDOW_BYTES, timeout=CONNECT_SECONDS)
            try:
                return _run(channel, command, feed, sink, silence)
            finally:
                channel.close()

    def check(self, command: str, *, feed: Iterable[bytes] = (), silence: float = SILENCE_SECONDS) -> bytes:
        """Run a command that must succeed, and return its output.

        Raises:
            RemoteError: it failed; the message holds what it said.
            ConnectionLostError: the line broke.
        """
        ended = self.run(command, feed=feed, silence=silence)
        if ended.code:
            said = printable_tail(ended.errors or ended.output.decode(errors="replace"))
            raise RemoteError(
                f"{self.address.name}: {said or f'a command failed with exit code {ended.code}'}"
            )
        return ended.output


def printable_tail(text: str, lines: int = 5) -> str:
    """The last lines of what a stranger said, without control characters, on one line."""
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
            raise RemoteError("the other machine answers without end")

    take = sink or collect
    channel.settimeout(silence)
    channel.exec_command(command)
    # A command that ends early closes its input: what it said tells why, not the failed write.
    with contextlib.suppress(OSError):
        for piece in feed:
            channel.sendall(piece)
    channel.shutdown_write()
    errors = bytearray()
    while piece := channel.recv(CHUNK_BYTES):
        take(piece)
        while channel.recv_stderr_ready():
            errors = (errors + channel.recv_stderr(CHUNK_BYTES))[-MOST_COMPLAINT_BYTES:]
    while piece := channel.recv_stderr(CHUNK_BYTES):
        errors = (errors + piece)[-MOST_COMPLAINT_BYTES:]
    if not channel.status_event.wait(silence):
        raise ConnectionLostError("the other machine does not say how a command ended")
    transport = channel.get_transport()
    if channel.exit_status == -1 and not transport.is_active():
        raise ConnectionLostError("the connection broke while a command ran")
    return Ended(channel.exit_status, bytes(collected), errors.decode(errors="replace"))


@contextlib.contextmanager
def _lost_when_broken(address: Address) -> Iterator[None]:
    """Turn what a broken line raises into one error."""
    import paramiko

    try:
        yield
    except RemoteError:
        raise
    except (paramiko.SSHException, EOFError, OSError) as error:
        raise ConnectionLostError(
            f"the connection to {address.name} broke ({error or type(error).__name__}): run the same command again"
        ) from error


def _connected(
    address: Address, ask: AskHostKey, *, through: paramiko.SSHClient | None
) -> paramiko.SSHClient:
    import paramiko

    logging.getLogger("paramiko").setLevel(logging.CRITICAL)
    client = paramiko.SSHClient()
    try:
        _load_known_hosts(client, address)
        client.set_missing_host_key_policy(_policy(address, ask))
        client.connect(
            address.key_alias or address.host,
            # An alias is looked for without a port; where to go, the socket knows.
            port=SSH_PORT if address.key_alias else address.port,
            username=address.user,
            # Several are allowed, which the types do not know.
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
        raise _changed(address, _described(address, error.key)) from error
    except paramiko.PasswordRequiredException as error:
        client.close()
        raise RemoteError(
            f"the private key for {address.name} has a passphrase: add it to the agent with `ssh-add`, then run "
            "the same command again"
        ) from error
    except paramiko.AuthenticationException as error:
        client.close()
        raise RemoteError(
            f"{address.name} does not let {address.user} in: name the user (USER@HOST) and the key (--identity "
            "FILE), and see that `ssh` itself gets in"
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
    _notice_silence(transport)
    return client


def _socket(address: Address, through: paramiko.SSHClient | None) -> Any:
    """What the connection goes over: the jump host before, a command of the user's, or a socket of its own."""
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
    # Of our own, since the name given to the client is the one that the key is known under.
    opened = socket.create_connection((address.host, address.port), timeout=CONNECT_SECONDS)
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return opened


def _notice_silence(transport: paramiko.Transport) -> None:
    """Let the system give the line up where nothing that is sent is confirmed: a laptop that was asleep."""
    import socket

    option = getattr(socket, "TCP_USER_TIMEOUT", None)
    if option is not None and isinstance(transport.sock, socket.socket):
        transport.sock.setsockopt(socket.IPPROTO_TCP, option, int(SILENCE_SECONDS * 1000))


# Host keys


def _load_known_hosts(client: paramiko.SSHClient, address: Address) -> None:
    """Teach the client the keys that are known; lines that it does not understand are passed over one by one."""
    from paramiko.hostkeys import HostKeyEntry, InvalidHostKey

    known = client.get_host_keys()
    for line in _known_lines(address):
        entry = None
        # Whole files fail in paramiko over one marked or broken line.
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
        """Called where no key of this machine is known at all; a key of another kind than the known one has changed."""

        def missing_host_key(self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey) -> None:
            shown = _described(address, key)
            if _is_revoked(address, key):
                raise HostKeyError(
                    f"{address.name} shows a key that is marked as revoked: {shown.fingerprint}"
                )
            if not ask(shown):
                raise HostKeyError(
                    f"the key of {shown.name} is unknown: {shown.kind} {shown.fingerprint}. Compare it with what "
                    "the provider shows; to accept it, answer yes or give --accept-new-host-key"
                )
            _remember(address, hostname, key)

    return AskTheUser()


def _described(address: Address, key: paramiko.PKey) -> HostKey:
    digest = base64.b64encode(hashlib.sha256(key.asbytes()).digest()).decode().rstrip("=")
    return HostKey(address.key_name, key.get_name(), f"SHA256:{digest}")


def _changed(address: Address, shown: HostKey) -> HostKeyError:
    return HostKeyError(
        f"the key of {shown.name} is not the one that {address.known_hosts[0]} has: it shows {shown.kind} "
        f"{shown.fingerprint}. Somebody may sit in between, or the machine was set up anew. If you are sure of the "
        f"latter: ssh-keygen -f {address.known_hosts[0]} -R '{shown.name}'"
    )


def _is_revoked(address: Address, key: paramiko.PKey) -> bool:
    return any(
        line.startswith("@revoked") and key.get_base64() in line.split() for line in _known_lines(address)
    )


def _remember(address: Address, hostname: str, key: paramiko.PKey) -> None:
    """Add a line to the user's known hosts; the others are left as they are."""
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
            f"the key of {address.name} cannot be written to {path}: {error.strerror or error}"
        ) from error


def patiently(
    try_once: Callable[[], T],
    *,
    seconds: float,
    wait: Callable[[float], bool],
    on_lost: Callable[[str], None],
) -> T:
    """Return what a function returns, trying again while the line is lost: after 1, 2, 4, ... 30 seconds.

    Args:
        try_once: may raise `ConnectionLostError`.
        seconds: after which the last such error is final.
        wait: waits so many seconds; True where nobody wants to wait any longer.
        on_lost: is told of each loss, in words.
    """
    until = time.monotonic() + seconds
    pause = 1.0
    while True:
        try:
            return try_once()
        except ConnectionLostError as error:
            if time.monotonic() + pause > until:
                raise
            on_lost(str(error))
            if wait(pause):
                raise
            pause = min(2 * pause, 30.0)
