"""The engine for ONNX networks, by onnxruntime: the extra ``[onnx]``, which is imported at its first use.

Pages that are too large for one piece are cut into tiles, as with torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import psutil
from annotated_types import Ge
from numpy.typing import NDArray

from comic_upscale.engines import reach
from comic_upscale.engines.base import (
    Batch,
    Engine,
    EngineFactory,
    EngineInfo,
    EngineResources,
    EngineSpec,
    Identity,
    OnProgress,
    Upscaled,
)
from comic_upscale.engines.host_resample import resample_window
from comic_upscale.engines.limits import LARGEST_TENSOR, Limits
from comic_upscale.engines.onnx_file import read_onnx
from comic_upscale.engines.onnx_network import INSTALL, OnnxNetwork, OutOfMemoryError
from comic_upscale.engines.reach import IN_TILES, tiles_warning
from comic_upscale.engines.tiling import (
    DEFAULT_OVERLAP,
    SMALLEST_TILE,
    Tile,
    borders_of,
    padded_size,
    plan_tiles,
)
from comic_upscale.errors import PageError, SettingsError, WeightsError
from comic_upscale.imaging.pixels import SampleArray, UInt8Array
from comic_upscale.models.weights import ResolvedWeights
from comic_upscale.settings.options import Opt

NAME = "onnx"
"""The engine's name in the registry."""
_WHOLE_BYTES = 12_000
"""Assumed bytes per input pixel for a whole page on a CPU. It is the highest figure of the networks that were measured
with torch (Real-CUGAN at x3), since onnxruntime does not report its memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxOptions:
    """Options of the engine ``onnx``."""

    provider: Annotated[
        str | None,
        Opt("The execution provider of onnxruntime, such as OpenVINOExecutionProvider. auto: by --device."),
    ] = None
    threads: Annotated[
        int | None,
        Ge(1),
        Opt("Threads on the CPU. auto: onnxruntime's default."),
    ] = None
    overlap: Annotated[
        int | None,
        Ge(0),
        Opt(
            f"Input pixels around a tile that the network also sees. auto: {DEFAULT_OVERLAP}.",
            fingerprint="if-changed",
        ),
    ] = None


class OnnxFactory(EngineFactory):
    """Opens ``OnnxEngine``, one for each device."""

    name = NAME
    summary = "Any ONNX super-resolution network (--model FILE.onnx), with onnxruntime."
    options = OnnxOptions
    packages = ("onnxruntime",)
    install = INSTALL

    def identify(self, spec: EngineSpec) -> Identity:
        """Return the file's name, and the hash of the file and of the files with its weights."""
        if spec.model.strip().casefold() == "auto":
            raise SettingsError("--engine onnx needs a network: add --model FILE.onnx")
        if spec.denoise is not None:
            raise SettingsError("--engine onnx does not support --denoise: leave it out")
        path = Path(spec.model)
        file = read_onnx(path)
        if file.custom:
            raise WeightsError(
                f"{path} needs operators that onnxruntime does not have: {', '.join(file.custom[:3])}. Export it "
                "with the standard operators of ONNX"
            )
        return Identity(path.name, file.identity())

    def prepare(self, spec: EngineSpec, on_progress: OnProgress | None = None) -> EngineSpec:
        """Check that the file exists and can be opened safely."""
        name, digest = self.identify(spec)
        return replace(spec, weights=ResolvedWeights(model_name=name, path=Path(spec.model), sha256=digest))

    def open(self, spec: EngineSpec, resources: EngineResources) -> list[Engine]:
        """Load the network on every device."""
        assert spec.weights is not None
        names = [name.strip() for name in resources.device.split(",") if name.strip()]
        if not names or len(set(names)) < len(names):
            raise SettingsError(
                f"--device {resources.device!r} must be one device, or several different ones"
            )
        return [
            OnnxEngine(
                spec.weights.path,
                identity=spec.weights.sha256,
                device=name,
                options=spec.options,
                resources=resources,
            )
            for name in names
        ]


FACTORY = OnnxFactory()
_DEFAULTS = OnnxOptions()
_ANY_RESOURCES = EngineResources()


