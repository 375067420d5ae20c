"""Disks that refuse some names: a real FAT where it can be mounted, and a disk that refuses as FAT does."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from comic_upscale.execution.events import JobStarted
from comic_upscale.jobs.run import run_job
from comic_upscale.planning.preview import preview
from comic_upscale.settings.job import JobSettings
from comic_upscale.storage import parts, special_names
from comic_upscale.storage.local import LocalOutputStore
from comic_upscale.storage.special_names import file_system_of
from tests.conftest import draw
from tests.fakes import NearestEngine
from tests.windows import as_on_windows

SPECIAL = set('\\:*?"<>|')
NAMES = ("a: intro", "what?", "what*", "back\\slash", "what_")
SAFE = {"a_ intro.png", "what__2.png", "what_.png", "what__3.png", "back_slash.png"}


@pytest.fixture
def refusing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which the system refuses such names, as the drivers of vfat and exFAT do."""
    folder = tmp_path / "fat"
    folder.mkdir()
    real: Any = os.open

    def refuse(path: Any, *arguments: Any, **more: Any) -> int:
        inside = (
            Path(os.fsdecode(path)).is_relative_to(folder) if isinstance(path, str | bytes | Path) else False
        )
        if inside and SPECIAL & set(str(Path(os.fsdecode(path)).relative_to(folder))):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), str(path))
        return int(real(path, *arguments, **more))

    monkeypatch.setattr(parts.os, "open", refuse)
    real_replace = Path.replace

    def replace(self: Path, target: Any) -> Path:
        if Path(target).is_relative_to(folder) and SPECIAL & set(str(Path(target).relative_to(folder))):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), str(target))
        return real_replace(self, target)

    monkeypatch.setattr(Path, "replace", replace)

    def no_permissions(self: Path, mode: int, **more: Any) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), str(self))

    monkeypatch.setattr(Path, "chmod", no_permissions)
    return folder


@pytest.fixture
def fat(tmp_path: Path) -> Iterator[Path]:
    """A real FAT."""
    make = shutil.which("mkfs.vfat") or shutil.which("mkfs.vfat", path="/usr/sbin:/sbin")
    if os.geteuid() != 0 or make is None:
        pytest.skip("needs root and mkfs.vfat: apt-get install dosfstools")
    image, folder = tmp_path / "disk", tmp_path / "mounted"
    image.write_bytes(bytes(8 << 20))
    folder.mkdir()
    subprocess.run([make, str(image)], check=True, capture_output=True)
    if subprocess.run(["mount", "-o", "loop", str(image), str(folder)], capture_output=True).returncode:
        pytest.skip("this system does not mount a FAT image, as in many containers")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def run_into(output: Path, tmp_path: Path, tiny_weights: Path) -> tuple[int, int, tuple[str, ...]]:
    for number, name in enumerate(NAMES):
        draw(tmp_path / "in" / f"{name}.png", number)
    warnings: list[str] = []

    def note(event: object) -> None:
        if isinstance(event, JobStarted):
            warnings.extend(event.warnings)

    settings = JobSettings(
        input=tmp_path / "in", output=output, model=str(tiny_weights), scale=2.0, workers=2, device="cpu"
    )
    finished = run_job(settings, open_engines=lambda *_: [NearestEngine()], on_event=note)
    return finished.done, finished.done_now, tuple(warnings)


def foresee(output: Path, tmp_path: Path, tiny_weights: Path) -> tuple[set[str], tuple[str, ...]]:
    settings = JobSettings(
        input=tmp_path / "in", output=output, model=str(tiny_weights), scale=2.0, workers=2, device="cpu"
    )
    foreseen = preview(settings)
    for page in foreseen.pages:
        gets_safe_name = bool(SPECIAL & set(page.source)) and not SPECIAL & set(page.output)
        assert (page.note == f"as {page.output}") == gets_safe_name
    return {page.output for page in foreseen.pages}, foreseen.warnings


