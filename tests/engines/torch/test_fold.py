"""Folding away equal rows: the numbers of the whole page, whatever is flat in it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from comic_upscale.engines.torch import network_pass
from comic_upscale.engines.torch.fold import find_fold
from comic_upscale.engines.torch.network_pass import NetworkPass
from comic_upscale.models.network import load_network
from comic_upscale.models.weights import resolve_weights

CPU = torch.device("cpu")


def page(rows: list[tuple[int, bool]], columns: list[tuple[int, bool]], channels: int = 3) -> torch.Tensor:
    """A window of noise with bands of equal rows and columns: (length, whether it is flat) of each band."""
    chance = torch.Generator().manual_seed(5)

    def along(bands: list[tuple[int, bool]]) -> torch.Tensor:
        parts = enumerate(bands)
        return torch.cat(
            [
                torch.full((length,), at) if flat else 100 + torch.arange(length)
                for at, (length, flat) in parts
            ]
        )

    noise = torch.randint(0, 256, (200, 200, channels), generator=chance, dtype=torch.uint8)
    return noise[along(rows) % 200][:, along(columns) % 200].contiguous()[None]


def test_a_run_of_equal_rows_keeps_what_sees_more_than_it_and_one() -> None:
    window = torch.tensor([1, 2, *[3] * 9, 4, 5], dtype=torch.uint8).reshape(1, 13, 1, 1)
    fold = find_fold(window, 2)
    assert fold is not None
    assert fold.apply(window).flatten().tolist() == [1, 2, 3, 3, 3, 3, 3, 4, 5]
    assert fold.rows.tolist() == [0, 1, 2, 3, 4, 4, 4, 4, 4, 5, 6, 7, 8]


def test_a_page_with_nothing_flat_is_left_alone() -> None:
    assert find_fold(page([(60, False)], [(70, False)]), 3) is None
    # Flat, and still too little to be worth it.
    assert find_fold(page([(8, True), (90, False)], [(70, False)]), 3) is None


def test_what_is_flat_in_one_window_only_stays() -> None:
    flat, other = page([(60, True)], [(60, False)]), page([(60, False)], [(60, False)])
    assert find_fold(flat, 3) is not None
    assert find_fold(torch.cat((flat, other)), 3) is None


@pytest.fixture(scope="module")
def tiny(tiny_weights: Path) -> NetworkPass:
    weights = resolve_weights(
        str(tiny_weights), denoise=None, folders=[], cache=tiny_weights.parent, download=False
    )
    return NetworkPass(load_network(weights, None), CPU, torch.float32)


BANDS = st.lists(st.tuples(st.integers(1, 40), st.booleans()), min_size=1, max_size=4)


@settings(max_examples=25)
@given(rows=BANDS, columns=BANDS, channels=st.sampled_from((1, 3)))
def test_folded_pages_have_the_numbers_of_whole_ones(
    tiny: NetworkPass, rows: list[tuple[int, bool]], columns: list[tuple[int, bool]], channels: int
) -> None:
    window = page(rows, columns, channels)
    with torch.inference_mode():
        assert torch.equal(tiny(window)[0], tiny._run(window)[0])


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_our_own_network_gives_the_same_bits(precision: torch.dtype) -> None:
    weights = resolve_weights(
        "comic-compact-x3", denoise=None, folders=[], cache=Path("weights"), download=False
    )
    network = NetworkPass(load_network(weights, None), CPU, precision)
    # A black band through the middle.
    window = page([(70, False), (80, True), (60, False)], [(60, True), (70, False)])
    window[:, 80:140] = 0
    folds = []

    def noted(windows: torch.Tensor, reach: int) -> object:
        folds.append(find_fold(windows, reach))
        return folds[-1]

    with pytest.MonkeyPatch.context() as context, torch.inference_mode():
        context.setattr(network_pass, "find_fold", noted)
        apply = network(window)[0]
        assert folds[0] is not None
        assert torch.equal(apply, network._run(window)[0])
