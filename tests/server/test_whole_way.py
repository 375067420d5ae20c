"""From an upload to its result over real processes: the pixels of `run`, a clean stop, a worker that comes back."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from tests.conftest import draw
from tests.server.running import PATIENCE, RunningServer, command, invoke_here, wait_for

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the worker is told to stop by signals")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    home = tmp_path_factory.mktemp("server")
    server = RunningServer(home / "data", home, "--device", "cpu", "--worker-idle-timeout", "2")
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw(tmp_path_factory.mktemp("page") / "page.png", 7, size=(32, 48))


@pytest.fixture(scope="module")
def volume(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("volume")
    with zipfile.ZipFile(folder / "Book 01.cbz", "w") as archive:
        for number in range(3):
            archive.write(draw(folder / f"{number}.png", 50 + number, size=(32, 48)), f"{number}.png")
    return folder / "Book 01.cbz"


def run_here(source: Path, output: Path, *options: str) -> None:
    """Run `comic-upscale run` in this process."""
    words = ("run", "--input", source, "--output", output, "--device", "cpu", "--quiet", *options)
    ended = invoke_here(output.parent, *words)
    assert ended.exit_code == 0, ended.output


def pixels(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image)


def test_three_lines_say_where_to_go(server: RunningServer) -> None:
    assert [line.split(":")[0] for line in server.lines] == ["Pages", "REST API", "Data"]
    with server.client() as client:
        assert client.get("/api/v1/health").json()["status"] == "ok"
        assert client.get(f"{server.pages}/livez").text == "ok"


def test_a_page_has_the_pixels_of_run(server: RunningServer, page: Path, tmp_path: Path) -> None:
    run_here(page, tmp_path / "out", "--scale", "2.5")
    with server.client() as client:
        job = server.wait(client, server.upload(client, page, factor="2.5x"))
        assert (job["status"], job["progress"], job["error"]) == ("completed", 100.0, None)
        assert job["pages"] == {"total": 1, "done": 1, "failed": 0}
        answer = client.get(job["result_url"])
        assert answer.headers["content-type"] == "image/png"
        assert np.array_equal(pixels(answer.content), pixels((tmp_path / "out/page.png").read_bytes()))
        original = client.get(job["original_url"])
        assert original.content == page.read_bytes()
        # A link needs no key: it is what a browser follows.
        bare = client.get(str(answer.url), headers={"X-API-Key": "", "Range": "bytes=1-3"})
        assert (bare.status_code, bare.content) == (206, b"PNG")


def test_a_volume_has_the_pixels_of_run(server: RunningServer, volume: Path, tmp_path: Path) -> None:
    run_here(volume, tmp_path / "out", "--scale", "2", "--format", "webp")
    with server.client() as client:
        job = server.wait(client, server.upload(client, volume, factor="2x", format="webp"))
        assert (job["status"], job["pages"]["done"]) == ("completed", 3)
        (mine,) = (tmp_path / "out").glob("*.cbz")
        for format in ("cbz", "zip"):
            answer = client.get(job["result_url"], params={"format": format})
            assert answer.headers["content-disposition"].endswith(f"Book%2001.{format}")
            with zipfile.ZipFile(io.BytesIO(answer.content)) as theirs, zipfile.ZipFile(mine) as ours:
                names = [name for name in ours.namelist() if name.endswith(".webp")]
                assert len(names) == 3
                for name in names:
                    assert np.array_equal(pixels(theirs.read(name)), pixels(ours.read(name)))


def test_several_pages_come_in_one_archive_with_ranges(server: RunningServer, tmp_path: Path) -> None:
    sources = [draw(tmp_path / f"{number}" / "page.png", number, size=(20, 20)) for number in (1, 2)]
    with server.client() as client:
        job = server.wait(client, server.upload(client, *sources, factor="2"))
        assert (job["status"], job["title"]) == ("completed", "page.png and 1 more")
        whole = client.get(job["result_url"], params={"format": "cbz"})
        with zipfile.ZipFile(io.BytesIO(whole.content)) as archive:
            assert sorted(archive.namelist()) == ["page (2).png", "page.png"]
            assert archive.testzip() is None
        half = len(whole.content) // 2
        first = client.get(str(whole.url), headers={"Range": f"bytes=0-{half - 1}"})
        rest = client.get(
            str(whole.url), headers={"Range": f"bytes={half}-", "If-Range": first.headers["etag"]}
        )
        assert (first.status_code, rest.status_code) == (206, 206)
        assert first.content + rest.content == whole.content


def test_a_broken_page_fails_its_job_with_a_reason_and_no_path(server: RunningServer, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    with server.client() as client:
        job = server.wait(client, server.upload(client, tmp_path / "broken.png"))
    assert (job["status"], job["error"]["code"], job["result_url"]) == ("failed", "no_page", None)
    assert job["pages"] == {"total": 1, "done": 0, "failed": 1}
    assert job["failures"][0]["source"] == "broken.png"
    assert str(server.data) not in str(job)


def test_a_viewer_follows_a_job_to_its_end(server: RunningServer, volume: Path) -> None:
    with server.client() as client:
        job_id = server.upload(client, volume, factor="2")
        states, ids = [], []
        with client.stream("GET", f"/api/v1/jobs/{job_id}/events") as stream:
            assert stream.headers["content-type"].startswith("text/event-stream")
            for line in stream.iter_lines():
                if line.startswith("data:"):
                    states.append(json.loads(line.removeprefix("data:")))
                elif line.startswith("id:"):
                    ids.append(line.removeprefix("id:").strip())
        assert states[-1]["status"] == "completed"
        assert ids == [str(state["revision"]) for state in states] == sorted(ids, key=int)
        headers = {"Last-Event-ID": ids[-1]}
        assert "data:" not in client.get(f"/api/v1/jobs/{job_id}/events", headers=headers).text
        assert client.get("/api/v1/jobs/none/events").status_code == 404


def test_the_worker_ends_when_idle_and_comes_back(server: RunningServer, page: Path) -> None:
    assert server.process is not None
    parent = psutil.Process(server.process.pid)
    wait_for(lambda: not parent.children(recursive=True))
    with server.client() as client:
        assert server.wait(client, server.upload(client, page))["status"] == "completed"
    # The job is completed before its folder is removed.
    wait_for(lambda: not list((server.data / "work").iterdir()))


@pytest.mark.skipif(
    "COMIC_UPSCALE_TEST_LONG" not in os.environ,
    reason="a long trial, COMIC_UPSCALE_TEST_LONG=1; tests/worker/test_kills.py kills workers, too",
)
def test_a_killed_worker_loses_nothing(server: RunningServer, tmp_path: Path) -> None:
    volume = tmp_path / "long.cbz"
    with zipfile.ZipFile(volume, "w") as archive:
        for number in range(30):
            archive.write(draw(tmp_path / f"{number}.png", number, size=(96, 128)), f"{number:02}.png")
    run_here(volume, tmp_path / "out", "--scale", "2")
    assert server.process is not None
    parent = psutil.Process(server.process.pid)
    with server.client() as client:
        job_id = server.upload(client, volume, factor="2")
        wait_for(lambda: client.get(f"/api/v1/jobs/{job_id}").json()["pages"]["done"] > 2)
        (child,) = parent.children()
        child.kill()
        job = server.wait(client, job_id)
        assert (job["status"], job["pages"]["done"]) == ("completed", 30)
        answer = client.get(job["result_url"])
    with (
        zipfile.ZipFile(io.BytesIO(answer.content)) as theirs,
        zipfile.ZipFile(tmp_path / "out/long.cbz") as ours,
    ):
        for name in ours.namelist():
            if name.endswith(".png"):
                assert np.array_equal(pixels(theirs.read(name)), pixels(ours.read(name)))


def test_a_clean_stop_gives_the_job_back_and_a_second_signal_ends_everything_at_once(tmp_path: Path) -> None:
    """Neither loses anything: the next start goes on with the job."""
    volume = tmp_path / "long.cbz"
    with zipfile.ZipFile(volume, "w") as archive:
        for number in range(40):
            archive.write(draw(tmp_path / f"{number}.png", number, size=(384, 512)), f"{number:02}.png")
    server = RunningServer(tmp_path / "data", tmp_path, "--device", "cpu")
    try:
        server.start()
        with server.client() as client:
            job_id = server.upload(client, volume)
            wait_for(lambda: client.get(f"/api/v1/jobs/{job_id}").json()["pages"]["done"] > 0)
        assert server.stop(signal.SIGTERM) == 0, server.log()
        server.start()
        with server.client() as client:
            found = client.get(f"/api/v1/jobs/{job_id}").json()
            assert (found["status"], found["attempts"]) in (("queued", 0), ("running", 1))
            done = found["pages"]["done"]
            wait_for(lambda: client.get(f"/api/v1/jobs/{job_id}").json()["pages"]["done"] > done)
        assert server.process is not None
        (child,) = psutil.Process(server.process.pid).children()
        stopped = server.log().count("stopping")
        server.process.send_signal(signal.SIGTERM)
        # Both arrive: two equal signals that are waiting at the same time would be one.
        wait_for(lambda: server.log().count("stopping") > stopped)
        assert server.stop(signal.SIGTERM) == 128 + signal.SIGTERM, server.log()
        assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
        server.start()
        with server.client() as client:
            job = server.wait(client, job_id)
            assert (job["status"], job["pages"]["done"]) == ("completed", 40)
    finally:
        server.kill()


def test_a_second_server_on_the_same_data_is_refused(server: RunningServer) -> None:
    ended = subprocess.run(
        command("serve", "--data", server.data, "--port", 0, "--api-port", 0),
        env=server.environment, capture_output=True, text=True, timeout=PATIENCE,
    )  # fmt: skip
    assert ended.returncode == 6
    assert "another server uses" in ended.stderr and "Traceback" not in ended.stderr
