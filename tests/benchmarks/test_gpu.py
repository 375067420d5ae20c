"""The parts of the card's benchmark that need no card: its clock, its report, its random networks, its pages."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from spandrel.architectures.Compact import Compact
from spandrel.architectures.ESRGAN import ESRGAN

from benchmarks.gpu import CASES, Bench, Case, Piece, name_for_nvidia_smi, random_network, save_weights
from benchmarks.whole_run import HEIGHT, WIDTH, cut_pages, open_official
from comic_upscale.engines.base import Batch
from comic_upscale.engines.torch.engine import TorchEngine
from comic_upscale.models.network import load_network
from tests.programs import needs_program

CPU = torch.device("cpu")
SMALL = (
    Case("compact", lambda: Compact(num_feat=16, num_conv=3, upscale=4), 0),
    Case("rrdb", lambda: ESRGAN(num_filters=16, num_blocks=2, scale=4), 0),
    Case("rrdb-x2", lambda: ESRGAN(in_nc=12, num_filters=16, num_blocks=2, scale=4, shuffle_factor=2), 0),
)
each_small = pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)


def found(path: Path) -> dict[str, object]:
    report: dict[str, object] = json.loads(path.read_text(encoding="utf-8"))
    return report


def failing() -> dict[str, object]:
    raise RuntimeError("no kernel\nand many lines more")


def test_after_the_minutes_parts_and_pieces_are_left_out_by_name(tmp_path: Path) -> None:
    path = tmp_path / "gpu.json"
    bench = Bench(CPU, 60, path)
    bench.part("networks", [Piece("slow", failing, seconds=61), Piece("quick", lambda: {"ms": 1})])
    late = Bench(CPU, 0, path)
    late.part("files", [Piece("whole run", failing)])
    assert bench.report["networks"] == {"quick": {"ms": 1}}
    assert bench.left_out == ["networks: slow"]
    assert found(path)["left_out"] == ["files"]
    assert "files" not in found(path)


def test_what_fails_takes_no_figures_with_it(tmp_path: Path) -> None:
    def pieces() -> Iterator[Piece]:
        yield Piece("first", lambda: {"ms": 1})
        # What was measured is on the disk before the next begins.
        assert found(path)["part"] == {"first": {"ms": 1}}
        yield Piece("second", failing)
        yield Piece("third", lambda: {"ms": 3})
        raise ValueError("nothing more")

    path = tmp_path / "gpu.json"
    bench = Bench(CPU, 60, path)
    bench.part("part", pieces())
    bench.part("next", [Piece("one", lambda: {"ms": 4})])
    assert found(path)["part"] == {
        "first": {"ms": 1},
        "second": {"failed": "RuntimeError: no kernel"},
        "third": {"ms": 3},
        "failed": "ValueError: nothing more",
    }
    assert found(path)["next"] == {"one": {"ms": 4}}


@each_small
def test_random_networks_draw_pictures(case: Case, tmp_path: Path, drawing: Image.Image) -> None:
    network = load_network(save_weights(random_network(case), tmp_path / "random.safetensors"), None)
    source = np.asarray(drawing)
    size = (source.shape[1] * 2, source.shape[0] * 2)
    pages = (
        TorchEngine(network, device=CPU, precision=torch.bfloat16).upscale(Batch(source[None], size)).pixels
    )
    assert 10 < pages.std() < 120
    assert 60 < pages.mean() < 240
    ends = float(np.mean((pages == 0) | (pages == 255)))
    # The page that a compact network adds has black and white of its own.
    assert ends < (0.95 if case.name == "compact" else 0.1)


@each_small
def test_saved_weights_are_the_network(case: Case, tmp_path: Path) -> None:
    module = random_network(case)
    again = load_network(save_weights(module, tmp_path / "random.safetensors"), None).module
    page = torch.rand(1, 3, 24, 16)
    assert torch.equal(again(page), module(page))


@needs_program
@each_small
def test_the_official_program_takes_the_weights(case: Case, tmp_path: Path) -> None:
    weights = save_weights(random_network(case), tmp_path / "random.safetensors")
    engine = TorchEngine(load_network(weights, None), device=CPU)
    program = open_official(weights, engine)
    source = np.random.default_rng(1).integers(0, 256, (16, 24, 3), np.uint8)
    theirs, _ = program.enhance(source[:, :, ::-1], outscale=None)  # type: ignore[attr-defined]
    scale = engine.info.native_scale
    ours = engine.upscale(Batch(source[None], (24 * scale, 16 * scale))).pixels[0]
    assert np.abs(ours.astype(int) - theirs[:, :, ::-1]).max() <= 1


@pytest.mark.parametrize("make", [case.make for case in CASES], ids=[case.name for case in CASES])
def test_the_last_convolution_makes_the_pixels(make: Callable[[], torch.nn.Module]) -> None:
    with torch.device("meta"):
        module = make()
    last = [part for part in module.modules() if isinstance(part, torch.nn.Conv2d)][-1]
    assert last.out_channels == (48 if isinstance(module, Compact) else 3)


@pytest.mark.parametrize(
    ("visible", "index", "name"),
    [(None, 1, "1"), ("", 0, "0"), ("2,5", 1, "5"), ("GPU-a1, GPU-b2", 1, "GPU-b2")],
)
def test_nvidia_smi_is_asked_for_the_gpu_that_torch_counts(
    visible: str | None, index: int, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert name_for_nvidia_smi(index) == name


def test_pages_are_cut_in_turn_and_no_two_files_are_the_same(
    tmp_path: Path, drawing: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "comics" / "dev"
    folder.mkdir(parents=True)
    for number, width in enumerate((600, 500, 1700, 520)):
        drawing.resize((width, 900)).save(folder / f"{number}.png")
    monkeypatch.setenv("COMIC_UPSCALE_COMICS", str(folder.parent))
    pages = cut_pages(tmp_path / "pages", 5)
    assert [path.name for path in pages] == ["000.png", "001.png", "002.png", "003.png", "004.png"]
    assert len({path.read_bytes() for path in pages}) == 5
    for number, path in enumerate(pages):
        with Image.open(path) as page, Image.open(folder / ("0.png", "3.png")[number % 2]) as source:
            left, top = (source.width - WIDTH) // 2, 37 * number % (900 - HEIGHT + 1)
            assert np.array_equal(page, source.crop((left, top, left + WIDTH, top + HEIGHT)))
