"""The fast path against the official program, where that is installed."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from spandrel import ModelLoader
from spandrel.architectures.ESRGAN import ESRGAN

from comic_upscale.engines.base import Batch
from comic_upscale.engines.realesrgan import RealESRGANEngine
from comic_upscale.engines.torch.engine import TorchEngine
from comic_upscale.errors import SettingsError, WeightsError
from comic_upscale.imaging.pixels import Borders
from comic_upscale.models.network import Network
from comic_upscale.models.weights import resolve_weights
from tests.engines.conftest import MakeNetwork
from tests.engines.drawn_pages import worst
from tests.programs import needs_program

CPU = torch.device("cpu")


def crop(comics_dir: Path, name: str, mode: str, box: tuple[int, int, int, int]) -> NDArray[np.uint8]:
    with Image.open(comics_dir / "dev" / name) as page:
        pixels = np.asarray(page.convert(mode).crop(box))
    return pixels.reshape(1, *pixels.shape[:2], -1)


def loaded(path: Path, make_network: MakeNetwork) -> Network:
    descriptor = ModelLoader().load_from_file(path)
    # The pixel-unshuffle of x2 folds squares of two.
    fold = 2 if descriptor.scale == 2 else 1
    return make_network(descriptor.model, native_scale=descriptor.scale, multiple_of=fold, minimum=fold)


@needs_program
@pytest.mark.parametrize(
    ("name", "mode", "box"),
    [
        ("pc__Pepper-and-Carrot_by-David-Revoy_E17P02_en.png", "RGB", (300, 200, 450, 320)),
        ("pageblanche__PageBlanche_Page_001.jpg", "RGB", (0, 0, 97, 131)),
        ("haruko__01.jpg", "L", (120, 200, 240, 300)),
    ],
)
def test_equals_the_official_program_within_a_grey_level(
    animevideo_weights: Path,
    comics_dir: Path,
    make_network: MakeNetwork,
    name: str,
    mode: str,
    box: tuple[int, int, int, int],
) -> None:
    source = crop(comics_dir, name, mode, box)
    batch = Batch(source, (source.shape[2] * 4, source.shape[1] * 4))
    official = RealESRGANEngine(animevideo_weights, device=CPU)
    ours = TorchEngine(loaded(animevideo_weights, make_network), device=CPU)
    assert (official.info.native_scale, official.info.precision) == (4, "fp32")
    assert worst(ours.upscale(batch).pixels, official.upscale(batch).pixels) <= 1


def save_residual_network(path: Path, scale: int) -> None:
    """Write random weights of the official names and shapes, small enough to be done in a moment."""
    torch.manual_seed(scale)
    module = ESRGAN(in_nc=3, num_filters=16, num_blocks=2, scale=4)
    names = {
        "model.0": "conv_first",
        "model.1.sub.2": "conv_body",
        "model.3": "conv_up1",
        "model.6": "conv_up2",
        "model.8": "conv_hr",
        "model.10": "conv_last",
    }
    state = {}
    for old, tensor in module.state_dict().items():
        stem, kind = old.rsplit(".", 1)
        stem = re.sub(r"model\.1\.sub\.(\d+)\.RDB(\d)\.(conv\d)\.0", r"body.\1.rdb\2.\3", stem)
        state[f"{names.get(stem, stem)}.{kind}"] = tensor
    if scale == 2:
        state["conv_first.weight"] = torch.randn(16, 12, 3, 3) * 0.1
    torch.save({"params_ema": state}, path)


@needs_program
@pytest.mark.parametrize("scale", [2, 4])
def test_equals_the_official_residual_network(tmp_path: Path, make_network: MakeNetwork, scale: int) -> None:
    path = tmp_path / "rrdb.pth"
    save_residual_network(path, scale)
    source = np.random.default_rng(3).integers(0, 256, (2, 21, 18, 3), np.uint8)
    batch = Batch(source, (18 * scale, 21 * scale))
    official = RealESRGANEngine(path, device=CPU)
    assert official.info.native_scale == scale
    ours = TorchEngine(loaded(path, make_network), device=CPU)
    assert worst(ours.upscale(batch).pixels, official.upscale(batch).pixels) <= 1


@needs_program
def test_equals_the_official_program_on_the_model_of_the_package(make_network: MakeNetwork) -> None:
    path = resolve_weights("comic-compact-x3", denoise=None, folders=[], cache=Path(), download=False).path
    source = np.random.default_rng(4).integers(0, 256, (1, 40, 33, 3), np.uint8)
    batch = Batch(source, (33 * 3, 40 * 3))
    official = RealESRGANEngine(path, device=CPU)
    assert official.info.native_scale == 3
    ours = TorchEngine(loaded(path, make_network), device=CPU)
    assert worst(ours.upscale(batch).pixels, official.upscale(batch).pixels) <= 1


@needs_program
def test_tiles_and_targets_are_honoured_without_a_word(
    animevideo_weights: Path, comics_dir: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source = crop(comics_dir, "haruko__01.jpg", "RGB", (120, 200, 220, 270))
    whole = RealESRGANEngine(animevideo_weights, device=CPU).upscale(Batch(source, (251, 176))).pixels
    engine = RealESRGANEngine(animevideo_weights, device=CPU, tile=48)
    made = engine.upscale(Batch(source, (251, 176)))
    tiled = made.pixels
    assert made.borders == Borders(rows=(121,), columns=(120, 241))
    assert whole.shape == tiled.shape == (1, 176, 251, 3)
    # Its 10 pixels of padding are fewer than the 18 that the network sees, so a seam is left.
    assert np.abs(whole.astype(int) - tiled.astype(int)).mean() < 0.5
    assert capfd.readouterr().out == ""


@needs_program
def test_weights_that_it_does_not_run_are_refused(tmp_path: Path) -> None:
    for content in ({"params": {"conv.weight": torch.zeros(1)}}, {"conv.weight": torch.zeros(1)}):
        torch.save(content, tmp_path / "other.pth")
        with pytest.raises(WeightsError, match="engine torch"):
            RealESRGANEngine(tmp_path / "other.pth", device=CPU)
    (tmp_path / "broken.pth").write_bytes(b"not weights")
    with pytest.raises(WeightsError, match="cannot be read"):
        RealESRGANEngine(tmp_path / "broken.pth", device=CPU)


def test_without_the_program_the_error_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What Python itself does for a package that is not to be imported.
    monkeypatch.setitem(sys.modules, "realesrgan", None)
    with pytest.raises(SettingsError, match=r"pip install '\.\[realesrgan\]'"):
        RealESRGANEngine(tmp_path / "any.pth", device=CPU)


def test_a_tile_below_zero_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="tile size must be 0"):
        RealESRGANEngine(tmp_path / "any.pth", device=CPU, tile=-1)