def check(output: Path, tmp_path: Path, tiny_weights: Path) -> None:
    done, _, warnings = run_into(output, tmp_path, tiny_weights)
    assert done == len(NAMES)
    assert {path.name for path in output.glob("*.png")} == SAFE
    (warning,) = [text for text in warnings if "safe name" in text]
    assert "4 outputs" in warning
    # The next run knows them again.
    assert run_into(output, tmp_path, tiny_weights)[:2] == (len(NAMES), 0)


def test_a_disk_that_refuses_names_gets_safe_ones(refusing: Path, tmp_path: Path, tiny_weights: Path) -> None:
    check(refusing / "out", tmp_path, tiny_weights)


def test_a_real_fat_gets_safe_names(fat: Path, tmp_path: Path, tiny_weights: Path) -> None:
    for number, name in enumerate(NAMES):
        draw(tmp_path / "in" / f"{name}.png", number)
    # A preview foresees them, before the folder exists and after it does, and writes nothing.
    outputs, (warning,) = foresee(fat / "out", tmp_path, tiny_weights)
    assert outputs == SAFE
    assert "4 outputs get safe names" in warning
    assert not (fat / "out").exists()
    check(fat / "out", tmp_path, tiny_weights)
    assert foresee(fat / "out", tmp_path, tiny_weights)[0] == SAFE


def test_a_preview_foresees_the_names_of_a_run(
    refusing: Path, tmp_path: Path, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, name in enumerate(NAMES):
        draw(tmp_path / "in" / f"{name}.png", number)
    mounts = [
        SimpleNamespace(mountpoint="/", fstype="ext4"),
        SimpleNamespace(mountpoint=str(refusing), fstype="vfat"),
    ]
    monkeypatch.setattr(psutil, "disk_partitions", lambda all: mounts)
    outputs, (warning,) = foresee(refusing / "out", tmp_path, tiny_weights)
    assert outputs == SAFE
    assert "4 outputs get safe names" in warning
    assert not (refusing / "out").exists()
    check(refusing / "out", tmp_path, tiny_weights)


def test_a_preview_keeps_the_names_on_other_disks(tmp_path: Path, tiny_weights: Path) -> None:
    for number, name in enumerate(NAMES):
        draw(tmp_path / "in" / f"{name}.png", number)
    outputs, warnings = foresee(tmp_path / "out", tmp_path, tiny_weights)
    assert ({Path(name).stem for name in outputs}, warnings) == (set(NAMES), ())


def test_the_file_system_of_a_path_is_that_of_its_nearest_mount() -> None:
    mounts = [("/", "ext4"), ("/media/disk", "vfat"), ("/media/disk", "exfat"), ("/media/disk/on", "tmpfs")]
    kinds = {
        "/media/disk": "exfat", "/media/disk/new/out": "exfat", "/media/disk/on/it": "tmpfs", "/media/disk2": "ext4",
        "/": "ext4", "/out": "ext4",
    }  # fmt: skip
    assert {path: file_system_of(path, mounts) for path in kinds} == kinds
    assert file_system_of("/out", []) == ""


def test_other_disks_keep_the_names(tmp_path: Path, tiny_weights: Path) -> None:
    done, _, warnings = run_into(tmp_path / "out", tmp_path, tiny_weights)
    assert done == len(NAMES)
    assert {path.stem for path in (tmp_path / "out").glob("*.png")} == set(NAMES)
    assert not [text for text in warnings if "safe name" in text]


def test_each_part_of_a_name_becomes_safe(refusing: Path) -> None:
    (refusing / ".comic-upscale").mkdir()
    store = LocalOutputStore(refusing)
    assert store.storable_name("Vol: 1/a?b.png") == "Vol_ 1/a_b.png"
    assert store.storable_name("dots.../x .png") == "dots___/x .png"
    assert store.storable_name("plain/name.png") == "plain/name.png"


def test_windows_is_not_asked_for_names_that_it_has_no_path_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_on_windows(monkeypatch, special_names)
    (tmp_path / ".comic-upscale").mkdir()

    def refuse(path: Path, name: str) -> Path:
        raise ValueError(f"Invalid name {name!r}")

    monkeypatch.setattr(Path, "with_name", refuse)
    assert LocalOutputStore(tmp_path).storable_name("Vol: 1/a?.png") == "Vol_ 1/a_.png"
