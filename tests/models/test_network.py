"""Networks from files: the official shapes, the official mix, and every kind of file that is none."""

from __future__ import annotations

import os
import pickle
import time
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from spandrel.architectures.Compact import Compact
from spandrel.architectures.DnCNN import DnCNN
from spandrel.architectures.MMRealSR import MMRealSR
from torch.nn import functional

from comic_upscale.errors import SettingsError, WeightsError
from comic_upscale.models.network import Network, load_network, mix_weights, read_state
from comic_upscale.models.weights import ResolvedWeights, resolve_weights

State = dict[str, torch.Tensor]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(11)


def _load(path: Path) -> Network:
    return load_network(resolve_weights(str(path), denoise=None, folders=[], cache=path.parent), None)


def _save(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


def _fails(path: Path, match: str) -> None:
    with pytest.raises(WeightsError, match=match) as caught:
        _load(path)
    assert str(path) in str(caught.value)


def _rrdbnet(channels_in: int, features: int, blocks: int, grow: int = 32) -> State:
    """Random weights with the names and shapes of the official RRDBNet."""
    state: State = {}

    def convolution(name: str, out: int, inside: int) -> None:
        state[f"{name}.weight"] = torch.randn(out, inside, 3, 3) * (inside * 9) ** -0.5
        state[f"{name}.bias"] = torch.randn(out) * 0.1

    convolution("conv_first", features, channels_in)
    for block in range(blocks):
        for dense in (1, 2, 3):
            for step in range(1, 6):
                name = f"body.{block}.rdb{dense}.conv{step}"
                convolution(name, features if step == 5 else grow, features + (step - 1) * grow)
    for name in ("conv_body", "conv_up1", "conv_up2", "conv_hr"):
        convolution(name, features, features)
    convolution("conv_last", 3, features)
    return state


def _official_rrdbnet(state: State, pages: torch.Tensor, blocks: int) -> torch.Tensor:
    """The forward pass of the official RRDBNet, written down from its definition."""

    def convolution(name: str, x: torch.Tensor) -> torch.Tensor:
        return functional.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], padding=1)

    def active(x: torch.Tensor) -> torch.Tensor:
        return functional.leaky_relu(x, 0.2)

    first = x = convolution("conv_first", pages)
    for block in range(blocks):
        before_block = x
        for dense in (1, 2, 3):
            parts = [x]
            for step in range(1, 5):
                parts.append(active(convolution(f"body.{block}.rdb{dense}.conv{step}", torch.cat(parts, 1))))
            x = convolution(f"body.{block}.rdb{dense}.conv5", torch.cat(parts, 1)) * 0.2 + x
        x = x * 0.2 + before_block
    x = first + convolution("conv_body", x)
    for name in ("conv_up1", "conv_up2"):
        x = active(convolution(name, functional.interpolate(x, scale_factor=2, mode="nearest")))
    return convolution("conv_last", active(convolution("conv_hr", x)))


def _official_compact(state: State, pages: torch.Tensor, convolutions: int, scale: int) -> torch.Tensor:
    """The forward pass of the official SRVGGNetCompact, written down from its definition."""
    x = pages
    last = 2 * convolutions + 2
    for index in range(0, last, 2):
        x = functional.conv2d(x, state[f"body.{index}.weight"], state[f"body.{index}.bias"], padding=1)
        x = functional.prelu(x, state[f"body.{index + 1}.weight"])
    x = functional.conv2d(x, state[f"body.{last}.weight"], state[f"body.{last}.bias"], padding=1)
    return functional.pixel_shuffle(x, scale) + functional.interpolate(pages, scale_factor=scale)


# The official files and their structure


def test_the_official_animevideo_network(animevideo_weights: Path) -> None:
    network = _load(animevideo_weights)
    assert network.native_scale == 4
    assert (network.input_channels, network.output_channels) == (3, 3)
    assert (network.multiple_of, network.minimum, network.square) == (1, 0, False)
    assert network.receptive_radius == 18
    assert network.supports_half
    assert network.supports_bfloat16
    assert "Compact" in network.architecture
    assert not network.module.training
    for parameter in network.module.parameters():
        assert (parameter.dtype, parameter.device.type) == (torch.float32, "cpu")
        assert not parameter.requires_grad
    pages = torch.rand(2, 3, 13, 10)
    state = torch.load(animevideo_weights, map_location="cpu", weights_only=True)["params"]
    torch.testing.assert_close(network.module(pages), _official_compact(state, pages, 16, 4))


