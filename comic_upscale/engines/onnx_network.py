"""An ONNX network in onnxruntime: the session on a device, and the input that the network accepts.

ONNX files say little about the input that a network accepts, and are often wrong. So the network is tried with small
images: for its factor, for the multiples that sides must have, and for the smallest side.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from comic_upscale.engines.base import DeviceInfo
from comic_upscale.engines.telemetry import disable_telemetry
from comic_upscale.errors import DeviceError, PageError, SettingsError, WeightsError

INSTALL = "pip install '.[onnx]' in a clone"

PROVIDERS = {
    "cuda": "CUDAExecutionProvider",
    "dml": "DmlExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "cpu": "CPUExecutionProvider",
}
"""By the kind of device. ``--device auto`` uses the first one that onnxruntime has on this machine."""
_OTHER_NAMES = {"directml": "dml", "mps": "coreml"}
_TYPES = {"tensor(float)": ("fp32", np.float32), "tensor(float16)": ("fp16", np.float16)}
_TRIED = 64
"""The side of the image that a network is first tried with, in pixels."""
_LEAST = 8
"""The smallest side that is tried, in pixels. Smaller pages are padded to it."""
_TRIED_SECONDS = 120.0
"""The most seconds for all small images together, far more than any network needs that can process a page."""
_LEAST_FIXED = 32
"""A network with a fixed input size needs sides of at least this many pixels. Otherwise a tile has no context."""
_TOO_MUCH = ("allocat", "out of memory", "OUTOFMEMORY", "bad_alloc", "CUDA failure 2:")
"""Phrases in onnxruntime's errors that mean that memory ran out."""


class OutOfMemoryError(Exception):
    """The device has too little memory for this many pixels at once."""


@dataclass(frozen=True, slots=True)
class InputShape:
    """The input that a network accepts, and its factor."""

    channels: int
    """1 or 3."""
    scale: int
    """The factor of the network, at least 2."""
    multiple_of: int
    """Sides must be multiples of this many pixels."""
    minimum: int
    """The smallest side, in pixels."""
    fixed: tuple[int, int] | None
    """(height, width) of the only size that it accepts; None for any size."""
    batches: bool
    """Whether it accepts several windows at once."""


