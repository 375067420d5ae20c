"""A rented machine: a real SSH server on this one, with keys and folders of its own."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from typer.testing import CliRunner

from comic_upscale.cli import app
from comic_upscale.execution.ssh import scripts
from comic_upscale.execution.ssh.install import Package
from comic_upscale.version import __version__
from tests.programs import NO_ACCOUNT, has_account


@dataclass
class Box:
    """The rented machine, and the SSH files of its user."""

    folder: Path
    port: int
    base: Path
    """Our folder there."""
    server: subprocess.Popen[bytes] | None = None
    processes: list[int] = field(default_factory=list)

    @property
    def known_hosts(self) -> Path:
        return self.folder / "known_hosts"

    def options(self) -> list[str]:
        return [
            "box", "--ssh-config", str(self.folder / "ssh_config"), "--remote-dir", str(self.base),
        ]  # fmt: skip

    def step(self, *, patience: float = 20.0) -> list[str]:
        return [*self.options(), "--remote-python", sys.executable, "--patience", str(patience)]

    def start(self) -> None:
        (self.folder / "sshd.log").touch()
        self.server = subprocess.Popen(
            [_sshd(), "-D", "-f", str(self.folder / "sshd_config"), "-E", str(self.folder / "sshd.log")]
        )
        until = time.monotonic() + 10
        while time.monotonic() < until:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)
        raise AssertionError((self.folder / "sshd.log").read_text())

    def cut(self) -> None:
        """Break every connection, as a network that goes away; what was started detached lives on."""
        self._kill_sessions()

    def stop(self) -> None:
        """Switch the machine off, as far as SSH goes."""
        if self.server is not None:
            # Held still first, so that it has no child that nobody has seen.
            self.server.send_signal(signal.SIGSTOP)
            self._kill_sessions()
            self.server.kill()
            self.server.wait(10)
            self.server = None

    def runs(self) -> list[psutil.Process]:
        """The processes of `comic-upscale run` that this machine keeps going."""
        found = []
        for process in psutil.process_iter():
            try:
                line = process.cmdline()
            except psutil.Error:
                continue
            if (
                str(self.base) in " ".join(line)
                and "run" in line
                and "comic_upscale" in line
                and "sh" not in line[:1]
            ):
                found.append(process)
        return found

    def _kill_sessions(self) -> None:
        for process in self._sessions():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    def _sessions(self) -> list[psutil.Process]:
        if self.server is None:
            return []
        children = psutil.Process(self.server.pid).children(recursive=True)
        return [process for process in children if _is_alive_and_named(process, "sshd")]

    def use_noisy_login(self, shell: str) -> None:
        """From now on, give commands to this login shell, whose start-up file prints something and goes elsewhere."""
        found = shutil.which(shell)
        if found is None:
            pytest.skip(f"no {shell} here: apt-get install {shell}")
        login = self.folder / "login"
        login.write_text(
            f'#!/bin/sh\necho "welcome to this machine"\necho "last login: \\033[31mnow" >&2\ncd /\n'
            f'exec {found} -c "$SSH_ORIGINAL_COMMAND"\n'
        )
        login.chmod(0o755)
        with (self.folder / "sshd_config").open("a") as file:
            file.write(f"ForceCommand {login}\n")
        self.stop()
        self.start()

    def new_host_key(self) -> None:
        for path in self.folder.glob("host_key*"):
            path.unlink()
        make_key(self.folder / "host_key")

    def job(self) -> Path:
        (job,) = (self.base / "jobs").iterdir()
        return job


def _is_alive_and_named(process: psutil.Process, prefix: str) -> bool:
    """Whether it is a living process of this name; a process may end while it is looked at."""
    try:
        return process.name().startswith(prefix)
    except psutil.NoSuchProcess:
        return False


def make_key(path: Path) -> None:
    """Write a key pair as ``ssh-keygen`` does, which refuses users without an account."""
    key = Ed25519PrivateKey.generate()
    path.touch(0o600)
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    path.with_suffix(".pub").write_bytes(public + b" test\n")


@pytest.fixture(autouse=True)
def user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A name and a home for users without an account; the program asks them to set these variables."""
    if not has_account():
        monkeypatch.setenv("LOGNAME", "reader")
        monkeypatch.setenv("HOME", str(tmp_path))


