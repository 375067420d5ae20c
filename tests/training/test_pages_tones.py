from __future__ import annotations

import numpy as np
import pytest

from training.pages.sheet import Grid
from training.pages.tones import SPOTS, Spot, Tone, printed, sand

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
