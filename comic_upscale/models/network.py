"""From files of weights to a torch network that the device code can run.

``spandrel`` recognises the architecture from the tensors; reading the file is done here, so that
nothing but tensors is ever unpickled, whatever its suffix says.
"""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import spandrel  # type: ignore[import-untyped]
import torch
from spandrel.architectures.Compact import Compact  # type: ignore[import-untyped]
from spandrel.architectures.ESRGAN import ESRGAN  # type: ignore[import-untyped]

from comic_upscale.errors import SettingsError, WeightsError
from comic_upscale.models.weights import ResolvedWeights, check_denoise, mixes

_PURPOSES = {
    "FaceSR": "restores faces and changes everything else",
    "Inpainting": "fills holes under a mask",
    "Restoration": "cleans images without enlarging them (1x)",
}
_WAY_OUT = "Choose a model from the catalogue, or a super-resolution network for single images."


@dataclass(frozen=True, slots=True, eq=False)
class Network:
    """A network ready to run, and what its caller must know of it."""

    module: torch.nn.Module
    """In evaluation mode, float32, on the CPU, without gradients. Takes N x ``input_channels`` x H x W
    in 0..1 and returns N x ``output_channels`` x H*``native_scale`` x W*``native_scale``, not clamped."""
    native_scale: int
    """The network's own factor, at least 2."""
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
    """H and W must be multiples of this, and a tile must begin at one, since the network looks at its
    input in squares of this side."""
    minimum: int
    """The least H and W, in pixels."""
    square: bool
    """Whether H must equal W."""
    receptive_radius: int | None
    """How many input pixels to each side an output pixel depends on, exactly; None where that is
    unknown or too many to overlap tiles by."""
    widest: int = 0
    """Elements of the largest tensor between two layers, for a pixel of input; 0 where that is unknown, as for
    all but compact networks and RRDB."""
    is_local: bool = False
    """Whether it is known to be a chain of convolutions alone, so that no pixel depends on the whole page."""
    identity: str = ""
    """The hash of its weights, 64 hexadecimal digits: `ResolvedWeights.identity`; empty for one that is no file's."""


def load_network(weights: ResolvedWeights, denoise: float | None) -> Network:
    """Return the network of these weights, mixed with their denoise twin where the strength asks for it.

    Args:
        weights: files on this machine.
        denoise: 0..1; 1 and None are the base weights alone, as in the official program.

    Raises:
        SettingsError: the strength is outside 0..1, or needs denoise weights that were not resolved.
        WeightsError: a file is missing, damaged or unsafe, or holds no network that enlarges single
            RGB or gray images.
    """
    check_denoise(denoise)
    state = read_state(weights.path)
    if denoise is not None and mixes(denoise):
        if weights.denoise_path is None:
            raise SettingsError(
                f"{weights.model_name} has no denoise weights to mix in: leave the denoise strength out."
            )
        twin = read_state(weights.denoise_path)
        try:
            state = mix_weights(state, twin, denoise)
        except WeightsError as error:
            raise WeightsError(
                f"{weights.path} and {weights.denoise_path} cannot be mixed: {error}"
            ) from error
    return replace(_build(state, weights.path), identity=weights.identity)


