"""The promises of every engine, checked on each one that can be opened here."""

from __future__ import annotations

import importlib.util
import itertools
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from comic_upscale.engines import registry
from comic_upscale.engines.base import Batch, Engine, Upscaled
from comic_upscale.engines.pages import prepare, upscale_pages
from comic_upscale.engines.tta import TtaEngine
from comic_upscale.errors import PageError
from comic_upscale.imaging.pixels import Pixels, SampleArray
from comic_upscale.models.network import load_network
from comic_upscale.models.weights import resolve_weights
from comic_upscale.settings.engines import BUILT_IN
from comic_upscale.settings.job import JobSettings
from tests.conftest import LONG, MakeJob, pairs
from tests.engines.drawn_pages import draw_pages
from tests.engines.fake_imagen import serve
from tests.fakes import NearestEngine
from tests.onnx_networks import export

TOOL = Path(__file__).with_name("upscale_tool.py")
COMMAND = f"{shlex.quote(sys.executable)} {shlex.quote(str(TOOL))} repeat {{in}} {{out}} {{scale}}"


@dataclass(frozen=True)
class Side:
    """An engine as the suite opens it."""

    name: str
    """In the registry; ``fake`` for the engine of the tests, which is in no registry."""
    changes: dict[str, object]
    """Of the settings."""
    tiles: bool = False
    """Whether it cuts a page of 200 pixels."""
    is_kept: bool = False
    """Whether one engine serves all tests that do not close it, since it takes seconds to open."""


SIDES = {
    "fake": Side("fake", {}),
    "fake, all turns": Side("fake", {"tta": True}),
    "torch": Side("torch", {"device": "cpu"}),
    "torch in tiles": Side("torch", {"device": "cpu", "tile": 64}, tiles=True),
    "torch, half": Side("torch", {"device": "cpu", "precision": "bf16"}),
    "onnx": Side("onnx", {"device": "cpu"}),
    "onnx in tiles": Side("onnx", {"device": "cpu", "tile": 64}, tiles=True),
    "command": Side("command", {"model": "auto", "engine_options": {"command": COMMAND}}),
    "flux": Side("flux", {"model": "auto", "device": "cpu"}, is_kept=True),
    "imagen": Side("imagen", {"model": "auto"}),
    "realesrgan": Side("realesrgan", {"device": "cpu"}),
    "realesrgan in tiles": Side("realesrgan", {"device": "cpu", "tile": 64}, tiles=True),
}


# What diffusers warns of is not ours.
_MARKS = {"flux": [pytest.mark.filterwarnings("ignore")]}
PARAMS = [pytest.param(name, marks=_MARKS.get(name, ())) for name in SIDES]


@pytest.fixture(scope="session")
def tiny_onnx(tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("onnx")
    weights = resolve_weights(str(tiny_weights), denoise=None, folders=[], cache=folder)
    return export(load_network(weights, None).module, folder / "tiny-x4.onnx")


@pytest.fixture(scope="module")
def imagen_options(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, object]]:
    with serve() as fake:
        key = fake.key_file(tmp_path_factory.mktemp("imagen") / "key.json")
        yield {
            "project": "my-project", "price_per_image": 0.06, "endpoint": fake.address, "credentials": key,
        }  # fmt: skip


@pytest.fixture(scope="module")
def flux_options(tmp_path_factory: pytest.TempPathFactory, tiny_weights: Path) -> dict[str, object]:
    """A pipeline of random weights that draws a page of these tests in one tile and one step."""
    from tests.engines.tiny_flux import make_embeddings, make_flux

    folder = tmp_path_factory.mktemp("flux")
    return {
        "pipeline": make_flux(folder / "tiny-flux"), "embeddings": make_embeddings(folder / "prompt.safetensors"),
        "first_pass": tiny_weights, "tile": 512, "steps": 4, "strength": 0.25,
    }  # fmt: skip


@pytest.fixture(scope="module")
def kept() -> Iterator[dict[str, Engine]]:
    engines: dict[str, Engine] = {}
    yield engines
    for engine in engines.values():
        engine.close()


