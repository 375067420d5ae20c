"""Gray pages as a scanner gives them get their black and white back, and no line or screentone is lost."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from comic_upscale.errors import SettingsError
from comic_upscale.imaging.decode import decode
from comic_upscale.imaging.levels import apply_levels, find_points
from comic_upscale.imaging.paper import find_paper, neutralise_paper
from comic_upscale.imaging.pixels import Pixels
from comic_upscale.settings.levels import Levels

AUTO = Levels()


def manga(side: int = 240) -> NDArray[np.uint8]:
    """Ink lines, a black area, two screentones, and faint lines on white."""
    page = np.full((side, side), 255, np.uint8)
    page[20:24, 10:110] = page[20:110, 10:14] = 0
    page[130:180, 10:60] = 0
    rows, columns = np.mgrid[0:90, 0:90]
    page[20:110, 130:220] = np.where((rows % 4 < 2) & (columns % 4 < 2), 0, 255)
    page[130:180, 80:130] = np.where((rows[:50, :50] + columns[:50, :50]) % 6 < 2, 120, 255)
    page[150:230:8, 150:220] = 215
    page[200, 10:130] = 190
    return page


def scanned(page: NDArray[np.uint8], black: int, white: int, noise: float, quality: int) -> NDArray[np.uint8]:
    """Return a page as a scanner and its JPEG give it; black and white are the shades of ink and paper."""
    shades = black + page.astype(float) * (white - black) / 255
    shades += np.random.default_rng(3).normal(0, noise, page.shape)
    file = io.BytesIO()
    Image.fromarray(np.rint(shades.clip(0, 255)).astype(np.uint8)).save(file, "JPEG", quality=quality)
    return np.array(Image.open(file))


def gray(page: NDArray[np.uint8]) -> Pixels:
    return Pixels(page[:, :, None])


def psnr(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    return float(10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2)))


@pytest.mark.parametrize(
    ("black", "white", "noise"), [(20, 228, 2.0), (35, 205, 4.0), (0, 235, 3.0), (30, 255, 2.0)]
)
def test_ink_and_paper_come_back_and_nothing_between_them_is_lost(
    black: int, white: int, noise: float
) -> None:
    page = manga()
    scan = scanned(page, black, white, noise, 92)
    after = apply_levels(gray(scan), AUTO)
    out = after.color[:, :, 0]
    assert psnr(page, out) > psnr(page, scan) + 6
    assert out[page == 255].mean() > 250 and out[page == 0].mean() < 5
    # Faint lines and screentones: as far from the paper as they were, or farther, wherever they were.
    for shade in (215, 190, 120):
        assert out[page == 255].mean() - out[page == shade].mean() >= 0.9 * (255 - shade)
        assert (out[page == shade] == 255).mean() < 0.02
    assert after.notes[-1].startswith("levels: black from")


def test_a_page_that_has_its_levels_stays_as_it_is() -> None:
    page = gray(manga())
    assert apply_levels(page, AUTO) is page


@pytest.mark.parametrize(
    "change",
    [
        lambda page: (page // 2 + 40).astype(np.uint8),  # a night scene: no paper
        lambda page: np.where(page == 255, 223, page).astype(np.uint8),  # a gray that an artist filled in
        lambda page: np.where(np.arange(240)[:, None] < 60, 255, scanned(page, 0, 200, 3, 95)).astype(np.uint8),
        lambda page: np.zeros_like(page),
    ],
    ids=["night", "filled in", "white bubbles on gray", "black"],
)  # fmt: skip
def test_shades_that_are_meant_are_kept(change: object) -> None:
    page = gray(change(manga()))  # type: ignore[operator]
    assert apply_levels(page, AUTO) is page


def test_given_points_clip_and_stretch_all_depths() -> None:
    shades = np.tile(np.arange(256, dtype=np.uint8), (4, 1))
    out = apply_levels(gray(shades), Levels(20, 235)).color[0, :, 0]
    assert (out[:21] == 0).all() and (out[235:] == 255).all() and (np.diff(out[20:236].astype(int)) > 0).all()
    deep = apply_levels(Pixels((shades[:, :, None] * np.uint16(257)).astype(np.uint16)), Levels(20, 235))
    assert deep.color.dtype == np.uint16
    assert np.abs(deep.color[0, :, 0] / 257 - out).max() <= 0.51


def test_only_gray_pages_get_levels_in_any_number_of_channels() -> None:
    scan = scanned(manga(), 20, 228, 2.0, 92)
    three = np.repeat(scan[:, :, None], 3, axis=2)
    out = apply_levels(Pixels(three), AUTO).color
    assert (out == apply_levels(gray(scan), AUTO).color).all()
    three[:40, :40] = (200, 40, 40)
    page = Pixels(three)
    assert apply_levels(page, AUTO) is page


def test_hidden_pixels_do_not_count() -> None:
    scan = scanned(manga(), 20, 228, 2.0, 92)
    alpha = np.full(scan.shape, 255, np.uint8)
    hidden = scan.copy()
    hidden[:100], alpha[:100] = 255, 0
    assert find_points(scan[100:, :, None]) == find_points(hidden[:, :, None], alpha)
    assert find_points(scan[:, :, None], np.zeros_like(alpha)) is None


@pytest.mark.parametrize(
    "text", ["", "20", "20,", "235,20", "20,20", "-1,20", "0,256", "on", "1,2,3", "1.5,20"]
)
def test_impossible_levels(text: str) -> None:
    with pytest.raises(SettingsError, match="--levels"):
        Levels.parse(text)


def test_levels_as_text() -> None:
    assert [str(Levels.parse(text)) for text in ("auto", " 20,235", "OFF")] == ["auto", "20,235", "None"]
    assert Levels.parse(str(Levels(per_volume=True))) == Levels.parse("Volume") == Levels(per_volume=True)
    assert Levels.read([20, 235]) == Levels(20, 235)
    with pytest.raises(SettingsError):
        Levels.read(["20", 235])
    with pytest.raises(SettingsError):
        Levels(20, None)


# Paper


def yellowed(page: NDArray[np.uint8], paper: tuple[int, int, int], uneven: float = 0.0) -> NDArray[np.uint8]:
    """Return a gray page on paper of a colour, whose blue fades towards one side."""
    fade = 1 - uneven * np.linspace(0, 1, page.shape[1])[None, :, None] * np.array([0, 0.3, 1])
    shades = page[:, :, None] / 255 * np.array(paper) * fade
    shades += np.random.default_rng(4).normal(0, 2, shades.shape)
    file = io.BytesIO()
    Image.fromarray(np.rint(shades.clip(0, 255)).astype(np.uint8)).save(file, "JPEG", quality=90)
    return np.array(Image.open(file))


@pytest.mark.parametrize("paper", [(245, 228, 183), (225, 210, 180), (250, 248, 240)])
def test_yellowed_paper_becomes_neutral_and_a_gray_page_gray(paper: tuple[int, int, int]) -> None:
    page = manga()
    out = neutralise_paper(Pixels(yellowed(page, paper, uneven=0.04)), gray=True)
    assert out.color.shape[2] == 1
    assert abs(float(np.median(out.color[page == 255])) - paper[0]) < 6
    kept = neutralise_paper(Pixels(yellowed(page, paper)), gray=False).color
    assert kept.shape[2] == 3
    assert np.ptp(np.median(kept[page == 255], axis=0)) <= 2
    assert kept[page == 0].mean() < 12
    assert out.notes[-1].startswith("paper of the colour")


def test_a_drawing_in_colour_keeps_its_colours_on_neutral_paper() -> None:
    scan = yellowed(manga(), (245, 228, 183))
    scan[60:90, 30:90] = (190, 40, 40)
    out = neutralise_paper(Pixels(scan), gray=True).color
    assert out.shape[2] == 3
    assert np.abs(out[70, 50].astype(int) - (190, 43, 54)).max() <= 4


@pytest.mark.parametrize(
    "paper", [(255, 255, 255), (200, 220, 250), (250, 190, 220), (230, 180, 100), (120, 110, 90)]
)
def test_other_backgrounds_are_no_yellowed_paper(paper: tuple[int, int, int]) -> None:
    page = Pixels(yellowed(manga(), paper))
    assert find_paper(page.color) is None
    assert neutralise_paper(page, gray=True) is page


def test_paper_with_a_profile_keeps_its_channels() -> None:
    page = replace(Pixels(yellowed(manga(), (245, 228, 183))), icc_profile=b"of the file")
    out = neutralise_paper(page, gray=True)
    assert (out.color.shape[2], out.icc_profile) == (3, b"of the file")


def test_paper_of_16_bits() -> None:
    page = Pixels((yellowed(manga(), (245, 228, 183)) * np.uint16(257)).astype(np.uint16))
    out = neutralise_paper(page, gray=True)
    assert (out.color.dtype, out.color.shape[2]) == (np.uint16, 1)


def test_real_newsprint_keeps_its_drawing(comics_dir: object) -> None:
    from pathlib import Path

    (path,) = Path(str(comics_dir)).glob("dev/sciencecomics*pg05.jpeg")
    page = decode(path.read_bytes(), max_pixels=10**8, gray="auto")
    out = neutralise_paper(page, gray=True).color
    assert out.shape == page.color.shape
    before, after = (np.median(each[each.min(axis=2) > 150], axis=0) for each in (page.color, out))
    assert np.ptp(before) > 40 > 8 > np.ptp(after)
