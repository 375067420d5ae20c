"""The Docker image, built and used. This takes gigabytes and many minutes, so it runs only when asked for."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

CHECK = REPOSITORY / "scripts" / "check_image.sh"

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")


def check(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(CHECK), *arguments], capture_output=True, text=True, env={**os.environ, **more}
    )


def test_the_image_does_what_the_documentation_says() -> None:
    """Variables: COMIC_UPSCALE_CHECK_IMAGE=1 asks for it, COMIC_UPSCALE_BUILD_OPTIONS has options of docker build."""
    if not os.environ.get("COMIC_UPSCALE_CHECK_IMAGE"):
        pytest.skip("takes gigabytes and minutes: set COMIC_UPSCALE_CHECK_IMAGE=1")
    ended = check("--", *shlex.split(os.environ.get("COMIC_UPSCALE_BUILD_OPTIONS", "")))
    if ended.returncode == 77:
        pytest.skip(ended.stdout.strip())
    assert ended.returncode == 0, ended.stdout[-4000:] + ended.stderr[-4000:]
    for step in ("the image builds", "a live run is healthy", "computes none of them again"):
        assert step in ended.stdout


def test_help_and_wrong_usage() -> None:
    assert check("--help").stdout.startswith("usage: check_image.sh")
    assert check("--nonsense").returncode == 2
    assert check("--pages", "/nowhere/at/all").returncode == 2


def test_without_docker_it_says_so_and_is_not_a_failure(tmp_path: Path) -> None:
    for name in ("bash", "dirname"):
        (tmp_path / name).symlink_to(str(shutil.which(name)))
    ended = check(PATH=str(tmp_path))
    assert (ended.returncode, ended.stdout) == (77, "skipped: Docker is not installed\n")
    docker = tmp_path / "docker"
    docker.write_text("#!/bin/sh\nexit 1\n")
    docker.chmod(0o755)
    ended = check(PATH=str(tmp_path))
    assert (ended.returncode, ended.stdout) == (77, "skipped: no Docker daemon answers\n")
