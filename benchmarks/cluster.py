"""A Ray cluster on this machine: nothing is lost when parts of it are killed, and what the cluster adds and scales.

Usage: python -m benchmarks.cluster [--pages 2000] [--kills 20] [--only PART] [--json FILE]

* kills: a job with this number of pages on three nodes. At random, an actor, a node or the coordinator is killed, this
  many times. Every page must then be done once, with the bytes of a local run. The seconds lost a kill are those that
  the job took longer than without kills, for each kill.
* s3: the same with input and output in a bucket, on moto and on rclone. One request of twenty fails: with an error, a
  reset, an answer that is cut off or lost, or a slow one.
* overhead: pages a second of one actor, beside the executor of this machine, with an engine of 20 ms a page.
* scaling: pages a second of 1, 2, 4 and 8 actors, with an engine that sleeps 200 ms a page, once all of them work.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image

from comic_upscale.engines.base import Batch, DeviceInfo, EngineInfo, Upscaled
from comic_upscale.execution.events import Event
from comic_upscale.execution.ray.options import RayOptions
from comic_upscale.jobs.run import run_job
from comic_upscale.ledger.records import PageDone
from comic_upscale.settings.job import JobSettings

REPOSITORY = Path(__file__).parents[1]


class SleepingEngine:
    """Repeats pixels, and takes a given time for each page.

    Args:
        seconds: for a page.
    """

    def __init__(self, seconds: float) -> None:
        self.info = EngineInfo(
            name="sleeping", identity="sleeping", device=DeviceInfo("fake"), precision="fp32", native_scale=2,
            deterministic=True,
        )  # fmt: skip
        self._seconds = seconds

    def batch_limit(self, height: int, width: int) -> int:
        """Return one page."""
        return 1

    def upscale(self, batch: Batch) -> Upscaled:
        """Sleep, then repeat the pixels."""
        time.sleep(self._seconds * len(batch.pixels))
        return Upscaled(batch.pixels.repeat(2, axis=1).repeat(2, axis=2))

    def close(self) -> None:
        """Do nothing."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pages", type=int, default=2_000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=("overhead", "scaling", "kills", "s3"), action="append")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        run(**options.child)
        return
    report: dict[str, Any] = {"cores": os.cpu_count()}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "any.safetensors").write_bytes(b"weights")
        for name, measure in (
            ("overhead", lambda: measure_overhead(folder)),
            ("scaling", lambda: measure_scaling(folder)),
            (
                "kills",
                lambda: kill_at_random(folder, options.pages, options.kills, random.Random(options.seed)),
            ),
            ("s3", lambda: kill_beside_buckets(folder, options.pages, options.kills, options.seed)),
        ):
            if not options.only or name in options.only:
                report[name] = measure()
                print(json.dumps(report[name]), file=sys.stderr, flush=True)
    print(json.dumps(report, indent=2))
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def start_cluster(nodes: int, cpus: int) -> Any:
    """Return a running cluster whose head has no cores."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    for _ in range(nodes):
        cluster.add_node(num_cpus=cpus)
    return cluster


def draw(folder: Path, count: int) -> None:
    """Write small pages, no two the same."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        data = io.BytesIO()
        pixels = np.random.default_rng(number).integers(0, 256, (48, 32, 3), np.uint8)
        Image.fromarray(pixels).save(data, "png")
        (folder / f"{number:05}.png").write_bytes(data.getvalue())


def run(
    folder: str,
    output: str,
    seconds: float,
    address: str | None,
    actors: int = 1,
    source: str = "in",
    place: str | None = None,
) -> float:
    """Run a job, and return its pages a second between the first 40 % and the last 10 %.

    With a place in a bucket, the input and the output are in it, and the ledger in the output folder.
    """
    ledger = Path(folder, output, ".comic-upscale", "ledger.sqlite3")
    settings = JobSettings(
        input=Path(place or folder, source), output=Path(place or folder, output), scale=2.0, workers=2, gate=False,
        model=str(Path(folder, "any.safetensors")), ledger=None if place is None else ledger,
    )  # fmt: skip
    rights = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    cluster = (
        None if address is None else RayOptions(address=address, actors=actors, cpus=1, environment=rights)
    )
    times: list[float] = []

    def note(event: Event) -> None:
        if isinstance(event, PageDone):
            times.append(time.monotonic())

    run_job(settings, open_engines=lambda *_: [SleepingEngine(seconds)], cluster=cluster, on_event=note)
    # Without the beginning, when actors are still starting, and the end, when some have nothing to do.
    first, last = len(times) * 4 // 10, len(times) * 9 // 10
    return (last - first) / (times[last] - times[first]) if last > first else 0.0


def measure_overhead(folder: Path) -> dict[str, Any]:
    """Compare one actor with the executor of this machine, each three times in turn; the best of each counts."""
    draw(folder / "overhead", 300)
    cluster = start_cluster(1, 2)
    try:
        local, ray = [], []
        for turn in range(3):
            local.append(run(str(folder), f"l{turn}", 0.02, None, source="overhead"))
            ray.append(run(str(folder), f"r{turn}", 0.02, cluster.address, source="overhead"))
    finally:
        cluster.shutdown()
    return {
        "local_pages_per_second": round(max(local), 2),
        "ray_pages_per_second": round(max(ray), 2),
        "ratio": round(max(ray) / max(local), 3),
    }


