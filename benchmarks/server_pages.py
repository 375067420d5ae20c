"""The pages of the server: bytes of the first visit, first paint, and many viewers of one running job.

usage: python -m benchmarks.server_pages [--viewers 200] [--seconds 10] [--paints 7] [--busy] [--json FILE]

Each viewer has an event stream, and asks for new pages of the job one or two seconds after it hears of some, as the
script of the page does. The client uses plain connections, so that it costs little itself, and says how much. First
paint needs Chromium and Selenium, and is left out without them. `--busy` marks the figures of a machine that does
other work, too.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import random
import re
import shutil
import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import httpx2 as httpx
import psutil
import sqlalchemy as sa
from PIL import Image

from benchmarks.machine import facts, write_report
from benchmarks.server import Connection, Figure, Server, p99
from comic_upscale.server import accounts, queue, sessions
from comic_upscale.server.database.schema import files, jobs, now_ms
from comic_upscale.server.files import store_file
from comic_upscale.server.ids import new_id
from comic_upscale.server.pictures import LIVE_DATA, LIVE_LIST, PagePictures, Place, to_json
from comic_upscale.server.services import Services, open_services
from comic_upscale.server.settings import ServerSettings

COOKIE = "comic-upscale-session"
PAGES = ("/", "/jobs", "/try", "/account")
CONNECT_SECONDS = 120
"""How long viewers may take to connect."""


def main(arguments: Sequence[str] | None = None) -> dict[str, object]:
    """Measure, print the table, and return the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--viewers", type=int, default=200, help="viewers of one job")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of the load")
    parser.add_argument("--paints", type=int, default=7, help="visits of each page")
    parser.add_argument("--busy", action="store_true", help="the machine does other work, too")
    parser.add_argument("--json", type=Path, help="write the report to this file")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="bench-pages-") as folder:
        figures = measure(Path(folder), options.viewers, options.seconds, options.paints)
    for each in figures:
        relation, mark = "≥" if each.is_least else "≤", "met" if each.is_met else "MISSED"
        print(f"{each.name:44} {each.value:10.3f} {each.unit:4} {relation} {each.target:g}  {mark}")
    report: dict[str, object] = {
        **facts(2), "busy": options.busy, "viewers": options.viewers,
        "figures": [{**asdict(each), "met": each.is_met} for each in figures],
    }  # fmt: skip
    if options.json is not None:
        write_report(report, options.json)
    return report


def measure(folder: Path, viewers: int, seconds: float, paints: int) -> list[Figure]:
    """Return the figures of a server that this starts."""
    server = Server(folder)
    services = open_services(ServerSettings(data=server.data))
    try:
        secret = _sign_in(services)
        server.start()
        assert server.process is not None and server.process.stdout is not None
        job = Job(services, folder)
        pages = (*PAGES, f"/jobs/{job.claim.job_id}")
        found = asyncio.run(_sizes(server, secret, pages))
        found += _paint(server, secret, pages, paints, folder)
        found += asyncio.run(_watched(server, secret, job, viewers, seconds))
        found.append(Figure("memory of the server", server.memory(), "MB", 200, False))
        return found
    finally:
        services.close()
        server.close()


class Job:
    """A running job whose pages this process stores as a worker does."""

    def __init__(self, services: Services, folder: Path) -> None:
        self._services = services
        owner = services.database.write(lambda c: accounts.ensure_user(c, "viewer", "user"))
        buffer = io.BytesIO()
        Image.effect_noise((360, 540), 60).save(buffer, "WEBP", quality=80)
        self._thumb = buffer.getvalue()
        self.count = 0

        def write(connection: Any) -> None:
            connection.execute(
                sa.insert(jobs).values(
                    id=new_id(), owner_id=owner, lane="batch", status="queued", params={"size": "scale 2"},
                    title="Book.cbz", created_at=now_ms(), updated_at=now_ms(),
                )
            )  # fmt: skip

        services.database.write(write)
        claimed = services.database.write(lambda c: queue.claim(c, "bench", jobs_per_user=9))
        assert claimed is not None
        self.claim = claimed

    def add(self) -> None:
        """Finish a page."""
        number, store = self.count, self._services.files
        key = f"pictures/{self.claim.job_id}/1-live-{number}"
        place = Place(None, 0, len(self._thumb), "image/webp")
        page = PagePictures(name=f"{number:04}.png", size=(360, 540), thumb=place, after=place)
        data = store_file(store, f"{key}-data", io.BytesIO(self._thumb))
        listed = store_file(store, f"{key}-list", io.BytesIO(to_json([page])))

        def write(connection: Any) -> None:
            now = connection.scalar(sa.select(now_ms()))
            for kind, file in ((LIVE_DATA, data), (LIVE_LIST, listed)):
                connection.execute(
                    sa.insert(files).values(
                        id=new_id(), job_id=self.claim.job_id, kind=kind, position=number, name=kind,
                        storage_key=file.key, size=file.size, sha256=file.sha256, created_at=now,
                    )
                )  # fmt: skip
            queue.heartbeat(connection, self.claim, pages_total=1000, pages_done=number + 1)

        self._services.database.write(write)
        self.count += 1


def _sign_in(services: Services) -> str:
    """Return the secret of a session of a new user."""

    def write(connection: Any) -> str:
        user_id = accounts.ensure_user(connection, "viewer", "user")
        return sessions.begin(connection, user_id, address="127.0.0.1", agent="bench").secret

    return services.database.write(write)


