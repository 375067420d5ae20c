"""Faint lines on white and on black: found, told from noise, and given back."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from comic_upscale.engines.pages import finish, prepare
from comic_upscale.engines.upscaler import Upscaler
from comic_upscale.imaging.decode import decode
from comic_upscale.imaging.faint_lines import find_faint_lines, restore_faint_lines
from comic_upscale.imaging.pixels import Pixels, SampleArray

KINDS = ("down", "across", "steep", "flat", "diagonal", "circle")


def drawing(kind: str, level: int, paper: int = 255, size: tuple[int, int] = (160, 130)) -> np.ndarray:
    """Lines one pixel wide, height x width x 1."""
    image = Image.new("L", size, paper)
    draw = ImageDraw.Draw(image)
    width, height = size
    ends = {"down": (0, height), "across": (width, 0), "steep": (30, height), "flat": (width, 17)}
    if kind == "circle":
        draw.ellipse((30, 25, 130, 105), outline=level)
    elif kind == "diagonal":
        draw.line((5, 5, 120, 120), fill=level)
    else:
        right, down = ends[kind]
        draw.line((20, 10, 20 + right, 10 + down), fill=level)
    return np.array(image)[:, :, None]


def without_faint(color: SampleArray, size: tuple[int, int], paper: int = 255) -> SampleArray:
    """What networks make of a page: larger, and what is faint taken for noise."""
    top = np.iinfo(color.dtype).max // 255
    away = np.abs(color.astype(int) - paper * top).max(axis=2, keepdims=True) <= 40 * top
    flat = np.where(away, paper * top, color).astype(color.dtype)
    rows, columns = (
        np.arange(new) * old // new for new, old in zip(size[::-1], color.shape[:2], strict=True)
    )
    return flat[rows][:, columns].copy()


def ink_left(source: SampleArray, larger: SampleArray, paper: int) -> float:
    """The ink of a page over that of its source."""
    scale = larger.size / source.size
    return float(np.abs(larger.astype(int) - paper).sum() / np.abs(source.astype(int) - paper).sum() / scale)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("level", "paper"), [(245, 255), (250, 255), (230, 255), (10, 0), (25, 0)])
def test_lines_that_a_network_leaves_out_come_back(kind: str, level: int, paper: int) -> None:
    source = drawing(kind, level, paper)
    page = prepare(Pixels(source))
    for size in ((320, 260), (400, 325), (203, 165), (162, 131)):
        larger = finish(Pixels(
            without_faint(source, size, paper), solid=page.solid, faint=page.faint, tone=page.tone
        ))  # fmt: skip
        assert larger.faint is None
        assert 0.8 < ink_left(source, larger.color, paper) < 1.7
        darkest = np.abs(larger.color.astype(int) - paper).max()
        assert 0.5 * abs(level - paper) < darkest <= 1.6 * abs(level - paper) + 1


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_colour_and_depth(channels: int, depth: type[np.uint8 | np.uint16]) -> None:
    unit = 1 if depth == np.uint8 else 257
    source = np.full((60, 80, channels), 255 * unit, depth)
    source[:, 40, -1] = 240 * unit  # of the last channel alone: yellow, where there are three
    page = prepare(Pixels(source))
    bare = Pixels(np.full((120, 160, channels), 255 * unit, depth), faint=page.faint)
    result = restore_faint_lines(bare).color
    assert result.dtype == depth
    assert (result[:, 80:82, -1] < 244 * unit).all()
    if channels == 3:
        assert (result[:, :, :2] == 255 * unit).all()


def test_what_is_there_stays_as_it_is() -> None:
    source = drawing("steep", 240)
    page = prepare(Pixels(source))
    drawn = np.repeat(np.repeat(source, 2, axis=0), 2, axis=1)
    result = restore_faint_lines(Pixels(drawn.copy(), faint=page.faint)).color
    assert (result == drawn).all()


def noise_of_jpeg(quality: int) -> np.ndarray:
    image = Image.new("RGB", (200, 200), "white")
    draw = ImageDraw.Draw(image)
    for at in range(10, 200, 30):
        draw.line((at, 5, 200 - at, 190), fill=(20, 20, 20), width=3)
        draw.ellipse((at, at, at + 20, at + 20), outline=(0, 0, 0), width=2)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return decode(buffer.getvalue(), max_pixels=10**6, gray="keep").color


@pytest.mark.parametrize("quality", [40, 75, 90])
def test_what_jpeg_leaves_beside_ink_is_no_line(quality: int) -> None:
    color = noise_of_jpeg(quality)
    assert ((color < 250) & (color > 215)).any()
    assert find_faint_lines(color) is None


def test_grain_and_specks_are_no_lines() -> None:
    random = np.random.default_rng(8)
    for part in (0.001, 0.02, 0.1):
        color = np.full((300, 300, 1), 255, np.uint8)
        specks = random.random((300, 300)) < part
        color[specks] = random.integers(215, 251, (int(specks.sum()), 1))
        assert find_faint_lines(color) is None


def test_soft_edges_of_ink_are_no_lines() -> None:
    image = Image.new("L", (400, 400), 255)
    ImageDraw.Draw(image).line((10, 10, 390, 350), fill=0, width=12)
    for size in (200, 333):
        soft = np.asarray(image.resize((size, size), Image.Resampling.LANCZOS))[:, :, None]
        assert find_faint_lines(soft) is None


def test_a_line_up_to_ink_counts_where_the_paper_is_clean() -> None:
    source = drawing("across", 240)
    source[:, 80] = 0
    clean = find_faint_lines(source)
    assert clean is not None
    columns = clean.places % source.shape[1]
    assert columns.max() > 84
    assert 0 < np.abs(columns - 80).min() <= 3
    random = np.random.default_rng(9)
    noisy = source.copy()
    near = noisy[:, 70:91]
    near[near == 255] = random.integers(235, 256, int((near == 255).sum()))
    dirty = find_faint_lines(noisy)
    assert dirty is not None
    assert np.abs(dirty.places % source.shape[1] - 80).min() > 9


@settings(deadline=None)
@given(st.integers(1, 60), st.integers(1, 60), st.sampled_from([1, 3]), st.integers(0, 2**32 - 1))
def test_any_page_is_looked_over_and_only_faint_pixels_are_marked(
    height: int, width: int, channels: int, seed: int
) -> None:
    random = np.random.default_rng(seed)
    color = random.choice(
        np.array([0, 10, 245, 255], np.uint8), (height, width, channels), p=(0.1, 0.1, 0.3, 0.5)
    )
    color[:, width // 2] = 245
    found = find_faint_lines(color)
    if found is None:
        return
    assert found.places.tolist() == sorted(set(found.places.tolist()))
    assert (found.samples == color.reshape(-1, channels)[found.places]).all()
    larger = random.integers(0, 256, (height * 2 + 1, width * 3, channels)).astype(np.uint8)
    result = restore_faint_lines(Pixels(larger.copy(), faint=found)).color
    # Ink is added and none taken away, on either side.
    if found.is_dark.all():
        assert (result <= larger).all()
    if not found.is_dark.any():
        assert (result >= larger).all()


def test_a_line_over_all_parts_of_a_large_page() -> None:
    source = np.full((450, 420, 1), 255, np.uint8)
    source[:, 191:193] = 245  # where two of the parts meet that a page is looked at in
    source[197] = 245
    found = find_faint_lines(source)
    assert found is not None
    assert len(found.places) == 450 * 2 + 420 - 2


def test_the_model_that_comes_along_keeps_faint_lines() -> None:
    with Upscaler("comic-compact-x3", device="cpu") as upscaler:
        for kind, level, paper in (("down", 245, 255), ("steep", 245, 255), ("across", 10, 0)):
            source = drawing(kind, level, paper)
            larger = upscaler.upscale_pixels(Pixels(source), 2)
            assert ink_left(source, larger.color, paper) > 0.8, kind
