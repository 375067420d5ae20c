"""Run pages through an engine: colour and alpha separately; a failure affects only the page that caused it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from comic_upscale.engines.base import Batch, Engine, FinishPlan, check_batch_size
from comic_upscale.engines.host_resample import resample_samples
from comic_upscale.errors import PageError
from comic_upscale.imaging.alpha import bleed_color
from comic_upscale.imaging.extremes import channel_extremes
from comic_upscale.imaging.faint_lines import find_faint_lines, restore_faint_lines
from comic_upscale.imaging.flat_areas import restore_solid, solid_map
from comic_upscale.imaging.pixels import NO_BORDERS, Borders, DeviceWork, Pixels, SampleArray
from comic_upscale.imaging.tone import paper_map, restore_tone, tone_map


def prepare(page: Pixels, *, raw: bool = False, cleans_white: bool = False) -> Pixels:
    """Return the page for the network: hidden colour is replaced by that of nearby visible pixels.

    So no hidden colour appears at the edges of visible areas. The tone of the page, its faint lines, and its pure white
    and black areas are recorded for `finish`. This runs on the CPU, not on the device.

    Args:
        page: the decoded page.
        raw: whether the network's own pixels are wanted. Nothing is recorded then, so `finish` changes nothing.
        cleans_white: whether the network was chosen to remove JPEG artifacts, whatever the page's own file is.
    """
    color = page.color if page.alpha is None else bleed_color(page.color, page.alpha)
    if raw:
        return replace(page, color=color)
    extremes = channel_extremes(color)
    return replace(
        page,
        color=color,
        solid=solid_map(color, page.alpha, extremes),
        faint=find_faint_lines(color, extremes),
        tone=tone_map(color),
        # JPEG artifacts make white paper darker on average. The network removes them, and `finish` must not bring them
        # back. White that was stored without loss has none.
        paper=paper_map(color) if cleans_white or not page.lossless else None,
    )


def finish(page: Pixels) -> Pixels:
    """Restore the tone of the source in an upscaled page, its faint lines, and its pure white and black areas.

    This runs on the CPU, not on the device.
    """
    return restore_solid(restore_tone(restore_faint_lines(page)))


def upscale_pages(
    engine: Engine,
    pages: Sequence[Pixels],
    target_size: tuple[int, int],
    *,
    conservative: bool = False,
    finish_plan: FinishPlan | None = None,
) -> list[Pixels | PageError]:
    """Return each page at the target size, or the error that it caused, in the order given.

    Transparency is upscaled as a separate gray page, or resampled beside an engine that draws details of its own.
    Profile and notes are kept.

    Args:
        engine: the engine.
        pages: pages from `prepare`, of one shape and type, all with alpha or all without. The results are for
            `finish`.
        target_size: (width, height) in pixels.
        conservative: as in `Batch`.
        finish_plan: how an engine that can do so finishes pages. `finish` changes nothing of these.

    Raises:
        DeviceError: the engine's device failed.
        ValueError: the pages differ in shape, type or alpha.
    """
    if len({(page.color.shape, page.color.dtype, page.alpha is None) for page in pages}) > 1:
        raise ValueError("pages of one batch must have one shape and type, and all alpha or none")
    sources = () if finish_plan is None else pages
    colors = _upscale_each(
        engine, [page.color for page in pages], target_size, conservative, finish_plan, sources
    )
    alphas = _upscale_alphas(engine, [page.alpha for page in pages], target_size, conservative)
    results: list[Pixels | PageError] = []
    for page, color, alpha in zip(pages, colors, alphas, strict=True):
        if isinstance(color, PageError):
            results.append(color)
        elif isinstance(alpha, PageError):
            results.append(alpha)
        else:
            plane, more = (None, ()) if alpha is None else (alpha.samples[:, :, 0], alpha.notes)
            notes = tuple(dict.fromkeys((*page.notes, *color.notes, *more)))
            results.append(
                replace(
                    page if color.work is None else _without_corrections(page),
                    color=color.samples,
                    alpha=plane,
                    borders=color.borders,
                    notes=notes,
                    answers=color.answers,
                    device_work=color.work,
                )
            )
    return results


def _without_corrections(page: Pixels) -> Pixels:
    """Return a page in which `finish` changes nothing."""
    return replace(page, solid=None, faint=None, tone=None, paper=None)


@dataclass(frozen=True, slots=True, eq=False)
class _Larger:
    """The output of an engine for one page, or for its alpha."""

    samples: SampleArray
    """Height x width x C."""
    borders: Borders = NO_BORDERS
    notes: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()
    work: DeviceWork | None = None


def _upscale_alphas(
    engine: Engine, alphas: Sequence[SampleArray | None], target_size: tuple[int, int], conservative: bool
) -> list[_Larger | PageError | None]:
    """Upscale planes of height x width. Flat planes do not go through the engine."""
    width, height = target_size
    results: list[_Larger | PageError | None] = [None] * len(alphas)
    uneven = []
    for index, alpha in enumerate(alphas):
        if alpha is None:
            continue
        if alpha.min() == alpha.max():
            # A network may turn 255 into 254. This way, an opaque page stays opaque at no cost.
            results[index] = _Larger(np.full((height, width, 1), alpha.flat[0], dtype=alpha.dtype))
        elif engine.info.fidelity == "generative":
            # It would invent edges, and a call may cost money.
            results[index] = _Larger(resample_samples(alpha[:, :, np.newaxis], target_size))
        else:
            uneven.append((index, alpha[:, :, np.newaxis]))
    planes = _upscale_each(engine, [plane for _, plane in uneven], target_size, conservative)
    for (index, _), plane in zip(uneven, planes, strict=True):
        results[index] = plane
    return results


def _upscale_each(
    engine: Engine,
    pages: Sequence[SampleArray],
    target_size: tuple[int, int],
    conservative: bool,
    finish_plan: FinishPlan | None = None,
    sources: Sequence[Pixels] = (),
) -> list[_Larger | PageError]:
    """Upscale all pages in one batch. If that fails, upscale each alone, so that only the pages at fault fail."""
    if not pages:
        return []
    try:
        # A single page, perhaps a large one, is not copied.
        pixels = pages[0][np.newaxis] if len(pages) == 1 else np.stack(pages)
        batch = Batch(pixels, target_size, conservative, finish_plan, tuple(sources))
        check_batch_size(engine.info, batch)
        made = engine.upscale(batch)
        works = made.work or (None,) * len(pages)
        return [
            _Larger(samples, made.borders, made.notes, made.answers, work)
            for samples, work in zip(made.pixels, works, strict=True)
        ]
    except PageError as error:
        if len(pages) == 1:
            return [error]
    return [
        result
        for index, page in enumerate(pages)
        for result in _upscale_each(
            engine, [page], target_size, conservative, finish_plan, sources[index : index + 1]
        )
    ]
