"""The registry's entry for diffusion models. It imports neither diffusers nor torch."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from annotated_types import Ge, Le

from comic_upscale.engines.base import (
    Engine,
    EngineFactory,
    EngineResources,
    EngineSpec,
    Identity,
    OnProgress,
)
from comic_upscale.engines.diffusion.folder import (
    BY_MASK,
    DEFAULT_PIPELINE,
    LARGEST_BY_MASK,
    PipelineFolder,
    check_licence,
    check_licence_of_file,
    identity_of_file,
    identity_of_folder,
    identity_of_network,
)
from comic_upscale.engines.diffusion.memory import MemoryMode
from comic_upscale.engines.unsupported import refuse_network_options
from comic_upscale.errors import SettingsError
from comic_upscale.models.weights import identify_weights, resolve_weights
from comic_upscale.settings.options import Opt

NAME = "flux"
"""The engine's name in the registry."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FluxOptions:
    """Options of the engine ``flux``."""

    pipeline: Annotated[
        Path,
        Opt(
            "The folder of a diffusers pipeline that turns an image into an image, such as FLUX.1-schnell, Z-Image or "
            "SDXL; or the name of one that `hf download NAME` has downloaded.",
            parse=Path, write=identity_of_folder, fingerprint="always",
        ),
    ] = DEFAULT_PIPELINE  # fmt: skip
    transformer: Annotated[
        Path | None,
        Opt(
            "A single file for the transformer, such as a quantized FILE.gguf, in place of that of the folder.",
            parse=Path, write=identity_of_file, fingerprint="if-changed",
        ),
    ] = None  # fmt: skip
    embeddings: Annotated[
        Path | None,
        Opt(
            "A .safetensors file with the encoded prompt. auto: FLUX.2-klein and FLUX.1 encode the prompt once and "
            "keep it, so that their text encoders, which take 8 to 10 GB, are not loaded again.",
            parse=Path, write=identity_of_file, fingerprint="if-changed",
        ),
    ] = None  # fmt: skip
    text_encoder: Annotated[
        Path | None,
        Opt(
            "A single .safetensors file for the large text encoder of FLUX.1 (T5), such as t5xxl_fp8_e4m3fn, in place "
            "of that of the folder. Weights in fp8 stay so in memory.",
            parse=Path, write=identity_of_file, fingerprint="if-changed",
        ),
    ] = None  # fmt: skip
    controlnet: Annotated[
        Path | None,
        Opt(
            "The folder of a ControlNet for FLUX.1 that keeps to the first pass, such as one for tiles or upscaling. "
            "With it, a strength above 0.35 still keeps the drawing.",
            parse=Path, write=identity_of_network, fingerprint="if-changed",
        ),
    ] = None  # fmt: skip
    control: Annotated[
        float, Ge(0), Le(2), Opt("How much the ControlNet counts.", fingerprint="if-changed")
    ] = 0.6
    prompt: Annotated[str, Opt("A description of the pages.", fingerprint="if-changed")] = (
        "high quality, sharp, detailed"
    )
    first_pass: Annotated[
        str,
        Opt(
            "The model that enlarges the page first: a name of the catalogue, or a file.",
            fingerprint="if-changed",
        ),
    ] = "comic-best-x3"
    strength: Annotated[
        float, Ge(0.01), Le(1),
        Opt("How much the model redraws: 0.2 cleans, 0.5 changes faces and letters.", fingerprint="if-changed"),
    ] = 0.25  # fmt: skip
    steps: Annotated[
        int | None, Ge(1), Le(200),
        Opt(
            "Steps for a strength of 1. auto: 4 for FLUX.2-klein and FLUX.1-schnell, 20 for others.",
            fingerprint="if-changed",
        ),
    ] = None  # fmt: skip
    guidance: Annotated[
        float, Ge(0), Le(30), Opt("How closely the prompt is followed.", fingerprint="if-changed")
    ] = 3.5
    seed: Annotated[
        int,
        Ge(0),
        Le(2**63 - 1),
        Opt("Of the noise. Equal seeds give equal pages.", fingerprint="if-changed"),
    ] = 0
    tile: Annotated[
        int, Ge(32), Le(4096), Opt("Side of a tile in output pixels.", fingerprint="if-changed")
    ] = 1024
    overlap: Annotated[
        int,
        Ge(0),
        Le(1024),
        Opt(
            "Overlap of tiles, along which they are blended: at most a third of a tile is used.",
            fingerprint="if-changed",
        ),
    ] = 96
    keep_lettering: Annotated[
        bool, Opt("Keep lettering and fine lines as the first pass draws them.", fingerprint="if-changed")
    ] = True
    accept_noncommercial: Annotated[
        bool, Opt("You have read the licence of the pipeline, and it allows what you do.")
    ] = False
    memory: Annotated[
        MemoryMode,
        Opt("all: every part on the device. offload: one part at a time. sequential: one layer at a time. auto: "
            "the fastest that fits."),
    ] = "auto"  # fmt: skip


