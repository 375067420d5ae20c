"""The engine that runs an ONNX network by onnxruntime: the extra ``[onnx]``, imported at the first use.

What a network takes is found by trying it on small pictures: its factor, whether sides must be multiples of something,
and which is the least. Pages that are too large for one piece go in tiles, as by torch.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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
    DeviceInfo,
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
from comic_upscale.engines.reach import IN_TILES, tiles_warning
from comic_upscale.engines.tiling import (
    DEFAULT_OVERLAP,
    SMALLEST_TILE,
    Tile,
    borders_of,
    padded_size,
    plan_tiles,
)
from comic_upscale.errors import DeviceError, PageError, SettingsError, WeightsError
from comic_upscale.imaging.pixels import SampleArray, UInt8Array
from comic_upscale.models.weights import ResolvedWeights
from comic_upscale.settings.options import Opt

NAME = "onnx"
"""The engine's name in the registry."""
INSTALL = 'pip install "comic-upscale[onnx]"'

PROVIDERS = {
    "cuda": "CUDAExecutionProvider",
    "dml": "DmlExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "cpu": "CPUExecutionProvider",
}
"""By the kind of device; ``--device auto`` takes the first that onnxruntime has here."""
_OTHER_NAMES = {"directml": "dml", "mps": "coreml"}
_TYPES = {"tensor(float)": ("fp32", np.float32), "tensor(float16)": ("fp16", np.float16)}
_TRIED = 64
"""Pixels of the side that a network is first tried with."""
_LEAST = 8
"""Pixels of the least side that is tried: what takes less is given this."""
_TRIED_SECONDS = 120.0
"""Seconds that all the small pictures may take together: far more than a network needs that can do a page."""
_LEAST_FIXED = 32
"""Pixels of a side below which a network of one size could not see around what it makes."""
_WHOLE_BYTES = 12_000
"""Bytes for a pixel of input that a whole page is reckoned with on a CPU: the most of the networks measured by torch
(Real-CUGAN at x3), since onnxruntime does not tell."""
_TOO_MUCH = ("allocat", "out of memory", "OUTOFMEMORY", "bad_alloc", "CUDA failure 2:")
"""Phrases by which onnxruntime says that memory ran out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxOptions:
    """Options of the engine ``onnx``."""

    provider: Annotated[
        str | None,
        Opt(
            "onnxruntime's name of what computes, such as OpenVINOExecutionProvider. auto: as --device says."
        ),
    ] = None
    threads: Annotated[
        int | None,
        Ge(1),
        Opt("Threads on the CPU. auto: as many as onnxruntime takes."),
    ] = None
    overlap: Annotated[
        int | None,
        Ge(0),
        Opt(
            f"Input pixels that a tile sees around what it makes. auto: {DEFAULT_OVERLAP}.",
            fingerprint="if-changed",
        ),
    ] = None


class OnnxFactory(EngineFactory):
    """Opens ``OnnxEngine``, one for each device."""

    name = NAME
    summary = "Any ONNX super-resolution network (--model FILE.onnx), by onnxruntime."
    options = OnnxOptions
    packages = ("onnxruntime",)
    install = INSTALL

    def identify(self, spec: EngineSpec) -> Identity:
        """Return the file's name and the hash of it, and of the files with its weights."""
        if spec.model.strip().casefold() == "auto":
            raise SettingsError("--engine onnx needs a network: add --model FILE.onnx")
        if spec.denoise is not None:
            raise SettingsError("--engine onnx does not support --denoise: leave it out")
        path = Path(spec.model)
        file = read_onnx(path)
        if file.custom:
            raise WeightsError(
                f"{path} needs operators that onnxruntime does not have: {', '.join(file.custom[:3])}. Export it "
                "with the standard operators of ONNX."
            )
        return Identity(path.name, file.identity())

    def prepare(self, spec: EngineSpec, on_progress: OnProgress | None = None) -> EngineSpec:
        """Check that the file is there, and is one that can be opened safely."""
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


