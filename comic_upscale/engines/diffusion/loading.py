"""Load a pipeline with diffusers, by the plan of the memory, with stored embeddings in place of the text encoders."""

from __future__ import annotations

import inspect
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import torch

from comic_upscale.engines.base import EngineResources
from comic_upscale.engines.diffusion.embeddings import first_line, stores_embeddings
from comic_upscale.engines.diffusion.factory import FluxOptions
from comic_upscale.engines.diffusion.folder import (
    BY_MASK,
    FLUX_1,
    TEXT_PARTS,
    NetworkFolder,
    PipelineFolder,
    bytes_in_memory,
)
from comic_upscale.engines.diffusion.memory import GB, MemoryPlan, plan_memory
from comic_upscale.engines.diffusion.noise import take_over_noise
from comic_upscale.engines.diffusion.parts import check_all_whole, check_whole, load_text_models
from comic_upscale.engines.telemetry import disable_telemetry
from comic_upscale.engines.torch.device import choose_device
from comic_upscale.engines.torch.device_errors import is_too_much, refuse_full_memory, translate_lost_device
from comic_upscale.errors import DeviceError, SettingsError, WeightsError

_PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_CONTROLLED = "FluxControlNetImg2ImgPipeline"
"""The pipeline of FLUX.1 with a ControlNet."""


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep the progress bars and the advice to programmers of diffusers and transformers off the terminal of a run."""
    disable_telemetry()
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    libraries: tuple[Any, ...] = (of_diffusers, of_transformers)
    levels = [each.get_verbosity() for each in libraries]
    for each in libraries:
        each.disable_progress_bar()
        each.set_verbosity(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        for each, level in zip(libraries, levels, strict=True):
            each.set_verbosity(level)


def choose_precision(resources: EngineResources, device: torch.device) -> str:
    """Return ``"fp32"`` on a CPU and ``"bf16"`` elsewhere, unless the user chose.

    Raises:
        SettingsError: there are no such weights.
    """
    if resources.precision == "int8":
        raise SettingsError("--engine flux does not support --precision int8: use fp32, fp16 or bf16")
    if resources.precision != "auto":
        return resources.precision
    return "fp32" if device.type == "cpu" else "bf16"


def plan_for(options: FluxOptions, resources: EngineResources) -> tuple[MemoryPlan, torch.device]:
    """Return the plan of the memory, and the device. Nothing is loaded.

    Raises:
        DeviceError: there is too little memory, or no such device.
        SettingsError: several devices.
    """
    if "," in resources.device:
        raise SettingsError("--engine flux uses one device: give one --device")
    device = choose_device(resources.device)
    folder = PipelineFolder.read(options.pipeline)
    width = 4 if choose_precision(resources, device) == "fp32" else 2
    parts = {}
    for part in folder.parts:
        if part in TEXT_PARTS and stores_embeddings(folder, options):
            continue
        size = folder.bytes_of(part, width)
        if size:
            parts[part] = size
    if options.transformer is not None:
        parts["transformer"] = bytes_in_memory(options.transformer, width)
    if options.controlnet is not None:
        # Every step needs both.
        parts["transformer"] = parts.get("transformer", 0) + NetworkFolder(
            options.controlnet
        ).bytes_in_memory(width)
    on_gpu = device.type == "cuda"
    available = torch.cuda.mem_get_info(device)[0] if on_gpu else psutil.virtual_memory().available
    mode = options.memory
    if device.type == "cpu" and mode == "auto":
        mode = "all"
    return plan_memory(parts, tile=options.tile, available=available, mode=mode, widening=width / 2), device


def load_pipeline(options: FluxOptions, plan: MemoryPlan, device: torch.device, precision: str) -> Any:
    """Return the pipeline, ready on its device.

    Raises:
        WeightsError: diffusers cannot load it, or it does not turn an image into an image.
        DeviceError: the device cannot hold it.
    """
    library = _diffusers()
    folder = PipelineFolder.read(options.pipeline)
    dtype = _PRECISIONS[precision]
    more: dict[str, Any] = {}
    if stores_embeddings(folder, options):
        kind = getattr(library, folder.kind, None)
        names = set(inspect.signature(kind.__init__).parameters) if kind is not None else set()
        more = {part: None for part in TEXT_PARTS if part in names}
    if options.transformer is not None:
        more["transformer"] = _load_transformer(options.transformer, folder, dtype)
    loader = library.AutoPipelineForImage2Image
    if options.controlnet is not None:
        loader = getattr(library, _CONTROLLED)
        more["controlnet"] = _load_controlnet(options.controlnet, folder, dtype)
    elif folder.kind in BY_MASK:
        loader = getattr(library, BY_MASK[folder.kind])
    try:
        more |= load_text_models(folder, dtype, without=more)
        pipeline: Any = loader.from_pretrained(
            str(folder.path), torch_dtype=dtype, local_files_only=True, use_safetensors=True, **more
        )
    except WeightsError:
        raise
    except Exception as error:
        refuse_full_memory(error, folder.path)
        # Whatever is wrong with the files of others.
        raise WeightsError(
            f"diffusers cannot load {folder.path} to turn an image into an image: {first_line(error)}"
        ) from error
    check_all_whole(pipeline, folder.path)
    if "strength" not in inspect.signature(pipeline.__call__).parameters:
        raise WeightsError(
            f"{type(pipeline).__name__} draws a new image and does not keep to that of a page: use the pipeline of "
            "another model, such as FLUX.1 or FLUX.2-klein"
        )
    if not take_over_noise(pipeline):
        raise WeightsError(
            f"{type(pipeline).__name__} makes its noise in a way that is not known here, so its tiles would not fit "
            "together: use the pipeline of another model, such as FLUX.1 or FLUX.2-klein"
        )
    pipeline.set_progress_bar_config(disable=True)
    _place(pipeline, plan, device)
    return pipeline


def _place(pipeline: Any, plan: MemoryPlan, device: torch.device) -> None:
    """Bring a pipeline onto its device as planned.

    Raises:
        DeviceError: another program has taken the memory since it was planned, or the device failed.
    """
    try:
        with translate_lost_device(device):
            if plan.mode == "all":
                pipeline.to(device)
            elif plan.mode == "offload":
                pipeline.enable_model_cpu_offload(device=device)
            else:
                pipeline.enable_sequential_cpu_offload(device=device)
    except (RuntimeError, MemoryError) as error:
        if not is_too_much(error):
            raise
        raise DeviceError(
            f"{device} cannot hold the pipeline, although {plan.available / GB:.1f} GB were free: another program may "
            "have taken its memory. Close it, or add --engine-option memory=offload"
        ) from error


def _load_transformer(path: Path, folder: PipelineFolder, dtype: torch.dtype) -> Any:
    library = _diffusers()
    index = json.loads((folder.path / "model_index.json").read_text(encoding="utf-8"))
    kind = getattr(library, index["transformer"][1])
    more = (
        {"quantization_config": library.GGUFQuantizationConfig(compute_dtype=dtype)}
        if path.suffix == ".gguf"
        else {}
    )
    try:
        return kind.from_single_file(
            str(path), config=str(folder.path), subfolder="transformer", torch_dtype=dtype,
            local_files_only=True, **more,
        )  # fmt: skip
    except Exception as error:
        refuse_full_memory(error, path)
        raise WeightsError(f"{path} is no transformer of {folder.path.name}: {first_line(error)}") from error


def _load_controlnet(path: Path, folder: PipelineFolder, dtype: torch.dtype) -> Any:
    if folder.kind not in FLUX_1:
        raise SettingsError(
            f"--engine-option controlnet works with pipelines of FLUX.1 only, and {folder.path} is a {folder.kind}: "
            "leave it out"
        )
    try:
        network = _diffusers().FluxControlNetModel.from_pretrained(
            str(path), torch_dtype=dtype, local_files_only=True, use_safetensors=True
        )
    except Exception as error:
        refuse_full_memory(error, path)
        raise WeightsError(f"{path} is no ControlNet of FLUX.1: {first_line(error)}") from error
    check_whole(network, path)
    return network


def _diffusers() -> Any:
    disable_telemetry()
    import diffusers

    return diffusers