def measure_scaling(folder: Path) -> dict[str, Any]:
    """Measure 1 to 8 actors."""
    draw(folder / "scaling", 640)
    cluster = start_cluster(4, 2)
    try:
        rates = {}
        for actors in (1, 2, 4, 8):
            part = folder / f"scaling-{actors}"
            part.mkdir()
            for path in sorted((folder / "scaling").iterdir())[: 80 * actors]:
                (part / path.name).hardlink_to(path)
            rates[actors] = run(
                str(folder), f"s{actors}", 0.2, cluster.address, actors, source=f"scaling-{actors}"
            )
    finally:
        cluster.shutdown()
    return {
        "pages_per_second": {actors: round(rate, 2) for actors, rate in rates.items()},
        "times_of_eight": round(rates[8] / rates[1], 2),
    }


def kill_beside_buckets(folder: Path, count: int, kills: int, seed: int) -> dict[str, Any]:
    """Kill parts of a cluster while a job runs on it between buckets, with faults on the way there."""
    from comic_upscale.settings.places import Place
    from comic_upscale.storage.buckets import Bucket
    from tests.server.buckets import running_bucket
    from tests.storage.proxy import Fault, fault_proxy

    faults: list[Fault] = ["unavailable", "reset", "cut", "lost answer", "slow"]
    found = {}
    for kind in ("moto", "rclone"):
        own = folder / kind
        draw(own / "in", count)
        (own / "any.safetensors").write_bytes(b"weights")
        with running_bucket(kind, own / "server") as server, fault_proxy(server.endpoint) as proxy:
            os.environ |= server.behind(proxy.endpoint).variables()
            for path in sorted((own / "in").iterdir()):
                Bucket(Place("s3", server.name, "in")).put(path.name, path.read_bytes())
            proxy.plan = lambda method, path, number: faults[number // 20 % 5] if number % 20 == 7 else None
            found[kind] = kill_at_random(own, count, kills, random.Random(seed), f"s3:/{server.name}")
            found[kind] |= {"requests": len(proxy.requests), "broken": len(proxy.broken)}
            outputs = Bucket(Place("s3", server.name, "ray"))
            proxy.plan = lambda *_: None
            there = {each.key for each in outputs.walk()}
            names = [path.name for path in (own / "local").glob("*.png")]
            found[kind]["equal_to_local"] = sum(
                name in there and outputs.get(name) == (own / "local" / name).read_bytes() for name in names
            )
            found[kind]["objects"] = len([key for key in there if key.endswith(".png")])
    return found


def kill_at_random(
    folder: Path, count: int, kills: int, chance: random.Random, place: str | None = None
) -> dict[str, Any]:
    """Kill parts of a cluster while a job runs on it, and compare its outputs with those of a local run.

    With a place in a bucket, the caller compares.
    """
    draw(folder / "in", count)
    run(str(folder), "local", 0.0, None)
    cluster = start_cluster(3, 1)
    killed = {"actor": 0, "node": 0, "coordinator": 0}
    runs = 1
    job = {
        "folder": str(folder), "output": "ray", "seconds": 0.05, "address": cluster.address, "actors": 3,
        "place": place,
    }  # fmt: skip
    ledger = folder / "ray" / ".comic-upscale" / "ledger.sqlite3"
    began = time.monotonic()
    child = start_child(job)
    try:
        for number in range(kills):
            if not wait_for_more(ledger, child, (number + 1) * count // (kills + 2)):
                break
            what = chance.choice([*killed])
            if what == "coordinator":
                child.send_signal(signal.SIGKILL)
                child.wait()
                child = start_child(job)
                runs += 1
            elif what == "node":
                cluster.remove_node(chance.choice(cluster.list_all_nodes()[1:]), allow_graceful=False)
                cluster.add_node(num_cpus=1)
            elif not kill_actor(chance):
                continue
            killed[what] += 1
        child.wait(timeout=1200)
    finally:
        child.kill()
        cluster.shutdown()
    seconds = time.monotonic() - began
    same = sum(
        (folder / "local" / path.name).read_bytes() == path.read_bytes()
        for path in (folder / "ray").glob("*.png")
    )
    ideal = count * 0.05 / 3
    return {
        "pages": count,
        "killed": killed,
        "runs": runs,
        "exit_code": child.returncode,
        "states": count_states(ledger),
        "equal_to_local": same,
        "seconds": round(seconds, 1),
        "seconds_without_kills_at_best": round(ideal, 1),
        "seconds_lost_per_kill": round((seconds - ideal) / max(1, sum(killed.values())), 2),
    }


def count_states(ledger: Path) -> dict[str, int]:
    """Return how many pages are in each state."""
    with contextlib.closing(sqlite3.connect(f"file:{ledger}?mode=ro", uri=True)) as connection:
        return dict(connection.execute("select state, count(*) from pages group by state").fetchall())


def start_child(job: dict[str, Any]) -> subprocess.Popen[bytes]:
    """Start a coordinator."""
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.cluster", "--child", json.dumps(job)],
        cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def wait_for_more(ledger: Path, child: subprocess.Popen[bytes], wanted: int) -> bool:
    """Wait until a number of pages is done; return False if the job has ended."""
    while child.poll() is None:
        # It may be about to be made.
        with contextlib.suppress(sqlite3.Error):
            if count_states(ledger).get("done", 0) >= wanted:
                return True
        time.sleep(0.2)
    return False


def kill_actor(chance: random.Random) -> bool:
    """Kill an actor of this machine; return whether there was one."""
    actors = []
    for process in psutil.process_iter(["cmdline"]):
        if (process.info["cmdline"] or [""])[0].startswith("ray::PageActor"):
            actors.append(process)
    if not actors:
        return False
    with contextlib.suppress(psutil.NoSuchProcess):
        chance.choice(actors).kill()
    return True


if __name__ == "__main__":
    main()
