"""Networks that look at a whole page at once: found, given whole pages where memory allows, and else told of."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from spandrel.architectures.Compact import Compact
from spandrel.architectures.ESRGAN import ESRGAN
from spandrel.architectures.PLKSR import RealPLKSR
from spandrel.architectures.RealCUGAN import UpCunet2x, UpCunet3x

from comic_upscale.engines import reach
from comic_upscale.engines.base import Batch
from comic_upscale.engines.limits import AUTO_LIMITS, AutoLimits
from comic_upscale.engines.reach import IN_TILES, sees_far
from comic_upscale.engines.torch import engine as torch_engine
from comic_upscale.engines.torch.engine import TorchEngine, open_torch_engine
from comic_upscale.engines.torch.examination import examine
from comic_upscale.engines.torch.network_pass import NetworkPass
from comic_upscale.execution.events import Event, JobStarted
from comic_upscale.imaging.pixels import NO_BORDERS, UInt8Array
from comic_upscale.jobs.run import run_job
from comic_upscale.models.network import Network, load_network
from comic_upscale.models.weights import resolve_weights
from comic_upscale.settings.job import JobSettings
from tests.conftest import LONG, draw
from tests.engines.conftest import MakeNetwork
from tests.ncnn_weights import fill_cunet

CPU = torch.device("cpu")


class Squeeze(torch.nn.Module):
    """Two convolutions with squeeze-and-excitation between them, whose gates are far from shut."""

    def __init__(self, reduce: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.first = torch.nn.Conv2d(3, 8, 3, padding=1)
        self.gate = torch.nn.Conv2d(8, 8, 1)
        self.last = torch.nn.Conv2d(8, 12, 3, padding=1)
        self.reduce = reduce
        with torch.no_grad():
            self.gate.weight.copy_(10 * torch.eye(8)[:, :, None, None])
            self.gate.bias.fill_(-1.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.first(x))
        y = y * torch.sigmoid(self.gate(self.reduce(y)))
        return torch.nn.functional.pixel_shuffle(self.last(y), 2)


REDUCTIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "mean": lambda y: y.mean(dim=(2, 3), keepdim=True),
    "sum": lambda y: y.sum(dim=(-2, -1), keepdim=True) / (y.shape[2] * y.shape[3]),
    "average pool": torch.nn.AdaptiveAvgPool2d(1),
    "largest": lambda y: y.amax(dim=(2, 3), keepdim=True),
    "largest pool": torch.nn.AdaptiveMaxPool2d(1),
    "whole kernel": lambda y: torch.nn.functional.avg_pool2d(y, y.shape[2:]),
    "deviation": lambda y: y.std(dim=(2, 3), keepdim=True),
}


def squeeze(make_network: MakeNetwork, reduce: str = "mean") -> Network:
    torch.manual_seed(5)
    return make_network(Squeeze(REDUCTIONS[reduce]), native_scale=2, is_local=False)


def looks_at_all(network: Network) -> bool:
    return examine(NetworkPass(network, CPU, torch.float32), network).sees_whole


def page(height: int, width: int) -> UInt8Array:
    """A page that is dark at one end and white at the other, so that no two tiles have one mean."""
    rows = np.linspace(0, 255, height).astype(np.uint8)[:, None, None]
    noise = np.random.default_rng(2).integers(0, 40, (height, width, 3), np.uint8)
    return np.maximum(np.broadcast_to(rows, noise.shape), noise)[None]


@pytest.mark.parametrize("reduce", list(REDUCTIONS))
def test_squeeze_and_excitation_is_found_however_it_is_written(
    make_network: MakeNetwork, reduce: str
) -> None:
    assert looks_at_all(squeeze(make_network, reduce))


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (Compact(num_feat=8, num_conv=2, upscale=2), False),
        (ESRGAN(in_nc=3, num_filters=8, num_blocks=1, scale=2), False),
        # Group normalization takes the mean over the page.
        (RealPLKSR(dim=8, n_blocks=1, upscaling_factor=2), True),
        (UpCunet2x(in_channels=3, out_channels=3), True),
    ],
    ids=["Compact", "ESRGAN", "RealPLKSR", "Real-CUGAN"],
)
def test_architectures_are_told_apart_by_what_they_do(
    make_network: MakeNetwork, module: torch.nn.Module, expected: bool
) -> None:
    assert looks_at_all(make_network(module, native_scale=2)) is expected


class Attention(torch.nn.Module):
    """Every pixel takes part of the pixels that are like it, wherever they are: no pool, no mean."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = x.flatten(2)
        weights = torch.softmax(tokens.transpose(1, 2) @ tokens, dim=2)
        return torch.nn.functional.interpolate((tokens @ weights).view(x.shape), scale_factor=2)


