"""The denoise strength of our own networks, with the weights of the package."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from comic_upscale.engines.upscaler import Upscaler
from comic_upscale.errors import SettingsError
from comic_upscale.models.network import load_network, read_state
from comic_upscale.models.weights import ResolvedWeights, cleans_white, identify_weights, resolve_weights

OWN = ("comic-best-x2", "comic-best-x3", "comic-fast-x2", "comic-fast-x3")


def resolved(name: str, denoise: float | None) -> ResolvedWeights:
    return resolve_weights(name, denoise=denoise, folders=[], cache=Path(), download=False)


def weights_at(name: str, denoise: float | None) -> dict[str, torch.Tensor]:
    return load_network(resolved(name, denoise), denoise).module.state_dict()


@pytest.fixture(scope="module")
def page() -> Image.Image:
    """Return lettering and a line on white, as a bad JPEG has them."""
    clean = Image.new("L", (120, 90), 255)
    draw = ImageDraw.Draw(clean)
    draw.text((8, 8), "Hush!\nLook there...", fill=0, font=ImageFont.load_default(16))
    draw.line((5, 75, 115, 60), fill=0, width=2)
    stored = io.BytesIO()
    clean.save(stored, "JPEG", quality=25)
    return Image.open(stored).convert("RGB")


def enlarged(page: Image.Image, denoise: float | None) -> NDArray[np.int16]:
    with Upscaler("comic-fast-x2", device="cpu", precision="fp32", denoise=denoise) as upscaler:
        return np.asarray(upscaler.upscale(page, 2), np.int16)


@pytest.mark.parametrize("name", OWN)
def test_no_strength_and_0_are_the_network_as_it_is(name: str) -> None:
    for denoise in (None, 0, 0.0):
        found = resolved(name, denoise)
        assert found.denoise_path is None and found.identity == found.sha256
        assert identify_weights(name, denoise=denoise) == (name, found.sha256)
        shipped = read_state(found.path)
        assert all(
            torch.equal(tensor, shipped[key].float()) for key, tensor in weights_at(name, denoise).items()
        )


@pytest.mark.parametrize("name", OWN)
def test_1_is_the_partner_and_between_is_a_mix(name: str) -> None:
    found = resolved(name, 1)
    assert found.denoise_path is not None and found.identity != found.sha256
    assert identify_weights(name, denoise=1) == identify_weights(name, denoise=0.25)
    base, partner = read_state(found.path), read_state(found.denoise_path)
    for key, tensor in weights_at(name, 1).items():
        assert torch.equal(tensor, partner[key].float())
    for key, tensor in weights_at(name, 0.25).items():
        torch.testing.assert_close(tensor, 0.75 * base[key].float() + 0.25 * partner[key].float())


def test_the_bytes_at_0_are_those_without_the_option(page: Image.Image) -> None:
    assert np.array_equal(enlarged(page, None), enlarged(page, 0))


def test_more_strength_is_further_from_the_network_and_nearer_to_its_partner(page: Image.Image) -> None:
    outputs = [enlarged(page, strength) for strength in (0, 0.25, 0.5, 0.75, 1)]
    from_base = [float(np.abs(output - outputs[0]).mean()) for output in outputs]
    from_partner = [float(np.abs(output - outputs[-1]).mean()) for output in outputs]
    assert from_base == sorted(from_base) and from_base[1] > 0
    assert from_partner == sorted(from_partner, reverse=True) and from_partner[-2] > 0


def test_jpeg_artifacts_go(page: Image.Image) -> None:
    dirty = float((np.asarray(page) == 255).mean())
    shares = [float((enlarged(page, strength) == 255).mean()) for strength in (0, 0.5, 1)]
    assert shares == sorted(shares)
    assert shares[0] > dirty and shares[2] > shares[0] + 0.01


@pytest.mark.parametrize(
    ("model", "denoise", "cleans"),
    [
        *((f"comic-{name}-x{factor}", None, True) for name in ("best", "crisp", "fast") for factor in (2, 3)),
        ("comic-best-x3", 1, True), ("comic-compact-x3", None, False), ("realesr-general-x4v3", 0.5, False),
        ("./comic-fast-x3.pth", None, False),
    ],
)  # fmt: skip
def test_which_networks_clean_white(model: str, denoise: float | None, cleans: bool) -> None:
    assert cleans_white(model, denoise) is cleans


@pytest.mark.parametrize("denoise", [-0.1, 1.01, float("nan")])
def test_another_strength_is_refused(denoise: float) -> None:
    with pytest.raises(SettingsError, match="between 0 and 1"):
        resolved("comic-fast", denoise)


@pytest.mark.parametrize("name", ["comic-compact-x3", "comic-crisp-x2", "comic-crisp"])
def test_a_network_without_a_partner_says_which_have_one(name: str) -> None:
    with pytest.raises(
        SettingsError, match="strength: use comic-best, comic-fast, realesr-general-x4v3, or leave out"
    ):
        resolved(name, 0.5)
