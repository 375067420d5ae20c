"""Limits for files of weights from strangers, so that a small file takes neither all memory nor endless time.

A file is only a description of a network. It may describe far more than it holds: a layer with the number 4,000,000, a
tensor whose elements all share one number, a compressed record, an enlargement by a million. A network that can be used
holds its weights, so every limit is set by what the file holds.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors import SafetensorError
from torch.utils._python_dispatch import TorchDispatchMode

LONGEST_HEADER = 16 * 2**20
"""Bytes of the longest list of tensors in a file. The largest known networks need 0.5 million."""
MOST_TENSORS = 20_000
"""The most tensors of a network. The largest known ones have 5,000."""
MOST_LAYERS = 4096
"""The highest number in a tensor's name. It is the number of a layer, and each layer up to it is built."""
LARGEST_SCALE = 32
"""The largest factor of a network."""
LARGEST_SIDE = 1024
"""The largest side, in pixels, that a network may need, or of which the sides must be multiples."""

_MORE = 4
"""Times its own size that a file's tensors may have: they may share elements, and a ZIP may be compressed."""
_SLACK = 64 * 2**20
"""Bytes that are allowed besides."""
_BUILT = 8
"""Times the elements of a file, and times its tensors, that may be made while its network is built."""
_BUILT_ELEMENTS, _BUILT_TENSORS = 2**26, 10_000
"""Elements and tensors that are allowed besides."""
_RUN_ELEMENTS = 2**28
"""Elements of the largest tensor while a network runs on its smallest page, besides those in proportion to the file."""
_RUN_CALLS = 100
"""Operations for each tensor of the file while the network runs on its smallest page."""


class TooLargeError(Exception):
    """A file describes far more than it holds. The message is the end of a sentence."""


def check_safetensors(path: Path) -> None:
    """Check the list of tensors, before they are read.

    Raises:
        TooLargeError: it is too long.
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if LONGEST_HEADER < length <= path.stat().st_size:
        raise TooLargeError(f"its list of tensors has {length:,} bytes")
    try:
        with safetensors.safe_open(path, "pt") as file:
            count = len(file.keys())
    except (SafetensorError, OSError):
        return  # Loading it reports the error.
    _check_count(count)


def check_zip(path: Path) -> None:
    """Check what a file of ``torch.save`` unpacks to, before it is unpacked. A file in the older form passes.

    Raises:
        TooLargeError: it is far more than the file holds.
        OSError: the file cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, UnicodeDecodeError):
        return  # torch reads the older form, and refuses everything else.
    # Also where records overlap: the same bytes count once for each of them.
    size = sum(record.file_size for record in records)
    if size > _allowed_bytes(path):
        raise TooLargeError(f"it unpacks to {size:,} bytes from {path.stat().st_size:,}")
    longest = max((each.file_size for each in records if each.filename.endswith(".pkl")), default=0)
    if longest > LONGEST_HEADER:
        raise TooLargeError(f"its list of tensors has {longest:,} bytes")


def check_state(state: Mapping[str, torch.Tensor], path: Path) -> None:
    """Check tensors by what can be known without reading their elements.

    Raises:
        TooLargeError: there are too many, they are larger than the file, or a name has too high a number.
        ValueError: a tensor is not a plain array of numbers; the message names it.
    """
    _check_count(len(state))
    for name, tensor in state.items():
        for number in _numbers(name):
            if number > MOST_LAYERS:
                raise TooLargeError(f"it names a layer {number:,}")
        if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
            raise ValueError(name)
        # A shape without elements says anything at no cost.
        if not tensor.numel() or tensor.dtype not in _NUMBERS:
            raise ValueError(name)
    size = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    if size > _allowed_bytes(path):
        raise TooLargeError(f"its tensors claim {size:,} bytes in a file of {path.stat().st_size:,}")


def _check_count(count: int) -> None:
    if count > MOST_TENSORS:
        raise TooLargeError(f"it lists {count:,} tensors")


_NUMBERS = frozenset(
    (
        *(
            torch.float16,
            torch.bfloat16,
            torch.float32,
            torch.float64,
            torch.float8_e4m3fn,
            torch.float8_e5m2,
        ),
        *(torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64, torch.bool),
    )
)
"""Types that torch turns into float32; it has types of 4 bits that it cannot even copy."""


