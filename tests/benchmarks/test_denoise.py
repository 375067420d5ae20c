"""The measure of a denoise strength, on small pages of its own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import denoise


@pytest.fixture
def small_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "dev").mkdir()
    entries = []
    for number in range(2):
        page = np.full((90, 80), 255, np.uint8)
        page[20 + 5 * number : 24 + 5 * number] = 10
        Image.fromarray(page).save(tmp_path / "dev" / f"{number}.png")
        entries.append(
            {"file": f"{number}.png", "kind": "lines", "licence": "CC BY-SA 4.0", "attribution": "none"}
        )
    (tmp_path / "dev.json").write_text(json.dumps(entries))
    monkeypatch.setenv("COMIC_UPSCALE_COMICS", str(tmp_path))
    return tmp_path


def test_it_writes_likeness_and_white_for_each_track_and_strength(
    small_set: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = small_set / "result.json"
    arguments = ["--qualities", "50", "--factors", "2", "--strengths", "0", "1", "--json", str(result)]
    assert denoise.main(arguments) == 0
    report = json.loads(result.read_text())
    assert set(report["psnr"]) == set(report["white"]) == {"x2 clean", "x2 JPEG 50"}
    assert report["white"]["x2 clean"]["input"]["pure"] > 0.95
    soiled = report["white"]["x2 JPEG 50"]
    assert soiled["1"]["pure"] > soiled["0"]["pure"] and soiled["1"]["short"] < soiled["0"]["short"]
    assert report["psnr"]["x2 clean"]["0"] > report["psnr"]["x2 JPEG 50"]["0"] > 15
    assert "| x2 JPEG 50 |" in capsys.readouterr().out


def test_a_model_without_a_strength_is_refused(small_set: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert denoise.main(["--model", "comic-compact-x3", "--json", str(small_set / "result.json")]) == 2
    assert "no denoise strength" in capsys.readouterr().err
