"""Kills at every moment of a volume: the CBZ always ends with the same bytes."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
import zipfile
from pathlib import Path

import pytest

from tests.archives import make_zip, pictures, read_cbz
from tests.jobs.test_kill import start

DEFAULT = 2
KILLS = int(os.environ.get("COMIC_UPSCALE_TEST_KILLS", DEFAULT))
PAGES = 6
"""Pages of the real volume. A trial of more kills takes all of them."""


def until(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Wait, then kill; tell whether it was killed."""
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()
        return True
    return False


def storm(source: Path, tmp_path: Path, weights: Path, kills: int) -> None:
    """Kill runs at random moments, then compare with one that nobody disturbed."""
    began = time.monotonic()
    assert start(source, tmp_path / "calm", weights).wait() == 0
    whole = time.monotonic() - began
    (calm,) = (tmp_path / "calm").glob("*.cbz")
    expected = calm.read_bytes()
    chance = random.Random(11)
    output = tmp_path / "stormy"
    made = output / calm.name
    killed = 0
    while killed < kills:
        killed += until(start(source, output, weights), chance.uniform(0.3 * whole, 1.0 * whole))
        if made.exists():
            # Whole at every moment that it is there; take it away, so that there is work to disturb.
            assert made.read_bytes() == expected
            made.unlink()
    assert start(source, output, weights).wait() == 0
    assert made.read_bytes() == expected
    assert not list(output.rglob("*.part"))
    assert not (output / ".comic-upscale" / "volumes").exists()


def test_kills_over_a_real_volume(tmp_path: Path, tiny_weights: Path, comics_dir: Path) -> None:
    whole = comics_dir / "odd" / "stump__science_comics_001.cbz"
    if not whole.is_file():
        pytest.skip(f"{whole.name} is not in {comics_dir}")
    if KILLS > DEFAULT:
        source, pages = whole, 36
    else:
        source, pages = tmp_path / whole.name, PAGES
        with zipfile.ZipFile(whole) as real, zipfile.ZipFile(source, "w") as part:
            names = sorted(name for name in real.namelist() if not name.endswith("/"))
            for name in names[:PAGES]:
                part.writestr(real.getinfo(name), real.read(name))
    storm(source, tmp_path, tiny_weights, KILLS)
    assert len(read_cbz(tmp_path / "stormy" / source.name)) == pages


def test_kills_over_a_small_volume(tmp_path: Path, tiny_weights: Path) -> None:
    source = make_zip(tmp_path / "v.cbz", {**pictures(30), "ComicInfo.xml": b"<ComicInfo/>"})
    storm(source, tmp_path, tiny_weights, DEFAULT)