def _sshd() -> str:
    found = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin:/usr/local/sbin")
    if found is None:
        pytest.skip("no sshd here: apt-get install openssh-server")
    if not has_account():
        pytest.skip(NO_ACCOUNT)
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def shared_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the rented machine where the package stays installed, for all processes of the suite."""
    import fcntl

    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    base = folder / "rented"
    base.mkdir(exist_ok=True)
    with (base / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _install(base)
    return base


def _install(base: Path) -> None:
    """Install the package as a run does; `test_one_option.py` installs another one over SSH."""
    python = SimpleNamespace(path=sys.executable)
    package = Package.of(SimpleNamespace(python=python), "")  # type: ignore[arg-type]
    environment = base / "environments" / package.key
    if (environment / ".ready").exists():
        return
    environment.mkdir(parents=True)
    wheel = environment / package.wheel.name
    wheel.write_bytes(package.wheel.data)
    script = scripts.fill(
        scripts.INSTALL, environment=shlex.quote(str(environment)), parent=shlex.quote(sys.executable),
        wheel=shlex.quote(str(wheel)), version=__version__, torch="",
    )  # fmt: skip
    subprocess.run(["sh", "-c", script], check=True, stdout=subprocess.DEVNULL)


@pytest.fixture
def box(tmp_path: Path, shared_base: Path) -> Iterator[Box]:
    """The rented machine, switched on; a new folder for its jobs."""
    with switched_on(tmp_path / "ssh", tmp_path / "box", shared_base) as box:
        yield box


@contextlib.contextmanager
def switched_on(folder: Path, base: Path, shared_base: Path, *settings: str) -> Iterator[Box]:
    """A machine called ``box``, with its SSH files in one folder and ours in another.

    Args:
        folder: is made.
        base: is made, with the package.
        shared_base: where the package is installed.
        settings: lines of its sshd_config, before the others.
    """
    _sshd()
    folder.mkdir(mode=0o700)
    base.mkdir(parents=True)
    (shared_base / "environments").mkdir(exist_ok=True)
    (base / "environments").symlink_to(shared_base / "environments")
    box = Box(folder, free_port(), base)
    make_key(folder / "host_key")
    make_key(folder / "id")
    shutil.copy(folder / "id.pub", folder / "authorized_keys")
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    (folder / "sshd_config").write_text(
        "".join(f"{line}\n" for line in settings)
        + f"Port {box.port}\nListenAddress 127.0.0.1\nHostKey {folder}/host_key\nPidFile none\n"
        f"AuthorizedKeysFile {folder}/authorized_keys\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n"
        "PermitRootLogin yes\nPrintMotd no\nSubsystem sftp internal-sftp\n"
        "SetEnv OMP_NUM_THREADS=1 COMIC_UPSCALE_TEST=yes\n"
    )
    (folder / "ssh_config").write_text(
        f"Host box\n  HostName 127.0.0.1\n  Port {box.port}\n  IdentityFile {folder}/id\n  IdentitiesOnly yes\n"
        f"  UserKnownHostsFile {folder}/known_hosts\n"
    )
    box.start()
    public = (folder / "host_key.pub").read_text().split()
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{box.port} {public[0]} {public[1]}\n")
    try:
        yield box
    finally:
        for process in box.runs():
            process.send_signal(signal.SIGKILL)
        box.stop()


Invoke = Callable[..., tuple[int, str, str]]


@pytest.fixture
def remote(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Invoke:
    """Runs ``comic-upscale remote ...`` in this process; returns the exit code and what it said."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))

    def invoke(*arguments: object) -> tuple[int, str, str]:
        result = CliRunner().invoke(app, ["remote", *map(str, arguments)])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, result.stdout, result.stderr

    return invoke


class small_disk:  # noqa: N801 - reads like the function that it is
    """A file system of its own at a folder, or a skip."""

    def __init__(self, folder: Path, size: str) -> None:
        self._folder, self._size = folder, size

    def __enter__(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", f"size={self._size}", "tmpfs", str(self._folder)]
        if os.getuid() != 0 or subprocess.run(command, capture_output=True).returncode:
            pytest.skip("a small disk can only be mounted by root")

    def __exit__(self, *_: object) -> None:
        subprocess.run(["umount", "--lazy", str(self._folder)], check=True)