@pytest.fixture(params=PARAMS)
def side(request: pytest.FixtureRequest) -> Side:
    chosen = SIDES[request.param]
    if chosen.name == "realesrgan" and importlib.util.find_spec("realesrgan") is None:
        pytest.skip("the official program is not installed")
    if chosen.name == "imagen":
        pytest.importorskip("google.auth", reason="the extra [imagen] is not installed")
    if chosen.name == "flux":
        if any(importlib.util.find_spec(name) is None for name in registry.find_factory("flux").packages):
            pytest.skip("the extra [flux] is not installed")
        request.getfixturevalue("one_thread")
    return chosen


@pytest.fixture
def settings(
    side: Side, make_job: MakeJob, tiny_onnx: Path, request: pytest.FixtureRequest
) -> JobSettings | None:
    if side.name == "fake":
        return None
    models: dict[str, dict[str, object]] = {"onnx": {"model": str(tiny_onnx)}}
    if side.name in ("flux", "imagen"):
        models[side.name] = {"engine_options": request.getfixturevalue(f"{side.name}_options")}
    return make_job(backend=side.name, **{**models.get(side.name, {}), **side.changes})


@pytest.fixture
def engine(
    side: Side, settings: JobSettings | None, kept: dict[str, Engine], request: pytest.FixtureRequest
) -> Iterator[Engine]:
    is_kept = side.is_kept and "closing" not in request.node.name
    if is_kept and side.name in kept:
        yield kept[side.name]
        return
    if settings is None:
        engines: list[Engine] = [NearestEngine(limit=3)]
        if side.changes:
            engines = [TtaEngine(engines[0])]
    else:
        engines = registry.open_engines(settings, registry.prepare_engine(settings))
    if is_kept:
        kept[side.name] = engines[0]
        yield engines[0]
        return
    yield engines[0]
    for each in engines:
        each.close()


def levels_apart(one: SampleArray, other: SampleArray) -> float:
    assert one.shape == other.shape and one.dtype == other.dtype
    levels = np.iinfo(one.dtype).max / 255
    return float(np.abs(one.astype(float) - other.astype(float)).max() / levels)


def check(made: Upscaled, batch: Batch) -> None:
    count, channels = batch.pixels.shape[0], batch.pixels.shape[3]
    width, height = batch.target_size
    assert made.pixels.shape == (count, height, width, channels)
    assert made.pixels.dtype == batch.pixels.dtype
    for places, length in ((made.borders.rows, height), (made.borders.columns, width)):
        assert list(places) == sorted(set(places))
        assert all(0 < place < length for place in places)
    assert all(isinstance(note, str) and note for note in made.notes)


@pytest.mark.parametrize(
    ("sample", "target"),
    pairs(itertools.product((1, 3), (np.uint8, np.uint16)), [(60, 80), (75, 100), (47, 61), (240, 300)]),
)
def test_pages_have_their_target_size_and_their_own_type(
    engine: Engine, sample: tuple[int, type[np.generic]], target: tuple[int, int]
) -> None:
    channels, kind = sample
    batch = Batch(draw_pages(1, 40, 30, channels, kind), target)
    check(engine.upscale(batch), batch)


def test_a_batch_equals_its_pages_one_by_one(engine: Engine) -> None:
    source = draw_pages(3, 40, 30)
    together = engine.upscale(Batch(source, (75, 100))).pixels
    alone = [engine.upscale(Batch(page[None], (75, 100))).pixels for page in source]
    assert levels_apart(together, np.concatenate(alone)) <= 1


def test_a_page_does_not_depend_on_its_neighbours(engine: Engine) -> None:
    source = draw_pages(3, 40, 30)
    first = engine.upscale(Batch(source, (75, 100))).pixels[1]
    source[0], source[2] = 0, 255
    assert levels_apart(engine.upscale(Batch(source, (75, 100))).pixels[1], first) <= 1


def test_the_same_page_is_made_the_same_again(engine: Engine) -> None:
    batch = Batch(draw_pages(1, 40, 30), (75, 100))
    first, second = engine.upscale(batch).pixels, engine.upscale(batch).pixels
    assert levels_apart(first, second) <= (0 if engine.info.deterministic else 1)


