"""Checks of an output from a remote machine, whose claims are not trusted.

The claim is checked before the file is fetched, the header before the pixels are decoded. The quality gate then checks
the pixels, as for an output of this machine.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import numpy as np

from comic_upscale.engines.pages import prepare
from comic_upscale.errors import PageError
from comic_upscale.execution.quality_gate import QualityGate, recorded_scores
from comic_upscale.execution.received_output import find_fault
from comic_upscale.execution.remote_host import RemotePageResult
from comic_upscale.gate.verdict import Bounds, Verdict, default_bounds, judge
from comic_upscale.imaging.decode import decode, read_header
from comic_upscale.imaging.encode import check_encoded
from comic_upscale.imaging.gray import to_gray
from comic_upscale.imaging.pixels import Pixels
from comic_upscale.imaging.shape import decode_page
from comic_upscale.imaging.target_size import find_target, grows
from comic_upscale.library.page_rules import FilteredPage, PageRules, as_filtered
from comic_upscale.models.weights import cleans_white
from comic_upscale.settings.job import FormatName, IccMode, JobSettings
from comic_upscale.settings.sizes import Size

_ROOM_FOR_HEADERS = 1 << 20
_BYTES_A_PIXEL = 9
"""More than any of our formats needs for four channels of 16 bits; a larger output is not fetched."""


@dataclass(frozen=True, slots=True)
class CheckedOutput:
    """The result of the quality gate on this machine."""

    scores: dict[str, float]
    """By the names of ``gate/scores.py``; empty if the gate did not compare the page."""
    suspect: tuple[str, ...] = ()
    """Why the gate rejects the page."""
    notes: tuple[str, ...] = ()
    """Notes for the user, a sentence each."""


NOT_COMPARED = CheckedOutput({})
SOURCE_CHANGED = CheckedOutput(
    {}, notes=("not compared with its source, which has changed since it was sent",)
)


def check_claim(
    page: RemotePageResult, source: tuple[int, int], size: Size, *, cropped: bool = False
) -> None:
    """Check, before an output is fetched, that it can belong to its page.

    Args:
        page: the claim.
        source: (width, height) of the page that was sent, upright.
        size: the requested size of the outputs.
        cropped: whether the margins of the page were cropped, so that its own size is known to the gate only.

    Raises:
        PageError: a claimed size is wrong.
    """
    width, height = source
    claimed = (page.width, page.height)
    if cropped:
        fits = min(claimed) >= 1 and any(
            claimed[0] <= each[0] and claimed[1] <= each[1] for each in (source, source[::-1])
        )
    else:
        fits = claimed in ((width, height), (height, width))
    if not fits:
        raise _refuse("the remote machine reports a different page size than the page that was sent")
    target = find_target(page.width, page.height, size).size
    if (page.output_width, page.output_height) != target:
        raise _refuse(f"the remote machine returned the wrong size: {page.output_width}x{page.output_height}")
    if not 0 < page.size <= target[0] * target[1] * _BYTES_A_PIXEL + _ROOM_FOR_HEADERS:
        raise _refuse(f"the remote machine reports an impossible file size: {page.size:,} bytes")


def check_file(data: bytes, page: RemotePageResult, format: FormatName) -> None:
    """Check that a fetched file is the recorded one, in the requested format and size, and that it decodes.

    Args:
        data: the file.
        page: the claim, which `check_claim` has accepted.
        format: of the output.

    Raises:
        PageError: it is something else.
    """
    if len(data) != page.size or hashlib.sha256(data).hexdigest() != page.sha256:
        raise _refuse("the downloaded file differs from the one that the remote machine recorded")
    size = (page.output_width, page.output_height)
    # Before it is decoded: a small file can hold a huge picture.
    if (fault := find_fault(data, size, format)) is not None:
        raise _refuse(f"the remote machine returned {fault}")
    check_encoded(data, size)


def compare(
    source: bytes, output: bytes, settings: JobSettings, rules: PageRules | None = None, name: str = ""
) -> CheckedOutput:
    """Compare an output with its source, by the quality gate.

    Args:
        source: the file of the page.
        output: the downloaded file, which `check_file` has accepted.
        settings: of the job.
        rules: of the job; None to read them from the settings.
        name: the path of the page in the input, for rules with a path.

    Raises:
        PageError: one of them cannot be decoded.
    """
    rules = rules or PageRules(settings)
    page = _input_of_network(source, settings, rules, settings.icc_mode, name)
    before = page.pixels
    size = (before.width, before.height)
    header = read_header(output)
    target = (header.width, header.height)
    if not QualityGate.wants(before) or not grows(size, target):
        return NOT_COMPARED
    after = decode(output, max_pixels=target[0] * target[1])
    if before.icc_profile != after.icc_profile:
        # The format cannot hold the profile, so the page was converted.
        before = _input_of_network(source, settings, rules, "srgb", name).pixels
        after = decode(output, max_pixels=target[0] * target[1], icc="srgb")
    screen = settings.screen
    gray_screen = screen is not None and screen.levels is not None
    if gray_screen and before.color.shape[2] == 3:
        before = replace(before, color=to_gray(before.color))
    verdict = _judge(
        before,
        after,
        exact=after.lossless and not gray_screen,
        cleans=cleans_white(page.settings.model, page.settings.denoise),
    )
    return CheckedOutput(recorded_scores(verdict), verdict.reasons)


def _input_of_network(
    source: bytes, settings: JobSettings, rules: PageRules, icc: IccMode, name: str
) -> FilteredPage:
    """Return a page as the network got it, before `prepare`, with its own settings."""
    page = decode_page(source, settings, icc=icc)
    return as_filtered(page, source, name, rules)


def _judge(before: Pixels, after: Pixels, *, exact: bool, cleans: bool) -> Verdict:
    """Compare what is visible; hidden colours are replaced in the source, and may have been left out of the output.

    Args:
        before: the source.
        after: the output.
        exact: whether the output has the samples that the remote gate saw: it is lossless, and not dithered.
        cleans: whether the network was chosen to clean white.
    """
    prepared = prepare(before, cleans_white=cleans)
    source, larger = prepared.color, after.color
    if before.alpha is not None and after.alpha is None:
        source = _on_white(before).color
    elif after.alpha is not None:
        source, larger = _on_white(before).color, _on_white(after).color
    if source.shape[2] != larger.shape[2]:
        source, larger = (
            np.ascontiguousarray(np.broadcast_to(each, (*each.shape[:2], 3))) for each in (source, larger)
        )
    bounds = default_bounds() if exact else _lossy_bounds()
    return judge(source, larger, bounds=bounds, whitens_paper=prepared.paper is not None)


def _lossy_bounds() -> Bounds:
    """Return bounds for a page that a lossy format or dithering has changed after the remote gate saw it.

    JPEG at quality 60 and AVIF at its default tint real pages by one level, which is the usual bound. Deliberate
    changes are far larger.
    """
    bounds = default_bounds()
    return replace(
        bounds,
        psnr=bounds.psnr - 3,
        ssim=bounds.ssim - 0.05,
        worst_block=bounds.worst_block * 1.5,
        brightness=bounds.brightness + 2,
        tint=bounds.tint + 2,
        chroma=bounds.chroma + 3,
        white_drift=bounds.white_drift + 2,
        black_drift=bounds.black_drift + 3,
        # The raw output of the remote engine is unknown here. The gate takes the page itself for it.
        raw_tint=bounds.raw_tint + 2,
        raw_tone=bounds.raw_tone + 2,
        raw_white=bounds.raw_white + 2,
        raw_black=bounds.raw_black + 3,
    )


def _on_white(page: Pixels) -> Pixels:
    if page.alpha is None:
        return page
    most = np.iinfo(page.color.dtype).max
    share = (page.alpha.astype(np.float32) / most)[:, :, np.newaxis]
    color = page.color * share + most * (1 - share)
    return replace(page, color=np.rint(color).astype(page.color.dtype), alpha=None)


def _refuse(why: str) -> PageError:
    return PageError("remote", f"{why}; use --retry-failed to try again")