class OnnxNetwork:
    """A network on a device: NCHW in and out, float32 or float16, values 0..1, one or three channels.

    Args:
        path: of the network.
        device: ``"auto"``, ``"cpu"``, ``"cuda:1"``, ``"dml"``, ``"coreml"``.
        provider: onnxruntime's name of the provider to use; None to decide by ``device``.
        threads: threads on the CPU; None for onnxruntime's default.

    Raises:
        SettingsError: onnxruntime is not installed, or has no such device or provider.
        WeightsError: the file is not a network that enlarges images.
        DeviceError: the device does not exist, or does not run the network.
    """

    def __init__(self, path: Path, *, device: str, provider: str | None, threads: int | None) -> None:
        self._path = path
        self._session, self.device, self.unable = _open_session(path, device, provider, threads)
        self._input, self._output, self.precision = _input_and_output(self._session, path)
        self._run_options: Any = None
        with self._time_limit(_TRIED_SECONDS):
            self.shape = self._try_out()

    def close(self) -> None:
        """Release the memory. The network is not used afterwards."""
        self._session = None

    def run(self, windows: NDArray[Any]) -> NDArray[np.float32]:
        """Run windows, N x C x height x width in 0..1, with the channels of the network.

        Raises:
            OutOfMemoryError: the windows do not fit into memory.
            PageError: ``"network"``: the network does not accept windows of this size.
            DeviceError: the device failed.
        """
        kind = _TYPES[self._input.type][1]
        try:
            (made,) = self._session.run(
                [self._output], {self._input.name: windows.astype(kind, copy=False)}, self._run_options
            )
        except MemoryError as error:
            raise OutOfMemoryError from error
        except Exception as error:
            # onnxruntime's errors have no common base class.
            reason = _first_line(error)
            if any(phrase in str(error) for phrase in _TOO_MUCH):
                raise OutOfMemoryError from error
            if type(error).__name__ in ("DeviceReset", "EPFail", "EngineError") or "CUDA failure" in reason:
                raise DeviceError(f"{self.device} failed: {reason}. Run the same command again") from error
            raise PageError("network", f"the network does not accept this page: {reason}") from error
        return np.asarray(made, np.float32)

    @contextmanager
    def _time_limit(self, seconds: float) -> Iterator[None]:
        """Stop the network after some time, because a file may contain an endless loop.

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
                why = f"it takes more than {seconds:g} seconds for an image of {_TRIED} pixels a side"
                raise _no_network(self._path, why) from error
            raise
        finally:
            timer.cancel()
            self._run_options = None

    def _try_out(self) -> InputShape:
        """Find out by small images what input the network accepts.

        Raises:
            WeightsError: it is not a network that enlarges single images.
        """
        sides = [side if isinstance(side, int) and side > 0 else None for side in self._input.shape]
        count, channels, height, width = sides
        if count not in (None, 1):
            raise _no_network(
                self._path, f"it accepts only {count} images at once; export it for 1, or for any number"
            )
        if channels is None:
            channels = 3 if self._find_factor(3, _TRIED, _TRIED) is not None else 1
        if channels not in (1, 3):
            raise _no_network(self._path, f"its input has {channels} channels, but RGB needs 3 and gray 1")
        if height is not None and width is not None:
            if min(height, width) < _LEAST_FIXED:
                raise _no_network(
                    self._path, f"it accepts only {width}x{height} pixels, which is too small for tiles"
                )
            scale = self._require_factor(channels, height, width)
            return InputShape(channels, scale, 1, 0, (height, width), count is None)
        if height is not None or width is not None:
            raise _no_network(
                self._path,
                "only one side of its input is variable; export it with both sides variable, or with both fixed",
            )
        steps = (1, 2, 4, 8, 16, 32, 64)
        taken = next(
            (step for step in steps if self._find_factor(channels, _TRIED + step, _TRIED + step)), None
        )
        if taken is None:
            # For the message about the simplest size.
            self._require_factor(channels, _TRIED, _TRIED)
            raise _no_network(self._path, "it accepts none of the sizes that were tried")
        scale = self._require_factor(channels, _TRIED + taken, _TRIED + taken)
        least = -(-_LEAST // taken) * taken
        minimum = least if self._find_factor(channels, least, least) == scale else _TRIED
        return InputShape(channels, scale, taken, minimum, None, count is None)

    def _find_factor(self, channels: int, height: int, width: int) -> int | None:
        """Return the integer factor of at least 1 by which the network enlarges such an image; None without one."""
        try:
            made = self.run(np.full((1, channels, height, width), 0.5, np.float32))
        except (PageError, OutOfMemoryError):
            return None
        if made.ndim != 4 or made.shape[:2] != (1, channels):
            return None
        scale = made.shape[2] // height
        return scale if scale >= 1 and made.shape[2:] == (height * scale, width * scale) else None

    def _require_factor(self, channels: int, height: int, width: int) -> int:
        """Return the same as `_find_factor`, or raise an error with the reason.

        Raises:
            WeightsError: it does not keep or enlarge the size of images by an integer factor.
        """
        scale = self._find_factor(channels, height, width)
        if scale is not None:
            return scale
        try:
            made = self.run(np.full((1, channels, height, width), 0.5, np.float32))
        except PageError as error:
            raise _no_network(self._path, f"it does not run on an image: {error.reason}") from error
        except OutOfMemoryError as error:
            raise DeviceError(f"{self.device} has too little memory for {self._path.name}") from error
        shape = "x".join(str(side) for side in made.shape)
        raise _no_network(
            self._path,
            f"it turns 1x{channels}x{height}x{width} into {shape}; height and width must stay or grow by an integer "
            f"factor, and the {channels} channels must stay",
        )


def _open_session(
    path: Path, device: str, provider: str | None, threads: int | None
) -> tuple[Any, DeviceInfo, list[str]]:
    """Load a network on a device; return the session, the device, and better providers that could not be loaded.

    Raises:
        SettingsError: onnxruntime is not installed, or has no such device or provider.
        WeightsError: onnxruntime does not accept the network.
        DeviceError: the device does not exist.
    """
    disable_telemetry()
    try:
        import onnxruntime as runtime
    except ImportError as error:
        raise SettingsError(f"onnxruntime cannot be imported ({error}): {INSTALL}") from error
    runtime.disable_telemetry_events()
    session_options = runtime.SessionOptions()
    session_options.log_severity_level = 4
    # Pages have many sizes, and onnxruntime would keep a memory plan for each.
    session_options.enable_mem_pattern = False
    if threads is not None:
        session_options.intra_op_num_threads = threads
    available = runtime.get_available_providers()
    unable: list[str] = []
    for kind, index, name in _list_providers(device, provider, available):
        settings = {} if index is None else {"device_id": str(index)}
        try:
            session = runtime.InferenceSession(
                str(path), session_options, providers=[(name, settings), ("CPUExecutionProvider", {})]
                if kind != "cpu" else ["CPUExecutionProvider"],
            )  # fmt: skip
        except Exception as error:
            # onnxruntime's errors have no common base class.
            raise WeightsError(f"{path} cannot be loaded by onnxruntime: {_first_line(error)}") from error
        if session.get_providers()[0] == name:
            words = "onnxruntime"
            if threads is not None:
                words += f", {threads} thread{'s' if threads != 1 else ''}"
            return session, DeviceInfo(kind, index, words), unable
        unable.append(name)
    raise DeviceError(
        f"this onnxruntime does not run on {device}: it has {', '.join(available)}. Install its package for the "
        "device (onnxruntime-gpu, onnxruntime-directml), check the driver, or use --device cpu"
    )


def _list_providers(
    device: str, provider: str | None, available: Sequence[str]
) -> list[tuple[str, int | None, str]]:
    """Return the kind of device, its index and the provider to try, the best first.

    Raises:
        SettingsError: there is no such device, or no such provider.
    """
    if provider is not None:
        wanted = provider.casefold().removesuffix("executionprovider")
        match = next(
            (each for each in available if each.casefold().removesuffix("executionprovider") == wanted), None
        )
        if match is None:
            raise SettingsError(
                f"onnxruntime has no provider {provider!r} on this machine: it has {', '.join(available)}"
            )
        kind = next((kind for kind, name in PROVIDERS.items() if name == match), wanted)
        return [(kind, None, match)]
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
        WeightsError: they do not fit a network for images.
    """
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) != 1:
        names = ", ".join(each.name for each in inputs)
        raise _no_network(path, f"it has {len(inputs)} inputs ({names}), but an image needs one")
    image = inputs[0]
    if image.type not in _TYPES:
        raise _no_network(path, f"its input is {image.type}, not tensor(float) or tensor(float16)")
    if len(image.shape) != 4:
        raise _no_network(
            path, f"its input has {len(image.shape)} dimensions, not 4: N x channels x height x width"
        )
    if image.shape[3] in (1, 3) and image.shape[1] not in (1, 3):
        raise _no_network(
            path, "its input ends in the channels (NHWC): export it as N x channels x height x width"
        )
    enlarged = next((each for each in outputs if each.type in _TYPES and len(each.shape) == 4), None)
    if enlarged is None:
        kinds = ", ".join(f"{each.name}: {each.type}" for each in outputs)
        raise _no_network(path, f"it has no output that is an image ({kinds})")
    return image, enlarged.name, _TYPES[image.type][0]


def _no_network(path: Path, why: str) -> WeightsError:
    return WeightsError(f"{path} cannot upscale pages: {why}")


def _first_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return "".join(char for char in text if char.isprintable())[:300] or type(error).__name__
