"""What `serve`, `worker` and `server` share: their settings from options and variables."""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Mapping
from typing import Any

from comic_upscale.commands.environment import (
    default_workers,
    user_folder,
    weights_cache,
    weights_folders,
)
from comic_upscale.errors import SettingsError
from comic_upscale.server.other_variables import notes_on
from comic_upscale.server.settings import ServerSettings
from comic_upscale.settings.environment import values_from_environment, variables_of
from comic_upscale.settings.options import definitions
from comic_upscale.settings.paths import absolute

_PACKAGES = (
    "alembic",
    "argon2",
    "fastapi",
    "fastapi_offline",
    "itsdangerous",
    "limits",
    "pyotp",
    "segno",
    "sqlalchemy",
    "uvicorn",
    "zipstream",
)


def server_settings(given: Mapping[str, Any], *, has_server: bool = True) -> ServerSettings:
    """Return the settings of a server: the given options, then variables of the environment, then defaults.

    Args:
        given: options by name.
        has_server: whether the packages of a server are needed.

    Raises:
        SettingsError: a value is not allowed, or packages are missing.
    """
    if has_server and (missing := [name for name in _PACKAGES if importlib.util.find_spec(name) is None]):
        raise SettingsError(
            f"the server needs packages that are not installed ({', '.join(missing)}): "
            "pip install '.[server]' in a clone"
        )
    values = {**values_from_environment(ServerSettings, os.environ), **given}
    if values.get("data") is None:
        values["data"] = user_folder("data") / "server"
    values["data"] = absolute(values["data"])
    return ServerSettings(**values)


def say_what_has_no_effect() -> None:
    """Log which variables of other programs are set and have no effect here."""
    for note in notes_on(os.environ):
        logging.getLogger(__name__).warning("%s", note)


def job_defaults(settings: ServerSettings) -> dict[str, Any]:
    """Return the options of every job that a worker on this machine runs."""
    return {
        "workers": settings.worker_threads or default_workers(),
        "weights_folders": weights_folders(),
        "weights_cache": weights_cache(),
    }


_OF_WORKERS = frozenset(("database", "s3_access_key_id", "s3_secret_access_key", "s3_session_token"))
"""Secrets that a worker needs."""


def worker_environment(settings: ServerSettings) -> dict[str, str]:
    """Return the variables for a worker: those of this process without the secrets, except for database and storage.

    A worker opens files of strangers.
    """
    secret = {
        f"{variable}{end}"
        for option in definitions(ServerSettings)
        if option.opt.secret and option.name not in _OF_WORKERS
        for variable in variables_of(option)
        for end in ("", "_FILE")
    }
    variables = {name: value for name, value in os.environ.items() if name not in secret}
    if settings.database is not None:
        # Not as an argument: all users of a machine can see those.
        variables["COMIC_UPSCALE_DATABASE"] = settings.database
    return variables