def test_what_no_operation_tells_of_is_seen_in_the_pixels(make_network: MakeNetwork) -> None:
    assert looks_at_all(make_network(Attention(), native_scale=2))


def test_one_side_of_a_picture_tells_of_the_other() -> None:
    def local(picture: UInt8Array) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        return (picture.transpose(2, 0, 1) / 255).repeat(2, axis=1).repeat(2, axis=2).astype(np.float32)

    assert not sees_far(local, 3)
    assert sees_far(lambda picture: local(picture) * np.float32(picture.mean() / 255), 3)
    assert sees_far(lambda picture: local(picture) * np.float32(picture.mean() / 255), 1, (64, 72))


def test_such_a_network_is_given_whole_pages(make_network: MakeNetwork) -> None:
    batch = Batch(page(500, 420), (840, 1000))
    engine = TorchEngine(squeeze(make_network), device=CPU)
    whole = TorchEngine(squeeze(make_network), device=CPU, tile=0).upscale(batch)
    made = engine.upscale(batch)
    assert np.array_equal(made.pixels, whole.pixels)
    assert (made.borders, made.notes, engine.info.warnings) == (NO_BORDERS, (), ())
    # Known to be local, the same page goes in tiles on a CPU.
    local = TorchEngine(replace(squeeze(make_network), is_local=True), device=CPU)
    in_tiles = local.upscale(batch)
    assert in_tiles.borders.rows and not in_tiles.notes
    assert np.abs(in_tiles.pixels.astype(int) - whole.pixels).max() > 3


def test_tiles_that_are_asked_for_are_warned_of_and_noted(make_network: MakeNetwork) -> None:
    engine = TorchEngine(squeeze(make_network), device=CPU, tile=128)
    assert "looks at a whole page at once" in engine.info.warnings[0]
    assert "--tile" in engine.info.warnings[0]
    made = engine.upscale(Batch(page(200, 120), (240, 400)))
    assert made.borders.rows and made.notes == (IN_TILES,)
    small = engine.upscale(Batch(page(100, 120), (240, 200)))
    assert (small.borders, small.notes) == (NO_BORDERS, ())


def test_a_page_that_does_not_fit_is_cut_and_noted(
    make_network: MakeNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reach, "MEMORY_FOR_WHOLE", 1e-9)
    made = TorchEngine(squeeze(make_network), device=CPU).upscale(Batch(page(500, 420), (840, 1000)))
    assert made.borders.rows and made.notes == (IN_TILES,)


