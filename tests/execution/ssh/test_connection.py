"""Connecting to a remote machine: host keys, configurations, jump hosts, lost connections."""

from __future__ import annotations

import fcntl
import hashlib
import json
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import paramiko
import pytest

from comic_upscale.errors import ConnectionLostError, HostKeyError, RemoteError, SettingsError
from comic_upscale.execution.ssh import machine as machine_module
from comic_upscale.execution.ssh.address import SshFiles, find_address
from comic_upscale.execution.ssh.connection import Connection
from comic_upscale.execution.ssh.host_keys import HostKey, key_changed
from comic_upscale.execution.ssh.machine import Machine
from comic_upscale.retries import RetryPolicy
from tests.execution.ssh.conftest import Box, Invoke


def files_of(box: Box) -> SshFiles:
    return SshFiles(user="root", config=box.folder / "ssh_config", known_hosts=box.folder / "known_hosts")


def never(_: HostKey) -> bool:
    raise AssertionError("nobody should be asked")


def test_a_command_with_input_output_and_an_exit_code(box: Box) -> None:
    line = Connection(find_address("box", files_of(box)), never).open()
    try:
        ended = line.run("cat; echo oh >&2; exit 3", feed=[b"a", b"b" * 500_000])
        assert (ended.code, len(ended.output), ended.errors) == (3, 500_001, "oh\n")
        with pytest.raises(RemoteError, match=r"box: no \? way"):
            line.check("printf 'no \\033 way\\n' >&2; exit 1")
        box.cut()
        with pytest.raises(ConnectionLostError, match="same command again"):
            line.run("true")
    finally:
        line.close()


