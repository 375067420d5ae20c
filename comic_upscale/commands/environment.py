"""The environment of the command line: variables, folders of the user, CPU cores. Only commands read it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from comic_upscale.execution.ssh.address import SshFiles

WEIGHTS_VARIABLE = "COMIC_UPSCALE_WEIGHTS"
LEDGER_VARIABLE = "COMIC_UPSCALE_LEDGER"


def weights_folders(*first: Path) -> tuple[Path, ...]:
    """Return the folders searched for weights before the cache, in order. The variable may list several, like PATH.

    Args:
        first: the folders that the user named with ``--weights-dir``. They must exist; all others may be missing.

    Raises:
        SettingsError: such a folder does not exist.
    """
    from comic_upscale.errors import SettingsError
    from comic_upscale.settings.paths import path_text

    for folder in first:
        if not folder.expanduser().is_dir():
            what = "is a file: --model takes one" if folder.expanduser().is_file() else "does not exist"
            raise SettingsError(f"--weights-dir must name a folder, but {path_text(folder)} {what}")
    named = [Path(folder) for folder in os.environ.get(WEIGHTS_VARIABLE, "").split(os.pathsep) if folder]
    return tuple(folder.expanduser() for folder in (*first, *named, Path("weights")))


def weights_cache() -> Path:
    """Return the folder for this user's downloaded weights."""
    import platformdirs

    return platformdirs.user_cache_path("comic-upscale") / "weights"


def state_folder() -> Path:
    """Return the folder that records which jobs this user has started."""
    import platformdirs

    return platformdirs.user_state_path("comic-upscale") / "jobs"


def requested_ledger(job: Path | None, ledger: Path | None) -> Path | None:
    """Return the ledger that the user asked for, or that of the variable, which the Docker image sets.

    Each container has a new state folder, so only the variable tells where the ledger of an earlier container is.

    Args:
        job: the output folder of a job, by which a ledger is found later.
        ledger: the ledger file.
    """
    named = os.environ.get(LEDGER_VARIABLE, "")
    if job is None and ledger is None and named and (path := Path(named).expanduser()).is_file():
        return path
    return ledger


def rates_folder() -> Path:
    """Return the folder for the measured rates of this user's machines."""
    import platformdirs

    return platformdirs.user_data_path("comic-upscale") / "rates"


def own_prices() -> Path | None:
    """Return the user's own price list, if it exists."""
    import platformdirs

    path = platformdirs.user_config_path("comic-upscale") / "prices.toml"
    return path if path.is_file() else None


def ssh_files(config: Path | None = None) -> SshFiles:
    """Return the OpenSSH files of the user.

    Args:
        config: replaces ``~/.ssh/config``.

    Raises:
        SettingsError: this user has no name, as in a container.
    """
    import getpass

    from comic_upscale.errors import SettingsError
    from comic_upscale.execution.ssh.address import SshFiles

    try:
        user = getpass.getuser()
    except (ImportError, KeyError, OSError):
        raise SettingsError(
            "the user who runs this has no name on this system: set the variable LOGNAME to one"
        ) from None
    folder = Path("~/.ssh").expanduser()
    return SshFiles(user=user, config=config or folder / "config", known_hosts=folder / "known_hosts")


def process_seconds() -> float:
    """Return the age of this process: at the start of a command, the time for starting Python and importing."""
    import time

    import psutil

    return max(0.0, time.time() - psutil.Process().create_time())


def default_workers() -> int:
    """Return one worker for each core that this process may use, from 2 to 16."""
    count: Callable[[], int | None] = getattr(os, "process_cpu_count", os.cpu_count)
    return max(2, min(count() or 2, 16))
