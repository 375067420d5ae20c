"""A real worker whose engine ends the process on pages of one grey: 1 aborts, 2 is killed.

Settings come from the environment, as for any worker.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import time
from pathlib import Path

from comic_upscale.engines.base import Batch, Engine
from comic_upscale.execution.stop import StopRequest
from comic_upscale.models.weights import ResolvedWeights
from comic_upscale.server.ids import new_id
from comic_upscale.server.settings import ServerSettings
from comic_upscale.settings.environment import values_from_environment
from comic_upscale.settings.job import JobSettings
from comic_upscale.worker.engines import EngineCache
from comic_upscale.worker.run import WorkerOptions, work
from tests.fakes import NearestEngine

PAGE_SECONDS = 0.0


def act(batch: Batch) -> None:
    time.sleep(PAGE_SECONDS)
    for page in batch.pixels:
        level = round(float(page.mean()) * (255 if page.dtype.kind == "f" else 1))
        if level == 1:
            os.abort()
        elif level == 2:
            os.kill(os.getpid(), signal.SIGKILL)


def open_engines(_settings: JobSettings, _weights: ResolvedWeights | None) -> list[Engine]:
    return [NearestEngine(act, limit=1)]


def main() -> None:
    words = dict(zip(sys.argv[1::2], sys.argv[2::2], strict=True))
    values = values_from_environment(ServerSettings, os.environ)
    # One that is not killed ends a moment after its last job, because most tests wait for that.
    idle = float(words.get("--idle-seconds", 1))
    values |= {"data": Path(words["--data"]), "device": "cpu", "worker_idle_timeout": idle}
    settings = ServerSettings(**values)
    global PAGE_SECONDS
    PAGE_SECONDS = float(words.get("--page-seconds", 0))
    faulthandler.enable()
    options = WorkerOptions(
        worker_id=words.get("--worker-id", new_id()), defaults={"workers": 3},
        engines=EngineCache(open_engines),
    )  # fmt: skip
    work(settings, options, StopRequest())


if __name__ == "__main__":
    main()
