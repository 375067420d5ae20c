"""Downloads from a real server that fails in every way a server can."""

from __future__ import annotations

import os
import resource
import socket
import stat
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from comic_upscale.errors import WeightsError
from comic_upscale.models.catalogue import WeightsFile
from comic_upscale.models.download import Timeouts, fetch, without_places
from comic_upscale.retries import RetryPolicy
from tests.models.misbehaving_server import (
    PAYLOAD,
    Server,
    answer,
    cut,
    cut_other,
    login_page,
    other,
    serve,
    serve_whole,
)

REPOSITORY = Path(__file__).resolve().parents[2]
QUICK = RetryPolicy(attempts=3, first_pause=0.01)
SHORT = Timeouts(connect=2, silence=2)


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def _fails(file: WeightsFile, cache: Path, policy: RetryPolicy = QUICK, timeouts: Timeouts = SHORT) -> str:
    """Fetch, expect an error that shows the way out, and return its message."""
    with pytest.raises(WeightsError) as caught:
        fetch(file, cache, retry_policy=policy, timeouts=timeouts)
    message = str(caught.value)
    assert file.url in message
    assert str(cache / file.name) in message
    return message


def test_fetches_into_a_new_folder_and_tells_of_it(server: Server, tmp_path: Path) -> None:
    cache = tmp_path / "new" / "cache"
    events: list[tuple[str, int, int]] = []
    path = fetch(
        server.file(), cache, lambda *event: events.append(event), retry_policy=QUICK, timeouts=SHORT
    )
    assert path == cache / "model.pth"
    assert path.read_bytes() == PAYLOAD
    assert _names(cache) == ["model.pth"]
    done = [event[1] for event in events]
    assert done == sorted(done)
    assert len(done) > 1
    assert events[-1] == ("model.pth", len(PAYLOAD), len(PAYLOAD))