async def _sizes(server: Server, secret: str, pages: Sequence[str]) -> list[Figure]:
    """Return the bytes that a first visit of each page transfers."""
    found = []
    async with _client(server, secret) as client:
        for path in pages:
            page = (await client.get(path)).raise_for_status()
            assets = set(re.findall(r'(?:src|href)="(/static/[^"]+)"', page.text))
            total = len(page.content)
            for asset in assets:
                async with client.stream("GET", asset) as answer:
                    total += sum([len(piece) async for piece in answer.aiter_raw()])
            name = "a running job" if path.startswith("/jobs/") else path
            found.append(Figure(f"bytes of a first visit, {name}", total / 1000, "kB", 100, False))
    return found


def _client(server: Server, secret: str) -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    return httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{server.pages_port}", timeout=60, limits=limits,
        headers={"Cookie": f"{COOKIE}={secret}"},
    )  # fmt: skip


def _paint(server: Server, secret: str, pages: Sequence[str], times: int, folder: Path) -> list[Figure]:
    """Return the median seconds to the first contentful paint of each page, with an empty cache."""
    binary, driver_path = shutil.which("chromium"), shutil.which("chromedriver")
    try:
        from selenium import webdriver
    except ImportError:
        return []
    if binary is None or driver_path is None or not times:
        return []
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for argument in (
        "--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--no-first-run",
        f"--user-data-dir={folder / 'profile'}",
    ):  # fmt: skip
        options.add_argument(argument)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver_path))
    found = []
    try:
        origin = f"http://127.0.0.1:{server.pages_port}"
        driver.get(f"{origin}/sign-in")
        driver.add_cookie({"name": COOKIE, "value": secret, "path": "/"})
        for path in pages:
            values = [value for _ in range(times) if (value := _first_paint(driver, f"{origin}{path}"))]
            name = "a running job" if path.startswith("/jobs/") else path
            if values:
                found.append(Figure(f"first paint, {name}", statistics.median(values), "s", 1.0, False))
    finally:
        driver.quit()
    return found


def _first_paint(driver: Any, url: str) -> float | None:
    driver.execute_cdp_cmd("Network.clearBrowserCache", {})
    driver.get(url)
    script = "return performance.getEntriesByName('first-contentful-paint')[0]?.startTime || 0"
    for _ in range(100):
        if value := driver.execute_script(script):
            return float(value) / 1000
        time.sleep(0.02)
    return None


async def _watched(server: Server, secret: str, job: Job, viewers: int, seconds: float) -> list[Figure]:
    """Return how the server holds up while many people watch one job."""
    asked: list[float] = []
    lags: list[float] = []
    added: dict[int, float] = {}
    assert server.process is not None
    process = psutil.Process(server.process.pid)
    path = f"/jobs/{job.claim.job_id}"

    connected = asyncio.Semaphore(0)

    async def view() -> None:
        stream, requests = (Connection(server.pages_port, server.key) for _ in range(2))
        shown, asking = 0, None

        async def ask() -> None:
            nonlocal shown
            await asyncio.sleep(1 + random.random())
            began = time.perf_counter()
            _, new = await requests.request("GET", f"{path}/new?after={shown}", cookie=f"{COOKIE}={secret}")
            asked.append(time.perf_counter() - began)
            shown += new.count(b"<li")

        try:
            await stream.send("GET", f"/api/v1{path}/events", cookie=f"{COOKIE}={secret}")
            assert stream.reader is not None
            connected.release()
            while line := await stream.reader.readline():
                done = re.search(rb'"done": ?(\d+)', line)
                if done is None or int(done[1]) not in added:
                    continue
                lags.append(time.perf_counter() - added[int(done[1])])
                if asking is None or asking.done():
                    asking = asyncio.ensure_future(ask())
        finally:
            if asking is not None:
                asking.cancel()
            stream.close()
            requests.close()

    tasks = [asyncio.create_task(view()) for _ in range(viewers)]
    async with asyncio.timeout(CONNECT_SECONDS):
        # A busy machine needs some time for all of them.
        for _ in tasks:
            await connected.acquire()
    began, before, own = time.perf_counter(), sum(process.cpu_times()[:2]), time.process_time()
    while time.perf_counter() - began < seconds:
        added[job.count + 1] = time.perf_counter()
        await asyncio.to_thread(job.add)
        await asyncio.sleep(2)
    used = (sum(process.cpu_times()[:2]) - before) / (time.perf_counter() - began)
    own = (time.process_time() - own) / (time.perf_counter() - began)
    failed = [task for task in tasks if task.done()]
    for task in tasks:
        task.cancel()
    for task in tasks:
        with suppress(asyncio.CancelledError, OSError):
            await task
    if failed or not asked or not lags:
        raise SystemExit(
            f"{len(failed)} of {viewers} viewers lost their connection; the others saw {len(lags)} events"
        )
    return [
        Figure(f"new pages, {viewers} viewers, p99", p99(asked), "s", 1.0, False),
        Figure(f"event lag, {viewers} viewers, p99", p99(lags), "s", 1.5, False),
        Figure(f"processor of the server, {viewers} viewers", used, "core", 1.0, False),
        Figure("processor of the viewers and the job", own, "core", 1.0, False),
    ]


if __name__ == "__main__":
    main()
