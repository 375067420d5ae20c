"""What the environment says: variables, the user's folders, the cores. Read for the command line alone."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from comic_upscale.execution.ssh.address import SshFiles

WEIGHTS_VARIABLE = "COMIC_UPSCALE_WEIGHTS"


def weights_folders(*first: Path) -> tuple[Path, ...]:
    """Where weights are looked for, in this order, before the cache; the variable may name several, as PATH does."""
    named = [Path(folder) for folder in os.environ.get(WEIGHTS_VARIABLE, "").split(os.pathsep) if folder]
    return tuple(folder.expanduser() for folder in (*first, *named, Path("weights")))


def weights_cache() -> Path:
    """Where downloaded weights are kept for this user."""
    import platformdirs

    return platformdirs.user_cache_path("comic-upscale") / "weights"


def state_folder() -> Path:
    """Where it is noted which jobs this user has started."""
    import platformdirs

    return platformdirs.user_state_path("comic-upscale") / "jobs"


def rates_folder() -> Path:
    """Where the rates are kept that this user's machines were measured at."""
    import platformdirs

    return platformdirs.user_data_path("comic-upscale") / "rates"


def own_prices() -> Path | None:
    """The user's own price list, where there is one."""
    import platformdirs

    path = platformdirs.user_config_path("comic-upscale") / "prices.toml"
    return path if path.is_file() else None


def ssh_files(config: Path | None = None) -> SshFiles:
    """The user's files of OpenSSH.

    Args:
        config: in place of ``~/.ssh/config``.
    """
    import getpass

    from comic_upscale.execution.ssh.address import SshFiles

    folder = Path("~/.ssh").expanduser()
    return SshFiles(
        user=getpass.getuser(), config=config or folder / "config", known_hosts=folder / "known_hosts"
    )


def process_seconds() -> float:
    """How long this process has been there: what starting Python and importing took, at the start of a command."""
    import time

    import psutil

    return max(0.0, time.time() - psutil.Process().create_time())


def default_workers() -> int:
    """One thread for each core that this process may use, from 2 to 16."""
    count: Callable[[], int | None] = getattr(os, "process_cpu_count", os.cpu_count)
    return max(2, min(count() or 2, 16))
