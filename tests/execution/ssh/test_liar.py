"""A machine that does not keep to the rules: no step waits for ever, and no stream takes memory without bound."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from comic_upscale.commands.remote import LONGEST_LINE, _LogLines
from comic_upscale.errors import ConnectionLostError, RemoteError
from comic_upscale.execution.ssh import connection as connection_module
from comic_upscale.execution.ssh import machine as machine_module
from comic_upscale.execution.ssh.deadline import Deadline
from comic_upscale.execution.ssh.listing import read_lines, read_pages
from comic_upscale.execution.ssh.machine import job_name
from comic_upscale.execution.ssh.shell import in_clean_shell
from comic_upscale.settings.job import JobSettings
from tests.conftest import draw
from tests.execution.ssh.conftest import Invoke
from tests.execution.ssh.liar import Call, Liar, peak_memory

MEGABYTE = 1 << 20
NAME = f"{'a' * 64}.png"


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Deadlines of a few seconds."""
    monkeypatch.setattr(connection_module, "EXEC_SECONDS", 2.0)
    monkeypatch.setattr(connection_module, "COMMAND_SECONDS", 2.0)
    monkeypatch.setattr(connection_module, "LOGIN_SECONDS", 2.0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "liar"
    path.mkdir(mode=0o700)
    return path


def run_at(liar: Liar, script: str = "true") -> connection_module.Ended:
    connection = liar.connection().open()
    try:
        return connection.run(script)
    finally:
        connection.close()


def test_an_honest_answer(folder: Path) -> None:
    with Liar(folder, lambda call: call.say(b"yes\n", errors=b"oh\n", code=3)) as liar:
        ended = run_at(liar)
        assert (ended.code, ended.output, ended.errors) == (3, b"yes\n", "oh\n")
        assert "'" in liar.lines[0] and "true" not in liar.lines[0]


def test_a_request_that_is_never_answered(folder: Path, short: None) -> None:
    with (
        Liar(folder, Call.hang, never_starts=True) as liar,
        pytest.raises(ConnectionLostError, match="did not answer in time"),
    ):
        run_at(liar)


def test_a_command_that_says_nothing(folder: Path, short: None) -> None:
    with (
        Liar(folder, Call.hang) as liar,
        pytest.raises(ConnectionLostError, match=r"did not answer in time|lost"),
    ):
        run_at(liar)


@pytest.mark.parametrize("stderr", [False, True])
def test_a_byte_now_and_then_keeps_no_command_alive(folder: Path, short: None, stderr: bool) -> None:
    def drip(call: Call) -> None:
        call.channel.sendall(call.marker)
        call.channel.sendall_stderr(call.marker)
        send = call.channel.sendall_stderr if stderr else call.channel.sendall
        while not call.gone.wait(0.3):
            send(b".")

    with Liar(folder, drip) as liar, pytest.raises(ConnectionLostError):
        run_at(liar)


def test_bytes_that_move_earn_time_but_not_for_later() -> None:
    expired = threading.Event()
    with Deadline(0.2, expired.set) as deadline:
        deadline.extend(1000.0, 1000.0)
        assert not expired.wait(0.5)
        deadline.restart(0.0)
        assert expired.wait(20)
    expired.clear()
    # It moved a lot early on, but may not save that time for later.
    with Deadline(0.2, expired.set) as deadline:
        deadline.extend(1000.0, 0.5)
        assert expired.wait(20)


@pytest.mark.parametrize("stderr", [False, True])
def test_a_flood_beyond_the_window_ends_the_connection(folder: Path, stderr: bool) -> None:
    def flood(call: Call) -> None:
        call.channel.sendall(call.marker)
        call.channel.sendall_stderr(call.marker)
        call.flood(b"x" * 32_000, stderr=stderr)

    before = peak_memory()
    with Liar(folder, flood) as liar, pytest.raises(RemoteError) as failure:
        run_at(liar)
    assert not isinstance(failure.value, ConnectionLostError), "it would be tried again"
    assert "sent more" in str(failure.value) or "breaks the rules" in str(failure.value), failure.value
    assert peak_memory() - before < 300 * MEGABYTE


def test_a_flood_within_the_window_is_bounded_too(folder: Path) -> None:
    def endless(call: Call) -> None:
        call.channel.sendall(call.marker)
        try:
            while not call.gone.is_set():
                call.channel.sendall(b"y" * 100_000)
        except OSError:
            pass

    with Liar(folder, endless) as liar, pytest.raises(RemoteError, match="more output than expected"):
        run_at(liar)


def test_a_login_shell_that_prints_without_end(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        Liar(folder, lambda call: call.flood(b"hello\n" * 5000)) as liar,
        pytest.raises(RemoteError, match=r"prints without end|sent more"),
    ):
        run_at(liar)


def test_a_login_shell_that_is_none(folder: Path) -> None:
    def no_shell(call: Call) -> None:
        call.channel.sendall(b"This account \x1b[31mis not available.\n")
        call.end(1)

    with (
        Liar(folder, no_shell) as liar,
        pytest.raises(RemoteError, match="no POSIX shell answers") as failure,
    ):
        run_at(liar)
    assert str(failure.value).isprintable()
    assert "is not available" in str(failure.value)


@pytest.mark.parametrize(
    "greeting",
    [
        b"SSH-1.5-\x1b[31m\x1b]0;evil\x07\r\n",
        b"\x1b[2Jwelcome\r\nSSH-9-x\r\n",
        b"x" * (4 * MEGABYTE),
        b"line\r\n" * MEGABYTE,
        b"SSH-2.0-x\r\n\x7f\xff\xff\xff" + b"\0" * MEGABYTE,
        b"SSH-2.0-x\r\n",
        b"",
    ],
    ids=["version", "text", "endless-line", "endless-lines", "packet", "nothing-more", "nothing"],
)  # fmt: skip
def test_a_greeting_that_is_none(folder: Path, short: None, greeting: bytes) -> None:
    before = peak_memory()
    with Liar(folder, Call.hang, greeting=greeting) as liar, pytest.raises(RemoteError) as failure:
        liar.connection().open()
    assert str(failure.value).isprintable()
    assert "liar.example" in str(failure.value)
    assert peak_memory() - before < 100 * MEGABYTE


def test_connecting_can_be_broken_off_from_another_thread(folder: Path) -> None:
    with Liar(folder, Call.hang, greeting=b"SSH-2.0-x\r\n") as liar:
        connection = liar.connection()
        threading.Timer(0.5, connection.abort).start()
        begun = time.monotonic()
        with pytest.raises(RemoteError):
            connection.open()
        # The shortest limit of its own is 15 seconds.
        assert time.monotonic() - begun < 10


def test_newlines_without_end_take_no_memory() -> None:
    lines = io.BytesIO(b"\n" * (16 * MEGABYTE) + json.dumps({"source": NAME, "state": "failed"}).encode())
    tracemalloc.start()
    try:
        found = list(read_lines(lines))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert [page.name for page, _ in found] == [NAME]
    assert peak < MEGABYTE


def test_a_line_without_end_takes_no_memory(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(read_lines(io.BytesIO(b"[" * (16 * MEGABYTE)))) == []
    lines = _LogLines()
    for _ in range(64):
        lines.take(b"x" * LONGEST_LINE)
        assert len(lines.rest) <= LONGEST_LINE
    lines.take(b"\x1b[31m\nend")
    lines.end()
    shown = capsys.readouterr().out
    assert shown.count("x") >= 64 * LONGEST_LINE
    assert "\x1b" not in shown
    assert shown.endswith("end\n")


def test_a_log_without_end(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_module, "MOST_LOG_BYTES", MEGABYTE)

    def answer(call: Call) -> None:
        if "run.log" in call.script.decode():
            call.say(b"x" * (3 * MEGABYTE))
        elif "jobs" in call.script.decode():
            call.say(b"job-1\n")
        else:
            call.say(b"/home/me/comic-upscale\n")

    with Liar(folder, answer) as liar:
        machine = liar.machine()
        try:
            assert machine.choose_job(None) == "job-1"
            with pytest.raises(RemoteError, match="more output than expected"):
                machine.log(lambda piece: None, lines=50, follow=False)
        finally:
            machine.close()


def hostile_tar() -> bytes:
    """An archive whose second member says that it has a negative size, which older Pythons read for ever."""
    import tarfile

    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for number in range(2):
            member = tarfile.TarInfo(f"{number}.png")
            member.size = 512
            member.pax_headers = {"size": "-1536"} if number else {}
            archive.addfile(member, io.BytesIO(b"x" * 512))
    return data.getvalue()


@pytest.mark.parametrize(
    "answer",
    [
        hostile_tar(),
        b"x" * 2000,
        f"{NAME} 6\na pag".encode(),
        f"{NAME} 11\nlonger than".encode(),
        f"{NAME} 6\na page{NAME} 6\na page".encode(),
        f"{'b' * 64}.png 6\na page".encode(),
        b"../../outside.png 6\na page",
        f"{NAME} -6\na page".encode(),
    ],
    ids=["tar", "rubbish", "cut", "too-long", "twice", "not-asked", "path", "negative"],
)  # fmt: skip
def test_what_is_no_page_is_refused_in_words(folder: Path, answer: bytes) -> None:
    def say(call: Call) -> None:
        call.say(b"/home/me/comic-upscale\n" if "pwd -P" in call.script.decode() else answer)

    with Liar(folder, say) as liar:
        machine = liar.machine()
        machine.open_job("job")
        try:
            with pytest.raises(
                RemoteError, match=r"something other than the pages|more output than expected"
            ):
                list(machine.fetch({NAME: 10, f"{'c' * 64}.png": 100_000}))
        finally:
            machine.close()


def test_pages_that_were_asked_for() -> None:
    other = f"{'b' * 64}.webp"
    data = f"{NAME} 6\na page{other} 0\n".encode()
    assert dict(read_pages(data, {NAME: 6, other: 5})) == {NAME: b"a page", other: b""}


def test_a_ceiling_holds_while_nothing_is_answered(folder: Path, remote: Invoke, any_weights: Path) -> None:
    """Five dollars at a dollar a second: the exec request is never answered."""
    draw(any_weights.parent / "pages" / "0.png", 0)
    with Liar(folder, Call.hang, never_starts=True) as liar:
        begun = time.monotonic()
        code, out, err = remote(
            "upscale", *liar.options(), "--input", any_weights.parent / "pages", "--model", any_weights,
            "--price", 3600, "--max-cost", 5, "--json",
        )  # fmt: skip
        seconds = time.monotonic() - begun
    assert code == 8, out + err
    finished = json.loads(out.splitlines()[-1])
    assert (finished["state"], finished["stopped_by"]) == ("interrupted", "max-cost")
    # Its own deadline alone would be thirty seconds, and five minutes of retries.
    assert seconds < 29


@pytest.fixture
def any_weights(tmp_path: Path) -> Path:
    path = tmp_path / "any.safetensors"
    path.write_bytes(b"weights")
    return path


def test_a_call_can_be_aborted_and_the_next_one_goes(folder: Path) -> None:
    hanging = threading.Event()

    def answer(call: Call) -> None:
        if hanging.is_set():
            call.say(b"idle\n")
        else:
            hanging.set()
            call.hang()

    with Liar(folder, answer) as liar:
        machine = liar.machine(patience=600.0)
        machine._base, machine._job = "/base", "/base/jobs/job"
        threading.Thread(target=lambda: (hanging.wait(), machine.abort())).start()
        with pytest.raises(RemoteError):
            machine.list_pages()
        with pytest.raises(RemoteError, match="broken off"):
            machine.list_pages()
        machine.recover()
        assert machine.stop() == "idle"
        machine.close()


# The clean shell

SHELLS = ("sh", "dash", "bash", "zsh", "fish", "tcsh", "csh", "ksh", "busybox")


def login(shell: str) -> list[str]:
    """The command by which an SSH server gives a line to this login shell."""
    found = shutil.which(shell)
    if found is None:
        pytest.skip(f"no {shell} here: apt-get install {shell}")
    return [found, "sh", "-c"] if shell == "busybox" else [found, "-c"]


@pytest.mark.parametrize("shell", SHELLS)
def test_every_login_shell_starts_the_clean_one(shell: str) -> None:
    script = 'printf "%s\\n" "it\'s $0 !! \\\\ `echo é`"\ncat\nexit 7\n'
    command = in_clean_shell(script)
    ended = subprocess.run([*login(shell), command.line], input=command.input + b"fed\n", capture_output=True)
    before, _, after = ended.stdout.partition(command.marker)
    assert (before, ended.returncode) == (b"", 7), ended.stderr
    assert after.decode() == "it's /bin/sh !! \\ é\nfed\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish", "tcsh"])