def test_of_a_stream_that_breaks_off_only_the_rest_is_sent_again(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages = []
    for number in range(40):
        data = bytes([number]) * 200_000
        pages.append((f"{hashlib.sha256(data).hexdigest()}.png", data))
    streams: list[int] = []
    whole = machine_module.as_stream

    def cut_once(left: Sequence[tuple[str, bytes]]) -> Iterator[bytes]:
        streams.append(len(left))
        for number, piece in enumerate(whole(left)):
            if len(streams) == 1 and number == 24:
                while not list(box.base.glob("jobs/job/input/*")):
                    time.sleep(0.05)
                box.cut()
            yield piece

    monkeypatch.setattr(machine_module, "as_stream", cut_once)
    retry = RetryPolicy(60, lambda seconds: False, lambda reason: None)
    machine = Machine(
        lambda: Connection(find_address("box", files_of(box)), never), retry, base=str(box.base),
        python=sys.executable,
    )  # fmt: skip
    machine.open_job("job")
    try:
        machine.send(pages)
        assert machine.list_pages() == {name for name, _ in pages}
    finally:
        machine.close()
    assert streams[0] == 40
    assert 0 < streams[1] < 40
    for name, data in pages:
        assert (box.base / "jobs" / "job" / "input" / name).read_bytes() == data


def test_an_answer_without_end_is_not_taken_in(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("comic_upscale.execution.ssh.connection.MOST_ANSWER_BYTES", 1 << 20)
    line = Connection(find_address("box", files_of(box)), never).open()
    try:
        with pytest.raises(RemoteError, match="more output than expected"):
            line.run("yes")
        ended = line.run("yes | head -c 3000000 >&2; echo the last word >&2")
        assert ended.errors.endswith("the last word\n")
        assert len(ended.errors) < 1 << 20
    finally:
        line.close()


def machine_at(box: Box) -> Machine:
    retry = RetryPolicy(0, lambda seconds: True, lambda reason: None)
    machine = Machine(
        lambda: Connection(find_address("box", files_of(box)), never), retry, base=str(box.base),
        python=sys.executable,
    )  # fmt: skip
    machine.open_job("job")
    return machine


def test_only_plain_files_of_the_size_that_was_promised_are_taken(box: Box, tmp_path: Path) -> None:
    output = box.base / "jobs" / "job" / "output"
    output.mkdir(parents=True)
    names = [f"{digit * 64}.png" for digit in "01234"]
    (tmp_path / "secret").write_bytes(b"not a page")
    (output / names[0]).write_bytes(b"a page")
    (output / names[1]).symlink_to(tmp_path / "secret")
    (output / names[2]).mkdir()
    (output / names[3]).write_bytes(b"longer than it says")
    machine = machine_at(box)
    try:
        assert dict(machine.fetch(dict.fromkeys(names, 10))) == {names[0]: b"a page"}
    finally:
        machine.close()


def test_what_a_machine_tells_of_its_ledger(box: Box) -> None:
    """A run that has ended tells everything; a ledger that cannot be read is said, but not while a run goes on."""
    job = box.base / "jobs" / "job"
    ledger = job / "output" / ".comic-upscale" / "ledger.sqlite3"
    ledger.parent.mkdir(parents=True)
    name = f"{'a' * 64}.png"
    line = json.dumps({"source": name, "state": "failed", "at": "2099-01-01", "kind": "truncated"})
    (job / "python.sh").write_text(f"echo \"$@\" >>{job}/asked\necho '{line}'\n")
    machine = machine_at(box)
    try:
        assert not machine.poll().alive
        ledger.touch()
        assert [page.name for page in machine.poll().pages] == [name]
        with (job / "run.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            assert machine.poll().alive
            assert "--since 2099-01-01" in (job / "asked").read_text().splitlines()[-1]
            (job / "python.sh").write_text("echo 'error: the ledger is damaged' >&2; exit 6\n")
            assert machine.poll().pages == ()
        with pytest.raises(RemoteError, match=r"the ledger is damaged.*rm -r .*same command again"):
            machine.poll()
        (job / "python.sh").write_text(f'echo "$@" >>{job}/asked\n')
        machine.poll()
        assert "--since 0" in (job / "asked").read_text().splitlines()[-1], "a clock may have been set back"
    finally:
        machine.close()


def test_an_unknown_key_is_shown_and_asked_about_and_remembered(box: Box) -> None:
    box.known_hosts.write_text("# mine\nother ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHv0")
    asked: list[HostKey] = []

    def no(key: HostKey) -> bool:
        asked.append(key)
        return False

    address = find_address("box", files_of(box))
    with pytest.raises(HostKeyError, match="--accept-new-host-key"):
        Connection(address, no).open()
    assert asked[0].name == f"[127.0.0.1]:{box.port}"
    assert asked[0].fingerprint.startswith("SHA256:")
    assert box.known_hosts.read_text().count("\n") == 1, "nothing is remembered that was refused"
    Connection(address, lambda key: True).open().close()
    lines = box.known_hosts.read_text().splitlines()
    assert lines[0] == "# mine", "the user's own lines stay"
    assert lines[2].startswith(f"[127.0.0.1]:{box.port} ssh-ed25519 ")
    Connection(address, never).open().close()


def test_a_key_that_changed_is_refused_whatever_is_asked_for(box: Box, remote: Invoke) -> None:
    box.stop()
    box.new_host_key()
    box.start()
    before = box.known_hosts.read_text()
    code, _, err = remote("check", *box.options(), "--accept-new-host-key")
    assert code == 9
    assert "differs from the one in" in err
    assert "ssh-keygen -f" in err
    assert box.known_hosts.read_text() == before


def test_without_a_terminal_nobody_says_yes_but_the_option(box: Box, remote: Invoke) -> None:
    box.known_hosts.unlink()
    code, _, err = remote("check", *box.options())
    assert code == 9
    assert "SHA256:" in err
    assert not box.known_hosts.exists()
    code, out, err = remote("check", *box.options(), "--accept-new-host-key")
    assert code == 0, err
    assert "accepted" in err
    assert "ready" in out
    assert box.known_hosts.exists()


def test_check_as_json(box: Box, remote: Invoke) -> None:
    code, out, err = remote("check", *box.options(), "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["free_bytes"] > 0
    assert found["system"].startswith("Linux")
    assert found["errors"] == []


def test_a_revoked_key_is_refused(box: Box) -> None:
    key = (box.folder / "host_key.pub").read_text().split()
    authority = "@cert-authority *.example ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHv0"
    box.known_hosts.write_text(f"{authority}\nother ssh-ed25519 broken!\n@revoked * {key[0]} {key[1]}\n")
    with pytest.raises(HostKeyError, match="revoked"):
        Connection(find_address("box", files_of(box)), lambda key: True).open()


def test_a_user_that_is_not_let_in_and_a_machine_that_is_not_there(box: Box) -> None:
    (box.folder / "authorized_keys").write_text("")
    with pytest.raises(RemoteError, match="refused the login"):
        Connection(find_address("box", files_of(box)), never).open()
    box.stop()
    with pytest.raises(ConnectionLostError, match="cannot be reached"):
        Connection(find_address("box", files_of(box)), never).open()


def test_a_first_connection_that_nothing_answers_is_not_retried(box: Box, remote: Invoke) -> None:
    box.stop()
    for command in ("check", "status", "logs", "stop"):
        code, _, err = remote(command, *box.options())
        assert code == 9
        assert "127.0.0.1" in err
        assert "Check the address" in err
        assert "retrying" not in err
    config = box.folder / "ssh_config"
    config.write_text(config.read_text().replace("127.0.0.1", "nowhere.invalid"))
    code, _, err = remote("status", *box.options())
    assert (code, "retrying" in err) == (9, False)


def test_with_patience_a_machine_that_is_still_starting_is_retried(box: Box) -> None:
    address = find_address("box", files_of(box))
    reasons: list[str] = []
    box.stop()

    def switch_on(_: float) -> bool:
        if reasons and box.server is None:
            box.start()
        return False

    retry = RetryPolicy(60.0, switch_on, reasons.append)
    machine = Machine(lambda: Connection(address, never), retry)
    try:
        machine.connect()
    finally:
        machine.close()
    assert any("refused" in reason for reason in reasons)


def test_a_machine_that_was_reached_is_retried_although_it_refuses(box: Box) -> None:
    address = find_address("box", files_of(box))
    reasons: list[str] = []

    def switch_on(_: float) -> bool:
        if any("refused" in reason for reason in reasons) and box.server is None:
            box.start()
        return False

    retry = RetryPolicy(60.0, switch_on, reasons.append)
    machine = Machine(lambda: Connection(address, never), retry, may_be_starting=False)
    try:
        machine.connect()
        box.stop()
        assert machine.jobs() == []
    finally:
        machine.close()
    assert any("refused" in reason for reason in reasons)


@pytest.mark.parametrize("target", ["box:0", "box:65536", "root@[::1]:99999"])
def test_a_port_that_does_not_exist_is_refused(target: str, tmp_path: Path) -> None:
    files = SshFiles(user="me", config=tmp_path / "config", known_hosts=tmp_path / "known")
    with pytest.raises(SettingsError, match="between 1 and 65535"):
        find_address(target, files)
    files.config.write_text("Host odd\n  Port many\n")
    with pytest.raises(SettingsError, match="between 1 and 65535"):
        find_address("odd", files)


def test_named_files_that_do_not_exist_are_mistakes(remote: Invoke, tmp_path: Path) -> None:
    for option in ("--ssh-config", "--identity"):
        code, _, err = remote("check", "box", option, tmp_path / "nothing")
        assert (code, option in err) == (2, True)


def test_a_key_with_a_passphrase_says_what_to_do(box: Box) -> None:
    import subprocess

    subprocess.run(
        ["ssh-keygen", "-q", "-p", "-P", "", "-N", "secret", "-f", str(box.folder / "id")], check=True
    )
    with pytest.raises(RemoteError, match="ssh-add"):
        Connection(find_address("box", files_of(box)), never).open()


def test_a_jump_host_on_the_way(box: Box) -> None:
    config = box.folder / "ssh_config"
    config.write_text(
        config.read_text()
        + f"Host inside\n  HostName localhost\n  Port {box.port}\n  ProxyJump box\n  HostKeyAlias the-inside\n"
        f"  IdentityFile {box.folder}/id\n  IdentitiesOnly yes\n  UserKnownHostsFile {box.folder}/known_hosts\n"
    )
    names: list[str] = []

    def yes(key: HostKey) -> bool:
        names.append(key.name)
        return True

    line = Connection(find_address("inside", files_of(box)), yes).open()
    try:
        assert line.run("echo $COMIC_UPSCALE_TEST").output == b"yes\n"
    finally:
        line.close()
    assert names == ["the-inside"]


def test_what_the_user_says_and_what_the_configuration_says(tmp_path: Path) -> None:
    make_files = SshFiles(user="me", config=tmp_path / "config", known_hosts=tmp_path / "known")
    plain = find_address("203.0.113.7", make_files)
    assert (plain.host, plain.port, plain.user, plain.key_name) == ("203.0.113.7", 22, "me", "203.0.113.7")
    full = find_address("ssh://you@host.example:2200", make_files)
    assert (full.host, full.port, full.user, full.key_name) == (
        "host.example", 2200, "you", "[host.example]:2200",
    )  # fmt: skip
    assert find_address("[2001:db8::1]:22", make_files).host == "2001:db8::1"
    assert find_address("2001:db8::1", make_files).host == "2001:db8::1"
    assert find_address("host:1", make_files, port=2).port == 2
    (tmp_path / "config").write_text(
        "Host gpu\n  HostName 203.0.113.9\n  User root\n  Port 40022\n  IdentityFile ~/.ssh/vast\n  ProxyJump a,b@b:3\n"
        "Host *\n  UserKnownHostsFile ~/.ssh/rented\n"
    )
    gpu = find_address("gpu", make_files, identity=tmp_path / "own")
    assert (gpu.host, gpu.port, gpu.user) == ("203.0.113.9", 40022, "root")
    assert gpu.keys == (tmp_path / "own", Path("~/.ssh/vast").expanduser())
    assert gpu.known_hosts == (Path("~/.ssh/rented").expanduser(),)
    assert [(jump.user, jump.host, jump.port) for jump in gpu.jumps] == [("me", "a", 22), ("b", "b", 3)]


@pytest.mark.parametrize(
    ("line", "paths"),
    [
        ("UserKnownHostsFile /a/known /b/known", ["/a/known", "/b/known"]),
        ('UserKnownHostsFile "/a b/known"', ["/a b/known"]),
        ('UserKnownHostsFile "" /c/known', ["/c/known"]),
        ('userknownhostsfile="/a b/known" /c/known', ["/a b/known", "/c/known"]),
        ('  UserKnownHostsFile = "/a b/known" "/c d/known" ', ["/a b/known", "/c d/known"]),
        (r'UserKnownHostsFile "C:\Users\Zoë M\known"', [r"C:\Users\Zoë M\known"]),
    ],
)
def test_known_hosts_files_with_spaces_are_in_quotes(line: str, paths: list[str], tmp_path: Path) -> None:
    (tmp_path / "config").write_text(f"Host gpu\n{line}\n  Port 22\n", encoding="utf-8")
    files = SshFiles(user="me", config=tmp_path / "config", known_hosts=tmp_path / "known")
    assert find_address("gpu", files).known_hosts == tuple(map(Path, paths))
    # Notepad begins a file with a byte-order mark.
    files.config.write_text(f"Host gpu\n{line}\n  Port 22\n", encoding="utf-8-sig")
    assert find_address("gpu", files).known_hosts == tuple(map(Path, paths))


def test_the_command_for_a_changed_key_can_be_copied(tmp_path: Path) -> None:
    files = SshFiles(
        user="me", config=tmp_path / "none", known_hosts=tmp_path / "Application Support" / "known"
    )
    told = str(key_changed(find_address("gpu", files), paramiko.RSAKey.generate(1024)))
    assert shlex.split(told.partition("ssh-keygen ")[2]) == ["-f", str(files.known_hosts), "-R", "gpu"]


@pytest.mark.parametrize("target", ["", "-oProxyCommand=x", "a b", "host:port", "user@", "host:123456"])
def test_what_names_no_machine(target: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError):
        find_address(target, SshFiles(user="me", config=tmp_path / "none", known_hosts=tmp_path / "known"))


def test_a_circle_of_jump_hosts_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config").write_text("Host a\n  ProxyJump b\nHost b\n  ProxyJump a\n")
    with pytest.raises(SettingsError, match="loop"):
        find_address("a", SshFiles(user="me", config=tmp_path / "config", known_hosts=tmp_path / "known"))
