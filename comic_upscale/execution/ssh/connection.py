"""An SSH connection to a remote machine: it runs commands and streams bytes both ways.

The machine is not trusted. Every step has a deadline, and every stream has a limit.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import paramiko

from comic_upscale.errors import ConnectionLostError, RemoteError, UnreachableError
from comic_upscale.execution.ssh.address import SSH_PORT, Address
from comic_upscale.execution.ssh.deadline import Deadline
from comic_upscale.execution.ssh.host_keys import AskHostKey, HostKey, key_changed, load_known_hosts, policy
from comic_upscale.execution.ssh.shell import AfterMarker, in_clean_shell
from comic_upscale.execution.ssh.transport import (
    LimitError,
    break_off,
    limited_transport,
    open_channel,
    overflowed,
)

CONNECT_SECONDS = 20.0
"""How long each step of connecting may take."""
LOGIN_SECONDS = 60.0
"""How long connecting to one machine may take in all, without the time in which the user is asked."""
EXEC_SECONDS = 30.0
"""How long the SSH server may take to start a command."""
COMMAND_SECONDS = 60.0
"""How long a command may take, and how long it may move no data."""
SLOWEST_BYTES = 8192.0
"""Bytes per second. A transfer that is slower for long counts as a lost connection."""

KEEPALIVE_SECONDS = 15
CHUNK_BYTES = 1 << 18
LOOK_SECONDS = 0.5
"""How often standard error is read while standard output is silent."""

MOST_ANSWER_BYTES = 1 << 20
"""More than the output of any command that does not say otherwise."""

MOST_ERROR_BYTES = 1 << 16
"""How much of the end of a command's standard error is kept."""
MOST_STANDARD_ERROR = 1 << 24
"""Bytes on standard error after which a command is broken off: the log of no installation is as long."""


@dataclass(frozen=True, slots=True)
class Ended:
    """The result of a command on the remote machine."""

    code: int
    """Exit code; -1 if a signal ended the command."""
    output: bytes
    errors: str
    """What it wrote to standard error."""


class Connection:
    """One SSH connection, and those to the jump hosts on the way. `open` it before use.

    Args:
        address: of the machine.
        ask: whether to accept an unknown host key.
    """

    def __init__(self, address: Address, ask: AskHostKey) -> None:
        self.address = address
        self._ask = ask
        self._clients: list[paramiko.SSHClient] = []
        self._aborted = threading.Event()

    def open(self) -> Connection:
        """Connect and log in, and return the connection itself.

        Raises:
            ConnectionLostError: the machine cannot be reached.
            HostKeyError: its host key has changed, or the user does not accept it.
            RemoteError: the login failed.
        """
        try:
            for step in (*self.address.jumps, self.address):
                through = self._clients[-1] if self._clients else None
                client = paramiko.SSHClient()
                self._clients.append(client)
                _connect(client, step, self._ask, through=through)
                if self._aborted.is_set():
                    raise ConnectionLostError(f"connecting to {self.address.name} was broken off")
        except BaseException:
            self.close()
            raise
        return self

    def close(self) -> None:
        """Close the connection; a run on the remote machine continues."""
        self.abort()
        for client in reversed(self._clients):
            with contextlib.suppress(Exception):
                client.close()

    def abort(self) -> None:
        """Break the connection, from any thread: `open` and `run` then raise."""
        self._aborted.set()
        for client in reversed(self._clients):
            with contextlib.suppress(Exception):
                break_off(client)

    def is_alive(self) -> bool:
        """Return False if the connection is known to be lost."""
        transport = self._clients[-1].get_transport() if self._clients else None
        return transport is not None and transport.is_active() and not self._aborted.is_set()

    def run(
        self,
        script: str,
        *,
        feed: Iterable[bytes] = (),
        sink: Callable[[bytes], None] | None = None,
        most: int | None = None,
        seconds: float | None = None,
    ) -> Ended:
        """Run a script in a clean shell on the remote machine, and wait until it ends.

        Args:
            script: for ``sh``.
            feed: bytes for its standard input, which is then closed.
            sink: takes the output as it arrives; by default the output is collected.
            most: bytes of output to collect at most. None: `MOST_ANSWER_BYTES`.
            seconds: how long it may take. None: `COMMAND_SECONDS`. Bytes that move in either direction earn as much
                time as they take at `SLOWEST_BYTES`, but it never has more than this from now on.

        Raises:
            ConnectionLostError: the connection was lost, or the command took too long.
            RemoteError: the machine broke the rules of SSH, sent too much, or has no shell.
        """
        command = in_clean_shell(script)
        with _translate_errors(self.address), Deadline(EXEC_SECONDS, self.abort) as deadline:
            try:
                transport = self._clients[-1].get_transport() if self._clients else None
                if transport is None or not transport.is_active():
                    raise ConnectionLostError(
                        f"the connection to {self.address.name} is lost: run the same command again"
                    )
                channel = open_channel(transport, CONNECT_SECONDS)
                try:
                    channel.exec_command(command.line)
                    run = _Run(self.address.name, channel, deadline, seconds, sink, most)
                    return run.to_the_end(command.marker, command.input, feed)
                finally:
                    if overflowed(channel):
                        raise RemoteError(f"{self.address.name} sent more data than it was allowed to")
                    channel.close()
            except (ConnectionLostError, paramiko.SSHException, EOFError, OSError) as error:
                if deadline.expired:
                    raise ConnectionLostError(
                        f"{self.address.name} did not answer in time: run the same command again"
                    ) from error
                raise

    def check(
        self,
        script: str,
        *,
        feed: Iterable[bytes] = (),
        most: int | None = None,
        seconds: float | None = None,
    ) -> bytes:
        """Run a script that must succeed, and return its output; arguments as for `run`.

        Raises:
            RemoteError: the script failed; the message contains its output.
            ConnectionLostError: the connection was lost, or the command took too long.
        """
        ended = self.run(script, feed=feed, most=most, seconds=seconds)
        if ended.code:
            message = printable_tail(ended.errors or ended.output.decode(errors="replace"))
            raise RemoteError(
                f"{self.address.name}: {message or f'a command failed with exit code {ended.code}'}"
            )
        return ended.output


