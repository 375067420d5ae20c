"""The engine for Imagen: tiles of a page go to the service; their answers are blended and brought to the exact size."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from threading import Event
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from comic_upscale.engines.base import Batch, DeviceInfo, EngineInfo, EnginePart, OnPart, Upscaled
from comic_upscale.engines.feathering import FeatheredPage, Floats, Window, Windows, plan_by_area
from comic_upscale.engines.host_resample import to_samples
from comic_upscale.engines.imagen.client import FAILED, ImagenClient
from comic_upscale.engines.imagen.factory import NAME, ImagenOptions
from comic_upscale.engines.imagen.tiles import choose_factor, plan_tiles
from comic_upscale.errors import DeviceError, PageError
from comic_upscale.imaging.decode import decode
from comic_upscale.imaging.gray import eight_bits
from comic_upscale.imaging.pixels import Borders, UInt8Array

if TYPE_CHECKING:
    from comic_upscale.costs.spending import Spending
    from comic_upscale.storage.answers import AnswerStore, AskingPage

MOST_INPUT_BYTES = 10_000_000
"""The most bytes of a picture that is sent."""
_FEWEST_PIXELS = 4096
"""A tile with fewer pixels is not cut further."""


class ImagenEngine:
    """An ``Engine`` that has a service enlarge pages. It sends each tile once, also after a kill.

    Args:
        options: of the engine.
        client: makes the calls.
        identity: the hash from `ImagenFactory.identify`.
        answers: keeps answers until their page is recorded; None to keep none.
    """

    def __init__(
        self, options: ImagenOptions, client: ImagenClient, *, identity: str, answers: AnswerStore | None
    ) -> None:
        self._options, self._client, self._answers = options, client, answers
        self._stopped = Event()
        self._on_part: OnPart | None = None
        self._asking: AskingPage | None = None
        self._info = EngineInfo(
            name=NAME,
            identity=identity,
            device=DeviceInfo("service", name=options.model, pages_at_once=options.at_once),
            precision="",
            native_scale=None,
            fidelity="generative",
            billing="call",
            warnings=(
                f"Pages are sent to {options.address}, and each call costs ${options.price_per_image:g}. The "
                "service may change details: check the lettering.",
            ),
        )

    @property
    def info(self) -> EngineInfo:
        """The engine's properties."""
        return self._info

    def batch_limit(self, height: int, width: int) -> int:
        """Return 1: a page at a time, so that a stop costs one page at most."""
        return 1

    def charge(self, spending: Spending | None) -> None:
        """Record calls in this meter."""
        self._client.spending = spending

    def ask_for(self, page: AskingPage | None) -> None:
        """Keep the next answers for this page of the job."""
        self._asking = page

    def follow(self, on_part: OnPart | None) -> None:
        """Tell the tiles that are done to this callback."""
        self._on_part = on_part

    def upscale(self, batch: Batch) -> Upscaled:
        """Return the pages at their target size, in the sample type of the input, with the borders of tiles.

        Raises:
            PageError, DeviceError, CeilingError: as `ImagenClient.upscale`.
        """
        made, notes, answers = [], dict[str, None](), []
        borders = Borders()
        for page in batch.pixels:
            small = eight_bits(page)
            larger, plan, key = self._upscale_page(small, batch.target_size)
            made.append(to_samples(larger, batch.target_size, page.dtype))
            answers.append(key)
            borders = borders.join(_at_target(plan, batch.target_size))
            factor = plan.size[0] // page.shape[0]
            notes[f"{len(plan)} call{'s' if len(plan) > 1 else ''} of {self._options.model} at x{factor}"] = (
                None
            )
            if page.dtype == np.uint16:
                notes["16 bits: the service got 8"] = None
            if batch.target_size[0] > plan.size[1]:
                notes[f"the service enlarged {factor} times; resampling did the rest"] = None
        return Upscaled(np.stack(made), borders, notes=tuple(notes), answers=tuple(answers))

    def interrupt(self) -> None:
        """Make no further call. A call that is under way is paid for, so its answer is awaited and kept."""
        self._stopped.set()

    def close(self) -> None:
        """Close the connections. The engine is not used afterwards."""
        self._stopped.set()
        self._client.close()

    def _upscale_page(self, page: UInt8Array, target: tuple[int, int]) -> tuple[Floats, Windows, str]:
        """Return a page as large as the service makes it, 0..1, the plan of its tiles there, and its key."""
        height, width, channels = page.shape
        factor = choose_factor((width, height), target)
        plan, files = self._cut(page, factor)
        key = self._key(page, factor)
        large = plan.scaled(factor)
        canvas = FeatheredPage(large.size, channels)
        if self._answers is not None and self._asking is not None:
            # Those that are there may be noted for a page that was renamed since.
            self._answers.note([key], self._asking)
        for done, (window, there, png) in enumerate(zip(plan.all(), large.all(), files, strict=True)):
            if self._on_part is not None:
                self._on_part(EnginePart("tile", done, len(plan)))
            answer = self._ask(key, window, factor, png)
            if channels == 1:
                answer = answer.mean(axis=2, keepdims=True)
            canvas.add(there, answer)
        return np.clip(canvas.result(), 0, 1), large, key

    def _cut(self, page: UInt8Array, factor: int) -> tuple[Windows, list[bytes]]:
        """Return tiles that the service accepts, as few as possible, and the file of each."""
        height, width = page.shape[:2]
        plan = plan_tiles((width, height), factor, self._options.overlap)
        while True:
            files = list(_encode_tiles(page, plan))
            pixels = plan.rows.window * plan.columns.window
            if max(map(len, files)) <= MOST_INPUT_BYTES or pixels <= _FEWEST_PIXELS:
                return plan, files
            plan = plan_by_area((height, width), pixels * 3 // 4, self._options.overlap)

    def _ask(self, key: str, window: Window, factor: int, png: bytes) -> Floats:
        """Return the service's picture of a tile, 0..1, height x width x 3; from the disk if it was paid for before."""
        size = (window.columns.length * factor, window.rows.length * factor)
        part = f"{window.rows.start}-{window.columns.start}-{size[0]}x{size[1]}"
        kept = None if self._answers is None else self._answers.get(key, part)
        if kept is not None and (picture := _read(kept, size)) is not None:
            return picture
        if self._stopped.is_set():
            raise DeviceError(f"{self._options.model} was stopped")
        data = self._client.upscale(png, factor, self._stopped.wait)
        picture = _read(data, size)
        if picture is None:
            raise PageError(
                FAILED,
                f"{self._options.model} answered with a picture that is not {size[0]}x{size[1]} pixels",
            )
        if self._answers is not None:
            self._answers.put(key, part, data, self._asking)
        return picture

    def _key(self, page: UInt8Array, factor: int) -> str:
        """Return a hash of everything that decides the answers for a page."""
        content = [self._info.identity, self._options.prompt, self._options.overlap, factor, page.shape]
        return hashlib.sha256(json.dumps(content).encode() + page.tobytes()).hexdigest()


def _encode_tiles(page: UInt8Array, plan: Windows) -> Iterator[bytes]:
    for window in plan.all():
        tile = page[slice(*window.rows), slice(*window.columns)]
        file = io.BytesIO()
        Image.fromarray(
            np.ascontiguousarray(np.repeat(tile, 3, axis=2) if tile.shape[2] == 1 else tile)
        ).save(file, "PNG")
        yield file.getvalue()


def _read(data: bytes, size: tuple[int, int]) -> Floats | None:
    """Return a picture of this (width, height), 0..1, height x width x 3; None if it is none."""
    try:
        samples = eight_bits(decode(data, max_pixels=size[0] * size[1], gray="off").color)
    except PageError:
        return None
    if (samples.shape[1], samples.shape[0]) != size:
        return None
    rgb = np.repeat(samples, 3, axis=2) if samples.shape[2] == 1 else samples
    return rgb.astype(np.float32) / np.float32(255)


def _at_target(plan: Windows, target: tuple[int, int]) -> Borders:
    """Return the borders of a plan at the target size."""
    rows = {round(place * target[1] / plan.size[0]) for place in plan.borders.rows}
    columns = {round(place * target[0] / plan.size[1]) for place in plan.borders.columns}
    return Borders(tuple(sorted(rows)), tuple(sorted(columns)))
