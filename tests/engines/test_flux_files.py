"""The files of a diffusion model: encoded prompts, text encoders, single transformers, sizes in memory, licences."""

# ruff: noqa: E402

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.engines.test_flux import LACKING

if LACKING:
    pytest.skip(f"the extra [flux] is not installed: {', '.join(LACKING)}", allow_module_level=True)
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("one_thread")]
import diffusers
import huggingface_hub
import torch
import transformers
from safetensors.torch import load_file, save_file

from comic_upscale.engines import registry
from comic_upscale.engines.base import Batch, EnginePart, EngineResources, follow
from comic_upscale.engines.diffusion import embeddings
from comic_upscale.engines.diffusion.embeddings import load_embeddings
from comic_upscale.engines.diffusion.folder import weights_in
from comic_upscale.engines.diffusion.loading import load_pipeline, plan_for
from comic_upscale.errors import DeviceError, SettingsError, WeightsError
from comic_upscale.settings.job import JobSettings
from tests.engines.drawn_pages import draw_pages
from tests.engines.tiny_flux import (
    add_text_encoders,
    make_controlnet,
    make_fp8,
    make_gguf,
    make_klein,
    make_whole_klein,
)

MakeFlux = Callable[..., JobSettings]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def whole(flux: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a pipeline with its text encoders."""
    folder = tmp_path_factory.mktemp("whole") / "pipeline"
    shutil.copytree(flux[0], folder)
    return add_text_encoders(folder)


@pytest.fixture
def encode(make_flux_job: MakeFlux, tmp_path: Path) -> Callable[..., dict[str, torch.Tensor]]:
    """Encode a prompt by the options of the engine; the cache is ``tmp_path / "cache"``."""

    def run(**options: object) -> dict[str, torch.Tensor]:
        chosen = registry.spec_of(make_flux_job(embeddings=None, **options)).options
        return load_embeddings(chosen, tmp_path / "cache", CPU)

    return run


# The prompt


def test_the_prompt_is_encoded_once_and_its_encoders_are_never_loaded_again(
    encode: Callable[..., dict[str, torch.Tensor]], make_flux_job: MakeFlux, whole: Path, tmp_path: Path,
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    settings = make_flux_job({"weights_cache": tmp_path / "cache"}, pipeline=whole, embeddings=None)
    spec = registry.prepare_engine(settings)
    assert "first the prompt is encoded on the CPU" in str(registry.describe_loading(settings, spec))
    for library in (diffusers.utils.logging, transformers.utils.logging):
        library.enable_progress_bar()
    capfd.readouterr()
    (engine,) = registry.open_engines(settings, spec)
    assert engine.upscale(Batch(draw_pages(1, 20, 20), (40, 40))).pixels.shape == (1, 40, 40, 3)
    # The terminal is that of the run.
    assert capfd.readouterr() == ("", "")
    engine.close()
    (kept,) = (tmp_path / "cache" / "embeddings").iterdir()
    assert "prompt" not in str(registry.describe_loading(settings, spec))
    found = load_file(kept)
    assert (found["prompt_embeds"].shape[2], found["pooled_prompt_embeds"].shape) == (32, (1, 32))

    def fail(*arguments: object, **more: object) -> None:
        raise AssertionError("a text encoder is loaded")

    monkeypatch.setattr(embeddings, "load_text_models", fail)
    assert torch.equal(encode(pipeline=whole)["prompt_embeds"], found["prompt_embeds"])
    with pytest.raises(WeightsError, match="a text encoder is loaded"):
        encode(pipeline=whole, prompt="something else")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache into which `hf download NAME` puts pipelines."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def put_into(hub: Path, owner: str, name: str) -> Path:
    """Return the folder in which the cache keeps the files of a name of the hub."""
    place = hub / f"models--{owner}--{name}"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("0123abc")
    return place / "snapshots" / "0123abc"


def test_flux_2_klein_is_the_pipeline_unless_another_is_named(
    make_flux_job: MakeFlux, hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its prompt is encoded once, too, and it draws in four steps."""
    left_out = {"pipeline": None, "embeddings": None, "steps": None, "strength": None}
    settings = make_flux_job({"weights_cache": tmp_path / "cache"}, **left_out)
    with pytest.raises(WeightsError, match=r"run `hf download black-forest-labs/FLUX\.2-klein-4B`"):
        registry.prepare_engine(settings)
    make_whole_klein(put_into(hub, "black-forest-labs", "FLUX.2-klein-4B"))
    spec = registry.prepare_engine(settings)
    assert registry.identify(settings).name == "FLUX.2-klein-4B"
    assert "first the prompt is encoded on the CPU" in str(registry.describe_loading(settings, spec))
    (engine,) = registry.open_engines(settings, spec)
    told: list[EnginePart] = []
    follow(engine, told.append)
    batch = Batch(draw_pages(1, 20, 20), (40, 40))
    made = engine.upscale(batch).pixels
    engine.close()
    # One step at a strength of 0.25: it tells of that, and the autoencoder has the other half.
    assert [part.done for part in told] == [0.0, 0.5]
    (kept,) = (tmp_path / "cache" / "embeddings").iterdir()
    assert list(load_file(kept)) == ["prompt_embeds"] and load_file(kept)["prompt_embeds"].shape[2] == 48
    assert "prompt" not in str(registry.describe_loading(settings, spec))

    def fail(*arguments: object, **more: object) -> None:
        raise AssertionError("a text encoder is loaded")

    monkeypatch.setattr(embeddings, "load_text_models", fail)
    (engine,) = registry.open_engines(settings, spec)
    assert np.array_equal(engine.upscale(batch).pixels, made)
    engine.close()


def test_a_name_of_the_hub_that_is_not_there_says_how_to_get_it(
    make_flux_job: MakeFlux, hub: Path, tmp_path: Path
) -> None:
    with pytest.raises(WeightsError, match="run `hf download some-one/else`"):
        registry.prepare_engine(make_flux_job(pipeline=Path("some-one/else")))
    # A download that broke off.
    (put_into(hub, "some-one", "else") / "vae").mkdir(parents=True)
    with pytest.raises(WeightsError, match="run `hf download some-one/else`"):
        registry.prepare_engine(make_flux_job(pipeline=Path("some-one/else")))


def test_what_is_no_pipeline_is_told_apart(make_flux_job: MakeFlux, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "one.gguf").write_bytes(b"GGUF")
    for name, message in (
        ("nothing", "does not exist. Download a pipeline"),
        ("empty", "because its model_index.json is missing"),
        ("one.gguf", "is a file, and a pipeline is a folder: for the transformer alone use --engine-option"),
    ):
        with pytest.raises(WeightsError, match=message):
            registry.prepare_engine(make_flux_job(pipeline=tmp_path / name))


@pytest.mark.parametrize("part", ["text_encoder", "text_encoder_2"])
def test_another_text_encoder_of_the_same_size_encodes_anew_and_is_another_job(
    encode: Callable[..., dict[str, torch.Tensor]], make_flux_job: MakeFlux, whole: Path, tmp_path: Path, part: str
) -> None:  # fmt: skip
    other = tmp_path / "other"
    shutil.copytree(whole, other)
    file = other / part / "model.safetensors"
    size, tensors = file.stat().st_size, load_file(file)
    save_file({name: tensor * 1.5 for name, tensor in tensors.items()}, file, metadata={"format": "pt"})
    assert file.stat().st_size == size
    first, second = (encode(pipeline=folder) for folder in (whole, other))
    name = "pooled_prompt_embeds" if part == "text_encoder" else "prompt_embeds"
    assert not torch.equal(first[name], second[name])
    jobs = [
        registry.identify(make_flux_job(pipeline=folder, embeddings=None)).digest for folder in (whole, other)
    ]
    assert jobs[0] != jobs[1]


def test_a_text_encoder_in_fp8_stays_so_in_memory_and_encodes_nearly_the_same(
    encode: Callable[..., dict[str, torch.Tensor]], whole: Path, tmp_path: Path
) -> None:
    from comic_upscale.engines.diffusion.folder import PipelineFolder

    file = make_fp8(whole, tmp_path / "t5_fp8.safetensors")
    model = embeddings._load_encoder(file, PipelineFolder.read(whole))
    types = {name: tensor.dtype for name, tensor in model.state_dict().items()}
    eight = {name for name, kind in types.items() if kind == torch.float8_e4m3fn}
    assert len(eight) == 6 and set(types.values()) == {torch.float8_e4m3fn, torch.bfloat16}
    plain, small = encode(pipeline=whole), encode(pipeline=whole, text_encoder=file)
    apart = (plain["prompt_embeds"].float() - small["prompt_embeds"].float()).abs().mean()
    assert 0 < apart < 0.1 * plain["prompt_embeds"].float().abs().mean()
    assert torch.equal(plain["pooled_prompt_embeds"], small["pooled_prompt_embeds"])
    types = {name: tensor.dtype for name, tensor in model.state_dict().items()}
    assert {name for name, kind in types.items() if kind == torch.float8_e4m3fn} == eight


def test_text_encoders_that_cannot_be_used_are_refused(
    encode: Callable[..., dict[str, torch.Tensor]], make_flux_job: MakeFlux, flux: tuple[Path, Path], whole: Path,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    with pytest.raises(WeightsError, match="no text_encoder and text_encoder_2"):
        encode()
    other = tmp_path / "other.safetensors"
    save_file({"shared.weight": torch.zeros(2, 2)}, other)
    for file in (other, whole / "text_encoder" / "model.safetensors", whole / "model_index.json"):
        with pytest.raises(WeightsError, match="cannot be encoded"):
            encode(pipeline=whole, text_encoder=file)
    assert not (tmp_path / "cache").exists()
    given = registry.spec_of(make_flux_job(text_encoder=other)).options
    with pytest.raises(SettingsError, match="leave it out"):
        load_embeddings(given, tmp_path / "cache", CPU)

    class Full:
        available = 1000

    monkeypatch.setattr(embeddings.psutil, "virtual_memory", Full)
    with pytest.raises(DeviceError, match=r"an fp8 text encoder .*text_encoder=FILE.*embeddings=FILE"):
        encode(pipeline=whole)


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"prompt_embeds": torch.zeros(1, 4, 64), "pooled_prompt_embeds": torch.zeros(1, 32)}, "takes 32 in 3"),
        ({"prompt_embeds": torch.zeros(1, 4, 32), "pooled_prompt_embeds": torch.zeros(1, 768)}, "another model"),
        ({"prompt_embeds": torch.zeros(4, 32), "pooled_prompt_embeds": torch.zeros(1, 32)}, "in 3 dimensions"),
        ({"prompt_embeds": torch.zeros(1, 4, 32)}, "no pooled_prompt_embeds"),
        ({"t5": torch.zeros(1)}, "no prompt_embeds and no pooled"),
        ({"prompt_embeds": torch.full((1, 4, 32), torch.nan), "pooled_prompt_embeds": torch.zeros(1, 32)}, "finite"),
    ],
    ids=["width", "pooled", "dimensions", "no pooled", "other names", "nan"],
)  # fmt: skip
def test_the_prompt_of_another_model_is_refused_before_anything_is_loaded(
    make_flux_job: MakeFlux, tmp_path: Path, tensors: dict[str, torch.Tensor], words: str
) -> None:
    file = tmp_path / "prompt.safetensors"
    save_file(tensors, file)
    with pytest.raises(WeightsError, match=words):
        load_embeddings(registry.spec_of(make_flux_job(embeddings=file)).options, tmp_path, CPU)


