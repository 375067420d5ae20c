"""Read facts about an ONNX file without onnxruntime: its operators, and the files that it refers to.

The file is not trusted. Only a few fields of the protocol buffer are read, each within its bounds. Their number is
limited, and weights are skipped. Field numbers: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
"""

from __future__ import annotations

import hashlib
import math
import mmap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath

from comic_upscale.errors import WeightsError
from comic_upscale.models.digest import sha256_of

KNOWN_DOMAINS = frozenset(
    (
        "",
        "ai.onnx",
        "ai.onnx.ml",
        "com.microsoft",
        "com.microsoft.nchwc",
        "com.ms.internal.nhwc",
        "com.microsoft.dml",
    )
)
"""Domains of onnxruntime's own operators. All others are custom and need additional code."""

_DEEPEST = 32
"""The deepest nesting of graphs."""
_OVER_A_PAGE = frozenset(
    ("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool", "InstanceNormalization", "GroupNormalization")
)
_REDUCTIONS = frozenset(
    ("ReduceMean", "ReduceMax", "ReduceMin", "ReduceSum", "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSumExp")
)  # fmt: skip
_INT64 = 7
_MOST_FIELDS = 2_000_000
"""Fields of a file: twenty times those of the largest known network. More would only take time."""
_FROM_SHAPES = {"ConstantOfShape": 0, "Expand": 1, "Tile": 1, "Resize": 3}
"""Operators that make as much as a list of numbers says, and at which of their inputs that is."""
_LARGEST = 2**28
"""Elements that such a list may ask for. A page of 64 pixels a side, by which a network is tried, has 12,288."""


@dataclass(frozen=True, slots=True)
class OnnxFile:
    """Facts about an ONNX file."""

    path: Path
    data_files: tuple[Path, ...]
    """Files with its weights, sorted. All exist and are in its folder."""
    custom: tuple[str, ...]
    """Operators that onnxruntime lacks, as ``domain.Operator``, sorted."""
    goes_over_a_page: bool
    """Whether an operator reduces a whole page to one number per channel."""

    def identity(self) -> str:
        """Return the hash of the file and of the files that it refers to: 64 hexadecimal digits.

        Raises:
            WeightsError: one of the files cannot be read.
        """
        own = sha256_of(self.path)
        if not self.data_files:
            return own
        parts = [own, *(f"{path.name}:{sha256_of(path)}" for path in self.data_files)]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def read_onnx(path: Path) -> OnnxFile:
    """Read the facts about an ONNX file.

    Raises:
        WeightsError: it does not exist, is not an ONNX file, or refers to files that are missing or outside its folder.
    """
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise WeightsError(f"{path} {what}. Give the path of an .onnx file")
    seen = _Seen()
    try:
        with path.open("rb") as file:
            # Not closed here, because an exception may still reference slices of it. The last slice closes it.
            _read_model(memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)), seen)
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, UnicodeDecodeError, RecursionError):
        raise WeightsError(f"{path} is damaged, or not an ONNX file") from None
    if seen.largest > _LARGEST:
        raise WeightsError(
            f"{path} was refused: whatever the page, it makes {seen.largest:,} numbers at once. Use another network"
        )
    if not seen.has_graph:
        raise WeightsError(f"{path} is damaged, or not an ONNX file")
    custom = sorted(
        f"{domain}.{name}"
        for domain, name in seen.operators
        if domain not in KNOWN_DOMAINS and (domain, name) not in seen.functions
    )
    data_files = tuple(sorted({_data_file(path, location) for location in seen.locations}))
    return OnnxFile(path, data_files, tuple(custom), seen.goes_over_a_page)


def _data_file(path: Path, location: str) -> Path:
    """Return the path of a file that the network refers to, after checking that it may be read."""
    parts = (*PurePosixPath(location).parts, *PureWindowsPath(location).parts)
    absolute = PurePosixPath(location).is_absolute() or PureWindowsPath(location).anchor
    folder = path.parent.resolve()
    found = (folder / location).resolve()
    if absolute or ".." in parts or not location or "\0" in location or not found.is_relative_to(folder):
        raise WeightsError(
            f"{path} refers to data outside its folder ({location!r}), which is not allowed: get the network with its "
            "data in the same folder, or as one file"
        )
    if not found.is_file():
        raise WeightsError(f"{path} stores its weights in {location!r}, which is missing from its folder")
    return found


@dataclass(slots=True)
class _Seen:
    """The facts that were collected so far."""

    has_graph: bool = False
    operators: set[tuple[str, str]] = field(default_factory=set)
    functions: set[tuple[str, str]] = field(default_factory=set)
    locations: set[str] = field(default_factory=set)
    goes_over_a_page: bool = False
    constants: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """Short lists of integers by name: the axes of reductions, and shapes."""
    largest: int = 0
    """The most elements that a constant shape asks for."""
    fields: int = 0
    """Fields so far."""

    def count(self) -> None:
        """Count a field.

        Raises:
            ValueError: there are too many.
        """
        self.fields += 1
        if self.fields > _MOST_FIELDS:
            raise ValueError("too many fields")


def _fields(view: memoryview, seen: _Seen) -> Iterator[tuple[int, int | memoryview]]:
    """Yield number and value of each field of a message: an integer, or bytes.

    Raises:
        ValueError: it is not a message.
    """
    place, end = 0, len(view)
    while place < end:
        seen.count()
        key, place = _varint(view, place)
        number, kind = key >> 3, key & 7
        if kind == 0:
            value, place = _varint(view, place)
            yield number, value
            continue
        if kind == 2:
            length, place = _varint(view, place)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise ValueError("no such kind of field")
        if length > end - place or not number:
            raise ValueError("a field beyond its message")
        yield number, view[place : place + length]
        place += length


