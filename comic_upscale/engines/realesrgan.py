"""The official program as an engine, for comparison: ``realesrgan.RealESRGANer``.

Its packages are in the extra ``[realesrgan]`` and are imported at the first use. They have had no release since 2022
and import a module that torchvision has removed. A replacement for it is installed first.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import re
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from comic_upscale.engines.base import (
    Batch,
    Engine,
    EngineInfo,
    EngineResources,
    EngineSpec,
    Identity,
    Upscaled,
)
from comic_upscale.engines.catalogue import CatalogueFactory
from comic_upscale.errors import DeviceError, PageError, SettingsError, WeightsError
from comic_upscale.imaging.gray import eight_bits
from comic_upscale.imaging.pixels import Borders, UInt8Array
from comic_upscale.models.weights import is_mixed

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

NAME = "realesrgan"
"""The engine's name in the registry."""

INSTALL = "pip install '.[realesrgan]' in a clone"
"""The command that installs the official program."""

_GONE = "torchvision.transforms.functional_tensor"
"""The module that basicsr 1.4.2 imports and torchvision 0.17 removed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RealESRGANOptions:
    """The engine ``realesrgan`` has no options. It runs with the program's defaults."""


class RealESRGANFactory(CatalogueFactory):
    """Opens ``RealESRGANEngine``, one for each device."""

    name = NAME
    summary = "The official program, for comparison. Slower."
    options = RealESRGANOptions
    packages = ("realesrgan", "basicsr", "cv2")
    install = INSTALL

    def identify(self, spec: EngineSpec) -> Identity:
        """As in the base class. A mix of two files is refused, because the program takes one file."""
        if is_mixed(spec.model, spec.denoise):
            raise SettingsError(f"--engine {NAME} does not support --denoise: use --engine torch")
        return super().identify(spec)

    def open(self, spec: EngineSpec, resources: EngineResources) -> list[Engine]:
        """Load the program with the network on every device."""
        from comic_upscale.engines.torch.device import parse_devices

        assert spec.weights is not None
        if resources.precision in ("bf16", "int8"):
            raise SettingsError(
                f"--engine {NAME} does not support --precision {resources.precision}: use --engine torch"
            )
        devices = parse_devices(resources.device)
        return [
            RealESRGANEngine(
                spec.weights.path,
                device=device,
                # As the program itself: half precision by default on a GPU.
                half=resources.precision == "fp16"
                or (resources.precision == "auto" and device.type == "cuda"),
                tile=resources.tile or 0,
                identity=spec.weights.identity,
            )
            for device in devices
        ]


FACTORY = RealESRGANFactory()