def test_a_network_that_is_known_to_be_local_is_not_examined(
    compact: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("examined")

    monkeypatch.setattr(torch_engine, "examine", refuse)
    made = open_torch_engine(compact, "cpu", tile=64).upscale(Batch(page(150, 100), (200, 300)))
    assert made.borders.rows


def test_loaded_networks_say_whether_they_are_chains_of_convolutions(
    tiny_weights: Path, tmp_path: Path
) -> None:
    def load(path: Path) -> Network:
        return load_network(resolve_weights(str(path), denoise=None, folders=[], cache=tmp_path), None)

    assert load(tiny_weights).is_local
    torch.manual_seed(6)
    torch.save(UpCunet2x(in_channels=3, out_channels=3).state_dict(), tmp_path / "cugan.pth")
    assert not load(tmp_path / "cugan.pth").is_local


def test_a_run_says_so_in_the_header_and_with_each_page(tmp_path: Path) -> None:
    torch.manual_seed(6)
    torch.save(UpCunet2x(in_channels=3, out_channels=3).state_dict(), tmp_path / "cugan.pth")
    draw(tmp_path / "in" / "a.png", 1, size=(80, 150))
    draw(tmp_path / "in" / "small.png", 2, size=(70, 80))
    settings = JobSettings(
        input=tmp_path / "in", output=tmp_path / "out", scale=2.0, model=str(tmp_path / "cugan.pth"),
        device="cpu", tile=96, gate=False,
    )  # fmt: skip
    events: list[Event] = []
    assert run_job(settings, on_event=events.append).done == 2
    (started,) = (event for event in events if isinstance(event, JobStarted))
    assert any("looks at a whole page" in warning for warning in started.warnings)
    with closing(sqlite3.connect(settings.ledger_path)) as ledger, ledger:
        notes = dict(ledger.execute("select source, notes from pages").fetchall())
    assert "though this network looks at a whole page" in notes["a.png"]
    assert not notes["small.png"] or "tiles" not in notes["small.png"]


def peer(weights_dir: Path, folder: Path, file: str, kind: type[torch.nn.Module] = UpCunet2x) -> Network:
    """Load a network of a peer through a file of weights, as a user would; or skip."""
    param = weights_dir / "peers" / f"{file}.param"
    if not param.is_file():
        pytest.skip(f"{param.name} is not in {param.parent}")
    torch.save(fill_cunet(kind(in_channels=3, out_channels=3), param).state_dict(), folder / "peer.pth")
    weights = resolve_weights(str(folder / "peer.pth"), denoise=None, folders=[], cache=folder)
    return load_network(weights, None)


@pytest.mark.parametrize(
    ("file", "kind"),
    [
        ("waifu2x/noise1_scale2.0x_model", UpCunet2x),
        ("realcugan/up2x-no-denoise", UpCunet2x),
        ("realcugan/up3x-conservative", UpCunet3x),
        ("realcugan/up3x-no-denoise", UpCunet3x),
    ][:: 1 if LONG else 2],
)
def test_the_networks_of_the_peers_are_found(
    weights_dir: Path, tmp_path: Path, file: str, kind: type[torch.nn.Module]
) -> None:
    network = peer(weights_dir, tmp_path, file, kind)
    assert looks_at_all(network)
    forward = NetworkPass(network, CPU, torch.float32)

    def run(picture: UInt8Array) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        x = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None] / 255
        with torch.no_grad():
            return np.asarray(forward.compute(x)[0].numpy(), np.float32)

    assert sees_far(run, 3), "by the pixels alone, too"


@pytest.mark.parametrize(
    "file", ["waifu2x/scale2.0x_model", "realcugan/up2x-conservative"][: 2 if LONG else 1]
)
def test_the_networks_of_the_peers_are_given_whole_pages(
    weights_dir: Path, comics_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    # A page need not be large for that.
    few = AutoLimits(whole_pixels=16_384, tile=128, batch_pixels=1)
    monkeypatch.setitem(AUTO_LIMITS, "cpu", few)
    network, scale = peer(weights_dir, tmp_path, file), 2
    with Image.open(comics_dir / "dev" / "haruko__01.jpg") as image:
        source = np.asarray(image.convert("RGB").crop((100, 100, 280, 300)))
    batch = Batch(source[None], (source.shape[1] * scale, source.shape[0] * scale))
    engine = TorchEngine(network, device=CPU)
    made = engine.upscale(batch)
    assert made.borders == NO_BORDERS
    assert TorchEngine(replace(network, is_local=True), device=CPU).upscale(batch).borders != NO_BORDERS
    tiled = TorchEngine(network, device=CPU, tile=128).upscale(batch)
    assert tiled.notes == (IN_TILES,)
    error = np.square(tiled.pixels.astype(float) - made.pixels).mean()
    assert 10 * np.log10(255**2 / error) < 50, "else nothing would be lost by tiles"
