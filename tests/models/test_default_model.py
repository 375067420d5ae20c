"""What ``auto`` stands for: by the device, and by the factor."""

from __future__ import annotations

import pytest

from comic_upscale.models.catalogue import CATALOGUE
from comic_upscale.models.default_model import DEFAULTS, default_model, is_auto


@pytest.mark.parametrize(
    ("accelerator", "factor", "network"),
    [
        (False, 2.5, "comic-fast-x3"), (False, 2.0, "comic-fast-x2"), (True, 2.5, "comic-best-x3"),
        (True, 1.5, "comic-best-x2"), (True, None, "comic-best-x3"),
    ],
)  # fmt: skip
def test_the_device_and_the_factor_decide(accelerator: bool, factor: float | None, network: str) -> None:
    assert default_model(accelerator=accelerator, factor=factor) == network


@pytest.mark.parametrize("name", sorted(DEFAULTS))
def test_every_choice_is_part_of_the_package(name: str) -> None:
    assert CATALOGUE[name].weights.bundled


@pytest.mark.parametrize(
    ("model", "expected"), [("auto", True), (" Auto ", True), ("./auto", False), ("auto.pth", False)]
)
def test_only_the_word_is_auto(model: str, expected: bool) -> None:
    assert is_auto(model) is expected


@pytest.mark.parametrize("name", sorted(DEFAULTS))
def test_every_choice_has_a_denoise_strength(name: str) -> None:
    partner = CATALOGUE[name].denoise_weights
    assert partner is not None and partner.bundled