class RealESRGANEngine:
    """An ``Engine`` around the official program, with the defaults of its ``inference_realesrgan.py``.

    Each page goes through ``RealESRGANer.enhance``, which rounds to 8 bits at the native size. It is then resampled
    to the target with ``cv2.INTER_LANCZOS4``, the call that the program makes for its ``outscale``. The size is exact,
    while the program rounds down. Gray pages are passed as RGB, and the mean of the three channels is returned.

    Args:
        weights: the path of an official ``.pth`` file, or of a ``.safetensors`` file with such a network.
        device: the device.
        half: whether to compute in float16, as the program does without ``--fp32``.
        tile: the side of its tiles in pixels, without 10 pixels of padding; 0 for whole pages.
        identity: the hash of the weights, if known.

    Raises:
        SettingsError: the packages are not installed, or a setting is out of range.
        WeightsError: the official program cannot run the network in the file.
        DeviceError: the device cannot hold the network.
    """

    def __init__(
        self,
        weights: Path,
        *,
        device: torch.device,
        half: bool = False,
        tile: int = 0,
        identity: str = "",
    ) -> None:
        from comic_upscale.engines.torch.device import device_info
        from comic_upscale.engines.torch.device_errors import is_lost_device, is_too_much

        if tile < 0:
            raise SettingsError(f"the tile size must be 0 (whole pages) or more, not {tile}")
        program = _import_program()
        state = _read_state(weights)
        model, scale = _build_model(state, weights)
        self._info = EngineInfo(
            name=NAME,
            identity=identity,
            device=device_info(device),
            precision="fp16" if half else "fp32",
            native_scale=scale,
            deterministic=device.type == "cpu",
        )
        self._torch_device = device
        self._tile = tile
        try:
            with _as_official_file(weights, state) as path:
                self._program = program.utils.RealESRGANer(
                    scale=scale,
                    model_path=str(path),
                    model=model,
                    tile=tile,
                    tile_pad=10,
                    pre_pad=0,
                    half=half,
                    device=device,
                )
        except RuntimeError as error:
            if is_lost_device(error) or is_too_much(error):
                raise DeviceError(f"{self._info.device} cannot hold the network: {error}") from error
            raise WeightsError(f"{weights} does not fit the official network: {error}") from error

    @property
    def info(self) -> EngineInfo:
        """The engine's properties."""
        return self._info

    def batch_limit(self, height: int, width: int) -> int:
        """Return 1: the official program takes one page at a time."""
        return 1

    def upscale(self, batch: Batch) -> Upscaled:
        """Return the pages at their target size, in the sample type of the input, with the borders between tiles.

        The program takes a page for 16 bits if a sample is above 256, which is wrong for dark pages. So pages of 16
        bits are processed at 8 bits, and the result is scaled to 16.

        Raises:
            PageError: ``"out-of-memory"``: the page, or one of its tiles, does not fit.
            DeviceError: the device failed.
        """
        from comic_upscale.engines.torch.device import release_memory
        from comic_upscale.engines.torch.device_errors import is_lost_device, is_too_much

        try:
            pages = eight_bits(batch.pixels)
            larger = np.stack([self._upscale_page(page, batch.target_size) for page in pages])
            samples = larger if batch.pixels.dtype == np.uint8 else larger.astype(np.uint16) * np.uint16(257)
            return Upscaled(samples, self._borders(batch))
        except (RuntimeError, MemoryError) as error:
            if is_lost_device(error):
                raise DeviceError(f"{self._info.device} failed: {error}") from error
            if not is_too_much(error):
                raise
        release_memory(self._torch_device)
        raise PageError(
            "out-of-memory", f"{self._info.device} has too little memory for this page: use smaller tiles"
        )

    def _borders(self, batch: Batch) -> Borders:
        """Return the borders between the program's tiles, which start at multiples of the tile size."""
        if not self._tile:
            return Borders()
        width, height = batch.target_size
        return Borders(
            rows=_starts(self._tile, batch.pixels.shape[1], height),
            columns=_starts(self._tile, batch.pixels.shape[2], width),
        )

    def close(self) -> None:
        """Release the device's memory. The engine is not used afterwards."""
        from comic_upscale.engines.torch.device import release_memory

        self._program = None
        release_memory(self._torch_device)

    def _upscale_page(self, page: UInt8Array, target_size: tuple[int, int]) -> UInt8Array:
        cv2 = importlib.import_module("cv2")
        gray = page.shape[2] == 1
        bgr = np.repeat(page, 3, axis=2) if gray else page[:, :, ::-1]
        native, _ = self._program.enhance(bgr, outscale=None)
        if target_size != (native.shape[1], native.shape[0]):
            native = cv2.resize(native, target_size, interpolation=cv2.INTER_LANCZOS4)
        if gray:
            native = np.rint(native.mean(axis=2, keepdims=True))
            return np.asarray(native, dtype=np.uint8)
        return np.ascontiguousarray(native[:, :, ::-1], dtype=np.uint8)


def _starts(tile: int, length: int, target: int) -> tuple[int, ...]:
    """Return the starts of all tiles of an axis except the first, in target pixels, each rounded."""
    return tuple(round(place * target / length) for place in range(tile, length, tile))


