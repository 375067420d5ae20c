"""Load files of weights as a torch network that the device code can run.

``spandrel`` recognises the architecture from the tensors. This module reads the file itself, so that only tensors are
ever unpickled, whatever the suffix.
"""

from __future__ import annotations

import errno
import pickle
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from comic_upscale.errors import SettingsError, WeightsError
from comic_upscale.models.architectures import ESRGAN, Compact, spandrel
from comic_upscale.models.limits import (
    LARGEST_SCALE,
    LARGEST_SIDE,
    BoundedTensors,
    TooLargeError,
    check_safetensors,
    check_state,
    check_zip,
)
from comic_upscale.models.weights import ResolvedWeights, check_denoise, mixes

_PURPOSES = {
    "FaceSR": "restores faces and changes everything else",
    "Inpainting": "fills holes under a mask",
}
_WAY_OUT = "Use a model from the catalogue, or a network that enlarges or restores single images"


@dataclass(frozen=True, slots=True, eq=False)
class Network:
    """A network that is ready to run, and its properties."""

    module: torch.nn.Module
    """In evaluation mode, float32, on the CPU, without gradients. Takes N x ``input_channels`` x H x W
    in 0..1 and returns N x ``output_channels`` x H*``native_scale`` x W*``native_scale``, not clipped."""
    native_scale: int
    """The network's own factor; 1 for a network that restores pages and does not enlarge them."""
    input_channels: int
    """3 (RGB) or 1 (gray)."""
    output_channels: int
    """Equal to ``input_channels``."""
    supports_half: bool
    """Whether float16 is known to work."""
    supports_bfloat16: bool
    """Whether bfloat16 is known to work."""
    architecture: str
    """The architecture's name, such as ``"ESRGAN"``."""
    multiple_of: int
    """H, W and the start of a tile must be multiples of this, because the network divides its input into squares with
    this side."""
    minimum: int
    """The smallest H and W, in pixels."""
    square: bool
    """Whether H must equal W."""
    receptive_radius: int | None
    """The exact number of input pixels on each side on which an output pixel depends; None if unknown or too large for
    the overlap of tiles."""
    widest: int = 0
    """Elements of the largest tensor between two layers, per pixel of input; 0 if unknown, as for all networks except
    compact ones and RRDB."""
    is_local: bool = False
    """Whether the network is known to consist only of convolutions, so that no pixel depends on the whole page."""
    identity: str = ""
    """The hash of its weights, 64 hexadecimal digits (`ResolvedWeights.identity`); empty without a file."""
    int8_path: Path | None = None
    """The file with its weights in 8 bits; None if there are none."""


def load_network(weights: ResolvedWeights, denoise: float | None) -> Network:
    """Return the network of these weights, mixed with the denoise weights if the strength requires it.

    Args:
        weights: files on this machine.
        denoise: 0..1; None and the base weights' own strength use these alone. That is 1 in the official program.

    Raises:
        SettingsError: the strength is outside 0..1, or needs denoise weights that were not resolved.
        WeightsError: a file is missing, damaged or unsafe, or does not contain a network that enlarges or restores
            single RGB or gray images.
    """
    check_denoise(denoise)
    state = read_state(weights.path)
    if denoise is not None and mixes(denoise, weights.own_strength):
        if weights.denoise_path is None:
            raise SettingsError(f"{weights.model_name} has no denoise weights to mix in: leave out --denoise")
        denoise_state = read_state(weights.denoise_path)
        try:
            state = mix_weights(state, denoise_state, 1 - abs(weights.own_strength - denoise))
        except WeightsError as error:
            raise WeightsError(
                f"{weights.path} and {weights.denoise_path} cannot be mixed: {error}"
            ) from error
    return replace(_build(state, weights.path), identity=weights.identity, int8_path=weights.int8_path)


