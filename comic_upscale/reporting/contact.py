"""The contact sheet of a job: crops of the worst and of random pages, before and after, for terminals and chats."""

from __future__ import annotations

import io
from pathlib import PurePath

import numpy as np
from PIL import Image

from comic_upscale.console.printable import printable
from comic_upscale.evaluation.picture import as_pixels, busiest_region, detail
from comic_upscale.evaluation.sheet import as_png, row_of, under
from comic_upscale.reporting.report import Report
from comic_upscale.reporting.views import View

SIDE = 280
"""Pixels of the output, shown one to one."""

PAIRS = 6
"""Pages of each kind."""

COLUMNS = 2


def contact_sheet(report: Report) -> bytes:
    """Return a PNG with crops of the worst pages and of random ones, each before and after at 100 %."""
    worst, some = report.worst[:PAIRS], report.random[:PAIRS]
    pairs = [_pair(view, "worst", number) for number, view in enumerate(worst, 1)]
    pairs += [_pair(view, "random", number) for number, view in enumerate(some, 1)]
    status = report.status
    name = PurePath(status.output).name
    title = (
        f"{name}: {status.done:,} of {status.total:,} pages done, {status.failed:,} failed; {status.model}"
    )
    return as_png(under(printable(title), pairs, columns=COLUMNS))


def _pair(view: View, kind: str, number: int) -> Image.Image:
    with Image.open(io.BytesIO(view.after)) as after, Image.open(io.BytesIO(view.before)) as before:
        samples = np.asarray(after.convert("RGB"))
        box = busiest_region(detail(as_pixels(Image.fromarray(samples)).color), (SIDE, SIDE))
        pieces = (before.convert("RGB").resize(after.size, Image.Resampling.BICUBIC), after.convert("RGB"))
        like = view.likeness
        figures = f"{like.psnr:.1f} dB" + ("" if like.ssim is None else f", SSIM {like.ssim:.3f}")
        labels = (f"{kind} {number}, {figures}", printable(view.chosen.inspected.row["source"]))
        canvases = [_square(piece.crop(box)) for piece in pieces]
    return row_of(list(zip(labels, canvases, strict=True)))


def _square(piece: Image.Image) -> Image.Image:
    """Pad a smaller crop to the size of the others."""
    canvas = Image.new("RGB", (SIDE, SIDE), "#ddd")
    canvas.paste(piece, ((SIDE - piece.width) // 2, (SIDE - piece.height) // 2))
    return canvas
