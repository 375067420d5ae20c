"""The encoded prompt: a file of the user, or encoded once by the pipeline's own text encoders and kept in the cache."""

from __future__ import annotations

import hashlib
import inspect
import json
from pathlib import Path
from typing import Any

import psutil
import torch

from comic_upscale.engines.diffusion.factory import FluxOptions
from comic_upscale.engines.diffusion.folder import (
    FLUX_1,
    PipelineFolder,
    bytes_in_memory,
    identity_of_file,
)
from comic_upscale.engines.diffusion.parts import load_text_models
from comic_upscale.engines.telemetry import disable_telemetry
from comic_upscale.engines.torch.device_errors import refuse_full_memory
from comic_upscale.errors import DeviceError, SettingsError, WeightsError

_WIDTHS = {
    "prompt_embeds": (3, ("joint_attention_dim", "cross_attention_dim")),
    "pooled_prompt_embeds": (2, ("pooled_projection_dim",)),
}
"""Arguments of pipelines: how many dimensions each has, and which setting of the network is as large as its last."""
_NUMBER_BYTES = 2
"""Bytes of a number of the text encoders: they work in bf16."""
GB = 1e9


def stores_embeddings(folder: PipelineFolder, options: FluxOptions) -> bool:
    """Return whether the text encoders are not loaded with the pipeline."""
    return options.embeddings is not None or folder.encodes_once


def load_embeddings(options: FluxOptions, cache: Path, device: torch.device) -> dict[str, torch.Tensor]:
    """Return the encoded prompt by the names of the pipeline's arguments; empty if the pipeline encodes it itself.

    FLUX.2-klein and FLUX.1 encode it once, on the CPU, and the cache keeps it.

    Raises:
        WeightsError: the file is none or belongs to another model, or the text encoders cannot be loaded.
        DeviceError: the text encoders do not fit into memory.
        SettingsError: a text encoder is given that nothing needs.
    """
    folder = PipelineFolder.read(options.pipeline)
    if options.text_encoder is not None and (options.embeddings is not None or folder.kind not in FLUX_1):
        raise SettingsError(
            "--engine-option text_encoder encodes the prompt of FLUX.1: leave it out with embeddings=FILE and with "
            "other pipelines"
        )
    if options.embeddings is None and not folder.encodes_once:
        return {}
    path = options.embeddings or _cached(folder, options, cache)
    if options.embeddings is None and not path.is_file():
        _encode_prompt(folder, options, path)
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
    except Exception as error:
        raise WeightsError(f"{path} has no encoded prompt (.safetensors): {first_line(error)}") from error
    _check(tensors, folder, path)
    return {name: tensor.to(device) for name, tensor in tensors.items()}


def check_arguments(tensors: dict[str, torch.Tensor], pipeline: Any, path: Path | None) -> None:
    """Refuse tensors that are no arguments of a pipeline: it would draw with a part of the prompt.

    Raises:
        WeightsError: there is one.
    """
    known = inspect.signature(pipeline.__call__).parameters
    if unknown := [name for name in tensors if name not in known]:
        raise WeightsError(
            f"{path} has the prompt of another model: {type(pipeline).__name__} takes no {' and no '.join(unknown)}"
        )


def describe_encoding(options: FluxOptions, cache: Path) -> str | None:
    """Return what the prompt needs before the pipeline is loaded, for the user; None if it is stored already.

    Raises:
        DeviceError: the text encoders do not fit into memory.
    """
    folder = PipelineFolder.read(options.pipeline)
    if options.embeddings is not None or not folder.encodes_once or _cached(folder, options, cache).is_file():
        return None
    needed = _check_memory(folder, options)
    return f"first the prompt is encoded on the CPU, once: {needed / GB:.1f} GB of text encoders"


def first_line(error: Exception) -> str:
    """Return the first line of what a library says."""
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else repr(error))[:300]


def _check(tensors: dict[str, torch.Tensor], folder: PipelineFolder, path: Path) -> None:
    """Refuse a prompt that another model has encoded.

    Raises:
        WeightsError: a tensor is missing, has another shape than the network takes, or is not finite.
    """
    network: Any = {}
    for part in ("transformer", "unet"):
        if part in folder.parts:
            network = json.loads((folder.path / part / "config.json").read_text(encoding="utf-8"))
    needed = [name for name in _WIDTHS if name == "prompt_embeds" or folder.kind in FLUX_1]
    if missing := [name for name in needed if name not in tensors]:
        raise WeightsError(
            f"{path} has no {' and no '.join(missing)}, which {folder.kind} takes for a prompt"
        )
    for name, tensor in tensors.items():
        dimensions, settings = _WIDTHS.get(name, (tensor.ndim, ()))
        width = next((network[each] for each in settings if isinstance(network.get(each), int)), None)
        last = tensor.shape[-1] if tensor.ndim else 0
        if tensor.ndim != dimensions or (width is not None and last != width):
            raise WeightsError(
                f"{path} has the prompt of another model: its {name} is {tuple(tensor.shape)}, and {folder.path} takes "
                f"{width or 'numbers'} in {dimensions} dimensions"
            )
        if tensor.is_floating_point() and not torch.isfinite(tensor.float()).all():
            raise WeightsError(f"{path} has numbers that are not finite in {name}: encode the prompt again")


