"""ONNX networks: held against torch, and what is no such network refused in words."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from PIL import Image
from spandrel.architectures.Compact import Compact
from typer.testing import CliRunner

from comic_upscale.cli import app
from comic_upscale.engines import onnx_network, reach
from comic_upscale.engines.base import Batch, EngineResources
from comic_upscale.engines.host_resample import resample_window
from comic_upscale.engines.lanczos import Span
from comic_upscale.engines.onnx import OnnxEngine, OnnxOptions
from comic_upscale.engines.onnx_file import read_onnx
from comic_upscale.engines.reach import IN_TILES
from comic_upscale.engines.torch.engine import TorchEngine
from comic_upscale.engines.torch.resample import resample
from comic_upscale.errors import PageError, SettingsError, WeightsError
from comic_upscale.imaging.pixels import NO_BORDERS
from comic_upscale.models.network import Network
from tests.conftest import MakeSettings
from tests.engines.conftest import MakeNetwork
from tests.engines.drawn_pages import draw_pages, worst
from tests.onnx_networks import export, network, node, tensor

CPU = torch.device("cpu")


def open_onnx(
    path: Path, *, tile: int | None = None, batch: int | None = None, **options: object
) -> OnnxEngine:
    return OnnxEngine(
        path,
        identity=read_onnx(path).identity(),
        device="cpu",
        options=OnnxOptions(**options),  # type: ignore[arg-type]
        resources=EngineResources(tile=tile, batch=batch),
    )  # fmt: skip


@pytest.fixture(scope="module")
def exported(compact: Network, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compact network of the torch engine's tests."""
    return export(compact.module, tmp_path_factory.mktemp("onnx") / "compact.onnx")


@pytest.fixture(scope="module")
def gray_exported(gray_compact: Network, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(gray_compact.module, tmp_path_factory.mktemp("onnx") / "gray.onnx", channels=1)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("target", [(300, 360), (188, 225), (80, 95), (150, 180)])
def test_equals_torch_within_a_grey_level(
    exported: Path, compact: Network, channels: int, target: tuple[int, int]
) -> None:
    batch = Batch(draw_pages(2, 90, 75, channels), target)
    expected = TorchEngine(compact, device=CPU).upscale(batch).pixels
    assert worst(open_onnx(exported).upscale(batch).pixels, expected) <= 1


@pytest.mark.parametrize("channels", [1, 3])
def test_a_gray_network_takes_gray_and_colour_as_by_torch(
    gray_exported: Path, gray_compact: Network, channels: int
) -> None:
    batch = Batch(draw_pages(2, 33, 29, channels), (58, 66))
    expected = TorchEngine(gray_compact, device=CPU).upscale(batch).pixels
    assert worst(open_onnx(gray_exported).upscale(batch).pixels, expected) <= 1


@pytest.mark.parametrize("target", [(300, 360), (188, 225), (80, 95)])
def test_tiled_equals_untiled(exported: Path, target: tuple[int, int]) -> None:
    batch = Batch(draw_pages(2, 190, 175), target)
    whole = open_onnx(exported, tile=0).upscale(batch)
    tiled = open_onnx(exported, tile=64).upscale(batch)
    assert whole.borders == NO_BORDERS and tiled.borders.rows and tiled.borders.columns
    assert worst(tiled.pixels, whole.pixels) <= 1
    again = open_onnx(exported, tile=64).upscale(Batch(batch.pixels, target, conservative=True))
    assert worst(again.pixels, whole.pixels) <= 1 and again.notes == ()


def test_sixteen_bits_are_kept(exported: Path, compact: Network) -> None:
    source = np.random.default_rng(3).integers(0, 65536, (1, 40, 30, 3), np.uint16)
    batch = Batch(source, (75, 100))
    made = open_onnx(exported).upscale(batch).pixels
    expected = TorchEngine(compact, device=CPU).upscale(batch).pixels
    assert made.dtype == np.uint16
    assert np.abs(made.astype(int) - expected.astype(int)).max() <= 64, "a quarter of a level of 8 bits"


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (3, 2), (17, 5)])
def test_tiny_pages_are_padded(exported: Path, size: tuple[int, int]) -> None:
    made = open_onnx(exported).upscale(Batch(draw_pages(1, *size), (size[1] * 4, size[0] * 4)))
    assert made.pixels.shape == (1, size[0] * 4, size[1] * 4, 3)


