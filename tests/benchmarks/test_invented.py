from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from benchmarks import invented
from benchmarks.texture import Block, invented_blocks, white_kept, white_mask, white_part
from benchmarks.validation import REPOSITORY, ValidationPage
from comic_upscale.evaluation.shrunk import through_jpeg
from comic_upscale.evaluation.trial import lanczos

FACTOR = 2.5


def reduce(page: Image.Image) -> Image.Image:
    """The source of a page: reduced as the pages of the benchmarks are."""
    return page.resize((round(page.width / FACTOR), round(page.height / FACTOR)), Image.Resampling.BICUBIC)


def screentone(side: int, pitch: float, black: int, white: int) -> Image.Image:
    """Round dots on a grid of 45 degrees."""
    rows, columns = np.mgrid[:side, :side] * (2 * np.pi / pitch)
    wave = np.cos((rows + columns) / 2**0.5) + np.cos((rows - columns) / 2**0.5)
    share = np.clip((wave - 0.6) * 2 + 0.5, 0, 1)
    return Image.fromarray((white + (black - white) * share).astype(np.uint8))


def checks(side: int, one: int, other: int) -> Image.Image:
    rows, columns = np.mgrid[:side, :side] // 2
    return Image.fromarray(np.where((rows + columns) % 2 == 0, one, other).astype(np.uint8))


def test_an_island_of_dots_on_flat_gray_is_counted_block_by_block() -> None:
    source = Image.new("L", (100, 120), 130)
    output = lanczos(source, FACTOR)
    output.paste(checks(75, 100, 160), (50, 100))
    blocks = invented_blocks(source, output)
    assert {(block.left, block.top) for block in blocks} == {
        (left, top) for left in (20, 30, 40) for top in (40, 50, 60)
    }
    assert all(block.detail > 20 and block.contrast == 0 for block in blocks)


def test_the_same_island_in_colour_and_at_twice_the_size() -> None:
    source = Image.new("RGB", (100, 120), (120, 140, 130))
    output = lanczos(source, 2)
    output.paste(checks(60, 100, 160).convert("RGB"), (40, 80))
    assert len(invented_blocks(source, output)) == 9


def test_dots_too_faint_to_be_seen_are_not_counted() -> None:
    source = Image.new("L", (100, 120), 130)
    output = lanczos(source, FACTOR)
    output.paste(checks(75, 127, 133), (50, 100))
    assert invented_blocks(source, output) == []


def test_a_screentone_half_restored_and_half_gray_is_counted_where_it_is_dots() -> None:
    """The source holds so little of a fine screentone that dots are a guess; they begin in the midst of gray."""
    page = screentone(400, 5.2, 90, 170)
    source = Image.blend(reduce(page), Image.new("L", (160, 160), 130), 0.7)
    output = lanczos(source, FACTOR)
    output.paste(page.crop((0, 0, 400, 200)), (0, 0))
    found = invented_blocks(source, output)
    assert found and all(block.top < 80 for block in found)
    assert len(found) >= 0.9 * 16 * 8


@pytest.mark.parametrize(
    ("pitch", "black", "white"), [(6.5, 0, 255), (8, 0, 255), (8, 110, 150), (12, 60, 200)]
)
def test_screentone_that_the_source_has_and_the_output_keeps_is_not_counted(
    pitch: float, black: int, white: int
) -> None:
    page = screentone(400, pitch, black, white)
    source = reduce(page)
    assert invented_blocks(source, page) == []
    assert invented_blocks(through_jpeg(source, 75), page) == []


def test_sharper_lines_and_letters_are_not_counted() -> None:
    page = Image.new("L", (500, 600), 255)
    draw = ImageDraw.Draw(page)
    draw.rectangle((250, 300, 499, 599), fill=150)
    for width in range(1, 8):
        draw.line((20, 40 * width, 480, 60 * width + 100), fill=0, width=width)
        draw.ellipse((30 * width, 300, 200 + 20 * width, 500), outline=40, width=width)
    draw.text((280, 520), "Hush! Lines.", fill=0, font=ImageFont.load_default(40))
    source = reduce(page)
    assert invented_blocks(source, page.point(lambda level: 255 * (level > 100))) == []
    assert invented_blocks(source, page) == []


def test_lanczos_invents_nothing_on_real_pages(pages: list[ValidationPage]) -> None:
    for name in ("haruko__03.jpg", "climatefrogs__climate-frogs-webtoons-en-9.jpg"):
        page = by_name(pages, name)
        source = invented.open_source(page)
        assert invented_blocks(source, lanczos(source, FACTOR)) == [], name