class OnnxEngine:
    """An ``Engine`` for an ONNX network: NCHW in and out, float32 or float16, values 0..1, one or three channels.

    Args:
        path: of the network.
        identity: its hash.
        device: ``"auto"``, ``"cpu"``, ``"cuda:1"``, ``"dml"``, ``"coreml"``.
        options: the engine-specific options.
        resources: precision, batch and tile; the device in it is ignored.

    Raises:
        SettingsError: onnxruntime is not installed, or the network does not support a setting.
        WeightsError: the file is not a network that enlarges images.
        DeviceError: the device does not exist, or does not run the network.
    """

    def __init__(
        self,
        path: Path,
        *,
        identity: str,
        device: str = "auto",
        options: OnnxOptions = _DEFAULTS,
        resources: EngineResources = _ANY_RESOURCES,
    ) -> None:
        tile = resources.tile
        if tile is not None and tile != 0 and tile < SMALLEST_TILE:
            raise SettingsError(
                f"tiles of {tile} pixels are too small: use {SMALLEST_TILE} or more, or 0 for none"
            )
        # Before onnxruntime opens it, because the files that it refers to must be harmless.
        self._file = read_onnx(path)
        self._network = OnnxNetwork(path, device=device, provider=options.provider, threads=options.threads)
        self._device, self._shape = self._network.device, self._network.shape
        precision = self._network.precision
        if resources.precision not in ("auto", precision):
            raise SettingsError(f"{path} computes in {precision}, so --precision has no effect: leave it out")
        self._overlap = DEFAULT_OVERLAP if options.overlap is None else options.overlap
        self._tile = tile
        self._limits = Limits(self._device.kind, batch=resources.batch, tile=tile, measured=False)
        self._sees_whole: bool | None = None
        """Whether the network looks at a whole page at once; None until it is tested."""
        warnings = [
            f"onnxruntime lists {name} but cannot load it, so {self._device} is used"
            for name in self._network.unable
        ]
        if (tile or self._shape.fixed) and self._looks_at_whole_pages():
            why = (
                "it does not accept larger pieces"
                if self._shape.fixed
                else "leave out --tile, if memory allows"
            )
            warnings.append(tiles_warning(why))
        self._info = EngineInfo(
            name=NAME,
            identity=identity,
            device=self._device,
            precision=precision,
            native_scale=self._shape.scale,
            deterministic=self._device.is_cpu,
            warnings=tuple(warnings),
        )

    @property
    def info(self) -> EngineInfo:
        """The engine's properties."""
        return self._info

    def batch_limit(self, height: int, width: int) -> int:
        """Return how many pages of this shape the engine currently accepts in one batch, at least 1."""
        scale = self._shape.scale
        tiles = self._plan((height, width), (height * scale, width * scale), self._overlap)
        return max(1, self._at_once(tiles, 3) // len(tiles))

    def upscale(self, batch: Batch) -> Upscaled:
        """Return the pages at their target size, in the sample type of the input, with the borders between tiles.

        The conservative path has twice the overlap.

        Raises:
            PageError: ``"out-of-memory"`` if not even the smallest tile fits, ``"not-finite"``, ``"network"`` if the
                network does not accept this page.
            DeviceError: the device failed.
        """
        pixels = batch.pixels
        width, height = batch.target_size
        overlap = self._overlap * (2 if batch.conservative else 1)
        while True:
            tiles = self._plan(pixels.shape[1:3], (height, width), overlap)
            if len(tiles) > 1 and self._prefers_whole():
                tiles = self._plan(pixels.shape[1:3], (height, width), overlap)
            count = self._at_once(tiles, pixels.shape[3])
            try:
                larger = self._run_pages(pixels, (height, width), tiles, count)
                break
            except OutOfMemoryError as error:
                window = (tiles[0].rows.length, tiles[0].columns.length)
                if self._shape.fixed is not None or not self._limits.shrink(count, *window):
                    raise PageError(
                        "out-of-memory",
                        f"{self._device} has too little memory for {window[1]}x{window[0]} pixels: close other "
                        "programs that use it",
                    ) from error
        in_tiles = len(tiles) > 1 and bool(self._sees_whole)
        return Upscaled(larger, borders_of(tiles), notes=(IN_TILES,) if in_tiles else ())

    def close(self) -> None:
        """Release the memory. The engine is not used afterwards."""
        self._network.close()

    # Pages

    def _run_pages(
        self, pixels: SampleArray, target: tuple[int, int], tiles: Sequence[Tile], count: int
    ) -> SampleArray:
        shape, scale = self._shape, self._shape.scale
        page = (pixels.shape[1], pixels.shape[2])
        height, width = self._padded_size(page)
        padded = np.pad(
            pixels, ((0, 0), (0, height - page[0]), (0, width - page[1]), (0, 0)), mode="reflect"
        ) if (height, width) != page else pixels  # fmt: skip
        white = np.iinfo(pixels.dtype).max
        result = np.empty((len(pixels), *target, pixels.shape[3]), pixels.dtype)
        windows = [(tile, page) for tile in tiles for page in range(len(pixels))]
        for chunk in _chunks(windows, count if shape.batches else 1):
            x = np.stack([padded[page, slice(*tile.rows), slice(*tile.columns)] for tile, page in chunk])
            native = self._run_windows(x.astype(np.float32) / np.float32(white))
            for (tile, page_index), made in zip(chunk, native, strict=True):
                cell = resample_window(
                    made,
                    source_size=(page[0] * scale, page[1] * scale),
                    target_size=target,
                    origin=(tile.rows.start * scale, tile.columns.start * scale),
                    rows=tile.cell_rows,
                    columns=tile.cell_columns,
                )
                samples = np.rint(np.clip(cell, 0, 1) * np.float32(white)).astype(pixels.dtype)
                place = result[page_index, slice(*tile.cell_rows), slice(*tile.cell_columns)]
                place[:] = samples.transpose(1, 2, 0)
        return result

    def _run_windows(self, windows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Run windows, N x height x width x C; return N x C x height*scale x width*scale.

        Gray windows go through an RGB network as three equal channels, and the mean is returned. RGB windows go
        through a gray network channel by channel.
        """
        x = windows.transpose(0, 3, 1, 2)
        channels, takes = x.shape[1], self._shape.channels
        if channels == 1 and takes == 3:
            x = np.repeat(x, 3, axis=1)
        if channels == 3 and takes == 1:
            planes = [self._network.run(np.ascontiguousarray(x[:, place : place + 1])) for place in range(3)]
            native = np.concatenate(planes, axis=1)
        else:
            native = self._network.run(np.ascontiguousarray(x))
        if not np.isfinite(native.sum(dtype=np.float64)):
            raise PageError(
                "not-finite",
                "the network gives numbers that are not finite for this page: try another network",
            )
        native = np.clip(native, 0, 1)
        return native.mean(axis=1, keepdims=True) if channels == 1 and takes == 3 else native

    def _plan(self, page: tuple[int, ...], target: tuple[int, int], overlap: int) -> list[Tile]:
        shape = self._shape
        return plan_tiles(
            (page[0], page[1]),
            target,
            native_scale=shape.scale,
            longest=self._limits.longest(page[0], page[1]),
            overlap=overlap,
            multiple_of=shape.multiple_of,
            minimum=shape.minimum,
            fixed=shape.fixed,
        )

    def _padded_size(self, page: tuple[int, int]) -> tuple[int, int]:
        shape = self._shape
        if shape.fixed is not None:
            return max(page[0], shape.fixed[0]), max(page[1], shape.fixed[1])
        return padded_size(*page, multiple_of=shape.multiple_of, minimum=shape.minimum)

    def _at_once(self, tiles: Sequence[Tile], channels: int) -> int:
        """Return how many windows go through the network at once."""
        if not self._shape.batches:
            return 1
        planes = channels if self._shape.channels == 1 else 1
        return self._limits.batch(tiles[0].rows.length, tiles[0].columns.length * planes, None)

    def _prefers_whole(self) -> bool:
        """Test the network before its first tiles; return whether fewer pages are cut from now on."""
        if self._shape.fixed is not None or self._sees_whole is not None:
            return False
        if not self._looks_at_whole_pages():
            return False
        pixels = LARGEST_TENSOR
        if self._device.is_cpu:
            # On a GPU, a page that does not fit raises an error, and smaller pieces follow. On a CPU, it may end the
            # process.
            pixels = int(reach.MEMORY_FOR_WHOLE * psutil.virtual_memory().available / _WHOLE_BYTES)
        self._limits.prefer_whole(pixels)
        return True

    def _looks_at_whole_pages(self) -> bool:
        shape = self._shape
        if self._sees_whole is None:
            side = reach.side_of_test_image(shape.minimum, shape.multiple_of)
            size = shape.fixed or (side, side)
            # The test image is too wide for a network with a small fixed size.
            is_wide_enough = size[1] >= reach.SIDE
            self._sees_whole = self._file.goes_over_a_page or (
                is_wide_enough and reach.sees_far(self._run_test_image, shape.channels, size)
            )
        return self._sees_whole

    def _run_test_image(self, picture: UInt8Array) -> NDArray[Any]:
        made: NDArray[Any] = self._network.run(picture.transpose(2, 0, 1)[None].astype(np.float32) / 255)[0]
        return made


def _chunks(windows: Sequence[tuple[Tile, int]], count: int) -> Iterator[Sequence[tuple[Tile, int]]]:
    return (windows[start : start + count] for start in range(0, len(windows), count))