def read_state(path: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a file by name, on the CPU, averaged ones (``params_ema``) where there are any.

    Only tensors are read: a pickle that would run code is refused before it does.

    Args:
        path: a ``.safetensors`` file, or one that ``torch.save`` wrote.

    Raises:
        WeightsError: the file is missing, damaged, unsafe, or no set of tensors.
    """
    if not path.is_file():
        raise WeightsError(
            f"{path} does not exist or is no file. Give the path of a .pth or .safetensors file."
        )
    content = _read_safetensors(path) if path.suffix.lower() == ".safetensors" else _read_pickle(path)
    if not isinstance(content, Mapping) or not all(isinstance(key, str) for key in content):
        raise _no_model(path, f"it holds a {type(content).__name__}, not tensors by name")
    # Unwraps "params_ema" before "params", as the official loader does, and strips "module.".
    state: dict[str, Any] = spandrel.canonicalize_state_dict(dict(content))
    if not state or not all(isinstance(tensor, torch.Tensor) for tensor in state.values()):
        raise _no_model(path, "it does not hold tensors by name alone")
    for name, tensor in state.items():
        # torch checks no checksum: flipped bits come through as numbers, often absurd ones.
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise WeightsError(f"{path} is damaged: {name} holds NaN or infinity. Fetch it again.")
    return state


def mix_weights(
    base: Mapping[str, torch.Tensor], denoise: Mapping[str, torch.Tensor], strength: float
) -> dict[str, torch.Tensor]:
    """Return ``strength * base + (1 - strength) * denoise`` for each tensor, in float32.

    This is the deep network interpolation of the official program, whose denoise strength ``s`` gives
    ``dni_weight=[s, 1 - s]``; see https://arxiv.org/abs/1811.10515.

    Args:
        base: the weights that denoise, by name.
        denoise: the twin that leaves noise alone, with the same names and shapes.
        strength: 0..1.

    Raises:
        WeightsError: names or shapes differ.
    """
    if odd := sorted(base.keys() ^ denoise.keys()):
        raise WeightsError(f"they are not of one network: {odd[0]} is only in one of them.")
    for name, tensor in base.items():
        if tensor.shape != denoise[name].shape:
            raise WeightsError(
                f"they are not of one network: {name} is {_shape(tensor)} in one and "
                f"{_shape(denoise[name])} in the other."
            )
    return {
        name: strength * tensor.float() + (1 - strength) * denoise[name].float()
        for name, tensor in base.items()
    }


def _read_safetensors(path: Path) -> Mapping[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path, device="cpu")
    except SafetensorError as error:
        raise WeightsError(f"{path} is damaged or no safetensors file: {error}. Fetch it again.") from error
    except OSError as error:
        raise _unreadable(path, error) from error


def _read_pickle(path: Path) -> object:
    try:
        with warnings.catch_warnings():
            # Of a TorchScript archive torch warns first and then refuses it; the refusal is enough.
            warnings.simplefilter("ignore", UserWarning)
            # The official files carry CUDA locations, and there may be no CUDA here.
            content: object = torch.load(path, map_location="cpu", weights_only=True)
            return content
    except OSError as error:
        raise _unreadable(path, error) from error
    except pickle.UnpicklingError as error:
        if "Unsupported global" in str(error) or "unsupported GLOBAL" in str(error):
            raise WeightsError(
                f"{path} was refused: beside tensors it names code to run on loading. Do not use it; get the "
                "model from its author, as .safetensors where there is a choice."
            ) from error
        raise _damaged(path) from error
    except Exception as error:
        # torch promises no set of errors for broken bytes: RuntimeError, EOFError, KeyError,
        # UnicodeDecodeError and more have been seen, and all mean the same.
        if "TorchScript" in str(error):
            raise _no_model(path, "it is a compiled TorchScript program, not weights") from error
        raise _damaged(path) from error


def _build(state: dict[str, torch.Tensor], path: Path) -> Network:
    """Recognise the architecture, fill it, and check that it does what ``Network`` promises."""
    try:
        descriptor = spandrel.MAIN_REGISTRY.load(state)
    except spandrel.UnsupportedModelError as error:
        raise _no_model(path, "its tensors are of no architecture that spandrel knows") from error
    except Exception as error:
        # Detection goes by a few names; what only resembles an architecture fails anywhere within it.
        raise _no_model(path, "its tensors resemble a known architecture but do not fit it") from error
    architecture = str(descriptor.architecture.name)
    if descriptor.purpose != "SR" or isinstance(descriptor, spandrel.MaskedImageModelDescriptor):
        what = _PURPOSES.get(descriptor.purpose, "does not enlarge images")
        raise _no_model(path, f"it is a network ({architecture}) that {what}")
    if descriptor.scale < 2:
        raise _no_model(
            path, f"it is a network ({architecture}) of {descriptor.scale}x, which enlarges nothing"
        )
    channels = (descriptor.input_channels, descriptor.output_channels)
    if channels not in ((3, 3), (1, 1)):
        several = " (several frames of a video?)" if channels[0] > 4 else ""
        raise _no_model(
            path,
            f"it is a network ({architecture}) with {channels[0]} channels in{several} and "
            f"{channels[1]} out, where RGB needs 3 and gray 1",
        )
    # Annotated, since what spandrel says of its modules depends on its version.
    module: torch.nn.Module = descriptor.model
    module = module.float().eval().requires_grad_(False)
    multiple_of, minimum = _sizes(module, descriptor.size_requirements)
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
    # Others pad so small a page by themselves, or have tensors that grow otherwise than the page.
    if isinstance(module, Compact | ESRGAN):
        return replace(network, widest=widest, is_local=True)
    return network


def _sizes(module: torch.nn.Module, requirements: spandrel.SizeRequirements) -> tuple[int, int]:
    """Return (multiple_of, minimum) in pixels."""
    if isinstance(module, ESRGAN) and module.shuffle_factor:
        # spandrel says 4 for every pixel-unshuffle; the squares are as large as the factor, and the
        # official program pads x2plus to even sizes. Two more columns would change the page's edge.
        factor = int(module.shuffle_factor)
        return factor, max(2, factor)
    return int(requirements.multiple_of), int(requirements.minimum)


def _receptive_radius(module: torch.nn.Module) -> int | None:
    """Return the exact reach of a chain of 3x3 convolutions in input pixels, None for other networks."""
    if not isinstance(module, Compact):
        return None
    # All its convolutions work at the size of the input; the nearest-neighbour base reaches nowhere.
    convolutions = [part for part in module.modules() if isinstance(part, torch.nn.Conv2d)]
    return sum(int(convolution.kernel_size[0]) // 2 for convolution in convolutions)


def _try_out(network: Network, path: Path) -> int:
    """Run the smallest page, since a few networks of spandrel return tuples or need more than a page.

    Returns:
        Elements of the largest tensor between two layers, for a pixel of input, rounded up.
    """
    side = -(-max(network.minimum, 8) // network.multiple_of) * network.multiple_of
    page = torch.full((1, network.input_channels, side, side), 0.5)
    largest = page.numel()

    def look(_module: torch.nn.Module, given: tuple[object, ...], made: object) -> None:
        nonlocal largest
        # What is given, too: functions between the layers, such as an enlargement, have no hooks.
        tensors = (each for each in (*given, made) if isinstance(each, torch.Tensor))
        largest = max(largest, *(each.numel() for each in tensors), 0)

    hooks = [part.register_forward_hook(look) for part in network.module.modules()]
    try:
        with torch.no_grad():
            result = network.module(page)
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
            path, f"it is a network ({network.architecture}) that returns more than the larger page"
        )
    if not bool(torch.isfinite(result).all()):
        raise WeightsError(
            f"{path} is damaged: the network returns NaN or infinity for gray. Fetch it again."
        )
    return -(-largest // (side * side))


def _shape(tensor: torch.Tensor) -> str:
    return " x ".join(str(side) for side in tensor.shape) or "a number"


def _unreadable(path: Path, error: OSError) -> WeightsError:
    return WeightsError(f"{path} cannot be read: {error.strerror or error}. Check that you may read it.")


def _damaged(path: Path) -> WeightsError:
    return WeightsError(f"{path} is damaged, cut short, or no file of weights. Delete it and fetch it again.")


def _no_model(path: Path, why: str) -> WeightsError:
    return WeightsError(f"{path} cannot upscale pages: {why}. {_WAY_OUT}")