def printable_tail(text: str, lines: int = 5) -> str:
    """Return the last lines of untrusted output, without control characters, as one line."""
    kept = [line.strip() for line in text[-MOST_ERROR_BYTES:].splitlines() if line.strip()][-lines:]
    return "".join(char if char.isprintable() else "?" for char in "; ".join(kept))[:1000]


class _Run:
    """One command on its channel.

    Args:
        name: of the machine, for messages.
        channel: the command has been started.
        deadline: of the command.
        seconds: see `Connection.run`.
        sink: takes the output; None to collect it.
        most: bytes to collect.
    """

    def __init__(
        self,
        name: str,
        channel: paramiko.Channel,
        deadline: Deadline,
        seconds: float | None,
        sink: Callable[[bytes], None] | None,
        most: int | None,
    ) -> None:
        self._name = name
        self._channel = channel
        self._deadline = deadline
        self._seconds = COMMAND_SECONDS if seconds is None else seconds
        self._sink = sink
        self._most = MOST_ANSWER_BYTES if most is None else most
        self._collected = bytearray()
        self._errors = bytearray()
        self._standard_error = 0

    def to_the_end(self, marker: bytes, begin: bytes, feed: Iterable[bytes]) -> Ended:
        """Feed the command, take its output, and return the result."""
        channel = self._channel
        self._deadline.restart(self._seconds)
        output, errors = AfterMarker(marker), AfterMarker(marker)
        # A command that ends early closes its input. Its output tells the reason, the failed write does not.
        with contextlib.suppress(OSError):
            channel.sendall(begin)
            for piece in feed:
                channel.sendall(piece)
                self._earn(piece)
                self._drain_errors(errors)
        channel.shutdown_write()
        channel.settimeout(LOOK_SECONDS)
        while True:
            try:
                piece = channel.recv(CHUNK_BYTES)
            except TimeoutError:
                self._drain_errors(errors)
                continue
            if not piece:
                break
            self._earn(piece)
            if rest := output.take(piece):
                self._take(rest)
            self._drain_errors(errors)
        code = self._exit_code(errors)
        if not output.found:
            said = printable_tail((bytes(errors.before) + bytes(output.before)).decode(errors="replace"))
            raise RemoteError(f"no POSIX shell answers on {self._name}: {said or 'no message'}")
        return Ended(code, bytes(self._collected), self._errors.decode(errors="replace"))

    def _exit_code(self, errors: AfterMarker) -> int:
        channel = self._channel
        while not channel.status_event.wait(LOOK_SECONDS):
            self._drain_errors(errors)
        self._drain_errors(errors)
        if channel.exit_status == -1 and isinstance(
            broken := channel.get_transport().get_exception(), LimitError
        ):
            raise broken
        if self._deadline.expired or (channel.exit_status == -1 and not channel.get_transport().is_active()):
            raise ConnectionLostError(
                f"the connection to {self._name} was lost while a command ran: run the same command again"
            )
        return channel.exit_status

    def _take(self, piece: bytes) -> None:
        if self._sink is not None:
            self._sink(piece)
            return
        self._collected += piece
        if len(self._collected) > self._most:
            raise RemoteError(f"{self._name} sent more output than expected")

    def _drain_errors(self, errors: AfterMarker) -> None:
        """Take what has come on standard error. It earns no time."""
        while self._channel.recv_stderr_ready():
            piece = self._channel.recv_stderr(CHUNK_BYTES)
            self._standard_error += len(piece)
            if self._standard_error > MOST_STANDARD_ERROR:
                raise RemoteError(f"{self._name} sent more error messages than expected")
            self._errors = (self._errors + errors.take(piece))[-MOST_ERROR_BYTES:]

    def _earn(self, piece: bytes) -> None:
        self._deadline.extend(len(piece) / SLOWEST_BYTES, self._seconds)