def test_real_pages_are_taken_as_a_reader_has_them(pages: list[ValidationPage]) -> None:
    def size(name: str) -> tuple[int, int]:
        return invented.open_source(by_name(pages, name)).size

    assert size("haruko__03.jpg") == (600, 837), "as published"
    assert size("torinome__001.jpg") == (600, 840), "the middle of a strip"
    assert size("climatefrogs__climate-frogs-webtoons-en-3.png") == (480, 768), "reduced"


def by_name(pages: list[ValidationPage], name: str) -> ValidationPage:
    return next(page for page in pages if page.name == name)


def test_white_is_counted_away_from_edges_and_at_any_size() -> None:
    clean = Image.new("L", (40, 40), 255)
    clean.paste(0, (0, 0, 40, 20))
    mask = white_mask(clean)
    assert int(mask.sum()) == 40 * 19, "the row beside the black is an edge"
    grown = clean.resize((100, 100), Image.Resampling.NEAREST)
    grown.paste(254, (0, 90, 50, 100))
    grown.paste(253, (50, 90, 100, 100))
    kept = white_kept(mask, grown)
    assert (kept.pixels - kept.near, kept.near - kept.pure) == (500, 500)


def test_jpeg_soils_the_white_beside_drawing(drawing: Image.Image) -> None:
    mask = white_mask(drawing)
    shares = [white_kept(mask, through_jpeg(drawing, quality)) for quality in (40, 95)]
    assert shares[0].near < shares[1].near < shares[1].pixels
    coloured = Image.new("RGB", (30, 30), (255, 255, 250))
    assert white_kept(np.ones((30, 30), bool), coloured).near == 0, "tinted white is not white"


def test_the_part_followed_is_white_beside_drawing() -> None:
    page = Image.new("L", (900, 900), 255)
    page.paste(checks(120, 0, 255), (700, 640))
    part = white_part(page)
    assert part.size == (160, 160)
    assert np.asarray(part).min() == 0


def test_a_run_writes_its_report_its_tables_and_its_sheets(
    tmp_path: Path,
    small_set: Path,
    animevideo_weights: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    report, outputs, sheets = tmp_path / "report.json", tmp_path / "outputs", tmp_path / "sheets"
    arguments = f"--qualities 60 --factor 2 --json {report} --outputs {outputs} --sheets {sheets}".split()
    assert invented.main(arguments) == 0
    table = capsys.readouterr().out
    found = json.loads(report.read_text(encoding="utf-8"))
    blocks = found["invented_blocks"]
    assert blocks["total"]["Lanczos"] == 0
    assert blocks["pages"]["drawing.png"] == blocks["total"]
    white = found["white"]["total"]
    assert 0 < white["60 input"]["pure"] <= white["60 input"]["near"] < 1
    assert f"| JPEG 60 | {white['60 input']['near']:.1%} |" in table
    assert len(list(outputs.iterdir())) == 6, "the page and its JPEG, by three models"

    # What is kept is read again, and what it shows is drawn.
    for kept in outputs.glob("*-comic-compact-x3.png"):
        with Image.open(kept) as image:
            soiled = image.copy()
        soiled.paste(checks(60, 200, 250).convert(soiled.mode), (200, 40))
        soiled.save(kept)
    assert invented.main(arguments) == 0
    again = json.loads(report.read_text(encoding="utf-8"))
    assert again["invented_blocks"]["total"]["comic-compact-x3"] >= 9
    assert again["invented_blocks"]["total"]["Lanczos"] == 0
    assert [path.name for path in sheets.iterdir()] == ["drawing-comic-compact-x3.png"]


def test_pictures_stay_out_of_the_repository(small_set: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert invented.main(["--outputs", str(REPOSITORY / "out")]) == 2
    assert "repository" in capsys.readouterr().err


def test_blocks_come_strongest_first() -> None:
    source = Image.new("L", (60, 60), 130)
    output = lanczos(source, 2)
    output.paste(checks(20, 120, 140), (0, 0))
    output.paste(checks(20, 90, 170), (60, 60))
    found = invented_blocks(source, output)
    assert [(block.left, block.top) for block in found] == [(30, 30), (0, 0)]
    assert isinstance(found[0], Block) and found[0].detail > 2 * found[1].detail
