"""The gate: a page that was only made larger passes, and each fault is named."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from comic_upscale.engines.pages import finish, prepare
from comic_upscale.gate import scores
from comic_upscale.gate.scores import compare
from comic_upscale.gate.seams import worst_seam, worst_step
from comic_upscale.gate.verdict import (
    Verdict,
    bounds_for,
    default_bounds,
    judge,
    measure_raw_output,
    thresholds,
)
from comic_upscale.imaging.pixels import NO_BORDERS, Borders, Pixels, UInt8Array
from comic_upscale.models.catalogue import CATALOGUE

EXAMPLES = sorted((Path(__file__).parents[2] / "examples" / "pages").glob("0*.png"))
OWN = CATALOGUE["comic-compact-x3"].weights.sha256
Fault = Callable[[UInt8Array], UInt8Array]


def _page(number: int = 0, mode: str = "RGB") -> UInt8Array:
    with Image.open(EXAMPLES[number]) as image:
        page = np.asarray(image.convert(mode))
    return page.reshape(*page.shape[:2], -1)


def _larger(page: UInt8Array, scale: float = 2.5) -> UInt8Array:
    image = Image.fromarray(page[:, :, 0] if page.shape[2] == 1 else page)
    size = (round(image.width * scale), round(image.height * scale))
    return np.asarray(image.resize(size, Image.Resampling.LANCZOS)).reshape(size[1], size[0], -1)


def _written(page: UInt8Array, larger: UInt8Array) -> UInt8Array:
    """As a run would write it: as light as its source, white and black put back."""
    color = finish(replace(prepare(Pixels(page)), color=larger.copy())).color
    return np.asarray(color, np.uint8)


def _shifted(larger: UInt8Array) -> UInt8Array:
    image = Image.fromarray(larger)
    # Half a pixel of the source: 1.25 of the page at 2.5 times.
    return np.asarray(
        image.transform(image.size, Image.Transform.AFFINE, (1, 0, 1.25, 0, 1, 0), Image.Resampling.BICUBIC)
    )


def _with_a_tile_of_another_place(larger: UInt8Array) -> UInt8Array:
    page, other = larger.copy(), _larger(_page(1))
    page[400:700, 300:600] = other[:300, :300]
    return page


def _tinted(larger: UInt8Array) -> UInt8Array:
    moved = larger.astype(np.int16)
    moved[:, :, 2] -= 4
    return moved.clip(0, 255).astype(np.uint8)


def _darker(larger: UInt8Array) -> UInt8Array:
    return (larger.astype(np.int16) - 8).clip(0, 255).astype(np.uint8)


def _off_white(larger: UInt8Array) -> UInt8Array:
    return np.minimum(larger, 252)


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("scale", [2.0, 2.5])
def test_a_page_that_was_only_made_larger_passes(number: int, mode: str, scale: float) -> None:
    page = _page(number, mode)
    assert judge(page, _written(page, _larger(page, scale))).reasons == ()


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (np.zeros_like, "flat, though the source is not"),
        (lambda larger: np.full_like(larger, 128), "flat, though the source is not"),
        (lambda larger: _larger(_page(2)), "unlike its source"),
        (_with_a_tile_of_another_place, "a part unlike its source"),
        (_tinted, "tinted by"),
        (_darker, "brighter or darker by"),
        (_shifted, "shifted by"),
        (_off_white, "white paper off by"),
    ],
)
def test_each_fault_is_named(fault: Fault, reason: str) -> None:
    page = _page()
    verdict = judge(page, fault(_larger(page)))
    assert verdict.is_suspect
    assert any(reason in text for text in verdict.reasons), verdict


def _judged_as_in_a_run(page: UInt8Array, raw_output: UInt8Array, borders: Borders = NO_BORDERS) -> Verdict:
    raw = measure_raw_output(page, raw_output, borders)
    bounds = bounds_for(OWN)
    return judge(page, _written(page, raw_output), borders, raw=raw, bounds=bounds)


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_what_a_run_puts_right_is_known_by_the_raw_output(number: int) -> None:
    page = _page(number)
    larger = _larger(page)
    assert _judged_as_in_a_run(page, larger).reasons == ()
    tinted = _judged_as_in_a_run(page, _tinted(larger)).reasons
    assert any("before tone correction" in text for text in tinted), tinted
    off_white = _judged_as_in_a_run(page, _off_white(larger)).reasons
    has_white = float(np.mean(page.min(axis=2) == 255)) > 0.02
    assert ("white paper off by 3.0 levels before correction" in off_white) == has_white


def test_black_that_a_run_puts_back_is_known_by_the_raw_output() -> None:
    page = _page().copy()
    page[100:300, 50:250] = 0
    verdict = _judged_as_in_a_run(page, np.maximum(_larger(page), 3))
    assert "solid black off by 3.0 levels before correction" in verdict.reasons


def test_a_gray_page_that_is_lighter_where_nothing_is_drawn_is_known() -> None:
    page = np.full((200, 300, 1), 255, np.uint8)
    page[50:150, 50:150] = 100
    larger = _larger(page)
    # White cannot be any lighter, so a page of it is hardly lighter in the mean.
    lighter = (larger.astype(np.int16) + 4).clip(0, 255).astype(np.uint8)
    assert _judged_as_in_a_run(page, larger).reasons == ()
    reasons = _judged_as_in_a_run(page, lighter).reasons
    assert any("flat areas off by 4.0 levels before tone correction" in text for text in reasons), reasons


def test_dots_that_the_comparison_makes_flat_are_no_flat_area() -> None:
    page = np.full((200, 300, 1), 255, np.uint8)
    page[50:150:2, 50:150:2] = page[51:150:2, 51:150:2] = 0
    # What a network makes of dots finer than it can draw: a gray, and seldom quite theirs.
    larger = np.full((500, 750, 1), 255, np.uint8)
    larger[125:375, 125:375] = 140
    assert measure_raw_output(page, larger).small[50, 50] == 140
    assert judge(page, larger, raw=measure_raw_output(page, larger)).scores.raw_tone == 0


BORDERS = Borders(rows=(700,), columns=(430, 860))
"""Of two rows of three tiles, as an engine may say that it has cut a page."""


def _darker_tile(larger: UInt8Array) -> UInt8Array:
    moved = larger.astype(np.int16)
    moved[:700, 430:860] -= 5
    return moved.clip(0, 255).astype(np.uint8)


def _displaced_tile(larger: UInt8Array) -> UInt8Array:
    moved = larger.copy()
    moved[:700, 430:860] = np.roll(larger, 3, axis=0)[:700, 430:860]
    return moved


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_a_tile_that_does_not_fit_its_neighbours_is_a_seam_where_tiles_meet(number: int) -> None:
    page = _page(number)
    larger = _written(page, _larger(page))
    assert judge(page, larger, BORDERS).reasons == ()
    verdict = judge(page, _darker_tile(larger), BORDERS)
    assert any("a seam between tiles" in text for text in verdict.reasons), verdict
    assert compare(page, _darker_tile(larger)).seam == 0


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
@pytest.mark.parametrize("tile_first", [True, False])
def test_a_darker_tile_is_found_in_drawings_too(number: int, tile_first: bool) -> None:
    """Also after a run has put the tone right, which spreads the difference over what lies around."""
    page = _page(number)
    larger = _larger(page)
    if tile_first:
        verdict = _judged_as_in_a_run(page, _darker_tile(larger), BORDERS)
    else:
        written = _darker_tile(_written(page, larger))
        verdict = judge(page, written, BORDERS, raw=measure_raw_output(page, larger, BORDERS))
    assert verdict.scores.tile_step > 2
    assert _judged_as_in_a_run(page, larger, BORDERS).scores.tile_step < 0.5


def test_a_step_is_one_of_the_border_and_not_of_what_the_network_does_everywhere() -> None:
    stripes = np.tile(np.where(np.arange(240) // 6 % 2 == 0, 5, -5).astype(np.float32), (100, 1))
    borders = Borders(columns=(120,))
    assert worst_step(stripes, borders) == 0
    tile = np.zeros((100, 240), np.float32)
    tile[:, 120:] = 5
    assert worst_step(tile, borders) == pytest.approx(5)
    assert worst_step(tile.T, Borders(rows=(120,))) == pytest.approx(5)
    assert worst_step(tile, Borders(columns=(60,))) == 0
    assert worst_step(tile, NO_BORDERS) == 0
    assert worst_step(tile[:8, :8], Borders(rows=(3,), columns=(5,))) == 0


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_a_displaced_tile_is_found_by_itself(number: int) -> None:
    page = _page(number)
    displaced = _displaced_tile(_larger(page))
    assert any("a tile shifted by 1." in text for text in judge(page, displaced, BORDERS).reasons)
    assert compare(page, displaced).tile_shift == 0


def test_lines_of_one_direction_do_not_tell_where_they_lie_along_it() -> None:
    down, right = np.mgrid[:256, :256] * (2 * np.pi / 16)

    def drawn(grain: int) -> UInt8Array:
        # Strong upright lines, and a faint grain across them, which a network may draw anywhere.
        levels = 128 + 30 * np.sin(right) + 2 * np.sin(down + grain * 2 * np.pi / 16)
        return np.repeat(levels.round().astype(np.uint8)[:, :, None], 3, axis=2)

    page, moved = drawn(0), drawn(2).repeat(2, axis=0).repeat(2, axis=1)
    assert compare(page, moved).shift == 0
    lines = np.roll(drawn(0).repeat(2, axis=0).repeat(2, axis=1), 2, axis=1)
    turned = np.maximum(page, page.transpose(1, 0, 2))
    assert compare(turned, np.maximum(lines, lines.transpose(1, 0, 2))).shift == pytest.approx(
        2**0.5, abs=0.2
    )


@pytest.mark.parametrize("place", [428, 429, 430, 431, 432])
def test_a_line_that_was_drawn_where_tiles_meet_is_no_seam(place: int) -> None:
    page = np.full((400, 500, 3), 255, np.uint8)
    page[:, round(place / 2.5) :] = (90, 120, 200)
    page[:, round(place / 2.5) : round(place / 2.5) + 2] = 0
    assert judge(page, _larger(page), BORDERS).reasons == ()


@pytest.mark.parametrize("place", range(300, 312))
def test_a_faint_screentone_bends_in_step_with_itself_and_is_no_seam(place: int) -> None:
    dots = np.tile(np.array([120, 120, 128, 120], np.uint8), 150)
    larger = np.repeat(np.repeat(dots[None, :], 400, axis=0)[:, :, None], 3, axis=2)
    page = np.asarray(Image.fromarray(larger).resize((300, 200), Image.Resampling.BOX))
    borders = Borders(columns=(place,))
    assert worst_seam(page, larger, borders) == 0
    faulty = larger.copy()
    faulty[:, place:] -= 5
    # Here it is the step of the difference that shows.
    assert compare(page, faulty, borders).tile_step > 4


def test_borders_at_the_very_edge_and_many_of_them_do_no_harm() -> None:
    page = _page()[:70, :90]
    larger = _larger(page)
    everywhere = Borders(rows=tuple(range(1, larger.shape[0])), columns=tuple(range(1, larger.shape[1])))
    assert np.isfinite(compare(page, larger, everywhere).seam)


def test_a_tile_of_another_place_is_found_anywhere() -> None:
    page, other = _page(), _larger(_page(1))
    larger = _larger(page)
    for top, left in ((0, 0), (333, 517), (larger.shape[0] - 160, larger.shape[1] - 160)):
        faulty = larger.copy()
        faulty[top : top + 160, left : left + 160] = other[300:460, 300:460]
        assert judge(page, faulty).is_suspect, (top, left)


def test_colour_on_a_gray_page_is_named() -> None:
    page = np.repeat(_page(mode="L"), 3, axis=2)
    larger = _larger(page).astype(np.int16)
    larger[:, :, 0] += 5
    larger[:, :, 2] -= 5
    assert any("on gray" in text for text in judge(page, larger.clip(0, 255).astype(np.uint8)).reasons)


def test_sixteen_bits_are_held_to_the_same_bounds() -> None:
    page = _page().astype(np.uint16) * 257
    larger = _larger(_page()).astype(np.uint16) * 257
    assert judge(page, larger).reasons == ()
    assert judge(page, np.zeros_like(larger)).is_suspect


@given(
    page=arrays(np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 3]))),
    factor=st.integers(2, 3),
)
@settings(max_examples=60, deadline=None)
def test_any_page_can_be_scored_and_the_scores_are_numbers(page: UInt8Array, factor: int) -> None:
    larger = page.repeat(factor, axis=0).repeat(factor, axis=1)
    scores = compare(page, larger)
    values = [getattr(scores, name) for name in scores.__slots__]
    assert np.isfinite(values).all()
    # A page of a few pixels is rounded twice on its way to half its size.
    assert max(scores.brightness, scores.tint) < 2


@pytest.mark.parametrize("shape", [(64, 5000), (5000, 64), (64, 64), (65, 67), (1, 1), (1, 90)])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_pages_of_odd_shapes_are_judged_at_either_depth(
    shape: tuple[int, int], channels: int, kind: type[np.uint8] | type[np.uint16]
) -> None:
    rng = np.random.default_rng(5)
    coarse = rng.integers(40, 200, (-(-shape[0] // 16), -(-shape[1] // 16), channels), np.uint8)
    small = coarse.repeat(16, axis=0).repeat(16, axis=1)[: shape[0], : shape[1]]
    larger = small.repeat(3, axis=0).repeat(3, axis=1)
    unit = 1 if kind is np.uint8 else 257
    borders = Borders(rows=(larger.shape[0] // 2,), columns=(larger.shape[1] // 2,))
    assert judge(small.astype(kind) * kind(unit), larger.astype(kind) * kind(unit), borders).reasons == ()


@pytest.mark.parametrize("size", [(767, 511), (517, 333), (129, 131)])
@pytest.mark.parametrize("scale", [2.0, 2.37, 2.5])
def test_pages_of_odd_sides_at_odd_factors_lie_where_they_were(size: tuple[int, int], scale: float) -> None:
    page = np.ascontiguousarray(_page()[: size[0], : size[1]])
    scores = compare(page, _larger(page, scale))
    assert scores.shift < 0.03
    assert scores.psnr > 33


def test_a_flat_page_passes() -> None:
    for level in (0, 7, 255):
        page = np.full((50, 40, 3), level, np.uint8)
        assert judge(page, np.full((125, 100, 3), level, np.uint8)).reasons == ()


def test_the_bounds_are_those_of_the_package_and_say_where_they_come_from() -> None:
    bounds = default_bounds()
    assert 0 < bounds.ssim < 1
    assert bounds.psnr > 0
    text = files("comic_upscale.gate").joinpath("thresholds.toml").read_text("utf-8")
    assert set(tomllib.loads(text)["origin"]) == {"pages", "outputs", "rule", "figures"}


def test_a_model_that_was_measured_by_itself_has_bounds_of_its_own() -> None:
    ours, any_other = bounds_for(OWN), default_bounds()
    assert ours.raw_tone < any_other.raw_tone
    assert ours.psnr > any_other.psnr
    assert bounds_for("0" * 64) == any_other


def test_a_measured_model_is_known_by_the_hash_of_its_weights() -> None:
    measured = thresholds()["measured"]
    assert measured
    for name, model in measured.items():
        assert model["identity"] == CATALOGUE[name].weights.sha256


def test_engines_that_draw_have_bounds_of_their_own() -> None:
    drawing, any_other = bounds_for("0" * 64, "generative"), default_bounds()
    assert bounds_for("0" * 64, "faithful") == bounds_for("0" * 64, "another word") == any_other
    assert drawing.ssim < any_other.ssim and drawing.worst_block > any_other.worst_block
    # A network that was measured keeps its own, whatever runs it.
    assert bounds_for(OWN, "generative") == bounds_for(OWN)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_large_page_is_shrunk_some_rows_at_a_time(monkeypatch: pytest.MonkeyPatch, channels: int) -> None:
    larger, size = (1210, 803), (321, 484)
    random = np.random.default_rng(8)
    coarse = Image.fromarray(random.integers(0, 256, (80, 60, 3), np.uint8)).resize(larger[::-1])
    page = np.asarray(coarse)[:, :, :channels]
    grid = scores.Grid(size, (1.0, 1.0), is_whole=False)
    whole = scores.shrink(page, grid)
    copied = []

    def watched(array: UInt8Array) -> Image.Image:
        copied.append(array.nbytes)
        return fromarray(array)

    fromarray = Image.fromarray
    monkeypatch.setattr(Image, "fromarray", watched)
    monkeypatch.setattr(scores, "MOST_COPIED", page.size - 1)
    parts = scores.shrink(page, grid)
    assert len(copied) >= 8
    assert max(copied) <= page.nbytes / 6
    assert np.abs(parts.astype(int) - whole).max() <= 2


def test_paper_that_became_white_hides_nothing_of_what_is_drawn() -> None:
    source = np.full((128, 128, 1), 128, np.uint8)
    source[:64] = 252
    cleaned = source.repeat(2, axis=0).repeat(2, axis=1)
    cleaned[:128] = 255
    assert compare(source, cleaned).brightness == 1.5
    assert compare(source, cleaned, whitens_paper=True).brightness == 0
    lighter = cleaned.copy()
    lighter[128:] += 2
    assert compare(source, lighter, whitens_paper=True).brightness == 1
    # Paper that became darker counts.
    darker = np.where(cleaned == 255, 250, cleaned).astype(np.uint8)
    assert compare(source, darker, whitens_paper=True).brightness == 1
    # Off-white that became white was no dirty paper, and gray was none at all.
    tinted = np.where(source == 252, 247, source).astype(np.uint8)
    assert compare(tinted, cleaned, whitens_paper=True).brightness == 2
    assert compare(source, np.full_like(cleaned, 255), whitens_paper=True).brightness > 60