def test_half_precision_is_found_and_said(compact: Network, tmp_path: Path) -> None:
    torch.manual_seed(7)
    module = Compact(num_feat=8, num_conv=2, upscale=4)
    path = export(module, tmp_path / "half.onnx", half=True)
    engine = open_onnx(path)
    assert (engine.info.precision, engine.info.native_scale) == ("fp16", 4)
    batch = Batch(draw_pages(1, 40, 40), (100, 100))
    assert worst(engine.upscale(batch).pixels, TorchEngine(compact, device=CPU).upscale(batch).pixels) <= 3
    with pytest.raises(SettingsError, match="computes in fp16"):
        OnnxEngine(path, identity="", device="cpu", resources=EngineResources(precision="fp32"))


@pytest.mark.parametrize("size", [(64, 64), (48, 96), (32, 40)])
def test_a_network_of_one_size_only_does_pages_of_any(
    compact: Network, tmp_path: Path, size: tuple[int, int]
) -> None:
    path = export(compact.module, tmp_path / "fixed.onnx", size=size, fixed=True)
    engine = open_onnx(path)
    assert engine.info.native_scale == 4 and engine.info.warnings == ()
    whole = TorchEngine(compact, device=CPU, tile=0)
    for height, width in ((size[0] + 40, size[1] + 50), (7, 200), size):
        batch = Batch(draw_pages(1, height, width), (width * 2, height * 2))
        made, expected = engine.upscale(batch), whole.upscale(batch).pixels
        # A page that is smaller is padded, where the other one ends in zeros: its last pixels differ.
        inside = (slice(None), slice(0, min(height, size[0]) * 2 - 12 if height < size[0] else None))
        assert worst(made.pixels[inside], expected[inside]) <= 1


