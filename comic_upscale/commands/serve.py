"""``comic-upscale serve``: the REST interface, the queue, and a worker."""

from __future__ import annotations

import gc
import importlib.util
import logging
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

from comic_upscale.commands.options import Given, takes
from comic_upscale.commands.server_logging import LOG, LogOptions, set_up_server_logging
from comic_upscale.commands.worker import WORKER, run_worker
from comic_upscale.server.recent_log import RecentLog
from comic_upscale.server.settings import ServerSettings
from comic_upscale.settings.options import definitions, pick
from comic_upscale.settings.paths import quoted

if TYPE_CHECKING:
    from comic_upscale.server.run import Addresses
    from comic_upscale.server.supervisor import WorkerCommand
    from comic_upscale.server.weights_check import WeightsCheck

SERVER = pick(ServerSettings, *(option.name for option in definitions(ServerSettings)))
"""The options of a server. None is required: the environment may give it."""
_OF_PROGRAMS = ("PATH", "HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "PYTHONPATH", "TMPDIR")
"""Variables that any program needs."""


@takes(given=SERVER, log=LOG)
def serve(given: Given, log: Given) -> None:
    """Serve until a signal."""
    from comic_upscale.commands.server_environment import (
        say_what_has_no_effect,
        server_settings,
    )

    settings = server_settings(given.values())
    recent_log = RecentLog()
    set_up_server_logging(LogOptions(**log.values()), settings, recent_log)
    say_what_has_no_effect()
    if settings.role == "worker":
        run_worker(settings)
        return
    from comic_upscale.commands.environment import own_prices, rates_folder

    with _without_collection():
        from comic_upscale.server.run import serve as run_server
        from comic_upscale.server.services import Quoting

    number = run_server(
        settings,
        worker=_worker_command(settings) if settings.role == "all" else None,
        on_ready=lambda addresses: _announce(settings, addresses),
        quoting=Quoting(rates_folder(), own_prices()),
        weights_check=_weights_check(settings),
        recent_log=recent_log,
    )
    if number:
        raise typer.Exit(128 + number)


@contextmanager
def _without_collection() -> Iterator[None]:
    """Look for no garbage while modules are imported: what they make stays, and that search is a seventh of a start."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _worker_command(settings: ServerSettings) -> WorkerCommand:
    from comic_upscale.commands.server_environment import worker_environment
    from comic_upscale.server.supervisor import WorkerCommand

    # Its lines become lines of the log of the server, with their fields.
    arguments = [sys.executable, "-m", "comic_upscale", "worker", "--log-json"]
    for option in WORKER:
        value = getattr(settings, option.name)
        # All users of a machine can see the arguments of a process. Its environment is private.
        if value is not None and not option.opt.secret:
            for each in value if isinstance(value, tuple) else (value,):
                arguments += [option.flag, str(each)]
    return WorkerCommand(arguments, worker_environment(settings))


def _weights_check(settings: ServerSettings) -> WeightsCheck | None:
    """Return the check of uploaded weights; None where nothing can load them."""
    from comic_upscale.server.weights_check import WeightsCheck

    if importlib.util.find_spec("torch") is None:
        return None
    environment = {name: os.environ[name] for name in _OF_PROGRAMS if name in os.environ}
    command = [sys.executable, "-m", "comic_upscale", "models", "check", "--json"]
    return WeightsCheck(command, environment, settings.data / "check")


def say_missing_roots(settings: ServerSettings) -> None:
    """Warn of folders of ``--root`` that are not there. Their drives may come later, so the server starts."""
    for root in settings.root_folders:
        if not root.is_dir():
            message = "the folder %s of --root is not there: no job can use it until it is"
            logging.getLogger(__name__).warning(message, root)


def _announce(settings: ServerSettings, addresses: Addresses) -> None:
    everywhere = "  (and at every address of this machine)" if addresses.is_everywhere else ""
    typer.echo(f"Pages:    {addresses.pages}{everywhere}")
    typer.echo(f"REST API: {addresses.api}/docs")
    own = f"--data {quoted(str(settings.data))}" if settings.database is None else "--database URL"
    typer.echo(f"Data:     {settings.data}  (comic-upscale server key create {own} --name NAME makes a key)")
    if addresses.setup is not None:
        typer.echo(f"Setup:    {addresses.setup}  (creates the first administrator)")
    sys.stdout.flush()
    # A drive that does not answer must not hold the server.
    threading.Thread(target=say_missing_roots, args=(settings,), daemon=True).start()