def _encode_prompt(folder: PipelineFolder, options: FluxOptions, path: Path) -> None:
    from safetensors.torch import save

    from comic_upscale.storage.atomic import write_whole

    missing = [part for part in folder.encoders if part not in folder.parts]
    if missing:
        raise WeightsError(
            f"{folder.path} has no {' and '.join(missing)} to encode the prompt: add --engine-option embeddings=FILE"
        )
    _check_memory(folder, options)
    disable_telemetry()
    try:
        import diffusers

        more: dict[str, Any] = {"transformer": None, "vae": None}
        if options.text_encoder is not None:
            more["text_encoder_2"] = _load_encoder(options.text_encoder, folder)
        # In bf16, as they were trained: T5 of FLUX.1 overflows in fp16.
        more |= load_text_models(folder, torch.bfloat16, without=more)
        kind = getattr(diffusers, folder.kind)
        encoder = kind.from_pretrained(
            str(folder.path), torch_dtype=torch.bfloat16, local_files_only=True, use_safetensors=True, **more
        )
        with torch.inference_mode():
            made = encoder.encode_prompt(*[options.prompt] * len(folder.encoders))
    except WeightsError:
        raise
    except Exception as error:
        refuse_full_memory(error, folder.path)
        # Whatever is wrong with the files of others.
        raise WeightsError(f"the prompt cannot be encoded by {folder.path}: {first_line(error)}") from error
    # FLUX.1 has a second one for its second encoder. The places of the words come last.
    names = ("prompt_embeds", "pooled_prompt_embeds")[: len(folder.encoders)]
    write_whole(save({name: tensor.contiguous() for name, tensor in zip(names, made, strict=False)}), path)


def _check_memory(folder: PipelineFolder, options: FluxOptions) -> int:
    """Return the bytes of the text encoders in memory.

    Raises:
        DeviceError: there is too little memory.
    """
    taken = folder.encoders if options.text_encoder is None else folder.encoders[:1]
    needed = sum(folder.bytes_of(part, _NUMBER_BYTES) for part in taken)
    if options.text_encoder is not None:
        needed += bytes_in_memory(options.text_encoder, 1)
    available = psutil.virtual_memory().available
    if needed > available:
        raise DeviceError(
            f"encoding the prompt takes {needed / GB:.1f} GB of memory, and {available / GB:.1f} GB are free: "
            + ("use an fp8 text encoder (--engine-option text_encoder=FILE), or " * (folder.kind in FLUX_1))
            + "encode the prompt on a larger machine, and give the file with --engine-option embeddings=FILE"
        )
    return needed


def _load_encoder(path: Path, folder: PipelineFolder) -> Any:
    """Return T5 with the weights of a single file. Those in fp8 stay so, and are turned into bf16 layer by layer.

    Raises:
        ValueError: the file has the weights of another network.
    """
    from accelerate import init_empty_weights
    from diffusers.hooks.layerwise_casting import apply_layerwise_casting_hook
    from safetensors.torch import load_file
    from transformers import AutoConfig, T5EncoderModel

    state = load_file(path)
    with init_empty_weights():
        model: Any = T5EncoderModel(AutoConfig.from_pretrained(folder.path / "text_encoder_2"))
    eights = (torch.float8_e4m3fn, torch.float8_e5m2)
    stays: dict[str, torch.dtype] = {}
    for name, tensor in state.items():
        # T5 converts its input to the type of `wo`, and has norms and embeddings of its own.
        if tensor.dtype in eights and name.endswith(".weight") and name.split(".")[-2] in _STAYS_IN_FP8:
            stays[name.removesuffix(".weight")] = tensor.dtype
        elif tensor.is_floating_point():
            state[name] = tensor.to(torch.bfloat16)
    missing, unknown = model.load_state_dict(state, strict=False, assign=True)
    tied = "encoder.embed_tokens.weight"
    if set(missing) - {tied} or set(unknown) - {tied}:
        raise ValueError(
            f"{path} has other weights than T5 of this pipeline, such as {(missing + unknown)[0]}"
        )
    model.tie_weights()
    for name, module in model.named_modules():
        if name in stays:
            apply_layerwise_casting_hook(module, stays[name], torch.bfloat16, non_blocking=False)
    return model.eval()


_STAYS_IN_FP8 = ("q", "k", "v", "o", "wi", "wi_0", "wi_1")
"""Layers of T5 whose weights need not be converted before they are used."""


def _cached(folder: PipelineFolder, options: FluxOptions, cache: Path) -> Path:
    """Return where the encoded prompt is kept."""
    # Not by their sizes: another text encoder for the same pipeline is as large.
    content = (folder.kind, folder.identity_of_text(), options.prompt, identity_of_file(options.text_encoder))
    key = hashlib.sha256(repr(content).encode()).hexdigest()[:32]
    return cache / "embeddings" / f"{key}.safetensors"
