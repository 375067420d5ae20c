"""The environment of the command line: variables, folders of the user, CPU cores. Only commands read it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from comic_upscale.settings.paths import expand_user, path_text
from comic_upscale.settings.places import is_bucket

if TYPE_CHECKING:
    from comic_upscale.execution.ssh.address import SshFiles

WEIGHTS_VARIABLE = "COMIC_UPSCALE_WEIGHTS"
LEDGER_VARIABLE = "COMIC_UPSCALE_LEDGER"


def user_folder(kind: Literal["cache", "config", "data", "state"]) -> Path:
    """Return this user's folder for files of a kind.

    A user without a home folder, as in a container, gets one among the temporary files.

    Raises:
        SettingsError: another user has made a folder of that name.
    """
    import platformdirs

    try:
        path: Path = getattr(platformdirs, f"user_{kind}_path")("comic-upscale")
    except RuntimeError:
        return _temporary_home() / kind
    # An older platformdirs returns the "~" as it is.
    return path if path.is_absolute() else _temporary_home() / kind


def _temporary_home() -> Path:
    import stat
    import tempfile

    from comic_upscale.errors import SettingsError

    path = Path(tempfile.gettempdir(), f"comic-upscale-{os.getuid()}")
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        raise SettingsError(
            f"the user who runs this has no home folder, and {path} belongs to another user: set the variable HOME"
        )
    return path


def weights_folders(*first: Path) -> tuple[Path, ...]:
    """Return the folders searched for weights before the cache, in order. The variable may list several, like PATH.

    Args:
        first: the folders that the user named with ``--weights-dir``. They must exist; all others may be missing.

    Raises:
        SettingsError: such a folder does not exist.
    """
    from comic_upscale.errors import SettingsError

    for folder in first:
        if not expand_user(folder).is_dir():
            what = "is a file: --model takes one" if expand_user(folder).is_file() else "does not exist"
            raise SettingsError(f"--weights-dir must name a folder, but {path_text(folder)} {what}")
    named = [Path(folder) for folder in os.environ.get(WEIGHTS_VARIABLE, "").split(os.pathsep) if folder]
    return tuple(expand_user(folder) for folder in (*first, *named, Path("weights")))


def weights_cache() -> Path:
    """Return the folder for this user's downloaded weights."""
    return user_folder("cache") / "weights"


def state_folder() -> Path:
    """Return the folder that records which jobs this user has started."""
    return user_folder("state") / "jobs"


def bucket_ledger(output: Path) -> Path:
    """Return the ledger of a job whose outputs are in a bucket. This machine keeps it in a folder of the user.

    Args:
        output: the path that stands for the place.
    """
    import hashlib
    import re

    from comic_upscale.settings.paths import default_ledger

    address = path_text(output)
    words = re.sub(r"[^A-Za-z0-9]+", "-", address)[:60].strip("-")
    digest = hashlib.sha256(address.encode()).hexdigest()[:8]
    return default_ledger(user_folder("state") / "buckets" / f"{words}-{digest}")


def bucket_variables() -> dict[str, str]:
    """Return the variables that give rights to buckets, for processes on other machines."""
    kinds = ("AWS_", "GOOGLE_", "AZURE_")
    return {name: value for name, value in os.environ.items() if name.startswith(kinds)}


def requested_ledger(job: Path | None, ledger: Path | None) -> Path | None:
    """Return the ledger that the user asked for, or that of the variable, which the Docker image sets.

    Each container has a new state folder, so only the variable tells where the ledger of an earlier container is.

    Args:
        job: the output folder of a job, by which a ledger is found later.
        ledger: the ledger file.
    """
    if job is not None and ledger is None and is_bucket(job):
        return bucket_ledger(job)
    named = os.environ.get(LEDGER_VARIABLE, "")
    if job is None and ledger is None and named and (path := expand_user(Path(named))).is_file():
        return path
    return ledger


def rates_folder() -> Path:
    """Return the folder for the measured rates of this user's machines."""
    return user_folder("data") / "rates"


def own_prices() -> Path | None:
    """Return the user's own price list, if it exists."""
    path = user_folder("config") / "prices.toml"
    return path if path.is_file() else None


def ssh_files(config: Path | None = None) -> SshFiles:
    """Return the OpenSSH files of the user.

    Args:
        config: replaces ``~/.ssh/config``.

    Raises:
        SettingsError: this user has no name or no home folder, as in a container.
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
    try:
        folder = Path.home() / ".ssh"
    except RuntimeError:
        raise SettingsError("the user who runs this has no home folder: set the variable HOME") from None
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