def test_what_a_start_up_file_prints_and_where_it_goes_is_not_ours(shell: str, tmp_path: Path) -> None:
    command = login(shell)
    home = tmp_path / "home"
    (home / ".config" / "fish").mkdir(parents=True)
    lines = "echo welcome\necho to this machine\ncd /\n"
    for name in (".bashrc", ".zshenv", ".tcshrc", ".config/fish/config.fish"):
        (home / name).write_text(lines)
    environment = {**os.environ, "HOME": str(home), "BASH_ENV": str(home / ".bashrc"), "ZDOTDIR": str(home)}
    environment["XDG_CONFIG_HOME"] = str(home / ".config")
    clean = in_clean_shell("pwd")
    ended = subprocess.run([*command, clean.line], input=clean.input, capture_output=True, env=environment)
    before, marker, after = ended.stdout.partition(clean.marker)
    assert b"welcome" in before, "the start-up file was not read"
    assert marker
    assert after.decode().strip() == str(home)


def test_a_large_input_stays_for_the_script() -> None:
    data = os.urandom(3 * MEGABYTE)
    command = in_clean_shell("wc -c; true\n")
    ended = subprocess.run(["/bin/sh", "-c", command.line], input=command.input + data, capture_output=True)
    assert ended.stdout.partition(command.marker)[2].split() == [str(len(data)).encode()]


