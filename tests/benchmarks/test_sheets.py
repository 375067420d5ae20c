from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from benchmarks import sheets
from benchmarks.sheets import detailed_region, sheet
from benchmarks.validation import REPOSITORY
from comic_upscale.evaluation.sheet import GAP, LABEL


def test_the_region_is_where_the_detail_is() -> None:
    page = Image.new("L", (200, 300), 255)
    page.paste(Image.effect_noise((40, 40), 80), (120, 200))
    assert detailed_region(page, 44) == pytest.approx((118, 198, 162, 242), abs=2)


def test_a_region_larger_than_the_page_is_the_page(drawing: Image.Image) -> None:
    assert detailed_region(drawing, 300) == (0, 0, 160, 240)


def test_pictures_stand_side_by_side_at_200_percent() -> None:
    made = sheet([("one", Image.new("L", (30, 20), 0)), ("two", Image.new("RGB", (30, 20), "red"))])
    assert made.size == (2 * 60 + GAP, 40 + LABEL)
    assert made.getpixel((59, LABEL)) == (0, 0, 0)
    assert made.getpixel((60 + GAP, LABEL + 39)) == (255, 0, 0)


def test_a_sheet_is_written_for_a_page_by_name(
    tmp_path: Path, small_set: Path, animevideo_weights: Path
) -> None:
    assert sheets.main([str(tmp_path / "out"), "--page", "drawing.png", "--side", "60"]) == 0
    (path,) = (tmp_path / "out").iterdir()
    with Image.open(path) as made:
        assert made.height == 120 + LABEL


def test_pictures_stay_out_of_the_repository(small_set: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sheets.main([str(REPOSITORY / "out")]) == 2
    assert "repository" in capsys.readouterr().err


def test_an_unknown_page_is_refused_with_the_names_there_are(
    tmp_path: Path, small_set: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sheets.main([str(tmp_path / "out"), "--page", "nobody.png"]) == 2
    assert "drawing.png" in capsys.readouterr().err