def _import_program() -> Any:
    """Return the package ``realesrgan``, with its output redirected from the terminal to the log.

    Raises:
        SettingsError: it or one of its requirements is not installed.
    """
    try:
        with warnings.catch_warnings():
            # Code from 2022 on current libraries: a user cannot act on their warnings.
            warnings.simplefilter("ignore")
            if _GONE not in sys.modules and importlib.util.find_spec(_GONE) is None:
                functional = importlib.import_module("torchvision.transforms.functional")
                module = ModuleType(_GONE)
                module.rgb_to_grayscale = functional.rgb_to_grayscale  # type: ignore[attr-defined]
                sys.modules[_GONE] = module
            program = importlib.import_module("realesrgan")
    except ImportError as error:
        raise SettingsError(
            f"the official program cannot be imported ({error}): {INSTALL}, or use --engine torch"
        ) from error
    # The program reports tiles and failures with ``print``. A name in its module hides the built-in function.
    program.utils.print = _log_print
    return program


def _log_print(*words: object) -> None:
    """Replace ``print`` in the program: log its messages, and raise the errors that it prints.

    After printing an error, the program would continue and write the pixels of the previous tile again.
    """
    if len(words) > 1 and isinstance(words[1], RuntimeError):
        raise words[1]
    log.debug("realesrgan: %s", " ".join(str(word).strip() for word in words))


def _build_model(state: Mapping[str, torch.Tensor], weights: Path) -> tuple[torch.nn.Module, int]:
    """Return the official network for these weights, without the weights, and its factor.

    Raises:
        WeightsError: the tensors belong to neither of the two official architectures.
    """
    if "body.0.weight" in state:
        compact = importlib.import_module("realesrgan.archs.srvgg_arch").SRVGGNetCompact
        last = max(int(name.split(".")[1]) for name in state if name.startswith("body."))
        first = state["body.0.weight"]
        scale = round((state[f"body.{last}.weight"].shape[0] / 3) ** 0.5)
        return compact(
            num_in_ch=3, num_out_ch=3, num_feat=first.shape[0], num_conv=last // 2 - 1, upscale=scale
        ), scale
    if "conv_first.weight" in state:
        rrdb = importlib.import_module("basicsr.archs.rrdbnet_arch").RRDBNet
        first, growth = state["conv_first.weight"], state["body.0.rdb1.conv1.weight"]
        # The network always enlarges x4. A pixel-unshuffle by 2 or 4 before the first convolution compensates for it.
        scale = {12: 2, 48: 1}.get(first.shape[1], 4)
        blocks = 1 + max(int(match[1]) for name in state if (match := re.match(r"body\.(\d+)\.", name)))
        return rrdb(
            num_in_ch=3,
            num_out_ch=3,
            scale=scale,
            num_feat=first.shape[0],
            num_block=blocks,
            num_grow_ch=growth.shape[0],
        ), scale
    raise WeightsError(
        f"{weights} is neither SRVGGNetCompact nor RRDBNet, and the official program runs no other network: use "
        "--engine torch"
    )


@contextmanager
def _as_official_file(weights: Path, state: Mapping[str, torch.Tensor]) -> Iterator[Path]:
    """Yield the path of a file that the program can load. It only reads ``.pth``."""
    if not _is_safetensors(weights):
        yield weights
        return
    with tempfile.TemporaryDirectory(prefix="comic-upscale-") as folder:
        import torch

        path = Path(folder) / "weights.pth"
        torch.save({"params": dict(state)}, path)
        yield path


def _is_safetensors(weights: Path) -> bool:
    return weights.suffix.lower() == ".safetensors"


def _read_state(weights: Path) -> Mapping[str, torch.Tensor]:
    import torch

    from comic_upscale.models.network import read_state

    if _is_safetensors(weights):
        return read_state(weights)
    try:
        content = torch.load(weights, map_location="cpu", weights_only=True)
    except Exception as error:
        # torch does not document its errors for a file that it cannot read.
        raise WeightsError(f"{weights} cannot be read as an official .pth file: {error}") from error
    for name in ("params_ema", "params"):
        if isinstance(content, dict) and isinstance(content.get(name), dict):
            state: dict[str, torch.Tensor] = content[name]
            return state
    raise WeightsError(
        f"{weights} has no params or params_ema, which the official program needs: use --engine torch"
    )
