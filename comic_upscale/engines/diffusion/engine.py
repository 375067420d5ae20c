"""The engine for diffusion models: a faithful first pass to the final size, then image to image in tiles that fade."""

from __future__ import annotations

import inspect
import logging
from dataclasses import replace
from threading import Event
from typing import Any

import numpy as np
import torch

from comic_upscale.engines.base import (
    Batch,
    DeviceInfo,
    Engine,
    EngineInfo,
    EnginePart,
    EngineResources,
    EngineSpec,
    OnPart,
    Upscaled,
    interrupt,
)
from comic_upscale.engines.diffusion.embeddings import check_arguments, load_embeddings
from comic_upscale.engines.diffusion.factory import NAME, FluxOptions
from comic_upscale.engines.diffusion.folder import BY_MASK, PipelineFolder
from comic_upscale.engines.diffusion.lettering import keep_map
from comic_upscale.engines.diffusion.loading import choose_precision, load_pipeline, plan_for, quiet_libraries
from comic_upscale.engines.diffusion.noise import NoiseField
from comic_upscale.engines.feathering import FeatheredPage, Floats, Window, plan_windows
from comic_upscale.engines.host_resample import to_samples
from comic_upscale.engines.torch.alone import OCCUPANCY
from comic_upscale.engines.torch.device_errors import is_too_much, translate_lost_device
from comic_upscale.engines.torch.engine import open_torch_engine
from comic_upscale.errors import DeviceError, PageError
from comic_upscale.imaging.gray import eight_bits
from comic_upscale.imaging.pixels import Borders, SampleArray
from comic_upscale.models.network import load_network

log = logging.getLogger(__name__)

STEP = 16
"""Tiles begin at and have multiples of this: the autoencoder takes 8 pixels for one, the transformer 2 of these."""


class _StoppedError(Exception):
    pass


def open_diffusion_engine(spec: EngineSpec, resources: EngineResources, identity: str) -> DiffusionEngine:
    """Load everything; arguments and errors as in `EngineFactory.open`."""
    options: FluxOptions = spec.options
    assert spec.weights is not None
    plan, device = plan_for(options, resources)
    precision = choose_precision(resources, device)
    with quiet_libraries():
        # The prompt first: its encoders are freed before the transformer is loaded.
        embeddings = load_embeddings(options, spec.weights_cache, device)
        pipeline = load_pipeline(options, plan, device, precision)
    check_arguments(embeddings, pipeline, options.embeddings)
    first = open_torch_engine(load_network(spec.weights, None), str(device))
    return DiffusionEngine(
        options, pipeline, first, embeddings=embeddings, identity=identity, precision=precision, device=device
    )