@pytest.mark.parametrize(("features", "blocks"), [(64, 6), (8, 23)], ids=["anime_6B", "x4plus, thin"])
def test_an_rrdbnet_computes_what_the_official_one_does(tmp_path: Path, features: int, blocks: int) -> None:
    state = _rrdbnet(3, features, blocks)
    network = _load(_save(tmp_path / "rrdb.pth", {"params_ema": state}))
    assert (network.native_scale, network.input_channels, network.multiple_of) == (4, 3, 1)
    assert network.architecture == "ESRGAN"
    assert network.receptive_radius is None
    assert sum(p.numel() for p in network.module.parameters()) == sum(t.numel() for t in state.values())
    pages = torch.rand(2, 3, 11, 9)
    torch.testing.assert_close(network.module(pages), _official_rrdbnet(state, pages, blocks))


def test_an_rrdbnet_of_2x_looks_at_squares_of_2(tmp_path: Path) -> None:
    state = _rrdbnet(12, 8, 2)
    network = _load(_save(tmp_path / "rrdb.pth", {"params_ema": state}))
    assert (network.native_scale, network.input_channels) == (2, 3)
    assert (network.multiple_of, network.minimum) == (2, 2)
    for height, width in ((2, 2), (6, 10), (8, 4)):
        pages = torch.rand(1, 3, height, width)
        expected = _official_rrdbnet(state, functional.pixel_unshuffle(pages, 2), 2)
        torch.testing.assert_close(network.module(pages), expected)


def test_an_rrdbnet_of_2x_mirrors_an_odd_edge_as_the_official_program_does(tmp_path: Path) -> None:
    module = _load(_save(tmp_path / "rrdb.pth", {"params_ema": _rrdbnet(12, 8, 2)})).module
    pages = torch.rand(1, 3, 7, 9)
    expected = module(functional.pad(pages, (0, 1, 0, 1), "reflect"))[:, :, :14, :18]
    assert torch.equal(module(pages), expected)


def test_averaged_weights_are_preferred(tmp_path: Path) -> None:
    averaged = Compact(num_feat=8, num_conv=1, upscale=2).state_dict()
    last = {name: torch.zeros_like(tensor) for name, tensor in averaged.items()}
    network = _load(_save(tmp_path / "both.pth", {"params": last, "params_ema": averaged}))
    for name, tensor in network.module.state_dict().items():
        assert torch.equal(tensor, averaged[name])


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors"])
def test_every_kind_of_file_gives_the_same_network(tmp_path: Path, suffix: str) -> None:
    state = Compact(num_feat=8, num_conv=1, upscale=2).state_dict()
    path = tmp_path / f"network{suffix}"
    if suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=suffix == ".pth")
    loaded = _load(path).module.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items())


def test_half_precision_files_become_float32(tmp_path: Path) -> None:
    state = Compact(num_feat=8, num_conv=1, upscale=2).half().state_dict()
    module = _load(_save(tmp_path / "half.pth", state)).module
    assert {parameter.dtype for parameter in module.parameters()} == {torch.float32}


def test_a_gray_network_is_welcome(tmp_path: Path) -> None:
    state = Compact(num_in_ch=1, num_out_ch=1, num_feat=8, num_conv=1, upscale=2).state_dict()
    network = _load(_save(tmp_path / "gray.pth", state))
    assert (network.input_channels, network.output_channels) == (1, 1)


@pytest.mark.parametrize("convolutions", [0, 2, 5])
def test_the_receptive_radius_is_exact(tmp_path: Path, convolutions: int) -> None:
    network = _load(
        _save(tmp_path / "c.pth", Compact(num_feat=8, num_conv=convolutions, upscale=2).state_dict())
    )
    radius = network.receptive_radius
    assert radius is not None
    module = network.module.double()
    pages = torch.rand(1, 3, 2 * radius + 7, 2 * radius + 7, dtype=torch.double)
    changed = pages.clone()
    middle = radius + 3
    changed[:, :, middle, middle] += 1
    # Which input rows have an output row that noticed.
    rows = ((module(pages) - module(changed)) != 0).any(dim=3).any(dim=1)[0].view(-1, 2).any(dim=1)
    noticed = rows.nonzero().flatten().tolist()
    assert (noticed[0], noticed[-1]) == (middle - radius, middle + radius)


# The mix


def test_a_mix_is_the_official_interpolation() -> None:
    base, denoise = {"a": torch.randn(3, 2)}, {"a": torch.randn(3, 2)}
    torch.testing.assert_close(mix_weights(base, denoise, 0.3)["a"], 0.3 * base["a"] + 0.7 * denoise["a"])
    assert torch.equal(mix_weights(base, denoise, 1)["a"], base["a"])
    assert torch.equal(mix_weights(base, denoise, 0)["a"], denoise["a"])


