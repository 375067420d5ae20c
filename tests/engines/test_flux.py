"""Diffusion in tiles, by FLUX with random weights: its looks mean nothing, its seams, sizes, noise and memory do."""

# ruff: noqa: E402

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

LACKING = [
    name
    for name in ("diffusers", "transformers", "accelerate", "gguf")
    if importlib.util.find_spec(name) is None
]
if LACKING:
    pytest.skip(f"the extra [flux] is not installed: {', '.join(LACKING)}", allow_module_level=True)
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("one_thread")]
import torch
from safetensors.torch import save_file

from comic_upscale.engines import registry
from comic_upscale.engines.base import Batch, EnginePart, EngineResources, FinishPlan, Upscaled, follow
from comic_upscale.engines.diffusion import memory
from comic_upscale.engines.diffusion.engine import DiffusionEngine
from comic_upscale.engines.diffusion.folder import PipelineFolder, identity_of_folder
from comic_upscale.engines.diffusion.lettering import keep_map
from comic_upscale.engines.diffusion.loading import plan_for
from comic_upscale.engines.diffusion.memory import GB, plan_memory
from comic_upscale.engines.diffusion.noise import NoiseField
from comic_upscale.engines.feathering import Window, plan_windows
from comic_upscale.errors import DeviceError, PageError, SettingsError, WeightsError
from comic_upscale.estimates.workload import run_pilot
from comic_upscale.gate.seams import worst_seam
from comic_upscale.imaging.pixels import Pixels
from comic_upscale.jobs.run import run_job
from comic_upscale.planning.preview import preview
from comic_upscale.settings.job import JobSettings
from tests.conftest import draw
from tests.engines.drawn_pages import draw_pages
from tests.engines.tiny_flux import README, make_controlnet, make_gguf, make_klein

MakeFlux = Callable[..., JobSettings]


@pytest.fixture
def make(make_flux_job: MakeFlux) -> MakeFlux:
    return make_flux_job