class FluxFactory(EngineFactory):
    """Opens one ``DiffusionEngine``."""

    name = NAME
    summary = "FLUX and other diffusion models, in tiles after a first pass. Slow; draws details that were not there."
    options = FluxOptions
    packages = ("diffusers", "transformers", "accelerate", "gguf", "huggingface_hub")
    install = "pip install 'comic-upscale[flux]'"

    def identify(self, spec: EngineSpec) -> Identity:
        """Return the pipeline's name, and a hash of it and of the first pass. The options count by themselves."""
        refuse_network_options(spec, model="use --engine-option first_pass=NAME")
        options: FluxOptions = spec.options
        steps = options.steps or PipelineFolder.read(options.pipeline).usual_steps
        if steps * options.strength < 1:
            raise SettingsError(
                f"{steps} steps at a strength of {options.strength:g} draw nothing: the product must be at "
                "least 1"
            )
        first = identify_weights(options.first_pass, denoise=None)
        content = [NAME, identity_of_folder(options.pipeline), first[1]]
        if options.embeddings is None:
            content.append(PipelineFolder.read(options.pipeline).identity_of_text())
        return Identity(options.pipeline.name, hashlib.sha256(json.dumps(content).encode()).hexdigest())

    def prepare(self, spec: EngineSpec, on_progress: OnProgress | None = None) -> EngineSpec:
        """Check the licence, and find the weights of the first pass."""
        options: FluxOptions = spec.options
        folder = PipelineFolder.read(options.pipeline)
        folder.check_licence(accepted=options.accept_noncommercial)
        if folder.kind in BY_MASK and options.tile > LARGEST_BY_MASK:
            raise SettingsError(
                f"{folder.kind} takes tiles of at most {LARGEST_BY_MASK} pixels: use --engine-option "
                f"tile={LARGEST_BY_MASK}"
            )
        if options.controlnet is not None:
            identity_of_network(options.controlnet)
            check_licence(options.controlnet, "ControlNet", accepted=options.accept_noncommercial)
        for file in (options.transformer, options.embeddings, options.text_encoder):
            identity_of_file(file)
        if options.transformer is not None:
            check_licence_of_file(options.transformer, accepted=options.accept_noncommercial)
        weights = resolve_weights(
            options.first_pass,
            denoise=None,
            folders=spec.weights_folders,
            cache=spec.weights_cache,
            download=spec.download,
            on_progress=on_progress,
        )
        return replace(spec, weights=weights)

    def describe_loading(self, spec: EngineSpec, resources: EngineResources) -> str | None:
        """Return the plan of the memory."""
        from comic_upscale.engines.diffusion.embeddings import describe_encoding
        from comic_upscale.engines.diffusion.loading import plan_for

        plan, device = plan_for(spec.options, resources)
        encoding = describe_encoding(spec.options, spec.weights_cache)
        return "; ".join(filter(None, (plan.describe(str(device)), encoding)))

    def open(self, spec: EngineSpec, resources: EngineResources) -> list[Engine]:
        """Load the first pass and the pipeline on one device."""
        if resources.batch is not None or resources.tile is not None:
            raise SettingsError("--engine flux does not use --batch and --tile: use --engine-option tile=N")
        from comic_upscale.engines.diffusion.engine import open_diffusion_engine

        return [open_diffusion_engine(spec, resources, self.identify(spec).digest)]


FACTORY = FluxFactory()
