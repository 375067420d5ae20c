"""``comic-upscale worker``: runs the jobs of a server on this machine."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from comic_upscale.commands.options import Given, takes
from comic_upscale.commands.server_logging import LOG, LogOptions, set_up_server_logging
from comic_upscale.commands.signals import stop_on_signals
from comic_upscale.errors import DeviceError, SettingsError
from comic_upscale.server.settings import ServerSettings
from comic_upscale.settings.options import pick

if TYPE_CHECKING:
    from comic_upscale.execution.stop import StopRequest

WORKER = pick(
    ServerSettings, "data", "database", "storage", "device", "face_model", "flux_options", "imagen_options",
    "imagen_max_cost",
    "worker_threads", "worker_concurrency",
    "worker_idle_timeout", "jobs_per_user",
    "job_timeout", "roots", "worker_memory", "min_free_disk", "cluster",
)  # fmt: skip


@takes(given=WORKER, log=LOG)
def worker(
    given: Given,
    log: Given,
    worker_id: Annotated[
        str | None, typer.Option("--worker-id", hidden=True, help="Given by the server to its own worker.")
    ] = None,
    socket: Annotated[
        Path | None,
        typer.Option(
            "--socket",
            metavar="SOCKET",
            help="Run no jobs of a server: take pages of comic-upscale run --worker over this socket.",
        ),
    ] = None,
) -> None:
    """Run jobs until a signal, or until no job has come for a while."""
    from comic_upscale.commands.server_environment import server_settings

    settings = server_settings(given.values(), has_server=socket is None)
    set_up_server_logging(LogOptions(**log.values()), settings)
    if socket is None:
        run_worker(settings, worker_id)
    else:
        run_engines(settings, socket)


def run_engines(settings: ServerSettings, path: Path) -> None:
    """Hold engines for runs over a socket, until a signal, or until no run has come for a while."""
    import asyncio
    import warnings

    from comic_upscale.execution.stop import StopRequest
    from comic_upscale.worker.engines import EngineCache
    from comic_upscale.worker.listen import SocketWorker

    _limit_memory(settings.worker_memory)
    warnings.filterwarnings("ignore", module=r"PIL\.")
    stop = StopRequest()
    engines = EngineCache()
    with stop_on_signals(stop) as received:
        try:
            worker = SocketWorker(path, engines, stop)
            asyncio.run(
                worker.serve(settings.worker_idle_timeout, lambda: typer.echo(f"Worker:   {worker.path}"))
            )
        finally:
            engines.close()
    if received:
        raise typer.Exit(128 + received[0])
    if stop.requested:
        raise DeviceError("a device failed, so the worker ended: start it again")


def run_worker(settings: ServerSettings, worker_id: str | None = None) -> None:
    """Run jobs in this process.

    Args:
        settings: of the server.
        worker_id: given by the server whose child this is; the worker then ends with that server.
    """
    import faulthandler
    import warnings

    from comic_upscale.commands.server_environment import job_defaults
    from comic_upscale.execution.stop import StopRequest
    from comic_upscale.server.ids import new_id
    from comic_upscale.worker.run import WorkerOptions, work

    # A fault in native code then says where it happened, before it ends the process.
    faulthandler.enable()
    _limit_memory(settings.worker_memory)
    # Our own decoder reports problems of a file, page by page.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    stop = StopRequest()
    if worker_id is not None:
        threading.Thread(target=_stop_at_end_of_input, args=(stop,), name="server-alive", daemon=True).start()
    options = WorkerOptions(
        worker_id=worker_id or new_id(), is_own=worker_id is not None, defaults=job_defaults(settings)
    )
    with stop_on_signals(stop) as received:
        work(settings, options, stop)
    if received and worker_id is None:
        raise typer.Exit(128 + received[0])


def _limit_memory(most_bytes: int | None) -> None:
    """Limit the memory of this process and its children; the limit counts what is allocated, not what is mapped."""
    if most_bytes is None:
        return
    if sys.platform != "linux":
        raise SettingsError("--worker-memory works on Linux only: leave it out")
    import resource

    resource.setrlimit(resource.RLIMIT_DATA, (most_bytes, most_bytes))


def _stop_at_end_of_input(stop: StopRequest) -> None:
    """Stop when the server is gone: it holds the other end of standard input."""
    while os.read(0, 1024):
        pass
    stop.request("the server has ended")
