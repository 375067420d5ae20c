"""The official program as an engine: ``realesrgan.RealESRGANer``, for comparing with.

Its packages are the extra ``[realesrgan]`` and are imported at the first use. They have had no release
since 2022, and import one module that torchvision has removed; it is put in its place before.
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

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

NAME = "realesrgan"
"""The engine's name in the registry."""

INSTALL = 'pip install "comic-upscale[realesrgan]"'
"""What brings the official program."""

_GONE = "torchvision.transforms.functional_tensor"
"""The module that basicsr 1.4.2 imports and torchvision has removed in 0.17."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RealESRGANOptions:
    """The engine ``realesrgan`` has no options of its own: it runs as the program does by default."""


class RealESRGANFactory(CatalogueFactory):
    """Opens ``RealESRGANEngine``, one for each device."""

    name = NAME
    summary = "The official program, slower, for comparing."
    options = RealESRGANOptions
    packages = ("realesrgan", "basicsr", "cv2")
    install = INSTALL

    def identify(self, spec: EngineSpec) -> Identity:
        """As its base class; a mix of two files is refused, since the program is given one."""
        if spec.denoise is not None and spec.denoise < 1:
            raise SettingsError(f"--engine {NAME} has no --denoise: use torch")
        return super().identify(spec)

    def open(self, spec: EngineSpec, resources: EngineResources) -> list[Engine]:
        """Load the program with the network on every device."""
        from comic_upscale.engines.torch.device import parse_devices

        assert spec.weights is not None
        if resources.precision == "bf16":
            raise SettingsError(f"--engine {NAME} has no --precision bf16: use torch")
        devices = parse_devices(resources.device)
        return [
            RealESRGANEngine(
                spec.weights.path,
                device=device,
                # As the program itself: half precision unless told otherwise, where there is a GPU for it.
                half=resources.precision == "fp16"
                or (resources.precision == "auto" and device.type == "cuda"),
                tile=resources.tile or 0,
                identity=spec.weights.identity,
            )
            for device in devices
        ]


FACTORY = RealESRGANFactory()


class RealESRGANEngine:
    """An ``Engine`` that is the official program, with the defaults of its ``inference_realesrgan.py``.

    Each page goes through ``RealESRGANer.enhance``, which rounds to 8 bits at the native size; from there it
    is brought to the target with ``cv2.INTER_LANCZOS4``, the very call that the program makes for its
    ``outscale``, but to the exact size, where the program rounds down. Gray pages go in as RGB, and the mean
    of the three channels comes out.

    Args:
        weights: the path of an official ``.pth`` file, or of a ``.safetensors`` file of such a network.
        device: where to run.
        half: whether to compute in float16, as the program does unless told ``--fp32``.
        tile: the side of its tiles in pixels (10 pixels of padding come on top); 0 for whole pages.
        identity: the hash of the weights, where that is known.

    Raises:
        SettingsError: the packages are not installed, or a setting is out of its range.
        WeightsError: the file is no network that the official program runs.
        DeviceError: the device does not take the network.
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
            raise SettingsError(f"tiles of {tile} pixels cannot be: use 0 for whole pages, or more")
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
                raise DeviceError(f"{self._info.device} does not take the network: {error}") from error
            raise WeightsError(f"{weights} does not fit the official network: {error}") from error

    @property
    def info(self) -> EngineInfo:
        """What is known of the engine."""
        return self._info

    def batch_limit(self, height: int, width: int) -> int:
        """Return 1: the official program takes one page at a time."""
        return 1

    def upscale(self, batch: Batch) -> Upscaled:
        """Return the pages at their target size and in their own type, and where the program's tiles meet.

        The program tells 16 bits by whether a page holds a sample above 256, which is wrong for a dark one;
        so such pages go through at 8 bits, and come back spread to 16.

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
        """Return where the program's tiles meet; they begin at every so many pixels of the page."""
        if not self._tile:
            return Borders()
        width, height = batch.target_size
        return Borders(
            rows=_starts(self._tile, batch.pixels.shape[1], height),
            columns=_starts(self._tile, batch.pixels.shape[2], width),
        )

    def close(self) -> None:
        """Give the device's memory back. The engine is not used afterwards."""
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
    """Return where the tiles of an axis but the first begin on the target's, each to the nearest pixel."""
    return tuple(round(place * target / length) for place in range(tile, length, tile))


def _import_program() -> Any:
    """Return the package ``realesrgan``, speaking to the log instead of the terminal.

    Raises:
        SettingsError: it or a package that it needs is not installed.
    """
    try:
        with warnings.catch_warnings():
            # Code of 2022 on the libraries of today: what they say of it is nothing that a user can act on.
            warnings.simplefilter("ignore")
            if _GONE not in sys.modules and importlib.util.find_spec(_GONE) is None:
                functional = importlib.import_module("torchvision.transforms.functional")
                module = ModuleType(_GONE)
                module.rgb_to_grayscale = functional.rgb_to_grayscale  # type: ignore[attr-defined]
                sys.modules[_GONE] = module
            program = importlib.import_module("realesrgan")
    except ImportError as error:
        raise SettingsError(
            f"the official program cannot be imported ({error}): {INSTALL}, or use the engine torch"
        ) from error
    # The program reports tiles and failures with ``print``; a name in its module goes before the built-in one.
    program.utils.print = _hear
    return program


def _hear(*words: object) -> None:
    """Take what the program prints: tiles to the log, an error as the error that it is.

    After it has printed an error the program goes on and writes the previous tile's pixels once more.
    """
    if len(words) > 1 and isinstance(words[1], RuntimeError):
        raise words[1]
    log.debug("realesrgan: %s", " ".join(str(word).strip() for word in words))


def _build_model(state: Mapping[str, torch.Tensor], weights: Path) -> tuple[torch.nn.Module, int]:
    """Return the official network that the weights fit, not yet filled, and its factor.

    Raises:
        WeightsError: the tensors are of neither of the two official kinds.
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
        # Pixels folded in squares of 2 or 4 before the first convolution make up for what follows, always x4.
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
        f"{weights} is neither SRVGGNetCompact nor RRDBNet, all that the official program runs: use the engine torch"
    )


@contextmanager
def _as_official_file(weights: Path, state: Mapping[str, torch.Tensor]) -> Iterator[Path]:
    """Give the path of a file that the program can load: it knows ``.pth`` alone."""
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
        # torch promises no set of errors for a file that it cannot read.
        raise WeightsError(f"{weights} cannot be read as an official .pth file: {error}") from error
    for name in ("params_ema", "params"):
        if isinstance(content, dict) and isinstance(content.get(name), dict):
            state: dict[str, torch.Tensor] = content[name]
            return state
    raise WeightsError(
        f"{weights} has no params or params_ema, which the official program needs: use the engine torch"
    )