@pytest.fixture(scope="module")
def engine(
    flux: tuple[Path, Path], tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[DiffusionEngine]:
    """Opened once, by the real way of loading."""
    settings = JobSettings(
        input=tmp_path_factory.mktemp("in"), output=tmp_path_factory.mktemp("out") / "out", model="auto",
        backend="flux", device="cpu",
        engine_options={
            "pipeline": flux[0], "embeddings": flux[1], "first_pass": tiny_weights, "tile": 64, "overlap": 16,
            "steps": 4, "strength": 0.5, "keep_lettering": False,
        },
    )  # fmt: skip
    (opened,) = registry.open_engines(settings, registry.prepare_engine(settings))
    assert isinstance(opened, DiffusionEngine)
    yield opened
    opened.close()
    opened.close()


@pytest.mark.parametrize(("channels", "kind"), [(3, np.uint8), (1, np.uint16)])
def test_a_page_has_its_exact_size_and_type(
    engine: DiffusionEngine, channels: int, kind: type[np.generic]
) -> None:
    page = draw_pages(1, 40, 30, channels, kind)
    made = engine.upscale(Batch(page, (61, 83)))
    assert made.pixels.shape == (1, 83, 61, channels) and made.pixels.dtype == kind
    assert made.borders.rows and not made.borders.columns
    assert engine.info.fidelity == "generative" and engine.info.device.is_cpu


def test_the_same_page_is_drawn_the_same_and_tiles_show_no_seam(engine: DiffusionEngine) -> None:
    # A smooth page: whatever stands out along a border is the tiles' own.
    ramp = np.linspace(80, 170, 56, dtype=np.float32)
    source = np.repeat((ramp[None, :, None] + ramp[:48, None, None] / 4), 3, axis=2).astype(np.uint8)
    batch = Batch(source[None], (112, 96))
    made, again = engine.upscale(batch), engine.upscale(batch)
    assert np.array_equal(made.pixels, again.pixels)
    assert made.borders.rows and made.borders.columns
    drawn = made.pixels[0]
    assert worst_seam(source, drawn, made.borders) < 1.2
    # Steps across a border against steps elsewhere: random weights draw a texture, so there are some everywhere.
    steps = np.abs(np.diff(drawn.astype(float), axis=1)).mean(axis=(0, 2))
    at = [steps[place - 1] for place in made.borders.columns]
    assert max(at) <= max(np.median(steps) * 2, np.percentile(steps, 95))
    assert np.abs(drawn.astype(int) - engine._first.upscale(batch).pixels[0]).mean() > 1, "it draws"


def test_steps_across_borders_are_like_those_inside_and_those_of_a_cut_are_not(
    engine: DiffusionEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    across, down = (np.linspace(80, 170, length, dtype=np.float32) for length in (96, 80))
    source = np.repeat((across[None, :, None] + down[:, None, None] / 4), 3, axis=2).astype(np.uint8)

    def share_of_inside(overlap: int) -> float:
        """Return the mean step across a border, as a share of the median of steps elsewhere."""
        shares = []
        for seed in range(2):
            monkeypatch.setattr(engine, "_options", replace(engine._options, overlap=overlap, seed=seed))
            made = engine.upscale(Batch(source[None], (192, 160)))
            for axis, places in ((1, made.borders.columns), (0, made.borders.rows)):
                steps = np.abs(np.diff(made.pixels[0].astype(float), axis=axis)).mean(axis=(1 - axis, 2))
                shares += [steps[place - 1] / np.median(steps) for place in places]
        assert len(shares) >= 8
        return float(np.mean(shares))

    assert share_of_inside(16) < 1.1 < 1.25 < share_of_inside(0)


def test_it_tells_tiles_and_steps_and_only_to_who_asks(engine: DiffusionEngine) -> None:
    batch = Batch(draw_pages(1, 40, 30), (61, 83))
    told: list[EnginePart] = []
    follow(engine, told.append)
    engine.upscale(batch)
    follow(engine, None)
    count = len(told)
    engine.upscale(Batch(draw_pages(1, 8, 8), (16, 16)))
    assert len(told) == count
    assert {(part.unit, part.total) for part in told} == {("tile", 2)}
    done = [part.done for part in told]
    assert done == sorted(done) and done[0] == 0 and 1 in done and done[-1] < 2
    assert any(place % 1 for place in done), "steps count, too"


def test_neighbours_get_the_same_noise_where_they_overlap() -> None:
    plan = plan_windows((160, 160), (64, 64), 16, 16)
    field = NoiseField(7, plan.size)
    whole = torch.full((3, 20, 20), torch.nan)
    for window in plan.all():
        noise = field.cut((1, 3, 8, 8), window)[0]
        rows = slice(window.rows.start // 8, window.rows.stop // 8)
        columns = slice(window.columns.start // 8, window.columns.stop // 8)
        known = ~torch.isnan(whole[:, rows, columns])
        assert torch.equal(whole[:, rows, columns][known], noise[known])
        whole[:, rows, columns] = noise
    assert abs(float(whole.mean())) < 0.1 and abs(float(whole.std()) - 1) < 0.1
    other = NoiseField(8, plan.size).cut((1, 3, 8, 8), plan.all()[0])
    assert not torch.equal(other, field.cut((1, 3, 8, 8), plan.all()[0]))


def test_the_pipeline_takes_its_noise_from_the_field_and_gets_its_own_back(
    engine: DiffusionEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    from concurrent.futures import ThreadPoolExecutor

    import diffusers.pipelines.flux.pipeline_flux_img2img as module

    seen = []
    original = NoiseField.cut

    def cut(self: NoiseField, shape: tuple[int, ...], window: Window, purpose: int = 0) -> torch.Tensor:
        seen.append((shape, purpose))
        # Another engine of this process draws at the same time, without a field.
        other = ThreadPoolExecutor(1).submit(module.randn_tensor, shape, torch.Generator().manual_seed(1))
        assert torch.equal(other.result(), torch.randn(shape, generator=torch.Generator().manual_seed(1)))
        return original(self, shape, window, purpose)

    monkeypatch.setattr(NoiseField, "cut", cut)
    engine.upscale(Batch(draw_pages(1, 30, 30), (60, 60)))
    # The autoencoder draws first, from the range that it found. Both begin from one seed, and have nothing in common.
    assert [shape for shape, _ in seen] == [(1, 1, 8, 8)] * 2 and seen[0][1] != seen[1][1] == 0
    field, (window,) = NoiseField(7, (64, 64)), plan_windows((64, 64), (64, 64), 0).all()
    drawn = [original(field, (1, 1, 8, 8), window, purpose).flatten() for _, purpose in seen]
    assert abs(float(torch.corrcoef(torch.stack(drawn))[0, 1])) < 0.4
    shape = (1, 1, 8, 8)
    after = module.randn_tensor(shape, generator=torch.Generator().manual_seed(2))
    assert torch.equal(after, torch.randn(shape, generator=torch.Generator().manual_seed(2)))


def test_the_autoencoder_finds_the_same_where_tiles_overlap(engine: DiffusionEngine) -> None:
    """Its own noise belongs to places of the page, and not to places of the tile."""
    autoencoder, pipeline = engine._pipeline.vae, engine._pipeline
    (first, second), field = plan_windows((64, 96), (64, 64), 32, 16).all(), NoiseField(3, (64, 96))
    plain = torch.full((1, 3, 64, 64), 0.25)
    found = []
    for window in (first, second):
        with torch.inference_mode(), field.used_by(pipeline, window):
            spread = autoencoder.encode(plain).latent_dist
            spread.mean, spread.std = torch.zeros_like(spread.mean), torch.ones_like(spread.std)
            found.append(spread.sample())
    assert torch.equal(found[0][..., 4:], found[1][..., :4])


def test_a_gguf_transformer_draws_nearly_the_same(
    flux: tuple[Path, Path], tmp_path: Path, make: MakeFlux
) -> None:
    batch = Batch(draw_pages(1, 30, 30), (60, 60))
    made = {}
    for name in ("", "Q8_0", "Q4_0"):
        more = {"transformer": make_gguf(flux[0], tmp_path / f"{name}.gguf", name)} if name else {}
        settings = make(keep_lettering=False, **more)
        (engine,) = registry.open_engines(settings, registry.prepare_engine(settings))
        made[name] = engine.upscale(batch).pixels.astype(int)
        engine.close()
    apart = {name: np.abs(made[name] - made[""]).mean() for name in ("Q8_0", "Q4_0")}
    assert apart["Q8_0"] <= apart["Q4_0"] < 20
    assert apart["Q8_0"] < 2
    assert (tmp_path / "Q4_0.gguf").stat().st_size < (tmp_path / "Q8_0.gguf").stat().st_size


def test_a_controlnet_counts_as_much_as_it_is_told(make: MakeFlux, tmp_path: Path) -> None:
    network = make_controlnet(tmp_path / "control")
    batch = Batch(draw_pages(1, 30, 24), (48, 60))
    drawn = {}
    for control in (0.0, 0.6):
        settings = make(controlnet=network, control=control, keep_lettering=False)
        (opened,) = registry.open_engines(settings, registry.prepare_engine(settings))
        assert isinstance(opened, DiffusionEngine)
        seen: list[torch.Tensor] = []
        original = opened._pipeline.prepare_image

        def watch(
            image: torch.Tensor, *, original: Callable[..., object] = original, seen: list[torch.Tensor] = seen,
            **more: object,
        ) -> object:  # fmt: skip
            seen.append(image)
            return original(image=image, **more)

        opened._pipeline.prepare_image = watch
        drawn[control] = opened.upscale(batch).pixels
        opened.close()
        # The range of the autoencoder, and not that of the picture.
        assert seen and min(float(each.min()) for each in seen) < -0.5
        assert max(float(each.max()) for each in seen) > 0.5
    assert np.abs(drawn[0.6].astype(int) - drawn[0.0]).mean() > 1
    parts = [registry.fingerprinted_options(make(**more)) for more in ({}, {"controlnet": network})]
    assert parts[0] != parts[1]
    plan = plan_for(registry.spec_of(make(controlnet=network)).options, EngineResources(device="cpu"))[0]
    assert plan.weights > plan_for(registry.spec_of(make()).options, EngineResources(device="cpu"))[0].weights


def test_a_controlnet_that_does_not_fit_is_refused(make: MakeFlux, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="not the folder of a network"):
        registry.prepare_engine(make(controlnet=tmp_path / "none"))
    restricted = make_controlnet(tmp_path / "restricted", "flux-1-dev-non-commercial-license")
    with pytest.raises(
        SettingsError, match=r"the ControlNet in .* has the licence flux-1-dev-non-commercial"
    ):
        registry.prepare_engine(make(controlnet=restricted))
    other = make_klein(tmp_path / "klein")
    settings = make(pipeline=other, controlnet=restricted, accept_noncommercial=True)
    with pytest.raises(SettingsError, match=r"pipelines of FLUX\.1 only"):
        registry.open_engines(settings, registry.prepare_engine(settings))


def test_a_pilot_measures_pages(make: MakeFlux, tmp_path: Path) -> None:
    """As `cost --pilot` does, which the page about these engines recommends."""
    draw(tmp_path / "in" / "1.png", 1, size=(24, 20))
    settings = make({"input": tmp_path / "in", "scale": 2.0})
    found = run_pilot(preview(settings), settings, 1)
    assert (found.pages, found.model) == (1, registry.identify(settings).name)


def test_flux_2_klein_draws_over_a_page(make: MakeFlux, tmp_path: Path) -> None:
    pipeline = make_klein(tmp_path / "klein")
    prompt = tmp_path / "prompt.safetensors"
    save_file({"prompt_embeds": torch.randn(1, 4, 32)}, prompt)
    settings = make(pipeline=pipeline, embeddings=prompt, keep_lettering=False)
    (opened,) = registry.open_engines(settings, registry.prepare_engine(settings))
    assert isinstance(opened, DiffusionEngine)
    told: list[EnginePart] = []
    follow(opened, told.append)
    batch = Batch(draw_pages(1, 60, 30), (60, 120))
    assert opened._given["guidance_scale"] == 1, "it takes none, and would say so for each tile"
    made, again = opened.upscale(batch), opened.upscale(batch)
    assert made.pixels.shape == (1, 120, 60, 3) and np.array_equal(made.pixels, again.pixels)
    assert made.borders.rows and {part.total for part in told} == {len(made.borders.rows) + 1}
    assert np.abs(made.pixels.astype(int) - opened._first.upscale(batch).pixels).mean() > 1, "it draws"
    opened.close()
    too_large = make(pipeline=pipeline, embeddings=prompt, tile=2048)
    with pytest.raises(SettingsError, match="tiles of at most 1024 pixels"):
        registry.prepare_engine(too_large)


def test_a_pipeline_that_draws_anew_is_refused(make: MakeFlux, tmp_path: Path) -> None:
    pipeline = make_klein(tmp_path / "klein")
    index = pipeline / "model_index.json"
    # FLUX.2-dev has the same parts, and takes a page as an example only.
    index.write_text(index.read_text().replace("Flux2KleinPipeline", "Flux2Pipeline"))
    prompt = tmp_path / "prompt.safetensors"
    save_file({"prompt_embeds": torch.randn(1, 4, 32)}, prompt)
    settings = make(pipeline=pipeline, embeddings=prompt)
    with pytest.raises(WeightsError, match="draws a new image"):
        registry.open_engines(settings, registry.prepare_engine(settings))


def test_the_model_draws_over_raw_pixels(engine: DiffusionEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    source = np.full((40, 30, 3), 120, np.uint8)
    batch = Batch(source[None], (60, 80), finish_plan=FinishPlan(None, True), sources=(Pixels(source),))
    asked: list[Batch] = []
    upscale = engine._first.upscale

    def watched(batch: Batch) -> Upscaled:
        asked.append(batch)
        return upscale(batch)

    monkeypatch.setattr(engine._first, "upscale", watched)
    assert not engine.upscale(batch).work
    assert asked[0].finish_plan is None and not asked[0].sources


def test_lettering_is_kept_from_the_first_pass(make: MakeFlux) -> None:
    page = np.full((64, 96, 3), 255, np.uint8)
    page[:, 48:] = np.linspace(90, 160, 48, dtype=np.uint8)[None, :, None]
    picture = Image.fromarray(page)
    ImageDraw.Draw(picture).text((3, 20), "HELLO", fill=0, font=ImageFont.load_default(14))
    batch = Batch(np.asarray(picture)[None], (192, 128))
    settings = make(tile=192)
    (engine,) = registry.open_engines(settings, registry.prepare_engine(settings))
    assert isinstance(engine, DiffusionEngine)
    made, first = engine.upscale(batch).pixels[0], engine._first.upscale(batch).pixels[0]
    engine.close()
    change = np.abs(made.astype(int) - first).mean(axis=2)
    assert change[48:64, 10:80].max() <= 1
    assert change[:, 130:].mean() > 1


def test_the_map_has_lettering_and_leaves_shading_and_large_shapes() -> None:
    picture = Image.new("L", (320, 240), 255)
    draw = ImageDraw.Draw(picture)
    for row, word in enumerate(("WHO GOES", "THERE NOW")):
        draw.text((20, 20 + 22 * row), word, fill=0, font=ImageFont.load_default(18))
    draw.ellipse((180, 120, 300, 220), fill=0)
    for column in range(160):
        draw.line((column, 130, column, 239), fill=100 + column // 2)
    found = keep_map(np.asarray(picture)[:, :, None])
    assert found.shape == (240, 320) and found.min() >= 0 and found.max() <= 1
    assert found[26:56, 24:110].mean() > 0.9
    assert found[140:200, 210:270].max() == 0 and found[150:230, 10:140].max() == 0


@pytest.mark.parametrize(
    ("gigabytes", "transformer", "mode"),
    [
        (12, 6.8, "all"),
        (12, 7.8, "all"),
        (16, 12.7, "offload"),
        (24, 12.7, "all"),
        (12, 12.7, "sequential"),
        (16, 23.8, "sequential"),
    ],
)
def test_plans_for_the_usual_gpus(gigabytes: float, transformer: float, mode: str) -> None:
    parts = {"transformer": round(transformer * GB), "vae": round(0.17 * GB)}
    plan = plan_memory(parts, tile=1024, available=round(gigabytes * GB))
    assert plan.mode == mode and plan.needed <= plan.available
    assert f"of {gigabytes:.1f} GB" in plan.describe("cuda:0")


def test_a_pipeline_that_cannot_fit_is_refused_before_it_is_loaded(
    make: MakeFlux, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DeviceError, match=r"GB and 2\.0 are free"):
        plan_memory({"transformer": round(6.8 * GB)}, tile=1024, available=round(2 * GB))
    monkeypatch.setattr(memory, "_WORK_AT_1024", 1e18)
    settings = make()
    with pytest.raises(DeviceError, match="smaller tile"):
        registry.describe_loading(settings, registry.prepare_engine(settings))


@pytest.mark.parametrize(
    ("text", "is_free"),
    [
        (README.format(licence="apache-2.0"), True),
        (README.format(licence="other\nlicense_name: flux-1-dev-non-commercial-license"), False),
        ("# no licence at all\n", False),
        (README.format(licence="other"), False),
    ],
    ids=["free", "non-commercial", "none", "other"],
)
def test_weights_that_may_not_be_used_for_everything_need_a_word(
    tmp_path: Path, text: str, is_free: bool
) -> None:
    (tmp_path / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    (tmp_path / "README.md").write_text(text)
    folder = PipelineFolder.read(tmp_path)
    folder.check_licence(accepted=True)
    if is_free:
        folder.check_licence(accepted=False)
    else:
        with pytest.raises(SettingsError, match="accept_noncommercial=true"):
            folder.check_licence(accepted=False)


def test_mistakes_are_refused_before_anything_is_loaded(make: MakeFlux, tmp_path: Path) -> None:
    for options, words in (
        ({"pipeline": tmp_path}, "not the folder of a diffusers pipeline"),
        ({"strength": 0.1}, "draw nothing"),
        ({"transformer": tmp_path / "none.gguf"}, "cannot be read"),
    ):
        with pytest.raises((SettingsError, WeightsError), match=words):
            registry.prepare_engine(make(**options))
            registry.identify(make(**options))
    (tmp_path / "wrong.gguf").write_bytes(b"GGUF nothing")
    settings = make(transformer=tmp_path / "wrong.gguf")
    with pytest.raises(WeightsError, match="no transformer"):
        registry.open_engines(settings, registry.prepare_engine(settings))


def test_other_weights_are_another_job(flux: tuple[Path, Path], make: MakeFlux, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for file in flux[0].rglob("*"):
        target = other / file.relative_to(flux[0])
        if file.is_dir():
            target.mkdir(exist_ok=True)
        else:
            target.write_bytes(file.read_bytes())
    assert identity_of_folder(other) == identity_of_folder(flux[0])
    weights = next((other / "transformer").glob("*.safetensors"))
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert PipelineFolder.read(other).identity() != identity_of_folder(flux[0])
    parts = [registry.fingerprinted_options(make(**more)) for more in ({}, {"seed": 1}, {"memory": "all"})]
    assert parts[0] != parts[1] and parts[0] == parts[2]


def test_a_stop_ends_a_page_between_two_steps(make: MakeFlux) -> None:
    from diffusers import FluxImg2ImgPipeline

    settings = make()
    (engine,) = registry.open_engines(settings, registry.prepare_engine(settings))
    assert isinstance(engine, DiffusionEngine)
    after = FluxImg2ImgPipeline.encode_prompt

    def stop(*arguments: object, **more: object) -> object:
        engine.interrupt()
        return after(*arguments, **more)  # type: ignore[arg-type]

    engine._pipeline.encode_prompt = stop.__get__(engine._pipeline)
    with pytest.raises(DeviceError, match="stopped"):
        engine.upscale(Batch(draw_pages(1, 60, 60), (120, 120)))
    engine.close()


NO_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: can't allocate memory"),
]
LOST = [RuntimeError("CUDA error: unspecified launch failure\nCompile with TORCH_USE_CUDA_DSA")]


@pytest.mark.parametrize("error", NO_MEMORY + LOST, ids=["gpu", "cpu", "lost"])
def test_a_device_that_is_full_or_lost_is_named(
    engine: DiffusionEngine, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(**given: object) -> None:
        raise error

    monkeypatch.setattr(engine, "_pipeline", fail)
    # No page can do anything for a lost device, and no other page runs into a tile that is too large for this one.
    kind, words = (DeviceError, "launch failure") if error in LOST else (PageError, "tile=512")
    with pytest.raises(kind, match=words):
        engine.upscale(Batch(draw_pages(1, 20, 20), (40, 40)))


@pytest.mark.parametrize("error", NO_MEMORY + LOST, ids=["gpu", "cpu", "lost"])
def test_memory_that_another_program_took_since_the_plan_is_told(
    make: MakeFlux, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    from diffusers import FluxImg2ImgPipeline

    def fail(*arguments: object) -> None:
        raise error

    monkeypatch.setattr(FluxImg2ImgPipeline, "to", fail)
    settings = make()
    with pytest.raises(DeviceError, match="failed: CUDA" if error in LOST else "taken its memory"):
        registry.open_engines(settings, registry.prepare_engine(settings))


def test_a_run_says_the_plan_first_and_goes_on_after_a_stop(make: MakeFlux, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for number in range(2):
        Image.fromarray(draw_pages(1, 30, 24)[0] // (number + 1)).save(tmp_path / "in" / f"{number}.png")
    said: list[str] = []
    settings = make()

    def listen(event: object) -> None:
        said.append(getattr(event, "what", type(event).__name__))

    from comic_upscale.execution.stop import StopRequest

    stop = StopRequest()

    def stop_after_one(event: object) -> None:
        listen(event)
        if type(event).__name__ == "PageDone":
            stop.request("enough")

    first = run_job(replace(settings, workers=1), on_event=stop_after_one, stop=stop)
    assert any("GB of weights, all on cpu" in each for each in said)
    assert said.index(next(each for each in said if "GB of weights" in each)) < said.index("PageDone")
    second = run_job(replace(settings, workers=1))
    assert first.done + second.done_now == second.done == 2
