"""What is shipped: the wheel and the source distribution bring the model along."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

WEIGHTS = [
    Path("weights/blazeface-back.safetensors"),
    *(
        Path(f"weights/comic-{name}.safetensors")
        for name in (
            *("best-x2-dn", "best-x2", "best-x3-dn", "best-x3", "compact-x3", "crisp-x2", "crisp-x3"),
            *("fast-x2-dn", "fast-x2-int8", "fast-x2", "fast-x3-dn", "fast-x3-int8", "fast-x3"),
        )
    ),
]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of both, built from this tree."""
    if not (REPOSITORY / "pyproject.toml").is_file():
        pytest.skip("there is nothing here to build from")
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-t", "sdist", "-d", str(folder)]
    ended = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return folder


def test_the_wheel_holds_the_weights_inside_the_package(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if name.endswith((".pth", ".safetensors"))]
        assert sorted(names) == [f"comic_upscale/{path.as_posix()}" for path in WEIGHTS]
        for path in WEIGHTS:
            assert archive.read(f"comic_upscale/{path.as_posix()}") == (REPOSITORY / path).read_bytes()
        # What a quote is made from.
        data = {f"comic_upscale/costs/{name}.toml" for name in ("rates", "prices")}
        assert data <= set(archive.namelist())


def test_the_source_distribution_can_build_that_wheel(built: Path, tmp_path: Path) -> None:
    (source,) = built.glob("*.tar.gz")
    with tarfile.open(source) as archive:
        archive.extractall(tmp_path, filter="data")
    (tree,) = tmp_path.iterdir()
    for path in WEIGHTS:
        assert (tree / path).read_bytes() == (REPOSITORY / path).read_bytes()
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path / "dist")]
    subprocess.run(command, cwd=tree, check=True, capture_output=True)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert {f"comic_upscale/{path.as_posix()}" for path in WEIGHTS} <= set(archive.namelist())


def test_git_for_windows_leaves_the_bytes_of_scripts_and_weights_as_they_are() -> None:
    if shutil.which("git") is None or not (REPOSITORY / ".git").exists():
        pytest.skip("git is not installed, or this is no clone")
    names = ["scripts/idle_watchdog.sh", "Dockerfile", *map(str, WEIGHTS)]
    command = ["git", "check-attr", "text", "eol", "--", *names]
    found = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    assert {"scripts/idle_watchdog.sh: eol: lf", "Dockerfile: eol: lf"} <= set(found.splitlines())
    assert {f"{name}: text: unset" for name in WEIGHTS} <= set(found.splitlines())
