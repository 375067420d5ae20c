"""Running a server: two ports in one process, its worker beside it, and a clean stop."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import socket
from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import filelock
import uvicorn

from comic_upscale.errors import DatabaseError, SettingsError
from comic_upscale.server.app import create_app
from comic_upscale.server.callbacks import Sender
from comic_upscale.server.folder_watch import FolderWatch
from comic_upscale.server.janitor import Janitor
from comic_upscale.server.mail import Mailer
from comic_upscale.server.outbox import Deliver, Outbox, Webhooks
from comic_upscale.server.protocol import loop_factory, protocol_options
from comic_upscale.server.recent_log import RecentLog
from comic_upscale.server.resumable import unlock_all
from comic_upscale.server.services import Quoting, Services, make_folder, open_services
from comic_upscale.server.settings import ServerSettings
from comic_upscale.server.supervisor import Supervisor, WorkerCommand
from comic_upscale.server.watches import end_leases
from comic_upscale.server.weights_check import WeightsCheck

log = logging.getLogger(__name__)

_GARBAGE_AT = 20_000
"""Objects after which the youngest are looked through. Python does so after 700."""
GRACE_SECONDS = 15
"""How long open requests may take to finish when the server stops."""
_LOCAL: Mapping[str, str] = MappingProxyType({"0.0.0.0": "127.0.0.1", "::": "::1"})
"""Addresses that stand for all of a machine, and what a browser on it opens in place of them."""


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where a server listens."""

    pages: str
    """URL of the pages."""
    api: str
    """URL of the REST interface."""
    setup: str | None = None
    """URL of the page that creates the first administrator; None if there is one."""
    is_everywhere: bool = False
    """Whether the pages are at every address of this machine."""


def serve(
    settings: ServerSettings,
    *,
    worker: WorkerCommand | None,
    on_ready: Callable[[Addresses], None],
    quoting: Quoting | None = None,
    weights_check: WeightsCheck | None = None,
    recent_log: RecentLog | None = None,
) -> int:
    """Serve until a signal, and return the number of the second signal, or 0 after a clean stop.

    The first SIGTERM or SIGINT stops cleanly: no new requests, open ones finish, and the worker finishes its pages in
    progress. The second one ends everything at once; jobs continue at the next start.

    Args:
        settings: of the server.
        worker: starts the worker; None where workers are started in another way.
        on_ready: called once the ports are open.
        quoting: prices and measurements of this machine, for estimates.
        weights_check: checks weights that administrators upload.
        recent_log: the lines that the server logged last; None where nobody keeps them.

    Raises:
        SettingsError: a port is taken, an address cannot be used, or the system is Windows.
        DatabaseError: the database cannot be used, or another server uses it.
        OutputError: the data folder cannot be written.
    """
    make_folder(settings.data)
    with only_server(settings):
        services = replace(
            open_services(settings), quoting=quoting, weights_check=weights_check,
            recent_log=recent_log or RecentLog(),
        )  # fmt: skip
        try:
            if services.database.is_sqlite:
                services.database.write(unlock_all)
                services.database.write(end_leases)
            _collect_less_garbage()
            with asyncio.Runner(loop_factory=loop_factory()) as runner:
                return runner.run(_Running(services, worker, on_ready).run())
        finally:
            services.close()