def read_state(path: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a file by name, on the CPU; the averaged ones (``params_ema``) if the file has them.

    Only tensors are read. A pickle that would run code is refused before it can. A file that describes far more than
    it holds is refused before that is made (``limits.py``).

    Args:
        path: a ``.safetensors`` file, or a file that ``torch.save`` wrote.

    Raises:
        WeightsError: the file is missing, damaged, unsafe, too large, or not a set of tensors.
    """
    if not path.is_file():
        raise WeightsError(
            f"{path} does not exist or is not a file. Give the path of a .pth or .safetensors file"
        )
    try:
        if path.suffix.lower() == ".safetensors":
            check_safetensors(path)
            content: object = _read_safetensors(path)
        else:
            check_zip(path)
            content = _read_pickle(path)
    except TooLargeError as error:
        raise _too_large(path, error) from error
    except OSError as error:
        raise _unreadable(path, error) from error
    if not isinstance(content, Mapping) or not all(isinstance(key, str) for key in content):
        raise _no_model(path, f"it contains a {type(content).__name__}, not tensors by name")
    # Unwraps "params_ema" before "params", as the official loader does, and strips "module.".
    state: dict[str, Any] = spandrel.canonicalize_state_dict(dict(content))
    if not state or not all(isinstance(tensor, torch.Tensor) for tensor in state.values()):
        raise _no_model(path, "it does not consist of named tensors")
    try:
        check_state(state, path)
    except TooLargeError as error:
        raise _too_large(path, error) from error
    except ValueError as error:
        raise _no_model(path, f"{error} is not a plain array of numbers") from error
    for name, tensor in state.items():
        # torch verifies no checksum. Flipped bits appear as numbers, often absurd ones.
        # As float32, because torch has no such test for numbers of 8 bits.
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor.float()).all()):
            raise WeightsError(f"{path} is damaged: {name} contains NaN or infinity. Download it again")
    return state


def mix_weights(
    base: Mapping[str, torch.Tensor], denoise: Mapping[str, torch.Tensor], share: float
) -> dict[str, torch.Tensor]:
    """Return ``share * base + (1 - share) * denoise`` for each tensor, in float32.

    For base weights that denoise, the share is the strength. This is the deep network interpolation of the official
    program, whose denoise strength ``s`` gives ``dni_weight=[s, 1 - s]``; see https://arxiv.org/abs/1811.10515.

    Args:
        base: the weights of the model, by name.
        denoise: those with the other strength, with the same names and shapes.
        share: of the base weights, 0..1.

    Raises:
        WeightsError: names or shapes differ.
    """
    if odd := sorted(base.keys() ^ denoise.keys()):
        raise WeightsError(f"they belong to different networks: {odd[0]} is only in one of them")
    for name, tensor in base.items():
        if tensor.shape != denoise[name].shape:
            raise WeightsError(
                f"they belong to different networks: {name} is {_shape(tensor)} in one and "
                f"{_shape(denoise[name])} in the other"
            )
    return {
        name: share * tensor.float() + (1 - share) * denoise[name].float() for name, tensor in base.items()
    }


def _read_safetensors(path: Path) -> Mapping[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path, device="cpu")
    except OSError:
        raise
    except SafetensorError as error:
        raise WeightsError(
            f"{path} is damaged or not a safetensors file: {error}. Download it again"
        ) from error
    except Exception as error:
        # Types of numbers that this version of safetensors or torch does not have give errors of many kinds.
        raise WeightsError(
            f"{path} cannot be read as safetensors: {error!r}. Save it as float32 or float16"
        ) from error


def _read_pickle(path: Path) -> object:
    try:
        with warnings.catch_warnings():
            # torch warns of a TorchScript archive before it refuses it. The refusal is enough.
            warnings.simplefilter("ignore", UserWarning)
            # The official files contain CUDA locations, and this machine may not have CUDA.
            content: object = torch.load(path, map_location="cpu", weights_only=True)
            return content
    except OSError as error:
        # torch seeks to where a zip that was cut short says that its parts are.
        if error.errno == errno.EINVAL:
            raise _damaged(path) from error
        raise
    except pickle.UnpicklingError as error:
        if "Unsupported global" in str(error) or "unsupported GLOBAL" in str(error):
            raise WeightsError(
                f"{path} was refused: it would run code when loaded. Do not use it. Get the model from its author, "
                "as .safetensors if possible"
            ) from error
        raise _damaged(path) from error
    except Exception as error:
        # torch does not document its errors for damaged files. RuntimeError, EOFError, KeyError, UnicodeDecodeError
        # and others were observed, and all mean the same.
        if "TorchScript" in str(error):
            raise _no_model(path, "it is a compiled TorchScript program, not weights") from error
        raise _damaged(path) from error


def _build(state: dict[str, torch.Tensor], path: Path) -> Network:
    """Recognise the architecture, load the weights, and check that the network does what ``Network`` promises."""
    try:
        with BoundedTensors.for_building(state):
            descriptor = spandrel.MAIN_REGISTRY.load(state)
    except TooLargeError as error:
        raise _too_large(path, error) from error
    except spandrel.UnsupportedModelError as error:
        raise _no_model(path, "its architecture is not known to spandrel") from error
    except Exception as error:
        # Detection uses a few names. Weights that only resemble an architecture can fail anywhere.
        raise _no_model(path, "its tensors resemble a known architecture but do not fit it") from error
    architecture = str(descriptor.architecture.name)
    if descriptor.purpose not in ("SR", "Restoration") or isinstance(
        descriptor, spandrel.MaskedImageModelDescriptor
    ):
        what = _PURPOSES.get(descriptor.purpose, "does not enlarge images")
        raise _no_model(path, f"it is a network ({architecture}) that {what}")
    if descriptor.scale < 1:
        raise _no_model(
            path, f"it is a network ({architecture}) of {descriptor.scale}x, which shrinks images"
        )
    if descriptor.scale > LARGEST_SCALE:
        raise _no_model(path, f"it is a network ({architecture}) of {descriptor.scale}x, too large to run")
    channels = (descriptor.input_channels, descriptor.output_channels)
    if channels not in ((3, 3), (1, 1)):
        several = " (several frames of a video?)" if channels[0] > 4 else ""
        raise _no_model(
            path,
            f"it is a network ({architecture}) with {channels[0]} channels in{several} and "
            f"{channels[1]} out, where RGB needs 3 and gray 1",
        )
    # Annotated, because the type in spandrel depends on its version.
    module: torch.nn.Module = descriptor.model
    module = module.float().eval().requires_grad_(False)
    multiple_of, minimum = _sizes(module, descriptor.size_requirements)
    if max(multiple_of, minimum) > LARGEST_SIDE:
        raise _no_model(
            path,
            f"it is a network ({architecture}) for pages of at least {max(multiple_of, minimum):,} pixels a side",
        )
    network = Network(
        module=module,
        native_scale=int(descriptor.scale),
        input_channels=channels[0],
        output_channels=channels[1],
        supports_half=bool(descriptor.supports_half),
        supports_bfloat16=bool(descriptor.supports_bfloat16),
        architecture=architecture,
        multiple_of=multiple_of,
        minimum=minimum,
        square=bool(descriptor.size_requirements.square),
        receptive_radius=_receptive_radius(module),
    )
    widest = _try_out(network, path)
    # Other networks pad such a small page, or have tensors that do not grow with the page.
    if isinstance(module, Compact | ESRGAN):
        return replace(network, widest=widest, is_local=True)
    return network


def _sizes(module: torch.nn.Module, requirements: spandrel.SizeRequirements) -> tuple[int, int]:
    """Return (multiple_of, minimum) in pixels."""
    if isinstance(module, ESRGAN) and module.shuffle_factor:
        # spandrel reports 4 for every pixel-unshuffle. The squares have the side of the factor, and the official
        # program pads x2plus to even sizes. Two more columns would change the edge of the page.
        factor = int(module.shuffle_factor)
        return factor, max(2, factor)
    return int(requirements.multiple_of), int(requirements.minimum)


def _receptive_radius(module: torch.nn.Module) -> int | None:
    """Return the exact receptive radius of a chain of 3x3 convolutions in input pixels; None for other networks."""
    if not isinstance(module, Compact):
        return None
    # All its convolutions work at the size of the input. The nearest-neighbour base adds no radius.
    convolutions = [part for part in module.modules() if isinstance(part, torch.nn.Conv2d)]
    return sum(int(convolution.kernel_size[0]) // 2 for convolution in convolutions)


def _try_out(network: Network, path: Path) -> int:
    """Run the network on the smallest page: some networks in spandrel return tuples or need more inputs.

    Returns:
        Elements of the largest tensor between two layers, per pixel of input, rounded up.
    """
    side = -(-max(network.minimum, 8) // network.multiple_of) * network.multiple_of
    page = torch.full((1, network.input_channels, side, side), 0.5)
    largest = page.numel()

    def look(_module: torch.nn.Module, given: tuple[object, ...], made: object) -> None:
        nonlocal largest
        # The inputs count too: functions between layers, such as an enlargement, have no hooks.
        tensors = (each for each in (*given, made) if isinstance(each, torch.Tensor))
        largest = max(largest, *(each.numel() for each in tensors), 0)

    hooks = [part.register_forward_hook(look) for part in network.module.modules()]
    try:
        with torch.no_grad(), BoundedTensors.for_smallest_page(network.module):
            result = network.module(page)
    except TooLargeError as error:
        raise _too_large(path, error) from error
    except Exception as error:
        raise _no_model(
            path, f"it is a network ({network.architecture}) that does not run on a page"
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
    larger = side * network.native_scale
    if not isinstance(result, torch.Tensor) or result.shape != (1, network.output_channels, larger, larger):
        raise _no_model(
            path, f"it is a network ({network.architecture}) that does not return one enlarged page"
        )
    if not bool(torch.isfinite(result).all()):
        raise WeightsError(
            f"{path} is damaged: the network returns NaN or infinity for a gray image. Download it again"
        )
    return -(-largest // (side * side))


def _shape(tensor: torch.Tensor) -> str:
    return " x ".join(str(side) for side in tensor.shape) or "a number"


def _unreadable(path: Path, error: OSError) -> WeightsError:
    return WeightsError(f"{path} cannot be read: {error.strerror or error}. Check that you may read it")


def _damaged(path: Path) -> WeightsError:
    return WeightsError(
        f"{path} is damaged, cut short, or not a file of weights. Delete it and download it again"
    )


def _too_large(path: Path, why: TooLargeError) -> WeightsError:
    return WeightsError(f"{path} was refused: {why}. {_WAY_OUT}")


def _no_model(path: Path, why: str) -> WeightsError:
    return WeightsError(f"{path} cannot upscale pages: {why}. {_WAY_OUT}")