@contextlib.contextmanager
def _translate_errors(address: Address) -> Iterator[None]:
    """Turn the errors of a lost connection into `ConnectionLostError`, and broken rules into `RemoteError`."""
    try:
        yield
    except RemoteError:
        raise
    except LimitError as error:
        raise RemoteError(f"{address.name} breaks the rules of SSH: {error}") from error
    except (paramiko.SSHException, EOFError, OSError) as error:
        raise ConnectionLostError(
            f"the connection to {address.name} was lost ({_describe(error)}): run the same command again"
        ) from error


def _describe(error: BaseException) -> str:
    """Return the text of an error, which may quote the remote machine."""
    return printable_tail(str(getattr(error, "strerror", None) or error)) or type(error).__name__


def _connect(
    client: paramiko.SSHClient, address: Address, ask: AskHostKey, *, through: paramiko.SSHClient | None
) -> None:
    """Connect a client, and log in."""
    logging.getLogger("paramiko").setLevel(logging.CRITICAL)
    with Deadline(LOGIN_SECONDS, lambda: break_off(client)) as deadline:

        def ask_in_peace(key: HostKey) -> bool:
            with deadline.paused():
                return ask(key)

        try:
            _log_in(client, address, ask_in_peace, through)
        except RemoteError:
            raise
        except paramiko.BadHostKeyException as error:
            raise key_changed(address, error.key) from error
        except paramiko.PasswordRequiredException as error:
            raise RemoteError(
                f"the private key for {address.name} has a passphrase: add it to the agent with `ssh-add`, then run "
                "the same command again"
            ) from error
        except paramiko.AuthenticationException as error:
            raise RemoteError(
                f"{address.name} refused the login of {address.user}: name the user (USER@HOST) and the key "
                "(--identity FILE), and check that `ssh` itself can log in"
            ) from error
        except LimitError as error:
            raise RemoteError(f"{address.name} breaks the rules of SSH: {error}") from error
        except (paramiko.SSHException, EOFError, OSError) as error:
            why = "it did not answer in time" if deadline.expired else _describe(error)
            kind = UnreachableError if _nothing_answers(error) else ConnectionLostError
            raise kind(
                f"{address.name} ({address.host}, port {address.port}) cannot be reached: {why}"
            ) from error
    transport = client.get_transport()
    assert transport is not None
    transport.set_keepalive(KEEPALIVE_SECONDS)
    _set_tcp_timeout(transport)


def _nothing_answers(error: Exception) -> bool:
    """Return whether an error of connecting says that nothing is there, so that a wrong address is likely."""
    import socket

    if isinstance(error, paramiko.ChannelException):
        # The jump host could not connect, or does not forward.
        return error.code in (1, 2)
    return isinstance(error, (ConnectionRefusedError, socket.gaierror)) or (
        isinstance(error, OSError) and error.errno in (errno.EHOSTUNREACH, errno.ENETUNREACH)
    )


def _log_in(
    client: paramiko.SSHClient, address: Address, ask: AskHostKey, through: paramiko.SSHClient | None
) -> None:
    load_known_hosts(client, address)
    client.set_missing_host_key_policy(policy(address, ask))
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
        transport_factory=cast(Any, limited_transport),
    )


def _socket(address: Address, through: paramiko.SSHClient | None) -> Any:
    """Return the transport of the connection: the previous jump host, a proxy command, or a new socket."""
    import socket

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
        transport.sock.setsockopt(socket.IPPROTO_TCP, option, int(COMMAND_SECONDS * 1000))