def test_what_it_is_given_is_left_as_it_is(engine: Engine) -> None:
    source = draw_pages(1, 40, 30)
    before = source.copy()
    source.flags.writeable = False
    engine.upscale(Batch(source, (60, 80)))
    assert np.array_equal(source, before)


@pytest.mark.parametrize("channels", [1, 3] if LONG else [3])
def test_a_large_page_and_the_conservative_path(engine: Engine, side: Side, channels: int) -> None:
    batch = Batch(draw_pages(1, 200, 150, channels), (300, 400))
    made = engine.upscale(batch)
    check(made, batch)
    assert bool(made.borders.rows and made.borders.columns) is side.tiles
    carefully = engine.upscale(replace(batch, conservative=True))
    check(carefully, batch)
    if side.name == "flux":
        # With half the strength, random weights draw something else.
        return
    # Half precision, and what the official program's tiles do not see of each other.
    assert levels_apart(made.pixels, carefully.pixels) <= 40


@pytest.mark.parametrize("size", [(1, 1), (1, 30), (7, 5)])
def test_tiny_pages_are_made(engine: Engine, size: tuple[int, int]) -> None:
    batch = Batch(draw_pages(1, *size), (size[1] * 2, size[0] * 2))
    check(engine.upscale(batch), batch)


def test_its_information_is_whole(engine: Engine, side: Side) -> None:
    info = engine.info
    assert info.name == side.name
    assert str(info.device) and " " not in info.device.kind
    assert info.precision in ("", "fp32", "fp16", "bf16", "int8")
    assert info.native_scale is None or info.native_scale >= 2
    assert info.fidelity in ("faithful", "generative") and info.billing in ("time", "call")
    assert info.max_pixels is None or info.max_pixels > 0
    assert engine.batch_limit(40, 30) >= 1
    assert engine.batch_limit(3000, 2000) >= 1


@pytest.mark.parametrize(
    "side", [param for param in PARAMS if "fake" not in str(param.values[0])], indirect=True
)
def test_its_identity_is_the_one_that_the_job_is_recorded_under(
    engine: Engine, settings: JobSettings
) -> None:
    assert engine.info.identity == registry.identify(settings).digest
    assert len(engine.info.identity) == 64 and int(engine.info.identity, 16) >= 0


def test_a_page_of_too_many_pixels_is_a_failure_of_its_own(engine: Engine) -> None:
    most = engine.info.max_pixels or 1200

    class Bounded:
        """The engine with a bound, where it has none by itself."""

        info = replace(engine.info, max_pixels=most)
        batch_limit, upscale, close = engine.batch_limit, engine.upscale, engine.close

    fits, too_large = (prepare(Pixels(draw_pages(1, height, 30)[0])) for height in (40, 41))
    (good,) = upscale_pages(Bounded(), [fits], (60, 80))
    (bad,) = upscale_pages(Bounded(), [too_large], (60, 82))
    assert isinstance(good, Pixels)
    assert isinstance(bad, PageError) and bad.kind == "too-large"


def test_a_page_with_alpha_goes_through_the_seam(engine: Engine) -> None:
    alpha = np.zeros((40, 30), np.uint8)
    alpha[:, 10:] = 255
    page = prepare(Pixels(draw_pages(1, 40, 30)[0], alpha))
    (made,) = upscale_pages(engine, [page], (75, 100))
    assert isinstance(made, Pixels) and made.alpha is not None
    assert made.color.shape == (100, 75, 3) and made.alpha.shape == (100, 75)
    assert made.alpha[:, :15].mean() < 60 < 200 < made.alpha[:, 40:].mean()


def test_closing_twice_is_closing_once(engine: Engine) -> None:
    engine.upscale(Batch(draw_pages(1, 40, 30), (60, 80)))
    engine.close()
    engine.close()


def test_every_engine_of_the_package_is_in_the_suite() -> None:
    assert {side.name for side in SIDES.values()} == {*BUILT_IN, "fake"}