def test_an_argument_that_the_pipeline_does_not_take_is_refused(
    make_flux_job: MakeFlux, flux: tuple[Path, Path], tmp_path: Path
) -> None:
    file = tmp_path / "prompt.safetensors"
    save_file({**load_file(flux[1]), "prompt_embeds_mask": torch.ones(1, 4)}, file)
    settings = make_flux_job(embeddings=file)
    with pytest.raises(WeightsError, match="prompt_embeds_mask"):
        registry.open_engines(settings, registry.prepare_engine(settings))


# A single file for the transformer


@pytest.mark.parametrize(
    "fault", ["cut", "tensors cut", "another network", "a network with more", "a picture"]
)
def test_a_file_that_is_not_the_transformer_is_refused(
    make_flux_job: MakeFlux, flux: tuple[Path, Path], tmp_path: Path, fault: str
) -> None:
    file = make_gguf(flux[0], tmp_path / "damaged.gguf")
    whole = file.read_bytes()
    if fault == "cut":
        file.write_bytes(whole[:2000])
    elif fault == "tensors cut":
        file.write_bytes(whole[: len(whole) // 2])
    elif fault == "another network":
        make_gguf(make_klein(tmp_path / "klein"), file, network="Flux2Transformer2DModel")
    elif fault == "a network with more":
        make_gguf(flux[0], file, without="x_embedder.weight")
    else:
        file.write_bytes(b"\x89PNG\r\n" * 100)
    settings = make_flux_job(transformer=file)
    with pytest.raises(WeightsError, match="no transformer of tiny-flux"):
        registry.open_engines(settings, registry.prepare_engine(settings))


# Memory


def test_memory_that_runs_out_while_a_file_is_loaded_is_not_called_a_fault_of_the_file(
    make_flux_job: MakeFlux, flux: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_out(*_: object, **__: object) -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(diffusers.AutoPipelineForImage2Image, "from_pretrained", run_out)
    monkeypatch.setattr(diffusers.FluxTransformer2DModel, "from_single_file", run_out)
    single = make_gguf(flux[0], tmp_path / "Q8.gguf")
    for settings in (make_flux_job(), make_flux_job(transformer=single)):
        with pytest.raises(
            DeviceError, match=r"the memory ran out while .* was loaded: close other programs"
        ):
            registry.open_engines(settings, registry.prepare_engine(settings))


@pytest.mark.parametrize("kind", ["fp32 files", "bf16 files", "fp16 variants", "gguf"])
def test_the_plan_counts_what_is_loaded_and_not_what_is_on_the_disk(
    make_flux_job: MakeFlux, flux: tuple[Path, Path], tmp_path: Path, kind: str
) -> None:
    folder = tmp_path / "tiny-flux"
    shutil.copytree(flux[0], folder)
    more: dict[str, object] = {}
    for part in ("transformer", "vae"):
        (file,) = (folder / part).glob("*.safetensors")
        halves = {name: tensor.bfloat16() for name, tensor in load_file(file).items()}
        if kind == "bf16 files":
            save_file(halves, file)
        elif kind == "fp16 variants":
            save_file(halves, file.with_suffix(".fp16.safetensors"))
            assert weights_in(folder / part) == [file]
    if kind == "gguf":
        more["transformer"] = make_gguf(folder, tmp_path / "Q8.gguf")
    options = registry.spec_of(make_flux_job(pipeline=folder, **more)).options
    plan, device = plan_for(options, EngineResources(device="cpu"))
    pipeline = load_pipeline(options, plan, device, "fp32")
    taken = sum(
        tensor.numel() * tensor.element_size()
        for part in (pipeline.transformer, pipeline.vae)
        for tensor in part.state_dict().values()
    )
    assert "GB of weights, all on cpu" in plan.describe("cpu")
    # A GGUF file has a header, which is much only beside a tiny network.
    assert 0 <= plan.weights - taken <= (20_000 if kind == "gguf" else 0)


def test_damaged_weights_are_named_before_they_are_loaded(
    make_flux_job: MakeFlux, flux: tuple[Path, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "tiny-flux"
    shutil.copytree(flux[0], folder)
    (file,) = (folder / "vae").glob("*.safetensors")
    good = file.read_bytes()
    for content in (b"", b"\xff" * 100, good[:50], good[:-1], b"\x02" + bytes(7) + b"[]"):
        file.write_bytes(content)
        settings = make_flux_job(pipeline=folder)
        with pytest.raises(WeightsError, match=r"vae.* is not a whole"):
            registry.describe_loading(settings, registry.prepare_engine(settings))


# Licences


@pytest.mark.parametrize(
    ("name", "readme", "is_free"),
    [
        ("flux1-schnell-Q4_0.gguf", None, True),
        ("flux1-dev-Q8_0.gguf", None, False),
        ("flux1-kontext-dev.safetensors", None, False),
        ("FLUX.2-klein-9B-Q4.gguf", None, False),
        ("flux-2-klein-4b-Q4.gguf", None, True),
        ("z_image_turbo-Q4.gguf", None, True),
        ("model.gguf", "---\nlicense: other\nlicense_name: flux-1-dev-non-commercial-license\n---\n", False),
        # A README of other weights in that folder frees none.
        ("flux1-dev-Q8_0.gguf", "---\nlicense: apache-2.0\n---\n", False),
        ("flux1-schnell-Q8_0.gguf", "---\nlicense: apache-2.0\n---\n", True),
        ("flux1dev-q8.gguf", None, False),
        ("fluxDevFp8_v1.safetensors", None, False),
    ],
)
def test_a_free_pipeline_does_not_free_another_transformer(
    make_flux_job: MakeFlux, flux: tuple[Path, Path], tmp_path: Path, name: str, readme: str | None, is_free: bool
) -> None:  # fmt: skip
    (tmp_path / "models").mkdir()
    file = tmp_path / "models" / name
    file.write_bytes(b"weights")
    if readme is not None:
        (tmp_path / "models" / "README.md").write_text(readme)
    registry.prepare_engine(make_flux_job(transformer=file, accept_noncommercial=True))
    if is_free:
        registry.prepare_engine(make_flux_job(transformer=file))
    else:
        with pytest.raises(SettingsError, match=r"has the licence .*non-commercial.*--accept-noncommercial"):
            registry.prepare_engine(make_flux_job(transformer=file))


# Odd pages


def test_pages_of_one_pixel_and_tiles_larger_than_a_page(make_flux_job: MakeFlux) -> None:
    # Steps and strengths whose product is just enough, and half of it on the conservative path.
    for options in (
        {"tile": 128, "overlap": 1024},
        {"steps": 49, "strength": 0.0205, "tile": 33, "overlap": 0},
    ):
        settings = make_flux_job(**options)
        (engine,) = registry.open_engines(settings, registry.prepare_engine(settings))
        for size, channels in (((1, 1), 3), ((1, 30), 1), ((40, 1), 3)):
            page = np.random.default_rng(0).integers(0, 255, (1, *size, channels), np.uint8)
            for conservative in (False, True):
                made = engine.upscale(Batch(page, (size[1] * 2 + 1, size[0] * 2 + 1), conservative))
                assert made.pixels.shape == (1, size[0] * 2 + 1, size[1] * 2 + 1, channels)
        engine.close()


def test_an_index_that_is_none_is_refused(make_flux_job: MakeFlux, tmp_path: Path) -> None:
    for index in ("[]", "7", '{"_class_name": "FluxPipeline", "transformer": [1, 2]}', "{"):
        (tmp_path / "model_index.json").write_text(index)
        with pytest.raises((WeightsError, SettingsError)):
            settings = make_flux_job(pipeline=tmp_path, accept_noncommercial=True)
            registry.open_engines(settings, registry.prepare_engine(settings))


# Files that lack weights


@pytest.mark.parametrize("part", ["transformer", "vae", "text_encoder", "text_encoder_2", "controlnet"])
def test_a_part_that_lacks_weights_is_named_and_never_filled_with_random_ones(
    make_flux_job: MakeFlux, whole: Path, tmp_path: Path, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "pipeline"
    shutil.copytree(whole, folder)
    more: dict[str, object] = {"embeddings": None}
    if part == "controlnet":
        more["controlnet"] = make_controlnet(folder / part)
    (file,) = (folder / part).glob("*.safetensors")
    tensors = load_file(file)
    lost = next(
        name for name in sorted(tensors) if name.endswith(("k.weight", "norm1.weight", "norm_k.weight"))
    )
    del tensors[lost]
    save_file(tensors, file, metadata={"format": "pt"})
    settings = make_flux_job({"weights_cache": tmp_path / "cache"}, pipeline=folder, **more)
    advice: list[logging.LogRecord] = []
    handler = logging.Handler()
    monkeypatch.setattr(handler, "emit", advice.append)
    libraries = [logging.getLogger(name) for name in ("diffusers", "transformers")]
    levels = [each.level for each in libraries]
    for each in libraries:
        monkeypatch.setattr(each, "handlers", [handler])
    with pytest.raises(WeightsError, match=rf"{part} lacks the weights .*: download it again"):
        registry.open_engines(settings, registry.prepare_engine(settings))
    # Such as that the user should train the model.
    assert not advice and levels == [each.level for each in libraries]
    if part.startswith("text"):
        assert not (tmp_path / "cache").exists(), "a wrong prompt would be kept for ever"


def test_the_hub_is_told_nothing_when_a_program_looks_for_a_pipeline() -> None:
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from comic_upscale.engines.diffusion.folder import find_pipeline\n"
        "try:\n"
        "    find_pipeline(Path('somebody/some-pipeline'))\n"
        "except Exception:\n"
        "    pass\n"
        "from huggingface_hub import constants\n"
        "print(constants.HF_HUB_DISABLE_TELEMETRY)\n"
    )
    environment = {name: value for name, value in os.environ.items() if "TELEMETRY" not in name}
    said = subprocess.check_output([sys.executable, "-c", code], env=environment, text=True)
    assert said == "True\n"