def _collect_less_garbage() -> None:
    """Leave what the start has made out of the collection of garbage, and collect less often.

    What was imported stays until the end. To look through it again and again took a twelfth of the time of an upload.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GARBAGE_AT, 20, 20)


class _Running:
    def __init__(
        self, services: Services, worker: WorkerCommand | None, on_ready: Callable[[Addresses], None]
    ) -> None:
        self._services, self._worker, self._on_ready = services, worker, on_ready
        self._stop = asyncio.Event()
        self._signals: list[int] = []
        self._task: asyncio.Task[None] | None = None

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        try:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, self._on_signal, number)
        except NotImplementedError:
            raise SettingsError("the server does not run on Windows: run it in WSL") from None
        self._task = asyncio.ensure_future(self._serve())
        try:
            await self._task
        except asyncio.CancelledError:
            if len(self._signals) < 2:
                raise
        return self._signals[1] if len(self._signals) > 1 else 0

    def _on_signal(self, number: int) -> None:
        self._signals.append(number)
        if len(self._signals) == 1:
            log.warning("stopping: open requests end, and the worker finishes its pages in progress")
            self._stop.set()
        elif self._task is not None:
            if self._services.supervisor is not None:
                self._services.supervisor.kill()
            self._task.cancel()

    async def _serve(self) -> None:
        settings = self._services.settings
        sockets = [
            _bind(settings.host, settings.port, "--port"),
            _bind(settings.host, settings.api_port, "--api-port"),
        ]
        if self._worker is not None:
            supervisor = Supervisor(settings, self._services.database, self._worker)
            self._services = replace(self._services, supervisor=supervisor)
        apps = (create_app(self._services, pages=True), create_app(self._services))
        servers = [_Server(_config(app, settings)) for app in apps]
        async with asyncio.TaskGroup() as group:
            for server, each in zip(servers, sockets, strict=True):
                group.create_task(server.serve(sockets=[each]))
            background = [group.create_task(each) for each in self._background()]
            if self._services.supervisor is not None:
                group.create_task(self._services.supervisor.run())
            while not all(server.started for server in servers):  # noqa: ASYNC110 - uvicorn has no event
                await asyncio.sleep(0.01)
            pages, api = (_url(each) for each in sockets)
            token = self._services.setup_token
            setup = None if token is None else f"{pages}/setup/{token}"
            everywhere = sockets[0].getsockname()[0] in _LOCAL
            self._on_ready(Addresses(pages, api, setup, everywhere))
            await self._stop.wait()
            self._services.hub.close()
            await self._services.rates.close()
            for task in background:
                task.cancel()
            for server in servers:
                server.should_exit = True
            if self._services.supervisor is not None:
                await self._services.supervisor.stop()

    def _background(self) -> Iterator[Coroutine[None, None, None]]:
        services = self._services
        yield services.monitor.run()
        yield Janitor(services.database, services.files, services.settings.data / "work").run()
        settings = services.settings
        if settings.root_folders:
            yield FolderWatch(services).run()
        deliver: dict[str, Deliver] = {}
        if settings.webhook_secret is not None:
            deliver["webhook"] = Webhooks(settings.webhook_secret, Sender()).send
        if settings.smtp_host is not None:
            deliver["mail"] = Mailer(settings, services.links).send
        if deliver:
            yield Outbox(services.database, deliver).run()


class _Server(uvicorn.Server):
    """A server that leaves signals to this module: there are two servers, and a worker to tell."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


def _config(app: object, settings: ServerSettings) -> uvicorn.Config:
    return uvicorn.Config(
        app,  # type: ignore[arg-type]
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="off",
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=list(settings.trusted_proxies),
        root_path=settings.root_path,
        timeout_graceful_shutdown=GRACE_SECONDS,
        **protocol_options(),
    )


def _bind(host: str, port: int, option: str) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.set_inheritable(False)
    except OSError as error:
        raise SettingsError(
            f"cannot listen on {host} port {port}: {error.strerror or error}. Choose another {option} or --host"
        ) from error
    return bound


def _url(bound: socket.socket) -> str:
    """Return the URL at which a browser on this machine finds a server."""
    host, port = bound.getsockname()[:2]
    host = _LOCAL.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@contextlib.contextmanager
def only_server(settings: ServerSettings) -> Iterator[None]:
    """Hold the lock of a data folder with an SQLite database, which only one server may use at a time."""
    if settings.database is not None:
        yield
        return
    lock = filelock.FileLock(settings.data / "server.lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise DatabaseError(
            f"another server uses {settings.data}: stop it first, or choose another --data. Several servers can "
            "share a PostgreSQL database"
        ) from None
    except OSError as error:
        raise DatabaseError(f"{settings.data} cannot be locked: {error.strerror or error}") from error
    try:
        yield
    finally:
        lock.release()
