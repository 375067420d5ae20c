"""A machine that lies: a real SSH server on the loopback, whose answers are written by a test.

It speaks SSH as it should, or not, and gives every command to a function of the test. What we send as a command is one
line for the login shell; the script comes on the standard input, and is what a test sees.
"""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import paramiko

from comic_upscale.execution.ssh.address import Address
from comic_upscale.execution.ssh.connection import Connection
from comic_upscale.execution.ssh.host_keys import HostKey
from comic_upscale.execution.ssh.machine import Machine
from comic_upscale.retries import RetryPolicy

_MARKER = re.compile(rb"printf '%s\\n' (comic-upscale-[0-9a-f]{32})\n")
_COUNT = re.compile(r"count=(\d+)")


class Call:
    """A command that the liar was asked to run.

    Args:
        line: for the login shell.
        channel: to the client.
        gone: set when the test is over.
    """

    def __init__(self, line: str, channel: paramiko.Channel, gone: threading.Event) -> None:
        self.line = line
        self.channel = channel
        self.gone = gone
        self.script = b""

    def read_script(self) -> str:
        """Read the script, as the clean shell does."""
        match = _COUNT.search(self.line)
        assert match is not None, self.line
        while len(self.script) < int(match[1]):
            piece = self.channel.recv(int(match[1]) - len(self.script))
            if not piece:
                break
            self.script += piece
        return self.script.decode()

    @property
    def marker(self) -> bytes:
        """What must come before the answer."""
        match = _MARKER.search(self.script)
        assert match is not None, self.script
        return match[1] + b"\n"

    def say(self, output: bytes, *, errors: bytes = b"", code: int = 0) -> None:
        """Answer as an honest machine does."""
        with contextlib.suppress(OSError):
            self.channel.sendall(self.marker + output)
            self.channel.sendall_stderr(self.marker + errors)
            self.end(code)

    def end(self, code: int = 0) -> None:
        """End the command."""
        with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
            self.channel.send_exit_status(code)
            self.channel.close()

    def run(self) -> tuple[bytes, bytes, int]:
        """Run the command really; returns output, errors and exit code."""
        ended = subprocess.run(
            ["/bin/sh", "-c", self.line], input=self.script + self.rest(), capture_output=True, check=False
        )
        return ended.stdout, ended.stderr, ended.returncode

    def rest(self) -> bytes:
        """Read what was sent to the script, to its end."""
        data = bytearray()
        with contextlib.suppress(OSError):
            while piece := self.channel.recv(1 << 18):
                data += piece
        return bytes(data)

    def pass_on(self) -> None:
        """Answer honestly, by running the command."""
        output, errors, code = self.run()
        with contextlib.suppress(OSError):
            self.channel.sendall(output)
            self.channel.sendall_stderr(errors)
            self.end(code)

    def flood(self, piece: bytes, *, stderr: bool = False) -> None:
        """Send without end, and without regard to the window."""
        message = paramiko.Message()
        message.add_byte(b"\x5f" if stderr else b"\x5e")
        message.add_int(self.channel.remote_chanid)
        if stderr:
            message.add_int(1)
        message.add_string(piece)
        data = message.asbytes()
        transport = self.channel.get_transport()
        with contextlib.suppress(Exception):
            while not self.gone.is_set() and transport.is_active():
                copy = paramiko.Message(data)
                transport._send_message(copy)  # type: ignore[attr-defined]

    def hang(self) -> None:
        """Say nothing more."""
        self.gone.wait()


Lie = Callable[[Call], None]


class _Server(paramiko.ServerInterface):
    def __init__(self, liar: Liar) -> None:
        self._liar = liar

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        return paramiko.common.AUTH_SUCCESSFUL

    def get_allowed_auths(self, username: str) -> str:
        return "publickey"

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return paramiko.common.OPEN_SUCCEEDED

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        call = Call(command.decode(), channel, self._liar.gone)
        self._liar.lines.append(call.line)
        if self._liar.never_starts:
            # This blocks the server's own thread, so the request is never answered.
            self._liar.gone.wait()
            return False
        threading.Thread(target=self._liar.answer, args=(call,), daemon=True).start()
        return True


class Liar:
    """The server; a context manager.

    Args:
        folder: for its key and that of its user.
        lie: answers each command, on a thread of its own.
        never_starts: whether requests to run a command are never answered.
        greeting: what it sends in place of its identification string; None to speak SSH.
    """

    def __init__(
        self, folder: Path, lie: Lie, *, never_starts: bool = False, greeting: bytes | None = None
    ) -> None:
        self._lie = lie
        self.never_starts = never_starts
        self._greeting = greeting
        self.gone = threading.Event()
        self.lines: list[str] = []
        """The lines for the login shell."""
        self._key = paramiko.Ed25519Key.from_private_key_file(str(_make_key(folder / "liar_key")))
        self._user_key = _make_key(folder / "liar_user")
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._socket.settimeout(0.1)
        self.port: int = self._socket.getsockname()[1]
        self._folder = folder
        self._transports: list[paramiko.Transport] = []
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Liar:
        public = self._key.get_base64()
        (self._folder / "known_hosts").write_text(f"[127.0.0.1]:{self.port} ssh-ed25519 {public}\n")
        (self._folder / "ssh_config").write_text(
            f"Host liar.example\n  HostName 127.0.0.1\n  Port {self.port}\n  IdentityFile {self._user_key}\n"
            f"  IdentitiesOnly yes\n  UserKnownHostsFile {self._folder}/known_hosts\n"
        )
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.gone.set()
        for transport in self._transports:
            transport.close()
        self._socket.close()
        self._thread.join(10)

    def options(self) -> list[str]:
        """The options of the command line that lead to it."""
        return ["liar.example", "--ssh-config", str(self._folder / "ssh_config")]

    def address(self) -> Address:
        return Address(
            name="liar.example", host="127.0.0.1", port=self.port, user="root", keys=(self._user_key,),
            only_these_keys=True, known_hosts=(self._folder / "known_hosts",),
        )  # fmt: skip

    def connection(self) -> Connection:
        """A connection to it, not open yet."""
        return Connection(self.address(), _never)

    def machine(self, base: str = "comic-upscale", *, patience: float = 0.0) -> Machine:
        retry = RetryPolicy(patience, lambda seconds: time.sleep(seconds) is not None, lambda reason: None)
        return Machine(self.connection, retry, base=base)

    def answer(self, call: Call) -> None:
        # The client may have gone.
        with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
            call.read_script()
            self._lie(call)

    def _serve(self) -> None:
        while not self.gone.is_set():
            try:
                client, _ = self._socket.accept()
            except OSError:
                continue
            if self._greeting is not None:
                threading.Thread(target=self._greet, args=(client,), daemon=True).start()
                continue
            transport = paramiko.Transport(client)
            transport.add_server_key(self._key)
            self._transports.append(transport)
            with contextlib.suppress(Exception):
                transport.start_server(server=_Server(self))

    def _greet(self, client: socket.socket) -> None:
        assert self._greeting is not None
        with contextlib.suppress(OSError):
            client.sendall(self._greeting)
            self.gone.wait(30)
        client.close()


def _make_key(path: Path) -> Path:
    from tests.execution.ssh.conftest import make_key

    make_key(path)
    return path


def _never(_: HostKey) -> bool:
    raise AssertionError("nobody should be asked")


def peak_memory() -> int:
    """The most memory that this process had so far, in bytes."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
