"""Pages that a worker does not survive: such a page is set aside after three deaths, and the job goes on."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from PIL import Image

from comic_upscale.server import workers
from comic_upscale.server.database.schema import jobs
from comic_upscale.server.services import Services
from comic_upscale.server.supervisor import Supervisor, WorkerCommand
from comic_upscale.worker.crashes import DEATHS, CrashWatch
from tests.conftest import LONG, REPOSITORY, draw
from tests.server.conftest import OpenServices, client_of, make_key
from tests.server.running import PATIENCE, clean_environment

pytestmark = pytest.mark.skipif(os.name != "posix", reason="kills by signals")

ABORTS, IS_KILLED = 1, 2


def make_volume(folder: Path, odd: dict[int, int], pages: int = 8) -> Path:
    """A volume in which some pages have one grey each, which the engine of `odd_worker` knows."""
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / "book.cbz", "w") as archive:
        for number in range(pages):
            path = folder / f"{number}.png"
            if number in odd:
                Image.new("RGB", (96, 64), (odd[number],) * 3).save(path)
            else:
                draw(path, number, size=(96, 64))
            archive.write(path, f"{number}.png")
    return folder / "book.cbz"


def odd_command(data: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "tests.worker.odd_worker", "--data", str(data), *words]


def upload(client: Any, volume: Path) -> str:
    answer = client.post("/api/v1/uploads", files=[("file", (volume.name, volume.read_bytes()))])
    assert answer.status_code == 202
    return str(answer.json()["job_id"])


def run_workers(services: Services, home: Path, job_id: str, most: int = 30) -> list[int]:
    """Start one worker after another until the job ends, and return their exit codes."""
    codes: list[int] = []
    while status(services, job_id) in ("queued", "running"):
        assert len(codes) < most, codes
        worker = subprocess.Popen(
            odd_command(services.settings.data),
            env=clean_environment(home), cwd=REPOSITORY, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        codes.append(worker.wait(PATIENCE))
        services.database.write(workers.end_dead)
    return codes


def status(services: Services, job_id: str) -> str:
    found = services.database.read(lambda c: c.scalar(sa.select(jobs.c.status).where(jobs.c.id == job_id)))
    return str(found)


# The test below has a page that is killed, too.
@pytest.mark.parametrize(
    ("kind", "code"), [(ABORTS, -signal.SIGABRT), (IS_KILLED, -signal.SIGKILL)][: 2 if LONG else 1]
)
def test_a_page_that_ends_three_workers_is_set_aside(
    open_server: OpenServices, tmp_path: Path, kind: int, code: int
) -> None:
    services = open_server()
    volume = make_volume(tmp_path / "pages", {4: kind})
    with client_of(services, make_key(services, "me")) as client:
        job_id = upload(client, volume)
        codes = run_workers(services, tmp_path, job_id)
        job = client.get(f"/api/v1/jobs/{job_id}").json()
        assert codes == [code] * DEATHS + [0]
        assert (job["status"], job["pages"]) == ("completed", {"total": 8, "done": 7, "failed": 1}), job
        (failure,) = services.database.read(lambda c: c.scalar(sa.select(jobs.c.failures)))
        assert (failure["source"], failure["kind"]) == ("book.cbz/4.png", "crash")
        assert failure["reason"].startswith("3 workers ended while they processed this page")
        result = client.get(job["result_url"], follow_redirects=True).content
    with zipfile.ZipFile(io.BytesIO(result)) as archive, zipfile.ZipFile(volume) as source:
        sizes = {}
        for name in archive.namelist():
            with Image.open(io.BytesIO(archive.read(name))) as page:
                sizes[name] = page.size
        # The page itself is in the volume, as it was.
        assert archive.read("4.png") == source.read("4.png")
    assert [size for name, size in sizes.items() if name != "4.png"] == [sizes["0.png"]] * 7
    assert sizes["0.png"] > (96, 64)


@pytest.mark.skipif(not LONG, reason="starts six workers: set COMIC_UPSCALE_TEST_LONG=1")
def test_two_such_pages_cost_no_other_page(open_server: OpenServices, tmp_path: Path) -> None:
    services = open_server()
    volume = make_volume(tmp_path / "pages", {0: ABORTS, 7: IS_KILLED})
    with client_of(services, make_key(services, "me")) as client:
        job_id = upload(client, volume)
        *deaths, last = run_workers(services, tmp_path, job_id)
        # Both may be in work at the first death. Then it counts for both, and the other one ends one worker less.
        counts = Counter(deaths)
        assert (set(counts), last) == ({-signal.SIGABRT, -signal.SIGKILL}, 0), (deaths, last)
        assert max(counts.values()) == DEATHS and min(counts.values()) >= DEATHS - 1, deaths
        assert client.get(f"/api/v1/jobs/{job_id}").json()["pages"] == {"total": 8, "done": 6, "failed": 2}


def test_a_fault_that_hits_every_page_sets_the_job_aside(open_server: OpenServices, tmp_path: Path) -> None:
    services = open_server()
    volume = make_volume(tmp_path / "pages", dict.fromkeys(range(8), ABORTS))
    with client_of(services, make_key(services, "me")) as client:
        job_id = upload(client, volume)
        codes = run_workers(services, tmp_path, job_id)
        job = client.get(f"/api/v1/jobs/{job_id}").json()
        assert (job["status"], job["error"]["code"]) == ("failed", "set_aside")
        assert "not with the pages" in job["error"]["message"]
    assert len(codes) < 15


def test_a_job_that_does_not_stop_at_its_timeout_ends_its_worker() -> None:
    code = (
        "import time\n"
        "from comic_upscale.worker import hanging\n"
        "hanging.HANG_SECONDS = 0.2\n"
        "with hanging.no_hanging(0.2):\n    pass\n"
        "with hanging.no_hanging(None):\n    time.sleep(0.6)\n"
        "print('alive', flush=True)\n"
        "with hanging.no_hanging(0.2):\n    time.sleep(3600)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE)
    assert (ended.returncode, ended.stdout) == (1, "alive\n")
    assert ended.stderr.startswith("Timeout")


def test_the_last_words_of_the_worker_are_with_the_page(open_server: OpenServices, tmp_path: Path) -> None:
    services = open_server()
    volume = make_volume(tmp_path / "pages", {1: ABORTS}, pages=3)
    command = WorkerCommand(
        odd_command(services.settings.data), clean_environment(tmp_path, PYTHONPATH=str(REPOSITORY))
    )

    async def supervise(job_id: str) -> list[str]:
        supervisor = Supervisor(services.settings, services.database, command)
        running = asyncio.create_task(supervisor.run())
        problems: list[str] = []
        try:
            while await asyncio.to_thread(status, services, job_id) in ("queued", "running"):
                problems = supervisor.problems() or problems
                supervisor._not_before = 0.0  # the waits after crashes have a test of their own
                await asyncio.sleep(0.1)
        finally:
            await supervisor.stop()
            await running
        return problems

    with client_of(services, make_key(services, "me")) as client:
        job_id = upload(client, volume)
        problems = asyncio.run(asyncio.wait_for(supervise(job_id), PATIENCE))
        assert client.get(f"/api/v1/jobs/{job_id}").json()["pages"] == {"total": 3, "done": 2, "failed": 1}
    (failure,) = services.database.read(lambda c: c.scalar(sa.select(jobs.c.failures)))
    assert "killed by SIGABRT: Fatal Python error: Aborted" in failure["reason"]
    assert "SIGABRT" in problems[0]


def test_a_page_that_was_finished_is_not_blamed(tmp_path: Path) -> None:
    watch = CrashWatch(tmp_path)
    assert not watch.has_suspects
    watch.plan(["a", "b", "c"])
    for source in ("a", "b"):
        watch.begin(source)
    watch.end("a", done=True)
    second = CrashWatch(tmp_path, "the words")
    assert second.has_suspects and second.is_careful
    # It was finished just before the death, so it is not in the plan any more.
    second.plan(["c"])
    assert not second.is_careful
    second.begin("c")
    second.close()
    assert not CrashWatch(tmp_path).has_suspects


def test_a_damaged_file_blames_nobody(tmp_path: Path) -> None:
    for text in ("", "{", "[]", '{"other": 1}', "\0"):
        (tmp_path / "in-flight.json").write_text(text)
        assert not CrashWatch(tmp_path).has_suspects


def test_memory_that_a_worker_may_not_have(tmp_path: Path) -> None:
    if sys.platform != "linux":
        pytest.skip("the limit is Linux's")
    code = (
        "from comic_upscale.commands.worker import _limit_memory\n"
        "_limit_memory(300 << 20)\n"
        "try:\n    bytearray(600 << 20)\n"
        "except MemoryError:\n    print('refused')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE)
    assert done.stdout.strip() == "refused", done.stderr