@dataclass(frozen=True, slots=True)
class _Shape:
    """What a network takes, and what it makes of that."""

    channels: int
    scale: int
    multiple_of: int
    minimum: int
    fixed: tuple[int, int] | None
    """(height, width) of the only input that it takes."""
    batches: bool
    """Whether it takes several windows at once."""


class OnnxEngine:
    """An ``Engine`` over an ONNX network: NCHW in and out, float32 or float16, values 0..1, one or three channels.

    Args:
        path: of the network.
        identity: its hash.
        device: ``"auto"``, ``"cpu"``, ``"cuda:1"``, ``"dml"``, ``"coreml"``.
        options: the engine's own.
        resources: precision, batch and tile; its device is not looked at.

    Raises:
        SettingsError: onnxruntime is not installed, or a setting is none that the network can do.
        WeightsError: the file is no network that enlarges images.
        DeviceError: the device is not there, or does not take the network.
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
        self._path = path
        # Before onnxruntime opens it: what it refers to must be harmless.
        self._file = read_onnx(path)
        self._session, self._device, unable = _open_session(path, device, options)
        self._run_options: Any = None
        self._input, self._output, self._precision = _input_and_output(self._session, path)
        if resources.precision not in ("auto", self._precision):
            raise SettingsError(
                f"{path} computes in {self._precision}, so --precision has no effect: leave it out"
            )
        with self._time_limit(_TRIED_SECONDS):
            self._shape = self._try_out()
        self._overlap = DEFAULT_OVERLAP if options.overlap is None else options.overlap
        self._tile = tile
        self._limits = Limits(self._device.kind, batch=resources.batch, tile=tile, measured=False)
        self._sees_whole: bool | None = None
        """Whether the network looks at a whole page at once; None until that matters."""
        warnings = [
            f"onnxruntime lists {name} but cannot load it, so {self._device} is used" for name in unable
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
            precision=self._precision,
            native_scale=self._shape.scale,
            deterministic=self._device.is_cpu,
            warnings=tuple(warnings),
        )

    @property
    def info(self) -> EngineInfo:
        """What is known of the engine."""
        return self._info

    def batch_limit(self, height: int, width: int) -> int:
        """Return how many pages of this shape to hand over at once now, at least 1."""
        scale = self._shape.scale
        tiles = self._plan((height, width), (height * scale, width * scale), self._overlap)
        return max(1, self._at_once(tiles, 3) // len(tiles))

    def upscale(self, batch: Batch) -> Upscaled:
        """Return the pages at their target size and in their own type, and where tiles meet in them.

        The conservative path is one with tiles that see twice as far.

        Raises:
            PageError: ``"out-of-memory"`` where not even the smallest tile fits, ``"not-finite"``, ``"network"`` where
                the network does not take this page.
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
            except _OutOfMemoryError as error:
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
        """Give the memory back. The engine is not used afterwards."""
        self._session = None

    # The network

    def _run(self, windows: NDArray[Any]) -> NDArray[np.float32]:
        """Run windows, N x C x height x width in 0..1, C as the network takes it.

        Raises:
            _OutOfMemoryError: it does not fit.
            PageError: ``"network"``: the network does not take windows of this size.
            DeviceError: the device failed.
        """
        kind = _TYPES[self._input.type][1]
        try:
            (made,) = self._session.run(
                [self._output], {self._input.name: windows.astype(kind, copy=False)}, self._run_options
            )
        except MemoryError as error:
            raise _OutOfMemoryError from error
        except Exception as error:
            # onnxruntime has a class for each of its codes, and none above them.
            reason = _first_line(error)
            if any(phrase in str(error) for phrase in _TOO_MUCH):
                raise _OutOfMemoryError from error
            if type(error).__name__ in ("DeviceReset", "EPFail", "EngineError") or "CUDA failure" in reason:
                raise DeviceError(f"{self._device} failed: {reason}. Run the same command again") from error
            raise PageError("network", f"the network does not take this page: {reason}") from error
        return np.asarray(made, np.float32)

    @contextmanager
    def _time_limit(self, seconds: float) -> Iterator[None]:
        """Stop the network after some time: a file may hold a loop without end.

        Raises:
            WeightsError: it was stopped.
        """
        from onnxruntime import RunOptions

        options = self._run_options = RunOptions()
        timer = threading.Timer(seconds, setattr, (options, "terminate", True))
        timer.daemon = True
        timer.start()
        try:
            yield
        except WeightsError as error:
            if options.terminate:
                why = f"it takes more than {seconds:g} seconds for a picture of {_TRIED} pixels a side"
                raise _no_network(self._path, why) from error
            raise
        finally:
            timer.cancel()
            self._run_options = None

    def _try_out(self) -> _Shape:
        """Find out what the network takes, by small pictures.

        Raises:
            WeightsError: it is no network that enlarges single images.
        """
        sides = [side if isinstance(side, int) and side > 0 else None for side in self._input.shape]
        count, channels, height, width = sides
        if count not in (None, 1):
            raise _no_network(
                self._path, f"it takes {count} images at once; export it for 1, or for any number"
            )
        if channels is None:
            channels = 3 if self._makes(3, _TRIED, _TRIED) is not None else 1
        if channels not in (1, 3):
            raise _no_network(self._path, f"it takes {channels} channels, but RGB needs 3 and gray 1")
        if height is not None and width is not None:
            if min(height, width) < _LEAST_FIXED:
                raise _no_network(
                    self._path, f"it takes {width}x{height} pixels only, too few to cut pages into"
                )
            scale = self._factor(channels, height, width)
            return _Shape(channels, scale, 1, 0, (height, width), count is None)
        if height is not None or width is not None:
            raise _no_network(self._path, "it takes any length along one side only")
        steps = (1, 2, 4, 8, 16, 32, 64)
        taken = next((step for step in steps if self._makes(channels, _TRIED + step, _TRIED + step)), None)
        if taken is None:
            # For the message: what it makes of the simplest of all sizes.
            self._factor(channels, _TRIED, _TRIED)
            raise _no_network(self._path, "it accepts none of the sizes that were tried")
        scale = self._factor(channels, _TRIED + taken, _TRIED + taken)
        least = -(-_LEAST // taken) * taken
        minimum = least if self._makes(channels, least, least) == scale else _TRIED
        return _Shape(channels, scale, taken, minimum, None, count is None)

    def _makes(self, channels: int, height: int, width: int) -> int | None:
        """Return the whole number by which the network enlarges such a picture; None where it does not."""
        try:
            made = self._run(np.full((1, channels, height, width), 0.5, np.float32))
        except (PageError, _OutOfMemoryError):
            return None
        if made.ndim != 4 or made.shape[:2] != (1, channels):
            return None
        scale = made.shape[2] // height
        return scale if scale >= 2 and made.shape[2:] == (height * scale, width * scale) else None

    def _factor(self, channels: int, height: int, width: int) -> int:
        """Return the same, or say what the network does instead.

        Raises:
            WeightsError: it does not enlarge pictures by a whole number.
        """
        scale = self._makes(channels, height, width)
        if scale is not None:
            return scale
        try:
            made = self._run(np.full((1, channels, height, width), 0.5, np.float32))
        except PageError as error:
            raise _no_network(self._path, f"it does not run on an image: {error.reason}") from error
        except _OutOfMemoryError as error:
            raise DeviceError(f"{self._device} has too little memory for {self._path.name}") from error
        shape = "x".join(str(side) for side in made.shape)
        raise _no_network(
            self._path,
            f"it makes {shape} of 1x{channels}x{height}x{width}, not an image enlarged by a whole number",
        )

    # Pages

    def _run_pages(
        self, pixels: SampleArray, target: tuple[int, int], tiles: Sequence[Tile], count: int
    ) -> SampleArray:
        shape, scale = self._shape, self._shape.scale
        page = (pixels.shape[1], pixels.shape[2])
        height, width = self._padded(page)
        padded = np.pad(
            pixels, ((0, 0), (0, height - page[0]), (0, width - page[1]), (0, 0)), mode="reflect"
        ) if (height, width) != page else pixels  # fmt: skip
        white = np.iinfo(pixels.dtype).max
        result = np.empty((len(pixels), *target, pixels.shape[3]), pixels.dtype)
        windows = [(tile, page) for tile in tiles for page in range(len(pixels))]
        for chunk in _chunks(windows, count if shape.batches else 1):
            x = np.stack([padded[page, slice(*tile.rows), slice(*tile.columns)] for tile, page in chunk])
            native = self._native(x.astype(np.float32) / np.float32(white))
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

    def _native(self, windows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Run windows N x height x width x C of a page's channels; return N x C x height*scale x width*scale.

        Gray windows go through an RGB network as three equal channels, whose mean is taken; RGB windows go
        through a gray network channel by channel.
        """
        x = windows.transpose(0, 3, 1, 2)
        channels, takes = x.shape[1], self._shape.channels
        if channels == 1 and takes == 3:
            x = np.repeat(x, 3, axis=1)
        if channels == 3 and takes == 1:
            planes = [self._run(np.ascontiguousarray(x[:, place : place + 1])) for place in range(3)]
            native = np.concatenate(planes, axis=1)
        else:
            native = self._run(np.ascontiguousarray(x))
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

    def _padded(self, page: tuple[int, int]) -> tuple[int, int]:
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
        """Find out before the first tiles whether the network looks at whole pages; tell whether to cut fewer now."""
        if self._shape.fixed is not None or self._sees_whole is not None:
            return False
        if not self._looks_at_whole_pages():
            return False
        pixels = LARGEST_TENSOR
        if self._device.is_cpu:
            # Elsewhere running out of memory leads to smaller pieces; here it may end the process.
            pixels = int(reach.MEMORY_FOR_WHOLE * psutil.virtual_memory().available / _WHOLE_BYTES)
        self._limits.prefer_whole(pixels)
        return True

    def _looks_at_whole_pages(self) -> bool:
        shape = self._shape
        if self._sees_whole is None:
            side = reach.tried_side(shape.minimum, shape.multiple_of)
            size = shape.fixed or (side, side)
            # A network of one small size cannot be given a picture whose sides lie far enough apart.
            can_tell = size[1] >= reach.SIDE
            self._sees_whole = self._file.goes_over_a_page or (
                can_tell and reach.sees_far(self._try_picture, shape.channels, size)
            )
        return self._sees_whole

    def _try_picture(self, picture: UInt8Array) -> NDArray[Any]:
        made: NDArray[Any] = self._run(picture.transpose(2, 0, 1)[None].astype(np.float32) / 255)[0]
        return made


class _OutOfMemoryError(Exception):
    """The device has no memory for so much at once."""


def _open_session(path: Path, device: str, options: OnnxOptions) -> tuple[Any, DeviceInfo, list[str]]:
    """Load a network on a device; return the session, the device, and providers that were better and did not load.

    Raises:
        SettingsError: onnxruntime is not installed, or the device is none that it knows.
        WeightsError: onnxruntime does not take the network.
        DeviceError: the device is not there.
    """
    try:
        import onnxruntime as runtime
    except ImportError as error:
        raise SettingsError(f"onnxruntime cannot be imported ({error}): {INSTALL}") from error
    runtime.disable_telemetry_events()
    session_options = runtime.SessionOptions()
    session_options.log_severity_level = 4
    # Pages are of many sizes: a plan of memory for each would be kept.
    session_options.enable_mem_pattern = False
    if options.threads is not None:
        session_options.intra_op_num_threads = options.threads
    available = runtime.get_available_providers()
    unable: list[str] = []
    for kind, index, provider in _providers(device, options, available):
        settings = {} if index is None else {"device_id": str(index)}
        try:
            session = runtime.InferenceSession(
                str(path), session_options, providers=[(provider, settings), ("CPUExecutionProvider", {})]
                if kind != "cpu" else ["CPUExecutionProvider"],
            )  # fmt: skip
        except Exception as error:
            # onnxruntime has a class for each of its codes, and none above them.
            raise WeightsError(f"{path} cannot be loaded by onnxruntime: {_first_line(error)}") from error
        if session.get_providers()[0] == provider:
            threads = options.threads
            words = "onnxruntime"
            if threads is not None:
                words += f", {threads} thread{'s' if threads != 1 else ''}"
            return session, DeviceInfo(kind, index, words), unable
        unable.append(provider)
    raise DeviceError(
        f"onnxruntime does not run on {device} here: it has {', '.join(available)}. Install the package of it that "
        "fits (onnxruntime-gpu, onnxruntime-directml), check the driver, or use --device cpu."
    )


def _providers(
    device: str, options: OnnxOptions, available: Sequence[str]
) -> list[tuple[str, int | None, str]]:
    """Return kind, index and name of what to try, the best first.

    Raises:
        SettingsError: there is no such device, or no such provider.
    """
    if options.provider is not None:
        wanted = options.provider.casefold().removesuffix("executionprovider")
        found = next(
            (each for each in available if each.casefold().removesuffix("executionprovider") == wanted), None
        )
        if found is None:
            raise SettingsError(
                f"onnxruntime has no provider {options.provider!r} here: it has {', '.join(available)}"
            )
        kind = next((kind for kind, name in PROVIDERS.items() if name == found), wanted)
        return [(kind, None, found)]
    if device == "auto":
        return [(kind, None, name) for kind, name in PROVIDERS.items() if name in available]
    kind, _, number = device.partition(":")
    kind = _OTHER_NAMES.get(kind, kind)
    if kind not in PROVIDERS or not ((number.isascii() and number.isdigit()) or not number):
        raise SettingsError(
            f"--engine onnx has no device {device!r}: use auto, cpu, cuda, cuda:1, dml or coreml, or "
            "--engine-option provider=NAME"
        )
    if PROVIDERS[kind] not in available:
        return []
    return [(kind, int(number) if number else None, PROVIDERS[kind])]


def _input_and_output(session: Any, path: Path) -> tuple[Any, str, str]:
    """Return the input, the name of the output, and the precision.

    Raises:
        WeightsError: they are not those of a network for images.
    """
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) != 1:
        names = ", ".join(each.name for each in inputs)
        raise _no_network(path, f"it has {len(inputs)} inputs ({names}), where an image needs one")
    taken = inputs[0]
    if taken.type not in _TYPES:
        raise _no_network(path, f"its input is {taken.type}, not tensor(float) or tensor(float16)")
    if len(taken.shape) != 4:
        raise _no_network(
            path, f"its input has {len(taken.shape)} dimensions, not 4: N x channels x height x width"
        )
    if taken.shape[3] in (1, 3) and taken.shape[1] not in (1, 3):
        raise _no_network(
            path, "its input ends in the channels (NHWC): export it as N x channels x height x width"
        )
    made = next((each for each in outputs if each.type in _TYPES and len(each.shape) == 4), None)
    if made is None:
        kinds = ", ".join(f"{each.name}: {each.type}" for each in outputs)
        raise _no_network(path, f"it has no output that is an image ({kinds})")
    return taken, made.name, _TYPES[taken.type][0]


def _chunks(windows: Sequence[tuple[Tile, int]], count: int) -> Iterator[Sequence[tuple[Tile, int]]]:
    return (windows[start : start + count] for start in range(0, len(windows), count))


def _no_network(path: Path, why: str) -> WeightsError:
    return WeightsError(f"{path} cannot upscale pages: {why}.")


def _first_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return "".join(char for char in text if char.isprintable())[:300] or type(error).__name__