class DiffusionEngine:
    """An ``Engine`` that draws over the output of another one.

    Args:
        options: of the engine.
        pipeline: of diffusers, turns an image into an image.
        first: makes the first pass; closed with this engine.
        embeddings: the encoded prompt, by the names of the pipeline's arguments.
        identity: from `FluxFactory.identify`.
        precision: ``"fp32"``, ``"fp16"`` or ``"bf16"``.
        device: of the pipeline.
    """

    def __init__(
        self,
        options: FluxOptions,
        pipeline: Any,
        first: Engine,
        *,
        embeddings: dict[str, torch.Tensor],
        identity: str,
        precision: str,
        device: torch.device,
    ) -> None:
        self._options, self._pipeline, self._first, self._device = options, pipeline, first, device
        folder = PipelineFolder.read(options.pipeline)
        self._steps = options.steps or folder.usual_steps
        self._stopped = Event()
        self._on_part: OnPart | None = None
        self._tiles = (0, 1)
        """Tiles of the current page that are done, and all of its tiles."""
        known = inspect.signature(pipeline.__call__).parameters
        dtype = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]
        given: dict[str, Any] = {
            # A mask has whole numbers.
            name: tensor.to(dtype) if tensor.is_floating_point() else tensor
            for name, tensor in embeddings.items()
        }
        if not given:
            given["prompt"] = options.prompt
        given |= {
            "guidance_scale": options.guidance,
            "num_inference_steps": self._steps,
            "output_type": "np",
            "controlnet_conditioning_scale": options.control,
        }
        given["callback_on_step_end"] = self._after_step
        if folder.kind in BY_MASK and folder.is_distilled:
            # It takes no guidance, and would say so for each tile.
            given["guidance_scale"] = 1.0
        self._given = {name: value for name, value in given.items() if name in known}
        self._takes_mask, self._takes_control = "mask_image" in known, "control_image" in known
        self._takes_size = {"height", "width"} <= set(known)
        place = first.info.device
        self._info = EngineInfo(
            name=NAME,
            identity=identity,
            device=DeviceInfo(place.kind, place.index, place.name),
            precision=precision,
            native_scale=first.info.native_scale,
            fidelity="generative",
            deterministic=device.type == "cpu",
            warnings=(
                "A diffusion model draws details that the page does not have, and takes minutes for a page: check the "
                "lettering.",
            ),
        )

    @property
    def info(self) -> EngineInfo:
        """The engine's properties."""
        return self._info

    def batch_limit(self, height: int, width: int) -> int:
        """Return 1: a page takes long, and a stop waits for it."""
        return 1

    def follow(self, on_part: OnPart | None) -> None:
        """Tell the tiles and steps that are done to this callback."""
        self._on_part = on_part

    def upscale(self, batch: Batch) -> Upscaled:
        """Return the pages at their target size, in the sample type of the input, with the borders of tiles.

        The conservative path draws with half the strength.

        Raises:
            PageError: ``"out-of-memory"``, ``"not-finite"``, or as the first pass.
            DeviceError: the device failed, or the engine was stopped.
        """
        strength = self._options.strength
        if batch.conservative:
            # A little more than one step: some pipelines round the product of both down.
            strength = max(strength / 2, min(1.0, 1.001 / self._steps))
        # The model draws over raw pixels.
        first = self._first.upscale(replace(batch, finish_plan=None, sources=()))
        borders = Borders()
        for index, page in enumerate(first.pixels):
            drawn, found = self._draw(page, strength)
            if self._options.keep_lettering:
                drawn = self._keep_lettering(batch.pixels[index], page, drawn)
            first.pixels[index] = drawn
            borders = borders.join(found)
        return Upscaled(first.pixels, borders, notes=first.notes)

    def interrupt(self) -> None:
        """End the current page after the step that is under way, from any thread."""
        self._stopped.set()
        interrupt(self._first)

    def close(self) -> None:
        """Release the memory. The engine is not used afterwards."""
        self._stopped.set()
        self._first.close()
        self._pipeline = None
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _draw(self, page: SampleArray, strength: float) -> tuple[SampleArray, Borders]:
        """Draw over a page of the final size; return it with the borders of its tiles."""
        height, width, channels = page.shape
        padded = np.pad(page, ((0, -height % STEP), (0, -width % STEP), (0, 0)), mode="edge")
        tile = self._options.tile // STEP * STEP
        plan = plan_windows((padded.shape[0], padded.shape[1]), (tile, tile), self._options.overlap, STEP)
        noise = NoiseField(self._options.seed, plan.size)
        white = np.float32(np.iinfo(page.dtype).max)
        canvas = FeatheredPage(plan.size, channels)
        for number, window in enumerate(plan.all(), 1):
            log.info("tile %d of %d", number, len(plan))
            self._tiles = number - 1, len(plan)
            self._tell(0.0)
            part = padded[slice(*window.rows), slice(*window.columns)].astype(np.float32) / white
            rgb = np.repeat(part, 3, axis=2) if channels == 1 else part
            made = self._draw_tile(rgb, window, noise, strength)
            canvas.add(window, made.mean(axis=2, keepdims=True) if channels == 1 else made)
        result = np.clip(canvas.result()[:height, :width], 0, 1)
        borders = Borders(
            tuple(place for place in plan.borders.rows if place < height),
            tuple(place for place in plan.borders.columns if place < width),
        )
        return to_samples(result, (width, height), page.dtype), borders

    def _draw_tile(self, rgb: Floats, window: Window, noise: NoiseField, strength: float) -> Floats:
        image = torch.from_numpy(np.ascontiguousarray(rgb)).permute(2, 0, 1)[None]
        more: dict[str, Any] = {}
        if self._takes_size:
            more = {"height": rgb.shape[0], "width": rgb.shape[1]}
        if self._takes_mask:
            more["mask_image"] = torch.ones((1, 1, *rgb.shape[:2]))
        if self._takes_control:
            # Unlike the image, the pipeline takes this tensor as it is.
            more["control_image"] = 2 * image - 1
        # For whatever else draws, such as a scheduler that adds noise in each step: alike for each tile.
        generator = torch.Generator("cpu").manual_seed(self._options.seed)
        if self._stopped.is_set():
            raise DeviceError("the engine was stopped")
        try:
            lost = translate_lost_device(self._info.device)
            busy = OCCUPANCY.batch_on(self._device)
            with lost, busy, torch.inference_mode(), noise.used_by(self._pipeline, window):
                made = self._pipeline(
                    image=image, strength=strength, generator=generator, **more, **self._given
                ).images[0]
        except _StoppedError:
            raise DeviceError("the engine was stopped") from None
        except (RuntimeError, MemoryError) as error:
            if not is_too_much(error):
                raise
            raise PageError(
                "out-of-memory",
                f"{self._info.device} has too little memory for a tile of {self._options.tile} pixels: use a smaller "
                "one (--engine-option tile=512), or --engine-option memory=offload",
            ) from error
        pixels = np.asarray(made, np.float32)
        if not np.isfinite(pixels).all():
            raise PageError(
                "not-finite", "the model gives numbers that are not finite: try --precision bf16 or fp32"
            )
        return pixels

    def _keep_lettering(self, source: SampleArray, first: SampleArray, drawn: SampleArray) -> SampleArray:
        """Return the drawn page with lettering and fine lines of the first pass."""
        size = (first.shape[1], first.shape[0])
        keep = to_samples(keep_map(eight_bits(source))[:, :, None], size, np.dtype(np.uint8))
        weight = keep.astype(np.float32) / np.float32(255)
        mixed = drawn + weight * (first.astype(np.float32) - drawn)
        return np.rint(mixed).astype(first.dtype)

    def _after_step(self, pipeline: Any, step: int, time: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if self._stopped.is_set():
            raise _StoppedError
        if self._on_part is not None:
            # Some pipelines do not tell how many of the steps a strength leaves.
            steps = getattr(pipeline, "num_timesteps", None) or step + 1
            # The autoencoder still has to draw the tile.
            self._tell(min((step + 1) / (steps + 1), 1.0))
        return tensors

    def _tell(self, share: float) -> None:
        """Tell what is done of the page, with this share of the current tile."""
        if self._on_part is not None:
            done, total = self._tiles
            self._on_part(EnginePart("tile", done + share, total))
