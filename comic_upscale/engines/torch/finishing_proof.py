"""Whether pages are finished on a device: only where that gives the same as the host does, on this very device."""

from __future__ import annotations

import functools
import logging
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from comic_upscale.engines.base import FinishPlan
from comic_upscale.engines.pages import finish, prepare
from comic_upscale.engines.torch.finishing import Finisher
from comic_upscale.engines.torch.host_memory import HostMemory
from comic_upscale.engines.torch.proof import draw_window
from comic_upscale.gate.measures import MeasurePlan
from comic_upscale.imaging.codecs.png import filter_rows
from comic_upscale.imaging.gray import high_bytes
from comic_upscale.imaging.pixels import DeviceWork, Pixels, UInt8Array

log = logging.getLogger(__name__)

_SIZE = (191, 131)
"""Height and width of the test page: no whole number of cells and blocks."""
_TARGETS = ((382, 262), (478, 328))
"""Heights and widths of its outputs: the gate shrinks the first by means, and the second, a gray one, by a filter."""


@functools.lru_cache(maxsize=64)
def finishes_right(device: torch.device) -> bool:
    """Return whether a GPU finishes a test page as the host does. No error leaves this function.

    It is tried once for each GPU. On other devices, the host finishes pages.
    """
    if device.type != "cuda":
        return False
    try:
        wrong = find_difference(device)
    except Exception as error:
        wrong = f"{type(error).__name__}: {error}"
    log.debug("%s %s", device, "finishes pages" if wrong is None else f"does not finish pages: {wrong}")
    return wrong is None


def find_difference(device: torch.device) -> str | None:
    """Finish test pages on a device and on the host; return what differs, None if nothing does.

    Raises:
        RuntimeError: the device cannot do it.
    """
    found = (_find_difference(device, *each) for each in zip(_TARGETS, (3, 1), strict=True))
    return next((wrong for wrong in found if wrong is not None), None)


def _find_difference(device: torch.device, target: tuple[int, int], channels: int) -> str | None:
    pages = (_test_page(target, channels, lossless=lossless) for lossless in (True, False))
    sources, raws = zip(*pages, strict=True)
    measures = MeasurePlan.of(sources[0].color.shape, raws[0].shape, looks_for_texture=True)
    assert measures is not None and measures.bends is not None
    outputs = torch.from_numpy(np.stack(raws)).to(device)
    plan = FinishPlan(measures, png_rows=True)
    finisher = Finisher(plan, sources, target, HostMemory(pinned=False), device)
    finisher.finish(outputs, 0)
    finished = outputs.cpu().numpy()
    for source, raw, page, work in zip(sources, raws, finished, finisher.work(), strict=True):
        assert work is not None
        expected, done = finish_on_host(replace(source, color=raw.copy()), measures)
        if not np.array_equal(page, expected):
            return "tone or solid areas"
        if wrong := _first_difference(work, done):
            return wrong
    return None


def finish_on_host(raw: Pixels, measures: MeasurePlan) -> tuple[UInt8Array, DeviceWork]:
    """Return what a device has to make of a raw output.

    Args:
        raw: the output with what `prepare` noted of its source, without alpha, in 8 bits; it may be changed.
        measures: of the quality gate.
    """
    raw_small = measures.shrink(high_bytes(raw.color))
    color = high_bytes(finish(raw).color)
    height, width, channels = color.shape
    bends = None if measures.bends is None else measures.bends.measure(color)
    rows = filter_rows(color.reshape(height, width * channels), channels)
    return color, DeviceWork(raw_small, measures.shrink(color), bends, rows)


def _test_page(target: tuple[int, int], channels: int, *, lossless: bool) -> tuple[Pixels, UInt8Array]:
    """Return a page as `prepare` returns it, and a raw output for it: darker, a little noisy, nowhere pure."""
    drawn = (draw_window(*_SIZE, channels)[0].permute(1, 2, 0) * 255).to(torch.uint8).numpy()
    # Areas of pure white and black, which the noise of the drawing does not have.
    drawn[:60, :50], drawn[100:140, 60:100] = 255, 0
    source = replace(prepare(Pixels(drawn, lossless=lossless)), faint=None)
    image = Image.fromarray(drawn.squeeze()).resize(target[::-1], Image.Resampling.LANCZOS)
    larger = np.asarray(image, np.int16).reshape(*target, channels)
    noise = np.random.default_rng(1).integers(-7, 4, larger.shape)
    return source, (larger + noise).clip(0, 255).astype(np.uint8)


def _first_difference(found: DeviceWork, expected: DeviceWork) -> str | None:
    """Return the name of the first part that differs."""
    assert found.bends is not None and expected.bends is not None
    pairs: dict[str, tuple[NDArray[Any] | None, NDArray[Any] | None]] = {
        "the shrunk raw output": (found.raw_small, expected.raw_small),
        "the shrunk page": (found.small, expected.small),
        "second differences along rows": (found.bends.along_rows, expected.bends.along_rows),
        "second differences along columns": (found.bends.along_columns, expected.bends.along_columns),
        "PNG rows": (found.png_rows, expected.png_rows),
    }
    for name, (one, other) in pairs.items():
        if one is None or other is None or not np.array_equal(one, other):
            return name
    return None
