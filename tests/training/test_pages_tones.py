from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from training.pages.sheet import Grid
from training.pages.tones import SPOTS, Spot, Tone, fading, printed, sand

BLACK, WHITE = (0, 0, 0), (255, 255, 255)


def grid(size: int, scale: int = 2) -> Grid:
    at = (np.arange(size * scale, dtype=np.float32) + 0.5) / scale
    return Grid(at[None, :], at[:, None], scale)


@pytest.mark.parametrize("spot", SPOTS)
@pytest.mark.parametrize("density", [0.05, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("angle", [0, 45, 17])
def test_a_tone_lays_as_much_ink_as_asked(spot: Spot, density: float, angle: float) -> None:
    cover = Tone(spot, 5, angle).coverage(grid(200), density)

    assert cover.mean() == pytest.approx(density, abs=0.02)
    assert 0 <= cover.min() <= cover.max() <= 1


@pytest.mark.parametrize("spot", SPOTS)
def test_no_density_is_bare_paper_and_full_density_solid_ink(spot: Spot) -> None:
    assert Tone(spot, 4, 30).coverage(grid(60), 0.0).max() == 0
    assert Tone(spot, 4, 30).coverage(grid(60), 1.0).min() == 1


def test_the_density_may_differ_from_place_to_place() -> None:
    places = grid(200)
    density = (places.x / 200 + 0 * places.y).astype(np.float32)

    cover = Tone("round", 4, 45).coverage(places, density)

    assert cover[:, :80].mean() == pytest.approx(0.1, abs=0.03)
    assert cover[:, -80:].mean() == pytest.approx(0.9, abs=0.03)


@pytest.mark.parametrize("spot", SPOTS)
@pytest.mark.parametrize(("angle", "frequency"), [(0, 0.2), (90, 0.2), (45, 0.1414), (30, 0.1732)])
def test_a_tone_finer_than_the_finest_is_even(spot: Spot, angle: float, frequency: float) -> None:
    tone, places = Tone(spot, 5, angle), grid(50)
    assert tone.frequency == pytest.approx(frequency, abs=1e-4)

    even = tone.coverage(replace(places, finest=frequency - 0.01), 0.3)
    dots = tone.coverage(replace(places, finest=frequency + 0.01), 0.3)

    assert even.shape == places.shape and even.min() == even.max() == np.float32(0.3)
    assert np.array_equal(dots, tone.coverage(places, 0.3))


def test_an_even_tone_fades_as_its_dots_do() -> None:
    places = grid(200)
    fill = fading(Tone("round", 3, 0), (0, 0, 0.1), (200, 0, 0.9), BLACK, WHITE)

    dots, even = fill(places), fill(replace(places, finest=0.2))  # type: ignore[operator]

    assert np.abs(np.diff(even, axis=1)).max() < 3 < np.abs(np.diff(dots, axis=1)).max()
    assert even.mean() == pytest.approx(dots.mean(), abs=3)


def test_sand_scatters_as_many_grains_as_asked_and_always_the_same() -> None:
    fill = sand(0.25, 1, 7, BLACK, WHITE)

    assert fill(grid(150)).mean() == pytest.approx(255 * 0.75, abs=4)  # type: ignore[operator]
    assert np.array_equal(fill(grid(150)), fill(grid(150)))  # type: ignore[operator]


def test_four_screens_print_white_as_white_and_red_without_cyan() -> None:
    white = printed(WHITE, 4)(grid(40))  # type: ignore[operator]
    red = printed((255, 0, 0), 4)(grid(40))  # type: ignore[operator]

    assert white.min() == 255
    assert red[..., 0].mean() > 200
    assert red[..., 1].mean() < 80