def test_weights_of_two_networks_do_not_mix() -> None:
    with pytest.raises(WeightsError, match="b is only in one"):
        mix_weights({"a": torch.zeros(1)}, {"a": torch.zeros(1), "b": torch.zeros(1)}, 0.5)
    with pytest.raises(WeightsError, match="a is 2 x 3 in one and 3 x 2"):
        mix_weights({"a": torch.zeros(2, 3)}, {"a": torch.zeros(3, 2)}, 0.5)


def _general(weights_dir: Path) -> ResolvedWeights:
    base = weights_dir / "realesr-general-x4v3.from-ncnn-fp16.pth"
    denoise = weights_dir / "realesr-general-wdn-x4v3.from-ncnn-fp16.pth"
    if not (base.is_file() and denoise.is_file()):
        pytest.skip(f"{base.name} and {denoise.name} are not in {weights_dir}")
    return ResolvedWeights("general", base, "0" * 64, denoise, "1" * 64)


def test_the_general_pair_mixes(weights_dir: Path) -> None:
    weights = _general(weights_dir)
    assert weights.denoise_path is not None
    base, denoise = read_state(weights.path), read_state(weights.denoise_path)
    network = load_network(weights, 0.25)
    assert (network.native_scale, network.receptive_radius) == (4, 34)
    for name, tensor in network.module.state_dict().items():
        torch.testing.assert_close(tensor, 0.25 * base[name] + 0.75 * denoise[name])


def test_strength_decides_how_much_noise_stays(weights_dir: Path) -> None:
    weights = _general(weights_dir)
    page = (0.5 + 0.1 * torch.randn(1, 3, 48, 48)).clamp(0, 1)
    noise = [float(load_network(weights, s).module(page).std()) for s in (0, 0.5, 1)]
    assert noise[0] > noise[1] > noise[2]
    unasked = load_network(weights, None).module(page)
    assert torch.equal(unasked, load_network(weights, 1).module(page))


def test_a_mix_without_the_denoise_weights_is_refused(tiny_weights: Path) -> None:
    weights = ResolvedWeights("tiny", tiny_weights, "0" * 64)
    load_network(weights, 1)
    with pytest.raises(SettingsError, match="no denoise weights"):
        load_network(weights, 0.5)
    with pytest.raises(SettingsError, match="between 0 and 1"):
        load_network(weights, 2)


def test_a_mix_of_two_networks_names_both_files(tiny_weights: Path, animevideo_weights: Path) -> None:
    weights = ResolvedWeights("odd", tiny_weights, "0" * 64, animevideo_weights, "1" * 64)
    with pytest.raises(WeightsError, match="cannot be mixed") as caught:
        load_network(weights, 0.5)
    assert str(tiny_weights) in str(caught.value)
    assert str(animevideo_weights) in str(caught.value)


# Files that are no weights