class BoundedTensors(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While active, refuses tensors that are too large before they are made, and too many operations.

    Args:
        largest: the most elements of one tensor.
        in_all: the most elements of all new tensors together; None for any number.
        calls: the most operations that make a tensor.

    Raises:
        TooLargeError: from the operation that goes too far.
    """

    def __init__(self, largest: int, in_all: int | None, calls: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._largest, self._left, self._calls = largest, in_all, calls

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Tell PyTorch, in its own hook, that nothing here is compiled: else the first use imports its compiler."""
        return False

    @classmethod
    def for_building(cls, state: Mapping[str, torch.Tensor]) -> BoundedTensors:
        """Return the limits for building the network of these tensors."""
        most = _BUILT * sum(tensor.numel() for tensor in state.values()) + _BUILT_ELEMENTS
        return cls(most, most, _BUILT * len(state) + _BUILT_TENSORS)

    @classmethod
    def for_smallest_page(cls, module: torch.nn.Module) -> BoundedTensors:
        """Return the limits for running a network on its smallest page."""
        parameters = [parameter.numel() for parameter in module.parameters()]
        return cls(sum(parameters) + _RUN_ELEMENTS, None, _RUN_CALLS * len(parameters) + _BUILT_TENSORS)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Check an operation, and run it."""
        kwargs = kwargs or {}
        schema = func._schema
        # What changes a tensor in place, or is another view of it, takes no memory.
        if not any(argument.alias_info is not None for argument in schema.arguments):
            self._calls -= 1
            if self._calls < 0:
                raise TooLargeError("it describes far more layers than it holds")
            elements = _elements_made(func, args, kwargs, self._largest)
            if self._left is not None:
                self._left -= elements
            if elements > self._largest or (self._left is not None and self._left < 0):
                raise TooLargeError("it describes far larger layers than it holds")
        return func(*args, **kwargs)


def _elements_made(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], largest: int) -> int:
    """Return how many elements an operation is about to make; 0 if they are surely few."""
    given = list(_flat((args, kwargs)))
    tensors = [each for each in given if isinstance(each, torch.Tensor)]
    numbers = [abs(each) for each in given if isinstance(each, int | float) and math.isfinite(each)]
    # No operation makes more than each element with each other one, times its numbers (repetitions, sizes).
    bound = math.prod(max(1, tensor.numel()) for tensor in tensors)
    bound *= math.ceil(math.prod(max(1, number) for number in numbers))
    if tensors and bound <= largest:
        return 0
    if func is torch.ops.aten.convolution.default and 0 <= _convolved(args) <= largest:
        return 0
    try:
        meta = torch.device("meta")
        if "device" in kwargs or not tensors:
            kwargs = {**kwargs, "device": meta}
        made = func(*_without_content(args), **_without_content(kwargs))
    except Exception:
        # torch does not know every operation for tensors without content.
        return 0 if tensors else bound
    return sum(each.numel() for each in _flat(made) if isinstance(each, torch.Tensor))


def _convolved(args: tuple[Any, ...]) -> int:
    """Return the most elements that a convolution can make; -1 where that is not simple.

    PyTorch could tell the number, and imports a library of symbols for it, for most of a second.
    """
    page, weight, _, _, padding, _, transposed, *_ = args
    if transposed:
        return -1
    border = 2 * max(padding, default=0)
    return int(page.shape[0] * weight.shape[0] * math.prod(side + border for side in page.shape[2:]))


def _flat(value: object) -> Iterator[object]:
    if isinstance(value, list | tuple):
        for each in value:
            yield from _flat(each)
    elif isinstance(value, dict):
        yield from _flat(list(value.values()))
    else:
        yield value


def _without_content(value: Any) -> Any:
    """Return arguments with each tensor replaced by one of the same shape that takes no memory."""
    if isinstance(value, torch.Tensor):
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
    if isinstance(value, list | tuple):
        return type(value)(_without_content(each) for each in value)
    if isinstance(value, dict):
        return {name: _without_content(each) for name, each in value.items()}
    return value


def _numbers(name: str) -> Iterator[int]:
    """Yield the whole numbers in a tensor's name, as Python reads them: ``4_000`` and Arabic digits, too."""
    for part in name.split("."):
        try:
            yield int(part)
        except ValueError:
            continue


def _allowed_bytes(path: Path) -> int:
    return _MORE * path.stat().st_size + _SLACK