class Folding(torch.nn.Module):
    """Folds squares of four pixels and unfolds them: sides must be multiples of four."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = torch.nn.Conv2d(48, 3 * 64, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.nn.functional.pixel_unshuffle(x, 4)
        return torch.nn.functional.pixel_shuffle(self.mix(y), 8) * 0.1 + 0.5


def test_a_network_that_folds_pixels_is_given_multiples(tmp_path: Path, make_network: MakeNetwork) -> None:
    torch.manual_seed(4)
    path = export(Folding(), tmp_path / "folding.onnx")
    torch.manual_seed(4)
    network = make_network(Folding(), native_scale=2, multiple_of=4, minimum=4)
    batch = Batch(draw_pages(1, 131, 117), (200, 224))
    for tile in (0, 64):
        expected = TorchEngine(network, device=CPU, tile=tile, overlap=32).upscale(batch)
        made = open_onnx(path, tile=tile).upscale(batch)
        assert worst(made.pixels, expected.pixels) <= 1
        assert made.borders == expected.borders


def test_a_batch_equals_its_pages_one_by_one(exported: Path) -> None:
    source = draw_pages(5, 70, 68)
    engine = open_onnx(exported, batch=4)
    together = engine.upscale(Batch(source, (170, 175))).pixels
    alone = np.concatenate([engine.upscale(Batch(page[None], (170, 175))).pixels for page in source])
    assert worst(together, alone) <= 1
    assert open_onnx(exported).batch_limit(70, 68) == 1
    assert engine.batch_limit(70, 68) == 4


# A network that looks at a whole page


class Squeeze(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        larger = torch.nn.functional.interpolate(x, scale_factor=2)
        return larger * (0.5 + 0.5 * x.mean(dim=(2, 3), keepdim=True))


def test_a_network_that_looks_at_a_whole_page_is_given_whole_pages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = export(Squeeze(), tmp_path / "squeeze.onnx")
    assert read_onnx(path).goes_over_a_page
    batch = Batch(np.linspace(0, 255, 500).astype(np.uint8)[None, :, None, None].repeat(300, 2), (600, 1000))
    whole = open_onnx(path, tile=0).upscale(batch).pixels
    made = open_onnx(path).upscale(batch)
    assert np.array_equal(made.pixels, whole) and (made.borders, made.notes) == (NO_BORDERS, ())
    engine = open_onnx(path, tile=128)
    tiled = engine.upscale(batch)
    assert "looks at a whole page" in engine.info.warnings[0] and tiled.notes == (IN_TILES,)
    assert worst(tiled.pixels, whole) > 20
    monkeypatch.setattr(reach, "MEMORY_FOR_WHOLE", 1e-9)
    assert open_onnx(path).upscale(batch).notes == (IN_TILES,)


def test_a_whole_page_network_of_one_size_is_warned_of(tmp_path: Path) -> None:
    engine = open_onnx(export(Squeeze(), tmp_path / "fixed.onnx", size=(64, 64), fixed=True))
    assert "does not accept larger pieces" in engine.info.warnings[0]
    assert engine.upscale(Batch(draw_pages(1, 90, 90), (180, 180))).notes == (IN_TILES,)


@pytest.mark.parametrize(
    "nodes",
    [
        lambda: [node("GlobalAveragePool", ["x"], ["m"]), node("Mul", ["x", "m"], ["s"])],
        lambda: [node("ReduceMean", ["x", "axes"], ["m"], keepdims=1), node("Mul", ["x", "m"], ["s"])],
        lambda: [node("ReduceMax", ["x"], ["m"], keepdims=1), node("Mul", ["x", "m"], ["s"])],
        lambda: [node("InstanceNormalization", ["x", "one", "zero"], ["s"])],
    ],
)  # fmt: skip
def test_operators_that_go_over_a_page_are_found_in_the_file(tmp_path: Path, nodes: object) -> None:
    larger = node("DepthToSpace", ["c"], ["y"], blocksize=2)
    made = [*nodes(), node("Concat", ["s", "s", "s", "s"], ["c"], axis=1), larger]  # type: ignore[operator]
    axes, one, zero = (
        tensor("axes", [2, -1]),
        tensor("one", np.ones(3, "f")),
        tensor("zero", np.zeros(3, "f")),
    )
    path = network(tmp_path / "net.onnx", made, initializers=[axes, one, zero])
    assert read_onnx(path).goes_over_a_page


def test_a_mean_over_channels_is_no_mean_over_a_page(tmp_path: Path) -> None:
    made = [
        node("ReduceMean", ["x", "axes"], ["m"], keepdims=1), node("Mul", ["x", "m"], ["s"]),
        node("Concat", ["s", "s", "s", "s"], ["c"], axis=1), node("DepthToSpace", ["c"], ["y"], blocksize=2),
    ]  # fmt: skip
    path = network(tmp_path / "net.onnx", made, initializers=[tensor("axes", [1])])
    assert not read_onnx(path).goes_over_a_page
    assert open_onnx(path, tile=64).info.warnings == ()


# What is no such network


SAME = [node("Identity", ["x"], ["y"])]


def larger() -> list[object]:
    """A network that enlarges twice by repeating channels; not what a picture should become, but its size."""
    return [node("Concat", ["x"] * 4, ["c"], axis=1), node("DepthToSpace", ["c"], ["y"], blocksize=2)]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda path: network(
                path, [node("MaxPool", ["x"], ["y"], kernel_shape=[2, 2], strides=[2, 2])], made=("n", 3, "a", "b")
            ),
            "height and width must stay or grow",
        ),
        (lambda path: network(path, larger(), shape=("n", 4, "h", "w"), made=("n", 4, "a", "b")), "has 4 channels"),
        (lambda path: network(path, larger(), shape=("n", "h", "w", 3), made=("n", 3, "a", "b")), "NHWC"),
        (lambda path: network(path, larger(), shape=(4, 3, "h", "w"), made=(4, 3, "a", "b")), "only 4 images at once"),
        (lambda path: network(path, larger(), shape=("n", 3, "h", 64), made=("n", 3, "a", 128)), "only one side"),
        (lambda path: network(path, SAME, shape=("n", 3), made=("n", 3)), "2 dimensions, not 4"),
        (lambda path: network(path, larger(), shape=(1, 3, 8, 64), made=(1, 3, 16, 128)), "accepts only 64x8 pixels"),
        (lambda path: network(path, SAME, kind="UINT8"), r"input is tensor\(uint8\)"),
        (
            lambda path: network(path, [*larger(), node("Identity", ["xx"], ["yy"])], inputs=2, outputs=2),
            "has 2 inputs",
        ),
        (
            lambda path: network(
                path, [node("Flatten", ["x"], ["y"])], made=("n", "features")
            ),
            "no output that is an image",
        ),
    ],
)  # fmt: skip
def test_what_enlarges_no_images_is_refused(tmp_path: Path, make: object, message: str) -> None:
    path = make(tmp_path / "net.onnx")  # type: ignore[operator]
    with pytest.raises(WeightsError, match=message):
        open_onnx(path)


def test_custom_operators_are_refused_before_anything_is_loaded(
    tmp_path: Path, make_settings: MakeSettings
) -> None:
    made = [node("Sharpen", ["x"], ["y"], domain="my.company")]
    path = network(tmp_path / "net.onnx", made, domains=("", "my.company"))
    with pytest.raises(WeightsError, match=r"operators that onnxruntime does not have: my\.company\.Sharpen"):
        from comic_upscale.jobs.run import run_job

        run_job(make_settings(backend="onnx", model=str(path)))


def _with_data_outside(path: Path, location: str) -> Path:
    import onnx
    from onnx.external_data_helper import set_external_data

    torch.manual_seed(7)
    export(Compact(num_feat=8, num_conv=2, upscale=4), path)
    model = onnx.load(path)
    data = b""
    for each in model.graph.initializer:
        raw = each.raw_data
        if len(raw) > 64:
            set_external_data(each, location, offset=len(data), length=len(raw))
            each.ClearField("raw_data")
            data += raw
    path.write_bytes(model.SerializeToString())
    (path.parent / "weights.bin").write_bytes(data)
    return path


def test_weights_beside_the_network_are_read_and_part_of_its_identity(
    tmp_path: Path, compact: Network
) -> None:
    path = _with_data_outside(tmp_path / "net.onnx", "weights.bin")
    file = read_onnx(path)
    assert [each.name for each in file.data_files] == ["weights.bin"]
    batch = Batch(draw_pages(1, 40, 40), (100, 100))
    made = open_onnx(path).upscale(batch).pixels
    assert worst(made, TorchEngine(compact, device=CPU).upscale(batch).pixels) <= 1
    before = file.identity()
    data = bytearray((tmp_path / "weights.bin").read_bytes())
    data[0] ^= 1
    (tmp_path / "weights.bin").write_bytes(data)
    assert read_onnx(path).identity() != before


@pytest.mark.parametrize(
    "location", ["../weights.bin", "/etc/passwd", "C:\\weights.bin", "a/../../weights.bin", ""]
)
def test_data_outside_of_its_folder_is_refused(tmp_path: Path, location: str) -> None:
    (tmp_path / "inner").mkdir()
    path = _with_data_outside(tmp_path / "inner" / "net.onnx", location)
    (tmp_path / "weights.bin").write_bytes((tmp_path / "inner" / "weights.bin").read_bytes())
    with pytest.raises(WeightsError, match="refers to data outside its folder"):
        read_onnx(path)
    with pytest.raises(WeightsError, match="refers to data outside its folder"):
        OnnxEngine(path, identity="")


@pytest.mark.skipif(os.name == "nt", reason="symbolic links need rights there")
def test_a_link_out_of_the_folder_is_no_way_round(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    path = _with_data_outside(tmp_path / "inner" / "net.onnx", "weights.bin")
    (tmp_path / "inner" / "weights.bin").rename(tmp_path / "weights.bin")
    with pytest.raises(WeightsError, match="missing from its folder"):
        read_onnx(path)
    (tmp_path / "inner" / "weights.bin").symlink_to(tmp_path / "weights.bin")
    with pytest.raises(WeightsError, match="outside its folder"):
        read_onnx(path)


@settings(max_examples=300)
@given(st.data())
def test_no_bytes_break_the_reader(
    exported: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = bytearray(exported.read_bytes())
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content)))]
    for _ in range(data.draw(st.integers(0, 8))):
        if content:
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "broken.onnx"
    path.write_bytes(bytes(content))
    try:
        read_onnx(path)
    except WeightsError as error:
        assert str(path) in str(error)


def test_files_that_are_no_networks(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="does not exist"):
        read_onnx(tmp_path / "none.onnx")
    with pytest.raises(WeightsError, match="is a folder"):
        read_onnx(tmp_path)
    for content in (b"", b"not a network at all", b"\x08\x09"):
        (tmp_path / "bad.onnx").write_bytes(content)
        with pytest.raises(WeightsError, match=r"bad\.onnx is damaged, or not an ONNX file"):
            read_onnx(tmp_path / "bad.onnx")


def test_numbers_that_are_not_finite_are_the_page_s_failure(tmp_path: Path) -> None:
    made = [node("Log", ["x"], ["l"]), node("Concat", ["l"] * 4, ["c"], axis=1), larger()[1]]
    engine = open_onnx(network(tmp_path / "net.onnx", made))
    with pytest.raises(PageError) as raised:
        engine.upscale(Batch(np.zeros((1, 20, 20, 3), np.uint8), (40, 40)))
    assert raised.value.kind == "not-finite"


# Settings, and a whole run


def test_devices_and_providers(exported: Path) -> None:
    engine = open_onnx(exported, threads=1, provider="cpu")
    assert str(engine.info.device) == "cpu (onnxruntime, 1 thread)"
    for wrong in ("tpu", "cuda:x", "cuda:-1"):
        with pytest.raises(SettingsError, match="has no device"):
            OnnxEngine(exported, identity="", device=wrong)
    with pytest.raises(SettingsError, match="no provider 'nothing' on this machine: it has"):
        open_onnx(exported, provider="nothing")
    with pytest.raises(SettingsError, match="tiles of 5 pixels"):
        open_onnx(exported, tile=5)
    engine.close()
    engine.close()


def test_settings_that_an_onnx_network_does_not_have(make_settings: MakeSettings, exported: Path) -> None:
    from comic_upscale.planning.model_selection import named_model

    with pytest.raises(SettingsError, match="add --model"):
        named_model(make_settings(backend="onnx", model="auto"))
    with pytest.raises(SettingsError, match="does not support --denoise"):
        named_model(make_settings(backend="onnx", model=str(exported), denoise=0.5))
    with pytest.raises(SettingsError, match="add --engine onnx"):
        named_model(make_settings(model=str(exported)))


def test_without_onnxruntime_the_error_says_how_to_get_it(
    exported: Path, make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    from comic_upscale.jobs.run import run_job

    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(SettingsError, match=r"pip install '\.\[onnx\]'"):
        run_job(make_settings(backend="onnx", model=str(exported)))


def test_a_run_by_the_command_and_its_resumption(exported: Path, pages: Path, tmp_path: Path) -> None:
    arguments = [
        "run", "-i", str(pages), "-o", str(tmp_path / "out"), "--scale", "2", "--engine", "onnx",
        "-m", str(exported), "--device", "cpu", "--engine-option", "threads=1", "--json",
    ]  # fmt: skip
    first = CliRunner().invoke(app, arguments)
    assert first.exit_code == 0, first.output
    events = [json.loads(line) for line in first.stdout.splitlines()]
    started = next(event for event in events if event["event"] == "job_started")
    assert (started["model"], started["native_scale"], started["precision"]) == ("compact.onnx", 4, "fp32")
    assert started["device"] == "cpu (onnxruntime, 1 thread)"
    assert events[-1]["done_now"] == 12
    outputs = sorted((tmp_path / "out").rglob("*.png"))
    with Image.open(outputs[0]) as image:
        assert image.size == (48, 64) or image.size == (40, 40)
    outputs[0].unlink()
    # Threads decide no pixels: the same job.
    again = CliRunner().invoke(app, [*arguments[:-3], "--engine-option", "threads=2", "--json"])
    assert json.loads(again.stdout.splitlines()[-1])["done_now"] == 1
    with closing(sqlite3.connect(tmp_path / "out" / ".comic-upscale" / "ledger.sqlite3")) as ledger, ledger:
        assert ledger.execute("select model, model_sha256 from jobs").fetchall() == [
            ("compact.onnx", read_onnx(exported).identity())
        ]


def test_the_engine_needs_no_torch(exported: Path, pages: Path, tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from comic_upscale.jobs.run import run_job\n"
        "from comic_upscale.settings.job import JobSettings\n"
        f"settings = JobSettings(input=Path({str(pages)!r}), output=Path({str(tmp_path / 'out')!r}), scale=2.0,\n"
        f"    backend='onnx', model={str(exported)!r}, device='cpu')\n"
        "print(run_job(settings).done, 'torch' in sys.modules)\n"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).split() == ["12", "False"]


@pytest.mark.parametrize("way", ["command", "library"])
def test_nothing_is_reported_to_the_maker_of_onnxruntime(
    exported: Path, pages: Path, tmp_path: Path, way: str
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    # On a machine for tests, onnxruntime reports nothing anyway.
    quiet = ("CI", "ORT_DISABLE_TELEMETRY", "TF_BUILD", "GITHUB_ACTIONS", "ORT_RUNNING_UNIT_TESTS")
    environment = {name: value for name, value in os.environ.items() if name not in quiet}
    environment |= {"HOME": str(home), "XDG_CACHE_HOME": str(home / ".cache")}
    if way == "command":
        words = ["-m", "comic_upscale", "run", str(pages), "-o", str(tmp_path / "out")]
        words += ["--engine", "onnx", "--model", str(exported), "--device", "cpu"]
    else:
        load = "from pathlib import Path\nfrom comic_upscale.engines.onnx_network import OnnxNetwork\n"
        words = ["-c", f"{load}OnnxNetwork(Path({str(exported)!r}), device='cpu', provider=None, threads=1)"]
    subprocess.run([sys.executable, *words], env=environment, check=True, capture_output=True)
    # What it would report waits in a database there.
    assert not [path for path in home.rglob("*") if "onnxruntime" in path.name]


@given(st.data())
@settings(max_examples=40)
def test_the_host_resamples_as_torch_does(data: st.DataObject) -> None:
    source = (data.draw(st.integers(1, 60)), data.draw(st.integers(1, 60)))
    target = (data.draw(st.integers(1, 200)), data.draw(st.integers(1, 200)))
    cells = []
    for length in target:
        start = data.draw(st.integers(0, length - 1))
        cells.append(Span(start, data.draw(st.integers(start + 1, length))))
    picture = np.random.default_rng(1).random((2, *source), dtype=np.float32)
    ours = resample_window(picture, source_size=source, target_size=target, rows=cells[0], columns=cells[1])
    theirs = resample(
        torch.from_numpy(picture)[None],
        source_size=source,
        target_size=target,
        rows=cells[0],
        columns=cells[1],
    )[0]
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs.numpy()).max() < 1e-5


# Networks that take all memory, or endless time


def _endless(path: Path) -> Path:
    from onnx import TensorProto, helper

    one_value = [helper.make_tensor_value_info("v2", TensorProto.FLOAT, [1])]
    body = helper.make_graph(
        [node("Identity", ["c"], ["c2"]), node("Add", ["v", "one"], ["v2"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("c", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v", TensorProto.FLOAT, [1]),
        ],
        [helper.make_tensor_value_info("c2", TensorProto.BOOL, []), *one_value],
    )
    return network(
        path,
        [node("Loop", ["n", "true", "zero"], ["last"], body=body), node("Add", ["x", "last"], ["y"])],
        initializers=[
            tensor("n", np.array(2**62)),
            tensor("true", np.array(True)),
            tensor("zero", np.zeros(1, np.float32)),
            tensor("one", np.ones(1, np.float32)),
        ],
    )


def test_a_network_that_never_ends_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _endless(tmp_path / "endless.onnx")
    monkeypatch.setattr(onnx_network, "_TRIED_SECONDS", 1.0)
    with pytest.raises(WeightsError, match="it takes more than 1 seconds for an image of 64 pixels a side"):
        OnnxEngine(path, identity="0" * 64, device="cpu")


@pytest.mark.parametrize("operator", ["ConstantOfShape", "Expand", "Tile", "Resize"])
def test_a_network_that_makes_far_more_than_a_page_is_refused(tmp_path: Path, operator: str) -> None:
    sides = tensor("sides", np.array([1, 3, 200_000, 200_000]))
    inputs = {"ConstantOfShape": ["sides"], "Resize": ["x", "", "", "sides"]}.get(operator, ["x", "sides"])
    path = network(tmp_path / "huge.onnx", [node(operator, inputs, ["y"])], initializers=[sides])
    with pytest.raises(WeightsError, match="it makes 120,000,000,000 numbers at once"):
        read_onnx(path)


def test_a_file_of_endless_fields_is_refused_in_time(tmp_path: Path) -> None:
    """Fifty million fields of two bytes each would take a minute to read."""
    path = tmp_path / "fields.onnx"
    path.write_bytes(b"\x08\x01" * 50_000_000)
    with pytest.raises(WeightsError, match="damaged, or not an ONNX file"):
        read_onnx(path)
