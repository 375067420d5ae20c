"""The server at half of its peak rate while its worker is killed each minute: nothing grows, nothing is lost.

usage: python -m benchmarks.server_soak [--minutes 30] [--json FILE]

First it measures the peak rate of small pages through the whole server: upload, worker, result. Then it uploads at half
of that rate. Memory, open files and connections of the server are written down when the load begins, each minute, and
when it ended. A job counts as lost if it was accepted and is not completed at the end.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import sqlite3
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
from PIL import Image

from benchmarks.machine import facts, write_report
from benchmarks.server import Connection, Server

KILL_SECONDS = 60.0
PEAK_SECONDS = 30.0
PATIENCE = 600.0


@dataclass(frozen=True, slots=True)
class Sample:
    """The server process at one moment."""

    minute: float
    memory_mb: float
    files: int
    """Open files and pipes, without connections."""
    connections: int
    threads: int


def main(arguments: Sequence[str] | None = None) -> dict[str, object]:
    """Run the load, print what grew, and return the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0, help="length of the load")
    parser.add_argument(
        "--kill-seconds", type=float, default=KILL_SECONDS, help="time between two kills of the worker"
    )
    parser.add_argument(
        "--peak-seconds", type=float, default=PEAK_SECONDS, help="time for measuring the peak rate"
    )
    parser.add_argument("--busy", action="store_true", help="the machine does other work, too")
    parser.add_argument("--json", type=Path, help="write the report to this file")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="bench-soak-") as folder:
        server = Server(Path(folder), role="all")
        try:
            server.start()
            report = asyncio.run(
                _Soak(server, options.minutes * 60, options.kill_seconds, options.peak_seconds).run()
            )
        finally:
            server.close()
    report = {**facts(1), "busy_machine": options.busy, **report}
    print(json.dumps({name: value for name, value in report.items() if name != "samples"}, indent=2))
    if options.json is not None:
        write_report(report, options.json)
    return report


class _Soak:
    def __init__(self, server: Server, seconds: float, kill_seconds: float, peak_seconds: float) -> None:
        self._server, self._seconds = server, seconds
        self._kill_seconds, self._peak_seconds = kill_seconds, peak_seconds
        self._accepted: set[str] = set()
        self._refused = 0
        self._samples: list[Sample] = []
        self._recoveries: list[float] = []
        self._began = 0.0

    async def run(self) -> dict[str, object]:
        peak = await self._peak()
        self._began = time.monotonic()
        self._sample()
        tasks = [asyncio.create_task(each) for each in (self._kill(), self._watch())]
        await self._upload(peak / 2)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        completed = await self._drain()
        # Connections that stay open end by themselves after some seconds.
        await asyncio.sleep(6)
        self._sample()
        first, last = self._samples[0], self._samples[-1]
        return {
            "minutes": round(self._seconds / 60, 1), "peak_jobs_a_second": round(peak, 2),
            "accepted": len(self._accepted),
            "refused": self._refused, "lost": len(self._accepted - completed), "kills": len(self._recoveries),
            "slowest_recovery_seconds": round(max(self._recoveries, default=0.0), 1),
            "start": asdict(first), "end": asdict(last),
            "memory_growth_mb": round(last.memory_mb - first.memory_mb, 1), "files_growth": last.files - first.files,
            "connections_growth": last.connections - first.connections,
            "samples": [asdict(each) for each in self._samples],
        }  # fmt: skip

    async def _peak(self) -> float:
        """Return the jobs a second that the server finishes while more wait."""
        # The worker starts, and loads its model.
        await self._send(0)
        await self._drain()
        count = 0
        while count < 40:
            await self._send(count)
            count += 1
        before, began = self._completed(), time.monotonic()
        while time.monotonic() - began < self._peak_seconds and self._unfinished():  # noqa: ASYNC110 - the database has no event
            await asyncio.sleep(0.2)
        rate = (self._completed() - before) / (time.monotonic() - began)
        await self._drain()
        return rate

    async def _upload(self, rate: float) -> None:
        number, end = 0, self._began + self._seconds
        while time.monotonic() < end:
            due = self._began + number / rate
            await asyncio.sleep(max(0.0, min(due, end) - time.monotonic()))
            if time.monotonic() >= end:
                break
            await self._send(number)
            number += 1

    async def _send(self, number: int) -> None:
        image = Image.new("L", (48, 64), number % 255)
        image.putpixel((number // 255 % 48, number // 12_240 % 64), 255)
        content = io.BytesIO()
        image.save(content, "png")
        head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'
        body = head + content.getvalue() + b"\r\n--x--\r\n"
        # One connection each: the server closes those that were idle for some seconds.
        connection = Connection(self._server.port, self._server.key)
        status, answer = await connection.request(
            "POST", "/api/v1/uploads", body, "multipart/form-data; boundary=x"
        )
        connection.close()
        if status == 202:
            self._accepted.add(json.loads(answer)["job_id"])
        else:
            self._refused += 1

    async def _kill(self) -> None:
        """Kill the worker again and again, and note the seconds until a job is completed after it."""
        while True:
            await asyncio.sleep(self._kill_seconds)
            process = self._server.process
            assert process is not None
            with suppress(psutil.Error):
                for child in psutil.Process(process.pid).children():
                    child.kill()
            began, before = time.monotonic(), self._completed()
            while self._completed() == before:  # noqa: ASYNC110 - the database has no event
                await asyncio.sleep(0.2)
            self._recoveries.append(time.monotonic() - began)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(60)
            self._sample()

    def _sample(self) -> None:
        assert self._server.process is not None
        process = psutil.Process(self._server.process.pid)
        connections = len(process.net_connections())
        self._samples.append(
            Sample(
                round((time.monotonic() - self._began) / 60, 2), round(process.memory_info().rss / 1e6, 1),
                process.num_fds() - connections, connections, process.num_threads(),
            )
        )  # fmt: skip

    async def _drain(self) -> set[str]:
        """Wait until no job waits or runs, and return the completed ones."""
        end = time.monotonic() + PATIENCE
        while self._unfinished() and time.monotonic() < end:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.2)
        return {job_id for (job_id,) in self._ask("SELECT id FROM jobs WHERE status = 'completed'")}

    def _completed(self) -> int:
        return int(self._ask("SELECT count(*) FROM jobs WHERE status = 'completed'")[0][0])

    def _unfinished(self) -> int:
        return int(self._ask("SELECT count(*) FROM jobs WHERE status IN ('queued', 'running')")[0][0])

    def _ask(self, query: str) -> list[tuple[str]]:
        with closing(sqlite3.connect(self._server.data / "server.sqlite3", timeout=60)) as connection:
            return connection.execute(query).fetchall()


if __name__ == "__main__":
    main()