def _varint(view: memoryview, place: int) -> tuple[int, int]:
    value = 0
    for count in range(10):
        if place >= len(view):
            break
        byte = view[place]
        place += 1
        value |= (byte & 0x7F) << (7 * count)
        if byte < 0x80:
            return value, place
    raise ValueError("a number without end")


def _text(value: int | memoryview) -> str:
    if isinstance(value, int):
        raise ValueError("a number in place of a text")
    return bytes(value).decode("utf-8")


def _message(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a number in place of a message")
    return value


def _read_model(view: memoryview, seen: _Seen) -> None:
    graphs, functions = [], []
    for number, value in _fields(view, seen):
        if number == 7:
            graphs.append(_message(value))
        elif number == 25:
            functions.append(_message(value))
    for function in functions:
        name = domain = ""
        for number, value in _fields(function, seen):
            if number == 1:
                name = _text(value)
            elif number == 10:
                domain = _text(value)
            elif number == 7:
                _read_node(_message(value), seen, 0)
        seen.functions.add((domain, name))
    for graph in graphs:
        seen.has_graph = True
        _read_graph(graph, seen, 0)


def _read_graph(view: memoryview, seen: _Seen, depth: int) -> None:
    if depth > _DEEPEST:
        raise ValueError("graphs within graphs without end")
    nodes = []
    for number, value in _fields(view, seen):
        if number == 5:
            _read_tensor(_message(value), seen)
        elif number == 15:
            for inner, tensor in _fields(_message(value), seen):
                if inner in (1, 2):
                    _read_tensor(_message(tensor), seen)
        elif number == 1:
            nodes.append(_message(value))
    # After the initializers, which may contain the axes of a reduction.
    for node in nodes:
        _read_node(node, seen, depth)


def _read_node(view: memoryview, seen: _Seen, depth: int) -> None:
    name = domain = ""
    inputs: list[str] = []
    outputs: list[str] = []
    axes: tuple[int, ...] = ()
    constant: tuple[int, ...] = ()
    for number, value in _fields(view, seen):
        if number == 1:
            inputs.append(_text(value))
        elif number == 2:
            outputs.append(_text(value))
        elif number == 4:
            name = _text(value)
        elif number == 7:
            domain = _text(value)
        elif number == 5:
            attribute, numbers = _read_attribute(_message(value), seen, depth)
            if attribute == "axes":
                axes = numbers
            elif attribute in ("value", "value_ints"):
                constant = numbers
    seen.operators.add((domain, name))
    if name == "Constant" and outputs:
        seen.constants[outputs[0]] = constant
    place = _FROM_SHAPES.get(name)
    if place is not None and place < len(inputs):
        sides = seen.constants.get(inputs[place], ())
        seen.largest = max(seen.largest, math.prod(max(1, abs(side)) for side in sides))
    if name in _OVER_A_PAGE:
        seen.goes_over_a_page = True
    if name in _REDUCTIONS:
        axes = axes or (seen.constants.get(inputs[1], ()) if len(inputs) > 1 else ())
        over = {axis % 4 for axis in axes}
        # Without axes it reduces over all of them. The layout is NCHW or, between two transpositions, NHWC.
        seen.goes_over_a_page |= (len(inputs) < 2 and not axes) or over >= {2, 3} or over >= {1, 2}


def _read_attribute(view: memoryview, seen: _Seen, depth: int) -> tuple[str, tuple[int, ...]]:
    """Return the name of an attribute, and its integers."""
    name = ""
    numbers: list[int] = []
    for number, value in _fields(view, seen):
        if number == 1:
            name = _text(value)
        elif number == 8:
            numbers += [_to_signed(value)] if isinstance(value, int) else _read_packed(value)
        elif number in (5, 10):
            numbers += _read_tensor(_message(value), seen)
        elif number in (22, 23):
            for inner, tensor in _fields(_message(value), seen):
                if inner in (1, 2):
                    _read_tensor(_message(tensor), seen)
        elif number in (6, 11):
            _read_graph(_message(value), seen, depth + 1)
    return name, tuple(numbers)


def _read_tensor(view: memoryview, seen: _Seen) -> list[int]:
    """Collect a tensor's file, or its integers if they are few; return these."""
    name, kind, is_outside, location = "", 0, False, ""
    numbers: list[int] = []
    for number, value in _fields(view, seen):
        if number == 2 and isinstance(value, int):
            kind = value
        elif number == 8:
            name = _text(value)
        elif number == 13:
            entry = {inner: _text(text) for inner, text in _fields(_message(value), seen)}
            if entry.get(1) == "location":
                location = entry.get(2, "")
        elif number == 14:
            is_outside = value == 1
        elif number == 7:
            numbers += [_to_signed(value)] if isinstance(value, int) else _read_packed(value)
        elif number == 9 and kind == _INT64 and len(_message(value)) <= 64:
            raw = bytes(_message(value))
            numbers = [
                int.from_bytes(raw[at : at + 8], "little", signed=True) for at in range(0, len(raw), 8)
            ]
    if is_outside or location:
        seen.locations.add(location)
    if numbers and len(numbers) <= 8:
        seen.constants[name] = tuple(numbers)
        return numbers
    return []


def _read_packed(view: memoryview) -> list[int]:
    """Return the first integers of a packed list. A longer list cannot be axes."""
    numbers: list[int] = []
    place = 0
    while place < len(view) and len(numbers) <= 8:
        value, place = _varint(view, place)
        numbers.append(_to_signed(value))
    return numbers


def _to_signed(value: int) -> int:
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value