# What a machine is told


def test_the_name_of_a_job_tells_nothing(tmp_path: Path) -> None:
    settings = JobSettings(input=tmp_path, output=tmp_path / "My Secret Comic")
    name = job_name("f" * 32, settings)
    assert name.startswith("job-")
    assert "ecret" not in name


def test_a_job_of_an_earlier_version_goes_on(folder: Path, tmp_path: Path) -> None:
    settings = JobSettings(input=tmp_path, output=tmp_path / "out")
    name = job_name("f" * 32, settings)
    earlier = f"out-{name[-12:]}"
    answer: Callable[[Call], None] = lambda call: call.say(f"other-0123456789ab\n{earlier}\n".encode())  # noqa: E731
    with Liar(folder, answer) as liar:
        machine = liar.machine()
        machine._base = "/base"
        try:
            assert machine._find_job("f" * 32, settings) == earlier
            assert machine._find_job("e" * 32, settings) == job_name("e" * 32, settings)
        finally:
            machine.close()


def test_a_folder_of_another_user_is_not_used(folder: Path, tmp_path: Path) -> None:
    with Liar(folder, Call.pass_on) as liar:
        shared = tmp_path / "shared"
        shared.mkdir()
        shared.chmod(0o1777)
        machine = liar.machine(str(shared))
        try:
            with pytest.raises(RemoteError, match=r"everybody may write.*--remote-dir"):
                machine.base()
        finally:
            machine.close()
        own = tmp_path / "own"
        machine = liar.machine(str(own))
        try:
            assert machine.base() == str(own.resolve())
            assert own.stat().st_mode & 0o777 == 0o700
        finally:
            machine.close()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows knows no owners by number")
def test_a_folder_that_somebody_else_owns_is_not_used(folder: Path, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can make folders of other users")
    theirs = tmp_path / "theirs"
    theirs.mkdir(mode=0o755)
    os.chown(theirs, 12_345, -1)
    with Liar(folder, Call.pass_on) as liar:
        machine = liar.machine(str(theirs))
        try:
            with pytest.raises(RemoteError, match=r"belongs to another user there.*--remote-dir"):
                machine.base()
        finally:
            machine.close()
    assert not list(theirs.iterdir())
