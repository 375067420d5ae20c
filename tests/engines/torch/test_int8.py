"""Compact networks in codes of 8 bits: the right numbers, on the right machines, or none at all."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from spandrel.architectures.Compact import Compact
from torch.nn import functional

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
    even_areas,
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
    except (UnusableInt8Error, AttributeError, TypeError, RuntimeError) as error:
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
        near = functional.interpolate(page, scale_factor=3, mode="nearest")
        detail = without_noise(signal, even_areas((page * 255).to(torch.uint8)))
        assert torch.equal(made, functional.pixel_shuffle(detail, 3) + near)


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
    def measure(_network: Network, faster: Sequence[torch.dtype]) -> dict[torch.dtype, float]:
        return {each: seconds[str(each).removeprefix("torch.")] for each in (torch.float32, *faster)}

    monkeypatch.setattr(cpu_precision, "measure", measure)
    monkeypatch.setattr(platform, "machine", lambda: "AMD64")
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
def test_the_small_page_is_tried_in_8_bits(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict, raising=False)
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    found = cpu_precision.measure(network, [torch.int8])
    assert min(found.values()) > 0
    assert choose_precision("auto", CPU, network) in (torch.float32, torch.int8)


@needs_int8
def test_8_bits_are_not_tried_on_arm(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict, raising=False)
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    monkeypatch.setattr(cpu_precision, "measure", lambda *_: {torch.float32: 9.0, torch.int8: 1.0})
    assert choose_precision("auto", CPU, network) == torch.float32


def test_absent_weights_in_8_bits_end_no_run_that_does_without(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the program is replaced while it runs."""
    assert network.int8_path is not None
    network.int8_path.unlink()
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict, raising=False)
    assert choose_precision("auto", CPU, network) == torch.float32
    with pytest.raises(SettingsError, match="does not work in int8 here"):
        choose_precision("int8", CPU, network)


def _shipped(name: str, precision: torch.dtype = torch.int8) -> TorchEngine:
    weights = resolve_weights(name, denoise=None, folders=[], cache=Path(), download=False)
    return TorchEngine(load_network(weights, None), device=CPU, precision=precision)


def _enlarge(engine: TorchEngine, page: np.ndarray) -> np.ndarray:
    """Return a page of height x width x channels at the network's own factor."""
    scale = engine.info.native_scale
    assert scale is not None
    height, width = page.shape[:2]
    return engine.upscale(Batch(page[None].copy(), (width * scale, height * scale))).pixels[0]


def _inside(engine: TorchEngine, made: np.ndarray) -> np.ndarray:
    """Return what does not depend on the zeros outside of the page."""
    margin = 20 * (engine.info.native_scale or 0)
    return made[margin:-margin, margin:-margin]


@needs_int8
@pytest.mark.parametrize("name", ["comic-fast-x2", "comic-fast-x3"])
def test_even_areas_have_one_color(name: str) -> None:
    """A level of noise would be invisible, but a PNG would have to store it."""
    engine = _shipped(name)
    rng = np.random.default_rng(5)
    # Near white and black, the network brings out pure white and black, and float32 leaves more than one color, too.
    colors = [*([level] for level in range(15, 240, 7)), *rng.integers(15, 240, (30, 3))]
    for color in colors:
        made = _enlarge(engine, np.full((56, 56, len(color)), color, np.uint8))
        middle = _inside(engine, made).reshape(-1, len(color))
        assert len(np.unique(middle, axis=0)) == 1, color
        # The average tone is corrected by what the edges lack.
        assert np.abs(middle[0].astype(int) - color).max() <= 1


@needs_int8
@pytest.mark.parametrize("name", ["comic-fast-x2", "comic-fast-x3"])
@pytest.mark.parametrize("slope", [3, 4, 5])
def test_gradients_are_smooth(name: str, slope: int) -> None:
    """What the network adds to a gradient is as little as the noise, but without it each pixel would be a square."""
    ramp = (40 + np.arange(60) * slope % 200).astype(np.uint8)
    page = np.broadcast_to(ramp[None, :, None], (60, 60, 3))
    exact, quick = _shipped(name, torch.float32), _shipped(name)
    scale = exact.info.native_scale
    assert scale is not None
    squares = page.repeat(scale, 0).repeat(scale, 1)
    # float32 leaves the middle of each pixel as it is.
    smooth, made = (
        (_inside(exact, _enlarge(each, page)) != _inside(exact, squares)).mean() for each in (exact, quick)
    )
    assert made > 0.5 * smooth


def test_even_areas_are_where_all_neighbors_are_alike() -> None:
    codes = torch.randint(0, 6, (2, 3, 31, 26), dtype=torch.uint8)
    codes[:, :, :12, :10] //= 2
    numbers = codes.float()
    ranges = functional.max_pool2d(numbers, 3, 1, 1) + functional.max_pool2d(-numbers, 3, 1, 1)
    expected = (ranges <= 2).all(1, keepdim=True)
    assert expected.any() and not expected.all()
    for layout in (torch.contiguous_format, torch.channels_last):
        assert torch.equal(even_areas(codes.contiguous(memory_format=layout)), expected)
    # The smallest pages.
    assert even_areas(codes[:, :, :1, :1]).all()
    assert even_areas(torch.tensor([0, 2, 3], dtype=torch.uint8).view(1, 1, 1, 3)).flatten().tolist() == [
        1,
        0,
        1,
    ]


def test_only_noise_in_even_areas_is_removed() -> None:
    detail = torch.tensor([0.5, -1.9, 2.1, -30]).view(1, 4, 1, 1).repeat(1, 1, 1, 2) / 255
    even = torch.tensor([True, False]).view(1, 1, 1, 2)
    expected = detail.clone()
    expected[:, :2, :, 0] = 0
    assert torch.equal(without_noise(detail, even), expected)


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
def test_a_gray_page_is_the_mean_of_its_colors(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strips, "without_noise", lambda detail, _: detail)
    page = (torch.rand(1, 1, 30, 22) * 255).round() / 255
    with torch.inference_mode():
        strips_of_colors = in_strips(network, torch.int8)
        assert isinstance(network.module, Compact)
        made = strips_of_colors.for_gray(network.module)(page)
        expected = strips_of_colors(page.expand(-1, 3, -1, -1)).mean(1, keepdim=True)
    # The weights of the mean are rounded to 8 bits once more.
    assert made.shape == expected.shape
    assert (made - expected).abs().max() < 1 / 255


@needs_int8
def test_the_last_layer_of_gray_pages_is_right(network: Network) -> None:
    layer = open_int8(network)[-1].layer.averaged()
    codes = torch.randint(0, 256, (1, 8, 9, 17), dtype=torch.uint8).contiguous(
        memory_format=torch.channels_last
    )
    made = Int8Convolution(layer)(codes, rows_around=1)
    assert torch.allclose(made.double(), compute_exactly(layer, codes), atol=1e-5)
