"""The actors of a run on a Ray cluster: started, replaced when they die, and left alone on nodes that are drained.

Ray places them, and adds machines for those that find no place, where the cluster can grow. All of Ray is called here.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from comic_upscale.errors import ComicUpscaleError, DeviceError, RemoteError, SettingsError
from comic_upscale.execution.base import ExecutorInfo
from comic_upscale.execution.ray.actor import ActorSetup, PageActor
from comic_upscale.execution.ray.options import RayOptions
from comic_upscale.execution.worker_protocol import error_of, within_of
from comic_upscale.ledger.records import PageProgress

log = logging.getLogger(__name__)

CPUS = 4
"""Cores of an actor without a GPU."""
MOST_CPUS = 16
"""Cores of an actor with a GPU."""
LOOK_SECONDS = 5.0
"""How often the nodes are looked at: new ones get actors, and those that are drained get no pages."""
CONNECT_SECONDS = 60.0
MOST_FAILURES = 3
"""Actors in a row that cannot start, or whose devices fail, before one of them has done a page."""
_CLOSE_SECONDS = 5.0

_users = 0
"""Runs of this process that use the connection to the cluster; there can be only one connection."""
_address = ""
"""Where that connection leads, as long as there are users."""
_connecting = threading.Lock()


@dataclass(eq=False, slots=True)
class Actor:
    """A running actor."""

    handle: Any
    node: str
    """The id of its node."""
    info: ExecutorInfo
    slots: int
    """Pages that it holds at once, at most."""
    keys: set[str] = field(default_factory=set)
    """The tasks that it holds."""
    is_alone: bool = False
    """Whether it holds one page that may have ended other actors, and takes no other."""
    is_draining: bool = False
    """Whether its node is about to go: it takes no more pages."""
    busy: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Shape:
    """What each actor gets, and how many there are to be."""

    count: int
    cpus: float
    gpus: int


def import_ray() -> Any:
    """Return Ray.

    Raises:
        SettingsError: it is not installed.
    """
    try:
        import ray
    except ImportError:
        raise SettingsError("--cluster needs the package ray: pip install '.[ray]' in a clone") from None
    return ray


def connect(options: RayOptions) -> bool:
    """Connect to the cluster, unless the caller has; return whether `disconnect` is needed.

    Raises:
        RemoteError: there is no such cluster, or other runs of this process use another one.
        SettingsError: Ray is not installed.
    """
    global _users, _address
    ray = import_ray()
    with _connecting:
        if ray.is_initialized() and not _users:
            # The caller has connected, and disconnects.
            return False
        if _users and options.address != _address:
            raise RemoteError(
                f"this process is connected to the Ray cluster at {_address} until its runs there end: run the job at "
                f"{options.address} after them, or in another process"
            )
        if not _users:
            _init(ray, options)
            _address = options.address
        _users += 1
        return True


def _init(ray: Any, options: RayOptions) -> None:
    """Connect, within `CONNECT_SECONDS`: Ray itself waits for an address where nothing answers without end."""
    failures: list[BaseException] = []

    def init() -> None:
        # A client from outside passes its arguments on to the server, which refuses most.
        quiet = (
            {}
            if options.address.startswith("ray://")
            else {"log_to_driver": False, "configure_logging": False}
        )
        try:
            ray.init(address=options.address, **quiet)
        except BaseException as error:
            failures.append(error)

    # It warns that it handles no signals on this thread, and of actors that end.
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    _check_reachable(options.address)
    thread = threading.Thread(target=init, name="ray-init", daemon=True)
    thread.start()
    thread.join(CONNECT_SECONDS)
    if thread.is_alive():
        raise _no_cluster(options.address, f"no answer in {CONNECT_SECONDS:g} s")
    if failures:
        raise _no_cluster(options.address, _in_words(failures[0])) from failures[0]


def _check_reachable(address: str) -> None:
    if address == "auto":
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise _no_cluster(address, str(error)) from error


def _no_cluster(address: str, words: str) -> RemoteError:
    return RemoteError(
        f"no Ray cluster answers at {address}: {words.rstrip('.')}. Start one with `ray start --head`, or name another "
        "with --cluster"
    )


def shape_of(options: RayOptions, *, with_gpus: bool) -> Shape:
    """Return the actors that the cluster has room for now."""
    nodes = [node["Resources"] for node in import_ray().nodes() if node["Alive"]]
    gpus = [node for node in nodes if node.get("GPU", 0) >= 1]
    if with_gpus and (options.gpus or (gpus and options.gpus is None)):
        shares = [int(node.get("CPU", 0) // node["GPU"]) for node in gpus] or [CPUS]
        count = options.actors or max(1, sum(int(node["GPU"]) for node in gpus))
        return Shape(count, options.cpus or min(MOST_CPUS, *shares), 1)
    cpus = [int(node.get("CPU", 0)) for node in nodes if node.get("CPU", 0) >= 1]
    each = options.cpus or min(CPUS, *cpus, CPUS)
    return Shape(options.actors or max(1, sum(count // each for count in cpus)), each, 0)


class ActorPool:
    """The actors of one executor. Used on one event loop.

    Args:
        options: which cluster, and how many.
        setup: for each actor, without its number of threads.
        with_gpus: whether actors get GPUs, if the cluster has any.
    """

    def __init__(self, options: RayOptions, setup: ActorSetup, *, with_gpus: bool) -> None:
        self._options, self._setup, self._with_gpus = options, setup, with_gpus
        self._shape = shape_of(options, with_gpus=with_gpus)
        self._starting: set[asyncio.Task[None]] = set()
        self._others: set[asyncio.Task[Any]] = set()
        self._is_closed = False
        self._failures = 0
        self._last_info: ExecutorInfo | None = None
        self.actors: list[Actor] = []
        self.within: dict[int, PageProgress] = {}
        """What the actors have done of their pages, by row id."""
        self.changed = asyncio.Event()
        """Set when an actor has come or gone."""
        self.failure: ComicUpscaleError | None = None
        """Why no further actor is started."""
        self.deaths = 0
        """Actors that ended by themselves."""

    def open(self) -> None:
        """Start all actors, and look after them."""
        self._fill()
        self._run(self._look_after)

    async def wait_for_first(self, on_wait: Callable[[str], None]) -> Actor:
        """Return the first actor that is ready.

        Raises:
            ComicUpscaleError: none can be started.
        """
        began = time.monotonic()
        while not self.actors:
            if self.failure is not None:
                raise self.failure
            self.changed.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.changed.wait(), LOOK_SECONDS)
                continue
            on_wait(
                f"waiting for the cluster to start {self._shape.count} actors with {self._shape.cpus:g} cores"
                f"{' and a GPU' if self._shape.gpus else ''} each, for {time.monotonic() - began:.0f} s"
            )
        return self.actors[0]

    def note_success(self) -> None:
        """Note that an actor has done a page."""
        self._failures = 0

    def retire(self, actor: Actor, why: ComicUpscaleError | None = None) -> None:
        """End an actor and start another in its place.

        Args:
            actor: that died, or is of no more use.
            why: its error; None if it died without a word, of a page or with its node.
        """
        if actor not in self.actors:
            return
        self.actors.remove(actor)
        self.changed.set()
        self._kill(actor.handle)
        self.deaths += 1
        if why is not None:
            self._note_failure(why)
        self._fill()

    async def close(self) -> None:
        """End all actors."""
        self._is_closed = True
        for task in (*self._starting, *self._others):
            task.cancel()
        await asyncio.gather(*self._starting, *self._others, return_exceptions=True)
        actors, self.actors = self.actors, []
        closing = [asyncio.ensure_future(_close(actor.handle)) for actor in actors]
        if closing:
            _, late = await asyncio.wait(closing, timeout=_CLOSE_SECONDS)
            for task in late:
                task.cancel()
            await asyncio.gather(*closing, return_exceptions=True)
        for actor in actors:
            self._kill(actor.handle)

    def info(self) -> ExecutorInfo:
        """Return the description of all actors together."""
        first = self.actors[0].info if self.actors else self._last_info
        assert first is not None, "no actor has started"
        self._last_info = first
        count = max(1, len(self.actors))
        return replace(first, device=f"Ray: {count} x {first.device}")

    def _note_failure(self, error: ComicUpscaleError) -> None:
        self._failures += 1
        if self._failures >= MOST_FAILURES:
            self.failure = error
            self.changed.set()

    def _fill(self) -> None:
        """Start the actors that are missing."""
        while not self._is_closed and self.failure is None:
            serving = sum(not actor.is_draining for actor in self.actors)
            if serving + len(self._starting) >= self._shape.count:
                return
            task = asyncio.ensure_future(self._start())
            self._starting.add(task)
            task.add_done_callback(self._starting.discard)

    async def _start(self) -> None:
        ray = import_ray()
        handle = (
            ray.remote(PageActor)
            .options(
                num_cpus=self._shape.cpus,
                num_gpus=self._shape.gpus,
                max_concurrency=1000,
                scheduling_strategy="SPREAD",
            )
            .remote()
        )
        threads = max(2, int(self._shape.cpus))
        setup = replace(self._setup, settings=replace(self._setup.settings, workers=threads))
        try:
            found = await handle.start.remote(setup)
            node = await handle.__ray_call__.remote(_node_of)
        except asyncio.CancelledError:
            self._kill(handle)
            raise
        except Exception as error:
            log.warning("an actor did not start: %s", error)
            self._kill(handle)
            self._note_failure(
                DeviceError(f"an actor of the cluster ended while it started: {_in_words(error)}")
            )
        else:
            if "error" in found:
                self._kill(handle)
                # Missing weights or a wrong version are the same everywhere.
                self._note_failure(error_of(found))
                if not isinstance(error_of(found), DeviceError):
                    self.failure = error_of(found)
            else:
                info = ExecutorInfo(**{**found, "warnings": tuple(found["warnings"])})
                actor = Actor(handle, node, info, slots=2 * threads + 2)
                self.actors.append(actor)
                self._run(partial(self._listen, actor))
            self.changed.set()
            return
        self.changed.set()
        # The next one goes somewhere else, or to the same node once it is well again.
        await asyncio.sleep(0.2)
        self._run(self._fill_soon)

    async def _listen(self, actor: Actor) -> None:
        """Keep up with what an actor has done of its pages, until it is gone. With most engines it never answers."""
        told: list[list[Any]] = []
        within: dict[int, PageProgress] = {}
        try:
            while True:
                told = await actor.handle.tell.remote(told)
                self._forget(within)
                within = within_of(told)
                self.within.update(within)
        except Exception as error:
            log.debug("an actor tells no more: %s", error)
        finally:
            self._forget(within)

    def _forget(self, pages: Iterable[int]) -> None:
        for row_id in pages:
            self.within.pop(row_id, None)

    async def _fill_soon(self) -> None:
        await asyncio.sleep(0)
        self._fill()

    def _run(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        task = asyncio.ensure_future(work())
        self._others.add(task)
        task.add_done_callback(self._others.discard)

    async def _look_after(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                draining = await asyncio.to_thread(draining_nodes)
                shape = await asyncio.to_thread(shape_of, self._options, with_gpus=self._with_gpus)
            except Exception as error:
                log.warning("the nodes of the cluster cannot be looked at: %s", error)
                continue
            self._shape = replace(self._shape, count=max(self._shape.count, shape.count))
            for actor in [*self.actors]:
                if actor.node in draining:
                    actor.is_draining = True
                    if not actor.keys:
                        self.retire(actor)
            self._fill()
            self.changed.set()

    def _kill(self, handle: Any) -> None:
        with contextlib.suppress(Exception):
            import_ray().kill(handle, no_restart=True)


def draining_nodes() -> set[str]:
    """Return the ids of the nodes that are about to go, such as those whose provider wants them back."""
    try:
        from ray._private.state import state

        return set(state.get_draining_nodes())
    except (ImportError, AttributeError):
        # Another version of Ray has it elsewhere: its nodes then go without notice.
        return set()


def has_gpus() -> bool:
    """Return whether the cluster has GPUs."""
    return float(import_ray().cluster_resources().get("GPU", 0)) >= 1


def is_death(error: BaseException) -> bool:
    """Return whether an error means that an actor is gone, or cannot be reached."""
    return isinstance(error, import_ray().exceptions.RayError)


def disconnect() -> None:
    """Leave the cluster, unless another run of this process still uses it."""
    global _users
    with _connecting:
        _users -= 1
        if not _users:
            import_ray().shutdown()


def node_address() -> str:
    """Return the address of this machine in the cluster."""
    return str(import_ray().util.get_node_ip_address())


def _node_of(_: PageActor) -> str:
    return str(sys.modules["ray"].get_runtime_context().get_node_id())


async def _close(handle: Any) -> None:
    with contextlib.suppress(Exception):
        await handle.close.remote()


def _in_words(error: BaseException) -> str:
    """Return an error of Ray, which may end in a traceback of another process, in one line."""
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    return " ... ".join(dict.fromkeys([*lines[:1], *lines[-1:]]))[:400] or repr(error)