def test_the_file_is_as_readable_as_any_other(server: Server, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.touch()
    path = fetch(server.file(), tmp_path, retry_policy=QUICK, timeouts=SHORT)
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


def test_what_is_there_is_not_fetched_again(server: Server, tmp_path: Path) -> None:
    fetch(server.file(), tmp_path, retry_policy=QUICK, timeouts=SHORT)
    fetch(server.file(), tmp_path, retry_policy=QUICK, timeouts=SHORT)
    assert len(server.ranges) == 1


def test_other_bytes_in_the_cache_are_replaced(server: Server, tmp_path: Path) -> None:
    (tmp_path / "model.pth").write_bytes(b"other")
    assert fetch(server.file(), tmp_path, retry_policy=QUICK, timeouts=SHORT).read_bytes() == PAYLOAD


def test_takes_up_a_broken_transfer_where_it_stopped(server: Server, tmp_path: Path) -> None:
    server.steps = [cut]
    assert fetch(server.file(), tmp_path, retry_policy=QUICK, timeouts=SHORT).read_bytes() == PAYLOAD
    first, second = server.ranges
    assert first is None
    assert second is not None
    assert 0 < int(second.removeprefix("bytes=").removesuffix("-")) <= len(PAYLOAD) // 2


def test_restarts_if_the_server_ignores_the_range(server: Server, tmp_path: Path) -> None:
    server.steps = [cut, serve_whole]
    assert fetch(server.file(), tmp_path, retry_policy=QUICK, timeouts=SHORT).read_bytes() == PAYLOAD


def test_restarts_if_the_server_refuses_the_range(server: Server, tmp_path: Path) -> None:
    server.steps = [cut, answer(416)]
    assert fetch(server.file(), tmp_path, retry_policy=QUICK, timeouts=SHORT).read_bytes() == PAYLOAD
    assert server.ranges[2] is None


def test_halves_that_do_not_match_are_downloaded_again(server: Server, tmp_path: Path) -> None:
    server.steps = [cut_other, serve]
    assert fetch(server.file(), tmp_path, retry_policy=QUICK, timeouts=SHORT).read_bytes() == PAYLOAD
    assert len(server.ranges) == 3
    assert server.ranges[2] is None


def test_outlasts_a_busy_server(server: Server, tmp_path: Path) -> None:
    server.steps = [answer(503), answer(503)]
    assert fetch(server.file(), tmp_path, retry_policy=QUICK, timeouts=SHORT).read_bytes() == PAYLOAD
    assert len(server.ranges) == 3


def test_waits_longer_before_each_try(server: Server, tmp_path: Path) -> None:
    server.steps = [answer(503), answer(503)]
    began = time.monotonic()
    fetch(server.file(), tmp_path, retry_policy=RetryPolicy(attempts=3, first_pause=0.1))
    assert time.monotonic() - began >= 0.1 + 0.2


def test_gives_up_on_a_server_that_stays_busy(server: Server, tmp_path: Path) -> None:
    server.steps = [answer(503)] * 9
    assert "503" in _fails(server.file(), tmp_path)
    assert len(server.ranges) == 3
    assert _names(tmp_path) == []


def test_gives_up_on_a_connection_that_always_breaks(server: Server, tmp_path: Path) -> None:
    def nothing(handler: BaseHTTPRequestHandler, body: bytes) -> None:
        handler.connection.shutdown(socket.SHUT_RDWR)

    server.steps = [cut, nothing, nothing]
    assert "3 attempts" in _fails(server.file(), tmp_path)
    assert _names(tmp_path) == []


@pytest.mark.parametrize("status", [404, 403])
def test_asks_once_for_what_is_not_there(server: Server, tmp_path: Path, status: int) -> None:
    server.steps = [answer(status)]
    assert str(status) in _fails(server.file(), tmp_path)
    assert len(server.ranges) == 1
    assert _names(tmp_path) == []


def test_refuses_other_bytes(server: Server, tmp_path: Path) -> None:
    server.steps = [other]
    file = server.file()
    message = _fails(file, tmp_path)
    assert file.sha256 in message
    assert server.file(payload=bytes(len(PAYLOAD))).sha256 in message
    assert _names(tmp_path) == []


def test_refuses_a_login_page_before_reading_it(server: Server, tmp_path: Path) -> None:
    server.steps = [login_page]
    assert "26 bytes" in _fails(server.file(), tmp_path)
    assert len(server.ranges) == 1
    assert _names(tmp_path) == []


def test_refuses_an_endless_answer(server: Server, tmp_path: Path) -> None:
    def endless(handler: BaseHTTPRequestHandler, body: bytes) -> None:
        handler.send_response(200)
        handler.end_headers()
        while True:  # until the client hangs up
            handler.wfile.write(body)

    server.steps = [endless]
    assert "more than" in _fails(server.file(), tmp_path)
    assert _names(tmp_path) == []


def test_a_stalled_server_holds_nobody_for_ever(server: Server, tmp_path: Path) -> None:
    server.steps = [server.stall, server.stall]
    began = time.monotonic()
    message = _fails(
        server.file(), tmp_path, RetryPolicy(attempts=2, first_pause=0.01), Timeouts(silence=0.2)
    )
    assert "sent nothing for 0.2 s" in message
    assert time.monotonic() - began < 10
    assert _names(tmp_path) == []


def test_no_connection_is_told_plainly(server: Server, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    file = WeightsFile("model.pth", f"http://127.0.0.1:{port}/model.pth", 10, "0" * 64)
    assert f"no connection to 127.0.0.1:{port}" in _fails(file, tmp_path)


def test_a_folder_that_cannot_be_made_is_told(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "choose another folder" in _fails(server.file(), tmp_path / "file" / "cache")
    assert server.ranges == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_is_told(server: Server, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        assert "is writable" in _fails(server.file(), tmp_path)
    finally:
        tmp_path.chmod(0o700)


def test_a_full_disk_is_told_and_left_clean(server: Server, tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        message = _fails(server.file(), tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "could not be written" in message
    assert _names(tmp_path) == []


def test_an_interrupt_leaves_nothing_behind(server: Server, tmp_path: Path) -> None:
    def interrupt(name: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(server.file(), tmp_path, interrupt, retry_policy=QUICK, timeouts=SHORT)
    assert _names(tmp_path) == []


def test_two_processes_may_fetch_at_once(server: Server, tmp_path: Path) -> None:
    both = threading.Barrier(2, timeout=30)

    def together(handler: BaseHTTPRequestHandler, body: bytes) -> None:
        both.wait()
        serve(handler, body)

    server.steps = [together, together]
    file = server.file()
    code = (
        "import sys, pathlib\n"
        "from comic_upscale.models.catalogue import WeightsFile\n"
        "from comic_upscale.models.download import fetch\n"
        "name, url, size, sha256, folder = sys.argv[1:]\n"
        "fetch(WeightsFile(name, url, int(size), sha256), pathlib.Path(folder))"
    )
    command = [sys.executable, "-c", code, file.name, file.url, str(file.size), file.sha256, str(tmp_path)]
    processes = [
        subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=REPOSITORY) for _ in range(2)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=60)
        assert (process.returncode, errors) == (0, "")
    assert _names(tmp_path) == ["model.pth"]
    assert (tmp_path / "model.pth").read_bytes() == PAYLOAD


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege on Windows")
def test_a_link_under_the_name_of_an_unfinished_file_is_not_followed(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    precious = tmp_path / "precious.txt"
    precious.write_bytes(b"precious")
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / ".comic-upscale-guessed.part").symlink_to(precious)
    monkeypatch.setattr("secrets.token_hex", lambda _: "guessed")
    path = fetch(server.file(), tmp_path / "cache", retry_policy=QUICK, timeouts=SHORT)
    assert not path.is_symlink()
    assert path.read_bytes() == PAYLOAD
    assert precious.read_bytes() == b"precious"
    assert _names(tmp_path / "cache") == ["model.pth"]


def test_what_everybody_is_told_of_a_failed_download_names_no_folder(tmp_path: Path) -> None:
    with socket.socket() as nobody_listens:
        nobody_listens.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{nobody_listens.getsockname()[1]}/net.pth"
        file = WeightsFile("net.pth", address, 10, "0" * 64)
        (tmp_path / "file").touch()
        away, no_folder = _fails(file, tmp_path / "cache"), _fails(file, tmp_path / "file" / "cache")
    for message in (away, no_folder):
        assert str(tmp_path) in message
        told = without_places(message)
        assert str(tmp_path) not in told and told.startswith("net.pth could not be")
    assert without_places(f"{away} (attempt 3 of 3)").endswith("(attempt 3 of 3)")