class _Harm:
    """Unpickled, it makes a folder: a hostile model could as well delete one."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors"])
@pytest.mark.parametrize("form", ["zip", "pickle 2", "pickle 5"])
def test_a_pickle_that_runs_code_is_refused_before_it_does(tmp_path: Path, suffix: str, form: str) -> None:
    harm = tmp_path / "harm"
    pickle.loads(pickle.dumps(_Harm(harm)))
    assert harm.exists(), "the pickle must be harmful, else this proves nothing"
    harm.rmdir()
    path = tmp_path / f"evil{suffix}"
    if form == "zip":
        torch.save({"params": {"body.0.weight": _Harm(harm)}}, path)
    else:
        path.write_bytes(pickle.dumps(_Harm(harm), protocol=int(form[-1])))
    # Of newer pickles torch reads not even the first instruction.
    understood = suffix != ".safetensors" and form != "pickle 5"
    _fails(path, "refused: it would run code" if understood else "damaged")
    assert not harm.exists()


@pytest.mark.parametrize("kept", [0, 1, 100, 20_000, 1_000_000, 2_504_011])
def test_a_truncated_file_is_told(animevideo_weights: Path, tmp_path: Path, kept: int) -> None:
    path = tmp_path / "cut.pth"
    path.write_bytes(animevideo_weights.read_bytes()[:kept])
    _fails(path, "damaged, cut short")


@pytest.mark.parametrize("kept", [0, 5, 200, -1])
def test_a_truncated_safetensors_file_is_told(tiny_weights: Path, tmp_path: Path, kept: int) -> None:
    path = tmp_path / "cut.safetensors"
    path.write_bytes(tiny_weights.read_bytes()[:kept])
    _fails(path, "damaged")


@pytest.mark.parametrize(
    "content", [b"<html>Not found</html>", b"\x89PNG\r\n\x1a\n" + bytes(100), b"\x80\x02."]
)
def test_another_file_is_told(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "page.pth"
    path.write_bytes(content)
    _fails(path, "damaged, cut short, or not a file of weights")


def test_flipped_bits_that_give_no_numbers_are_told(animevideo_weights: Path, tmp_path: Path) -> None:
    content = bytearray(animevideo_weights.read_bytes())
    content[1_500_000:1_500_100] = b"\xff" * 100
    path = tmp_path / "flipped.pth"
    path.write_bytes(content)
    _fails(path, "NaN or infinity")


def test_a_torchscript_archive_is_told(tmp_path: Path) -> None:
    path = tmp_path / "script.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # making one is deprecated, and people still have them
        torch.jit.script(torch.nn.Conv2d(1, 1, 1)).save(path)
    _fails(path, "TorchScript")


def test_a_missing_file_and_a_folder_are_told(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.pth", tmp_path):
        with pytest.raises(WeightsError, match="does not exist or is not a file"):
            load_network(ResolvedWeights("absent", path, "0" * 64), None)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ([torch.zeros(1)], "contains a list"),
        ({1: torch.zeros(1)}, "not tensors by name"),
        ({}, "does not consist of named tensors"),
        ({"params": {"a": torch.zeros(1), "b": 3}}, "does not consist of named tensors"),
        ({"encoder.weight": torch.zeros(1), "b": torch.zeros(1)}, "architecture is not known to spandrel"),
        ({"body.0.weight": torch.zeros(1), "body.1.weight": torch.zeros(1)}, "resemble a known"),
    ],
)
def test_a_file_of_something_else_is_told(tmp_path: Path, content: object, match: str) -> None:
    _fails(_save(tmp_path / "other.pth", content), match)


@pytest.mark.parametrize(
    ("module", "match"),
    [
        (Compact(num_in_ch=15, num_out_ch=3, num_feat=8, num_conv=1, upscale=2), "15 channels in .*video"),
        (Compact(num_in_ch=4, num_out_ch=4, num_feat=8, num_conv=1, upscale=2), "4 channels in and 4 out"),
    ],
    ids=["video", "RGBA"],
)
def test_a_network_for_something_else_says_what_it_is(
    tmp_path: Path, module: torch.nn.Module, match: str
) -> None:
    _fails(_save(tmp_path / "other.pth", module.state_dict()), match)


@pytest.mark.parametrize(
    "module",
    [Compact(num_feat=8, num_conv=1, upscale=1), DnCNN(in_nc=3, out_nc=3, nc=8, nb=4, mode="R")],
    ids=["compact", "denoiser"],
)
def test_a_network_that_restores_pages_has_factor_one(tmp_path: Path, module: torch.nn.Module) -> None:
    assert _load(_save(tmp_path / "restore.pth", module.state_dict())).native_scale == 1


def test_a_network_that_returns_more_than_a_page_is_told(tmp_path: Path) -> None:
    small = {"num_feats": [8] * 4, "num_blocks": [1] * 4, "downscales": [1, 1, 2, 1]}
    module = MMRealSR(num_in_ch=3, num_out_ch=3, scale=4, num_feat=8, num_block=2, num_grow_ch=8, **small)
    _fails(_save(tmp_path / "pair.pth", module.state_dict()), "does not return one enlarged page")


def test_weights_that_overflow_are_told(tmp_path: Path) -> None:
    state = Compact(num_feat=8, num_conv=3, upscale=2).state_dict()
    huge = {name: tensor * 1e30 for name, tensor in state.items()}
    _fails(_save(tmp_path / "huge.pth", huge), "returns NaN or infinity")


def test_loading_is_quick(animevideo_weights: Path) -> None:
    began = time.perf_counter()
    _load(animevideo_weights)
    assert time.perf_counter() - began < 10


def test_the_widest_tensor_of_a_network(tmp_path: Path, animevideo_weights: Path) -> None:
    # 64 features at the size of the input; 16 at four times its sides, more than 144 in a dense block.
    assert _load(animevideo_weights).widest == 64
    assert _load(_save(tmp_path / "rrdb.pth", _rrdbnet(3, 16, 1))).widest == 16 * 16
