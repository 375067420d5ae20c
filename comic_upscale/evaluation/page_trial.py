"""Try several models on one page: one labelled picture, and a recommendation by the rule of a trial."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass

from PIL import Image, ImageDraw

from comic_upscale.errors import InputError
from comic_upscale.evaluation.metrics import Metrics
from comic_upscale.evaluation.pairs import Pictures
from comic_upscale.evaluation.picture import WHITE, as_image, as_pixels, busiest_region, detail, flatten
from comic_upscale.evaluation.sheet import row_of, under
from comic_upscale.evaluation.trial import LANCZOS, Candidate, Restore, Trial, lanczos, run_trial
from comic_upscale.evaluation.verdict import Verdict, judge
from comic_upscale.library.page import Page

CROP = (480, 720)
"""Largest width and height in pixels of a crop, which is shown at 100 %."""

JPEG_QUALITY = 75
"""JPEG quality of the second track of the trial, as `evaluate` has it."""

OnStep = Callable[[str, int, int], None]
"""Called with the name of a model, the number of finished steps, and the total."""


@dataclass(frozen=True, slots=True)
class PageTrial:
    """Several models on one page."""

    page: str
    """Its source."""
    picture: Image.Image
    """The whole page, and beside it a crop of each model's output at 100 %."""
    trial: Trial | None
    """The figures of the models; None if the page is too small to measure."""
    verdict: Verdict | None
    """The recommended model; None if the page is too small to measure."""
    reason: str | None = None
    """Why there is no recommendation."""


def try_page(
    pictures: Pictures,
    page: Page,
    candidates: Sequence[Candidate],
    metrics: Metrics,
    *,
    scale: float,
    on_step: OnStep | None = None,
) -> PageTrial:
    """Upscale a page with several models, and measure them on the page itself.

    The figures come from the page shrunk by the scale and restored, as in `run_trial`, because only then there is an
    original to compare with. The picture shows the page enlarged.

    Args:
        pictures: the input that contains the page.
        page: one of its pages.
        candidates: the models.
        metrics: computes the scores.
        scale: the factor, above 1 and up to 8.
        on_step: called after each step.

    Raises:
        PageError: the page cannot be read.
        InputError, WeightsError, DeviceError: as in `run_trial`.
    """
    source = as_image(flatten(pictures.open(page), WHITE))
    pictures.pages = (page,)
    with ExitStack() as stack:
        opened = [(each.name, stack.enter_context(each.open())) for each in candidates]
        trial, reason = _measure(pictures, opened, metrics, scale, on_step)
        outputs = [(LANCZOS, lanczos(source, scale))]
        for name, restore in opened:
            outputs.append((name, restore(source, scale)))
    verdict = None if trial is None else judge(trial)
    return PageTrial(page.source, _draw(page.source, source, outputs, trial, verdict), trial, verdict, reason)


def _measure(
    pictures: Pictures,
    opened: Sequence[tuple[str, Restore]],
    metrics: Metrics,
    scale: float,
    on_step: OnStep | None,
) -> tuple[Trial | None, str | None]:
    """Return the figures of the models; or why there are none."""
    again = [Candidate(name, _keep_open(restore)) for name, restore in opened]
    try:
        trial = run_trial(
            pictures, again, metrics, scale=scale, quality=JPEG_QUALITY, sample=None, on_turn=on_step
        )
    except InputError as error:
        return None, str(error)
    return trial, None


def _keep_open(restore: Restore) -> Callable[[], AbstractContextManager[Restore]]:
    return lambda: nullcontext(restore)


def _draw(
    page: str,
    source: Image.Image,
    outputs: Sequence[tuple[str, Image.Image]],
    trial: Trial | None,
    verdict: Verdict | None,
) -> Image.Image:
    """Return the whole page with a frame, and the part in the frame as each model gives it."""
    width, height = outputs[0][1].size
    factor = width / source.width
    size = tuple(max(1, round(side / factor)) for side in CROP)
    left, top, *_ = busiest_region(detail(as_pixels(source).color), (size[0], size[1]))
    crop = (min(CROP[0], width), min(CROP[1], height))
    left = min(round(left * factor), width - crop[0])
    top = min(round(top * factor), height - crop[1])
    box = (left, top, left + crop[0], top + crop[1])
    whole = _whole(outputs[-1][1], box, crop)
    crops = [(_label(name, trial, verdict), image.crop(box)) for name, image in outputs]
    title = f"{page}, {source.width}x{source.height} to {width}x{height}, crops at 100 %"
    return under(title, [row_of([("the page", whole), *crops])])


def _whole(image: Image.Image, box: tuple[int, int, int, int], room: tuple[int, int]) -> Image.Image:
    """Return an image that fits the room, with a frame around a box."""
    ratio = min(room[0] / image.width, room[1] / image.height)
    small = image.convert("RGB").resize(
        (max(1, round(image.width * ratio)), max(1, round(image.height * ratio))), Image.Resampling.LANCZOS
    )
    frame = [round(place * ratio) for place in box]
    ImageDraw.Draw(small).rectangle(frame, outline="red", width=2)
    canvas = Image.new("RGB", room, "white")
    canvas.paste(small, (0, 0))
    return canvas


def _label(name: str, trial: Trial | None, verdict: Verdict | None) -> str:
    if trial is None or verdict is None:
        return name
    standing = next((each for each in trial.standings if each.name == name), None)
    figures = "" if standing is None else f", SSIM {standing.mean('ssim'):.4f}"
    return f"{name}{figures}{', recommended' if name == verdict.recommended else ''}"
