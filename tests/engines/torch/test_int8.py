"""Compact networks in codes of 8 bits: the right numbers, on the right machines, or none at all."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from spandrel.architectures.Compact import Compact

from comic_upscale.engines.base import Batch
from comic_upscale.engines.torch import cpu_precision, strips
from comic_upscale.engines.torch.device import choose_precision
from comic_upscale.engines.torch.engine import TorchEngine
from comic_upscale.engines.torch.int8 import (
    Codes,
    Int8Convolution,
    Int8Layer,
    UnusableInt8Error,
    activate,
    compute_exactly,
    open_int8,
    without_noise,
)
from comic_upscale.engines.torch.strips import in_strips
from comic_upscale.errors import SettingsError
from comic_upscale.models import weights as weights_module
from comic_upscale.models.network import Network, load_network
from comic_upscale.models.weights import resolve_weights
from tests.conftest import REPOSITORY
from tests.engines.conftest import MakeNetwork
from training.checkpoint import Int8Training
from training.int8 import RoundedNetwork, write

CPU = torch.device("cpu")
RECIPE = Int8Training(
    begun_with="", steps=1, batch=1, patch=16, rate=1e-3, drawn=0, lettered=0, shared=False, seed=1
)
_EXAMPLES = sorted((REPOSITORY / "examples" / "pages").glob("*.png"))


def _why_not() -> str:
    """Return why oneDNN has no right convolution of 8 bits here, whatever this package makes of it."""
    weight = torch.full((2, 16, 3, 3), 127, dtype=torch.int8)
    weight[1] = -128
    layer = Int8Layer(weight, torch.ones(2), torch.zeros(2), Codes(1.0, 16), None)
    # The largest products: without VNNI, sums of two are cut off at 16 bits.
    codes = torch.full((1, 16, 8, 24), 255, dtype=torch.uint8).contiguous(memory_format=torch.channels_last)
    try:
        made = Int8Convolution(layer)(codes, rows_around=1)
    except (UnusableInt8Error, RuntimeError) as error:
        return str(error)
    is_right = torch.allclose(made.double(), compute_exactly(layer, codes))
    return "" if is_right else "this processor has no VNNI"


REASON = _why_not()
needs_int8 = pytest.mark.skipif(bool(REASON), reason=REASON or "it is there")


@pytest.fixture(scope="module")
def rounded() -> RoundedNetwork:
    torch.manual_seed(3)
    exact = Compact(num_feat=8, num_conv=3, upscale=3, act_type="leakyrelu").eval()
    made = RoundedNetwork(exact)
    made.choose_codes([torch.rand(1, 3, 24, 24)])
    return made.eval()


@pytest.fixture
def network(rounded: RoundedNetwork, make_network: MakeNetwork, tmp_path: Path) -> Network:
    path = tmp_path / "tiny-int8.safetensors"
    write(path, rounded, RECIPE)
    module = Compact(num_feat=8, num_conv=3, upscale=3, act_type="leakyrelu")
    return make_network(module, native_scale=3, int8_path=path)


@needs_int8
@pytest.mark.parametrize("zero", range(0, 129, 16))
def test_every_code_is_activated_as_it_should_be(zero: int) -> None:
    weight = torch.zeros(1, 1, 3, 3, dtype=torch.int8)
    weight[0, 0, 1, 1] = 1
    # The same codes in and out, so that only the activation is left.
    layer = Int8Layer(weight, torch.ones(1), torch.zeros(1), Codes(0.5, zero), Codes(0.5, zero))
    codes = (
        torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).contiguous(memory_format=torch.channels_last)
    )
    expected = activate(codes.float() - zero) + zero
    assert torch.equal(Int8Convolution(layer)(codes, rows_around=1).float(), expected)
    steps = codes.float() - zero
    assert torch.equal(expected[steps >= 0] - zero, steps[steps >= 0])
    assert ((expected - zero - 3 / 16 * steps)[steps < 0].abs() < 1).all()


@needs_int8
def test_layers_are_those_of_training(network: Network, rounded: RoundedNetwork) -> None:
    page = (torch.rand(1, 3, 20, 26) * 255).round() / 255
    with torch.inference_mode():
        made = in_strips(network, torch.int8)(page)
        expected = rounded(page)
    # A sum may lie in the middle between two codes.
    assert (made - expected).abs().mean() < 0.1 / 255


@needs_int8
@pytest.mark.parametrize("strip", [1, 60, 200, 10_000])
def test_a_page_in_strips_of_any_height_is_the_page_at_once(network: Network, strip: int) -> None:
    page = (torch.rand(2, 3, 37, 21) * 255).round() / 255
    with pytest.MonkeyPatch.context() as patch, torch.inference_mode():
        patch.setattr(strips, "_STRIP_PIXELS", strip)
        made = in_strips(network, torch.int8)(page)
        signal = (page * 255).to(torch.uint8).contiguous(memory_format=torch.channels_last)
        for layer in open_int8(network):
            signal = layer(signal, rows_around=1)
        near = torch.nn.functional.interpolate(page, scale_factor=3, mode="nearest")
        assert torch.equal(made, torch.nn.functional.pixel_shuffle(without_noise(signal), 3) + near)


@needs_int8
@pytest.mark.parametrize("name", ["comic-fast-x2", "comic-fast-x3"])
def test_pages_are_those_of_float32(name: str) -> None:
    weights = resolve_weights(name, denoise=None, folders=[], cache=Path(), download=False)
    network = load_network(weights, None)
    exact, quick = (TorchEngine(network, device=CPU, precision=each) for each in (torch.float32, torch.int8))
    assert quick.info.precision == "int8"
    for path in _EXAMPLES[:3]:
        with Image.open(path) as opened:
            page = np.asarray(opened.convert("RGB").crop((64, 64, 192, 160)))[None]
        batch = Batch(page, (128 * network.native_scale, 96 * network.native_scale))
        error = np.square(quick.upscale(batch).pixels - exact.upscale(batch).pixels.astype(float)).mean()
        assert 10 * np.log10(255**2 / max(error, 1e-9)) >= 42


@needs_int8
def test_deep_pages_and_second_attempts_are_computed_in_float32(network: Network) -> None:
    exact, quick = (TorchEngine(network, device=CPU, precision=each) for each in (torch.float32, torch.int8))
    page = np.random.default_rng(1).integers(0, 256, (1, 20, 20, 3))
    deep = Batch((page * 257).astype(np.uint16), (60, 60))
    again = Batch(page.astype(np.uint8), (60, 60), conservative=True)
    for batch in (deep, again):
        assert np.array_equal(quick.upscale(batch).pixels, exact.upscale(batch).pixels)


@needs_int8
@pytest.mark.parametrize(
    "fault", ["the next code", "another code", "saturated", "another shape", "no operation"]
)
def test_a_machine_that_computes_wrong_computes_no_page(
    network: Network, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    right = Int8Convolution.forward

    def wrong(self: Int8Convolution, x: torch.Tensor, rows_around: int) -> torch.Tensor:
        if fault == "no operation":
            raise RuntimeError("not implemented")
        made = right(self, x, rows_around)
        if fault == "another shape":
            return made[:, :, 1:]
        if fault == "the next code":
            return made.clamp(max=254) + 1 if made.dtype == torch.uint8 else made
        # As where products of 8 bits are added in 16 bits.
        return made.clamp(max=made.max() // 2) if fault == "saturated" else made + 2

    monkeypatch.setattr(Int8Convolution, "forward", wrong)
    with pytest.raises(UnusableInt8Error):
        open_int8(network)
    with pytest.raises(SettingsError, match=r"does not work in int8 here: .* Use --precision auto"):
        choose_precision("int8", CPU, network)


@needs_int8
@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ({"float32": 2.0, "bfloat16": 2.5, "int8": 1.0}, torch.int8),
        ({"float32": 1.1, "bfloat16": 1.0, "int8": 1.0}, torch.float32),
        ({"float32": 2.0, "bfloat16": 1.0, "int8": 0.9}, torch.bfloat16),
        ({"float32": 2.0, "bfloat16": 1.0, "int8": 0.5}, torch.int8),
        ({"float32": 1.0, "bfloat16": 0.8, "int8": 2.0}, torch.bfloat16),
    ],
)
def test_without_amx_a_small_page_decides(
    network: Network, monkeypatch: pytest.MonkeyPatch, seconds: dict[str, float], expected: torch.dtype
) -> None:
    monkeypatch.setattr(cpu_precision, "seconds", lambda _, dtype: seconds[str(dtype).removeprefix("torch.")])
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True}, raising=False)
    assert choose_precision("auto", CPU, replace(network, supports_bfloat16=True)) == expected
    # A user decides for all machines.
    assert choose_precision("fp32", CPU, network) == torch.float32


@needs_int8
def test_with_amx_bfloat16_is_chosen(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        torch.cpu, "get_capabilities", lambda: {"amx_bf16": True, "amx_int8": True}, raising=False
    )
    assert choose_precision("auto", CPU, replace(network, supports_bfloat16=True)) == torch.bfloat16
    assert choose_precision("int8", CPU, network) == torch.int8


def test_a_machine_that_computes_wrong_chooses_float32(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Int8Convolution, x: torch.Tensor, rows_around: int) -> torch.Tensor:
        raise RuntimeError("not implemented")

    monkeypatch.setattr(Int8Convolution, "forward", fail)
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict, raising=False)
    assert choose_precision("auto", CPU, network) == torch.float32


@needs_int8
@pytest.mark.parametrize("color", [(255, 255, 255), (0, 0, 0), (236, 232, 214), (73, 120, 201)])
@pytest.mark.parametrize("name", ["comic-fast-x2", "comic-fast-x3"])
def test_even_areas_have_one_color(name: str, color: tuple[int, int, int]) -> None:
    """A level of noise would be invisible, but a PNG would have to store it."""
    weights = resolve_weights(name, denoise=None, folders=[], cache=Path(), download=False)
    network = load_network(weights, None)
    engine = TorchEngine(network, device=CPU, precision=torch.int8)
    page = np.full((1, 96, 96, 3), color, np.uint8)
    made = engine.upscale(Batch(page, (96 * network.native_scale, 96 * network.native_scale))).pixels[0]
    # A level in some places is what float32 leaves, too.
    middle = made[60:-60, 60:-60].reshape(-1, 3)
    assert len(np.unique(middle, axis=0)) == 1
    assert np.abs(middle[0].astype(int) - color).max() <= 1


def test_a_network_without_such_weights_is_told_so(network: Network) -> None:
    with pytest.raises(SettingsError, match="no weights in 8 bits"):
        choose_precision("int8", CPU, replace(network, int8_path=None))
    with pytest.raises(SettingsError, match="on a CPU"):
        choose_precision("int8", torch.device("meta"), network)


def test_mixed_weights_have_none_in_8_bits() -> None:
    plain, mixed = (
        resolve_weights("comic-fast-x3", denoise=strength, folders=[], cache=Path(), download=False)
        for strength in (None, 0.5)
    )
    assert plain.int8_path is not None and plain.int8_path.is_file()
    assert mixed.int8_path is None
    # They are another rounding of the same network.
    assert plain.identity == plain.sha256


@pytest.mark.parametrize("name", ["qconv_prepack", "qconv2d_pointwise"])
def test_a_torch_without_the_operations_is_told(
    network: Network, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    class Without:
        def __getattr__(self, wanted: str) -> object:
            if wanted == name:
                raise AttributeError(f"no {name}")
            return getattr(operations, wanted)

    operations = torch.ops.onednn
    monkeypatch.setattr(torch.ops, "onednn", Without())
    with pytest.raises(SettingsError, match="does not work in int8 here"):
        choose_precision("int8", CPU, network)
    assert choose_precision("fp32", CPU, network) == torch.float32


def test_damaged_weights_in_8_bits_end_no_run_without_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("comic-fast-x3.safetensors", "comic-fast-x3-int8.safetensors"):
        shutil.copy(REPOSITORY / "weights" / name, tmp_path)
    (tmp_path / "comic-fast-x3-int8.safetensors").write_bytes(b"cut")
    monkeypatch.setattr(weights_module, "BUNDLED_FOLDERS", (tmp_path,))
    weights = resolve_weights("comic-fast-x3", denoise=None, folders=[], cache=Path(), download=False)
    assert weights.int8_path is None
    with pytest.raises(SettingsError, match="no weights in 8 bits"):
        choose_precision("int8", CPU, load_network(weights, None))


def test_rows_outside_of_the_page_count_as_zeros() -> None:
    layer = Int8Layer(
        torch.full((1, 1, 3, 3), 1, dtype=torch.int8),
        torch.ones(1),
        torch.zeros(1),
        Codes(1.0, 32),
        Codes(1.0, 32),
    )
    page = torch.full((1, 1, 3, 3), 40, dtype=torch.uint8)
    # 8 above zero, in 4 neighbours at a corner, 6 at a side and 9 in the middle.
    assert compute_exactly(layer, page).squeeze().tolist() == [[64, 80, 64], [80, 104, 80], [64, 80, 64]]
    if not REASON:
        made = Int8Convolution(layer)(page.contiguous(memory_format=torch.channels_last), rows_around=1)
        assert made.squeeze().tolist() == [[64, 80, 64], [80, 104, 80], [64, 80, 64]]


@needs_int8
def test_a_gray_page_is_the_mean_of_its_colors(network: Network) -> None:
    page = (torch.rand(1, 1, 30, 22) * 255).round() / 255
    with torch.inference_mode():
        strips_of_colors = in_strips(network, torch.int8)
        assert isinstance(network.module, Compact)
        made = strips_of_colors.for_gray(network.module)(page)
        expected = strips_of_colors(page.expand(-1, 3, -1, -1)).mean(1, keepdim=True)
    # The weights of the mean are rounded to 8 bits once more, and noise is removed from it and not from the colors.
    assert made.shape == expected.shape
    assert (made - expected).abs().max() < 2.5 / 255
    assert (made - expected).abs().mean() < 0.5 / 255
