"""The server under load: uploads, reads, lists, events, memory and restarts, each beside its target.

usage: python -m benchmarks.server [--jobs 1000000] [--seconds 10] [--busy] [--json FILE]

The client uses asyncio and plain HTTP/1.1 on connections that stay open, so that it costs little itself. It runs on
the same cores as the server. `--busy` marks the figures of a machine that does other work, too.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import re
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks.machine import facts, write_report
from comic_upscale.server.ids import new_id

VIEWERS = 200
UPLOAD_BYTES = 200 << 10
WORKER_SECONDS = 120.0
"""How long the worker may take for its first page."""
STATUSES = ("completed", "completed", "completed", "completed", "failed", "canceled", "queued")


@dataclass(frozen=True, slots=True)
class Figure:
    """A measured value and its target."""

    name: str
    value: float
    unit: str
    target: float
    is_least: bool
    """Whether the target is the least value, and not the most."""

    @property
    def is_met(self) -> bool:
        """Whether the target is met."""
        return self.value >= self.target if self.is_least else self.value <= self.target


class Connection:
    """One connection of a client that sends one request after the other."""

    def __init__(self, port: int, key: str) -> None:
        self._port, self._key = port, key
        self.reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def request(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        kind: str = "application/json",
        cookie: str | None = None,
    ) -> tuple[int, bytes]:
        """Send a request, and return the status and the body of the answer."""
        await self.send(method, path, body, kind, cookie)
        assert self.reader is not None
        head = await self.reader.readuntil(b"\r\n\r\n")
        found = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
        content = await self.reader.readexactly(int(found[1])) if found else b""
        return int(head.split()[1]), content

    async def send(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        kind: str = "application/json",
        cookie: str | None = None,
    ) -> None:
        """Send a request, with a cookie in place of the key if there is one."""
        if self._writer is None:
            self.reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port, limit=1 << 24)
        who = f"X-API-Key: {self._key}" if cookie is None else f"Cookie: {cookie}"
        head = f"{method} {path} HTTP/1.1\r\nHost: x\r\n{who}\r\n"
        if body:
            head += f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
        self._writer.write(head.encode() + b"\r\n" + body)
        await self._writer.drain()

    def close(self) -> None:
        """Close the connection."""
        if self._writer is not None:
            self._writer.close()


class Server:
    """A server process over a folder of its own.

    Args:
        folder: gets its data and its log.
        role: ``server`` for a server without a worker, ``all`` with one.
    """

    def __init__(self, folder: Path, role: str = "server") -> None:
        self._role = role
        self.data = folder / "data"
        self._log = (folder / "server.log").open("ab")
        self.process: subprocess.Popen[str] | None = None
        self.port = self.pages_port = 0
        command = [sys.executable, "-m", "comic_upscale", "server", "key", "create", "--data", str(self.data)]
        self.key = subprocess.check_output([*command, "--name", "bench", "--admin"], text=True).strip()

    def start(self) -> float:
        """Start it, and return the seconds until it answers."""
        began = time.perf_counter()
        self.process = subprocess.Popen(
            [
                sys.executable, "-m", "comic_upscale", "serve", "--role", self._role, "--data", str(self.data),
                "--port", "0", "--api-port", "0", "--rate-limit", "100000000", "--min-free-disk", "0",
            ],
            stdout=subprocess.PIPE, stderr=self._log, text=True, env=_environment(),
        )  # fmt: skip
        assert self.process.stdout is not None
        lines = [self.process.stdout.readline() for _ in range(3)]
        self.pages_port = int(re.search(r":(\d+)$", lines[0].strip())[1])  # type: ignore[index]
        self.port = int(re.search(r":(\d+)/docs", lines[1])[1])  # type: ignore[index]
        asyncio.run(_ready(self.port, self.key))
        return time.perf_counter() - began

    def end(self, number: int = signal.SIGKILL) -> None:
        """End it."""
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait()
            assert self.process.stdout is not None
            self.process.stdout.close()
            self.process = None

    def close(self) -> None:
        """End it for good, with its worker, which would go on writing for a moment."""
        children = [] if self.process is None else psutil.Process(self.process.pid).children(recursive=True)
        self.end()
        for child in children:
            with suppress(psutil.NoSuchProcess):
                child.kill()
        psutil.wait_procs(children, timeout=30)
        self._log.close()

    def memory(self) -> float:
        """Return its memory, in MB."""
        assert self.process is not None
        return psutil.Process(self.process.pid).memory_info().rss / 1e6


def _environment() -> dict[str, str]:
    """Return the variables of the server. pip compiles the modules that it installs, so they may be kept compiled."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def main(arguments: Sequence[str] | None = None) -> dict[str, object]:
    """Measure, print the table, and return the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1_000_000, help="jobs of the longest list")
    parser.add_argument("--viewers", type=int, default=VIEWERS, help="connections that follow events")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of each load")
    parser.add_argument("--busy", action="store_true", help="the machine does other work, too")
    parser.add_argument("--json", type=Path, help="write the report to this file")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="bench-server-") as folder:
        figures = measure(Path(folder), options.jobs, options.viewers, options.seconds)
        (Path(folder) / "busy").mkdir()
        figures += measure_beside_worker(Path(folder) / "busy", options.seconds)
    for each in figures:
        relation = "≥" if each.is_least else "≤"
        mark = "met" if each.is_met else "MISSED"
        print(f"{each.name:58} {each.value:10.1f} {each.unit:10} {relation} {each.target:g}  {mark}")
    report = {
        **facts(1), "busy_machine": options.busy, "viewers": options.viewers, "seconds": options.seconds,
        "figures": [{**asdict(each), "value": round(each.value, 2), "is_met": each.is_met} for each in figures],
    }  # fmt: skip
    if options.json is not None:
        write_report(report, options.json)
    return report


def measure(folder: Path, jobs: int, viewers: int, seconds: float) -> list[Figure]:
    """Measure all figures; a tenth and a hundredth of the jobs are in the database for those that need fewer."""
    server, figures = Server(folder), []
    try:
        server.start()
        few = max(jobs // 100, 10)
        ids = seed(server.data, few)
        figures += asyncio.run(_loads(server, ids, viewers, seconds))
        figures.append(Figure("memory of the server after these loads", server.memory(), "MB", 150, False))
        seed(server.data, jobs // 10 - few)
        server.end()
        figures.append(Figure(f"SIGKILL → serving, {jobs // 10:,} jobs", server.start(), "s", 3, False))
        seed(server.data, jobs - jobs // 10)
        figures += asyncio.run(_lists(server, jobs, seconds))
    finally:
        server.close()
    return figures


def measure_beside_worker(folder: Path, seconds: float) -> list[Figure]:
    """Measure uploads and reads while the worker computes a volume on the same cores."""
    server = Server(folder, role="all")
    try:
        server.start()
        return asyncio.run(_beside_worker(server, seconds))
    finally:
        server.close()


async def _beside_worker(server: Server, seconds: float) -> list[Figure]:
    connection = Connection(server.port, server.key)
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="volume.cbz"\r\n\r\n'
    body = head + _volume() + b"\r\n--x--\r\n"
    status, answer = await connection.request(
        "POST", "/api/v1/uploads", body, "multipart/form-data; boundary=x"
    )
    connection.close()
    if status != 202:
        raise SystemExit(f"the volume got {status}: {answer[:300]!r}")
    job_id = json.loads(answer)["job_id"]
    end = time.perf_counter() + WORKER_SECONDS
    while not (await _job(server, job_id))["pages"]["done"]:
        if time.perf_counter() > end:
            raise SystemExit(f"the worker did not finish a page in {WORKER_SECONDS:g} s")
        await asyncio.sleep(0.2)
    rate = await _uploads(server, seconds, 8)
    reads = await _repeat(server, lambda _number: f"/api/v1/jobs/{job_id}", seconds)
    if (await _job(server, job_id))["status"] != "running":
        raise SystemExit("the worker finished the volume before the load ended")
    return [
        Figure("uploads of 200 KiB while the worker computes", rate, "/s", 40, True),
        Figure("GET job, p99, while the worker computes", p99(reads) * 1000, "ms", 150, False),
    ]


async def _job(server: Server, job_id: str) -> dict[str, Any]:
    connection = Connection(server.port, server.key)
    _, answer = await connection.request("GET", f"/api/v1/jobs/{job_id}")
    connection.close()
    found: dict[str, Any] = json.loads(answer)
    return found


def _volume(pages: int = 200) -> bytes:
    """Return a volume that keeps the worker busy for minutes."""
    from PIL import Image

    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for number in range(pages):
            page = io.BytesIO()
            Image.effect_noise((400, 600), 40 + number % 50).save(page, "jpeg")
            archive.writestr(f"{number:03}.jpg", page.getvalue())
    return content.getvalue()


def seed(data: Path, count: int) -> list[str]:
    """Insert jobs of several owners and statuses into the database, and return their ids."""
    path = data / "server.sqlite3"
    with closing(sqlite3.connect(path, timeout=60)) as connection, connection:
        columns = [row[1] for row in connection.execute("PRAGMA table_info(jobs)")]
        (owner,) = connection.execute("SELECT user_id FROM keys").fetchone()
        others = []
        for _ in range(20):
            others.append(new_id())
            row = (others[-1], f"user {others[-1]}", "user", 1)
            connection.execute("INSERT INTO users (id, name, role, created_at) VALUES (?, ?, ?, ?)", row)
        now = int(time.time() * 1000)
        ids = [new_id() for _ in range(count)]

        def rows() -> Any:
            for number, job_id in enumerate(ids):
                status = STATUSES[number % len(STATUSES)]
                at = now - (count - number) * 1000
                values = {
                    "id": job_id, "owner_id": owner if number % 2 else others[number % 20], "lane": "batch",
                    "status": status, "params": "{}", "title": f"page {number}.png", "created_at": at,
                    "updated_at": at, "pages_total": 1, "pages_done": int(status == "completed"),
                    # They wait, but not for a worker: there is none.
                    "not_before": 0, "priority": 0, "fence": 0, "attempts": 0, "cancel_requested": 0, "revision": 1,
                    "pages_failed": 0, "pixels": 0,
                }  # fmt: skip
                yield [values.get(name) for name in columns]

        marks = ", ".join("?" * len(columns))
        connection.executemany(f"INSERT INTO jobs VALUES ({marks})", rows())
        connection.execute("ANALYZE")
    return ids


async def _ready(port: int, key: str) -> None:
    while True:
        connection = Connection(port, key)
        try:
            if (await connection.request("GET", "/readyz"))[0] == 200:
                return
        except (OSError, asyncio.IncompleteReadError):
            await asyncio.sleep(0.02)
        finally:
            connection.close()


async def _loads(server: Server, ids: list[str], viewers: int, seconds: float) -> list[Figure]:
    async with _viewers(server, ids, viewers):
        rate = await _uploads(server, seconds)
        reads = await _repeat(server, lambda number: f"/api/v1/jobs/{ids[number * 7 % len(ids)]}", seconds)
        # Each change takes about as long as the interval of the events.
        lag = await _event_lag(server, ids[-1], min(max(int(seconds * 4), 3), 40))
    return [
        Figure(f"uploads of 200 KiB, {viewers} viewers", rate, "/s", 200, True),
        Figure(f"GET job, p99, {len(ids):,} jobs, {viewers} viewers", p99(reads) * 1000, "ms", 50, False),
        Figure("event lag, p99", p99(lag), "s", 1, False),
    ]


@asynccontextmanager
async def _viewers(server: Server, ids: list[str], count: int) -> AsyncIterator[None]:
    """Follow queued jobs, with a connection each."""
    queued = [job_id for number, job_id in enumerate(ids) if STATUSES[number % len(STATUSES)] == "queued"]
    connections = [Connection(server.port, server.key) for _ in range(count)]

    async def follow(connection: Connection, job_id: str) -> None:
        await connection.send("GET", f"/api/v1/jobs/{job_id}/events")
        assert connection.reader is not None
        while await connection.reader.read(1 << 16):
            pass

    tasks = [
        asyncio.create_task(follow(connection, queued[number % len(queued)]))
        for number, connection in enumerate(connections)
    ]
    await asyncio.sleep(2)
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for connection in connections:
            connection.close()


async def _uploads(server: Server, seconds: float, clients: int = 32) -> float:
    """Return the uploads a second that were accepted."""
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'
    body = head + os.urandom(UPLOAD_BYTES) + b"\r\n--x--\r\n"
    accepted = 0
    end = time.perf_counter() + seconds

    async def client() -> None:
        nonlocal accepted
        connection = Connection(server.port, server.key)
        while time.perf_counter() < end:
            status, answer = await connection.request(
                "POST", "/api/v1/uploads", body, "multipart/form-data; boundary=x"
            )
            if status != 202:
                raise SystemExit(f"an upload got {status}: {answer[:300]!r}")
            accepted += 1
        connection.close()

    began = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    return accepted / (time.perf_counter() - began)


async def _repeat(
    server: Server, path_of: Callable[[int], str], seconds: float, clients: int = 4
) -> list[float]:
    """Request paths again and again, and return the seconds that each took."""
    times: list[float] = []
    end = time.perf_counter() + seconds

    async def client(number: int) -> None:
        connection = Connection(server.port, server.key)
        while time.perf_counter() < end:
            began = time.perf_counter()
            status, answer = await connection.request("GET", path_of(number))
            times.append(time.perf_counter() - began)
            if status != 200:
                raise SystemExit(f"{path_of(number)} got {status}: {answer[:300]!r}")
            number += clients
            # A browser that polls, and not a flood: the figure is the time of one request.
            await asyncio.sleep(0.02)
        connection.close()

    await asyncio.gather(*(client(number) for number in range(clients)))
    return times


async def _event_lag(server: Server, job_id: str, times: int) -> list[float]:
    """Change a job in the database, and return the seconds until its viewer hears of each change."""
    connection = Connection(server.port, server.key)
    with closing(sqlite3.connect(server.data / "server.sqlite3", timeout=60)) as database:
        with database:
            database.execute("UPDATE jobs SET status = 'running' WHERE id = ?", [job_id])
        await connection.send("GET", f"/api/v1/jobs/{job_id}/events")
        assert connection.reader is not None
        lags = []
        for number in range(times):
            await asyncio.sleep(0.13)
            began = time.perf_counter()
            with database:
                database.execute(
                    "UPDATE jobs SET pages_done = ?, revision = revision + 1,"
                    " updated_at = CAST((julianday('now') - 2440587.5) * 86400000.0 AS INTEGER) WHERE id = ?",
                    [number + 1000, job_id],
                )
            while b'"done": %d' % (number + 1000) not in (line := await connection.reader.readline()):
                if b'"done":%d' % (number + 1000) in line:
                    break
            lags.append(time.perf_counter() - began)
    connection.close()
    return lags


async def _lists(server: Server, jobs: int, seconds: float) -> list[Figure]:
    """Measure the pages of the longest list: each status, its own jobs and all, the first page and a late one."""
    figures = []
    for name, base in (("own", "/api/v1/jobs"), ("all", "/api/v1/admin/jobs")):
        times: list[float] = []
        for status in ("", *sorted(set(STATUSES)), "running"):
            path = f"{base}?limit=50" + (f"&status={status}" if status else "")
            times += await _repeat(server, _constant(path), seconds / 10, 1)
            connection = Connection(server.port, server.key)
            _, answer = await connection.request("GET", path)
            connection.close()
            if cursor := json.loads(answer).get("next_cursor"):
                times += await _repeat(server, _constant(f"{path}&cursor={cursor}"), seconds / 10, 1)
        figures.append(Figure(f"jobs page, p99, {jobs:,} jobs, {name}", p99(times) * 1000, "ms", 200, False))
    return figures


def _constant(path: str) -> Callable[[int], str]:
    return lambda _number: path


def p99(values: Sequence[float]) -> float:
    """Return the value that 99 of 100 values do not exceed."""
    return statistics.quantiles(values, n=100)[98] if len(values) > 1 else values[0]


if __name__ == "__main__":
    main()
