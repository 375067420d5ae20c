"""The engine that lets a program of the user's make each page larger: ``--engine-command "tool -i {in} -o {out}"``.

The program gets a PNG, and writes another. How that comes to the size that is asked for:

* it has that size already: it is taken as it is;
* both its sides are the same whole number of times the page's: it is resampled to that size;
* it has at least that size, and the page's shape: it is shrunk to that size;
* anything else is no larger page, and the page fails.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from annotated_types import Ge, Le
from PIL import Image

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
from comic_upscale.engines.program import Program
from comic_upscale.errors import DeviceError, PageError, SettingsError
from comic_upscale.imaging.decode import decode
from comic_upscale.imaging.gray import eight_bits
from comic_upscale.imaging.pixels import SampleArray, UInt8Array
from comic_upscale.settings.options import Opt

NAME = "command"
"""The engine's name in the registry."""
PLACEHOLDERS = ("{in}", "{out}", "{scale}", "{width}", "{height}")
FAILED = "command"
"""The kind of a page that the program did not make."""
TIMEOUT = "command-timeout"
"""The kind of a page for which the program took too long."""
_MOST_GROWTH = 16
"""Times the page's sides beyond which an output is not read."""
_BYTES_A_PIXEL = 16
"""Of an output's file beyond which it is not read: twice what RGBA of 16 bits takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandOptions:
    """Options of the engine ``command``."""

    command: Annotated[
        str,
        Opt(
            "The program and its arguments, the same as --engine-command. {in} and {out} stand for the paths of two "
            "PNG files, {scale} for the whole factor, {width} and {height} for the target size in pixels.",
            fingerprint="always",
        ),
    ]
    scale: Annotated[
        int | None,
        Ge(1),
        Le(_MOST_GROWTH),
        Opt(
            "The value of {scale}. auto: the smallest whole number, at least 2, that brings the page to its size.",
            fingerprint="if-changed",
        ),
    ] = None
    timeout: Annotated[
        float,
        Ge(1),
        Opt("Seconds after which the program is killed and the page fails."),
    ] = 600.0
    processes: Annotated[
        int,
        Ge(1),
        Le(64),
        Opt("Pages at the same time, each in its own process."),
    ] = 1
    max_pixels: Annotated[
        int | None,
        Ge(1),
        Opt("Pages with more pixels than this fail without the program."),
    ] = None


class CommandFactory(EngineFactory):
    """Opens ``CommandEngine``, as many as there are to be processes."""

    name = NAME
    summary = "Your own program, which turns one picture into a larger one (--engine-command)."
    options = CommandOptions

    def identify(self, spec: EngineSpec) -> Identity:
        """Return the program's name, and a hash of the command and its scale; what the program is remains unknown."""
        if spec.model.strip().casefold() != "auto":
            raise SettingsError("--engine command does not use --model: add the model to the command")
        if spec.denoise is not None:
            raise SettingsError(
                "--engine command does not support --denoise: add the strength to the command"
            )
        words = split_command(spec.options.command)
        content = json.dumps([NAME, words, spec.options.scale])
        return Identity(Path(words[0]).name, hashlib.sha256(content.encode()).hexdigest())

    def prepare(self, spec: EngineSpec, on_progress: OnProgress | None = None) -> EngineSpec:
        """Check that the program is there."""
        find_program(split_command(spec.options.command))
        return spec

    def open(self, spec: EngineSpec, resources: EngineResources) -> list[Engine]:
        """Return an engine for each process."""
        asked = {
            "--device": resources.device != "auto",
            "--precision": resources.precision != "auto",
            "--batch": resources.batch is not None,
            "--tile": resources.tile is not None,
        }
        if given := [name for name, is_given in asked.items() if is_given]:
            raise SettingsError(
                f"--engine command does not support {' and '.join(given)}: add it to the command"
            )
        _, identity = self.identify(spec)
        return [CommandEngine(spec.options, identity=identity) for _ in range(spec.options.processes)]


FACTORY = CommandFactory()


def split_command(command: str) -> list[str]:
    """Return the words of a command, as a shell would split them; no shell is run.

    Raises:
        SettingsError: its quotes do not match, or it lacks a placeholder.
    """
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise SettingsError(f"--engine-command cannot be split into words ({error}): {command}") from error
    if not words:
        raise SettingsError("--engine-command is empty: give a program with its arguments")
    for needed in ("{in}", "{out}"):
        if not any(needed in word for word in words[1:]):
            raise SettingsError(
                f"--engine-command needs the argument {needed}, for the path of the "
                f"{'input' if needed == '{in}' else 'output'} image, such as 'tool -i {{in}} -o {{out}}'"
            )
    return words


def find_program(words: Sequence[str]) -> list[str]:
    """Return the words with the program's whole path in the place of its name.

    Raises:
        SettingsError: there is no such program, or an argument is a relative path, which would mean nothing where
            the program runs.
    """
    program = shutil.which(words[0])
    if program is None:
        raise SettingsError(
            f"--engine-command: there is no program {words[0]!r}: check its path, or install it"
        )
    for word in words[1:]:
        has_separator = "/" in word or "\\" in word
        path = Path(word)
        if word and not path.is_absolute() and (path.is_file() or (has_separator and path.exists())):
            raise SettingsError(
                f"--engine-command: the program runs in a temporary folder, where {word!r} does not exist: use "
                f"{path.absolute()}"
            )
    return [str(Path(program).absolute()), *words[1:]]


class CommandEngine:
    """An ``Engine`` that runs a program for each page, in a temporary folder of its own.

    Args:
        options: the command, and how it is run.
        identity: the hash of what it is.

    Raises:
        SettingsError: there is no such program.
    """

    def __init__(self, options: CommandOptions, *, identity: str = "") -> None:
        self._options = options
        self._words = find_program(split_command(options.command))
        self._program = Program()
        self._is_closed = False
        self._info = EngineInfo(
            name=NAME,
            identity=identity,
            device=DeviceInfo("program", name=Path(self._words[0]).name, pages_at_once=options.processes),
            precision="",
            native_scale=options.scale,
            max_pixels=options.max_pixels,
        )

    @property
    def info(self) -> EngineInfo:
        """What is known of the engine."""
        return self._info

    def batch_limit(self, height: int, width: int) -> int:
        """Return 1: the program is given one page at a time."""
        return 1

    def upscale(self, batch: Batch) -> Upscaled:
        """Return the pages at their target size and in their own type.

        The program is given 8 bits and three channels, and so the pages of 16 bits come back spread to these, the
        gray ones as the mean of the channels.

        Raises:
            PageError: `FAILED`, `TIMEOUT`: the program did not make the page.
            DeviceError: the program cannot be run any more.
        """
        larger, notes = [], dict[str, None]()
        for page in batch.pixels:
            made, note = self._upscale_page(eight_bits(page), batch.target_size)
            larger.append(made)
            notes.update(dict.fromkeys(note))
        samples: SampleArray = np.stack(larger)
        if batch.pixels.dtype == np.uint16:
            samples = samples.astype(np.uint16) * np.uint16(257)
            notes["16 bits: the program was given 8"] = None
        return Upscaled(samples, notes=tuple(notes))

    def interrupt(self) -> None:
        """Kill the program that runs, from any thread; no other is started."""
        self._is_closed = True
        self._program.kill()

    def close(self) -> None:
        """Kill the program that runs, if one does. The engine is not used afterwards."""
        self.interrupt()

    def _upscale_page(self, page: UInt8Array, target: tuple[int, int]) -> tuple[UInt8Array, tuple[str, ...]]:
        """Return a page at its target size, of as many channels, with notes."""
        height, width = page.shape[:2]
        with tempfile.TemporaryDirectory(prefix="comic-upscale-", ignore_cleanup_errors=True) as name:
            folder = Path(name).absolute()
            source, result = folder / "in.png", folder / "out.png"
            rgb = np.repeat(page, 3, axis=2) if page.shape[2] == 1 else page
            try:
                Image.fromarray(np.ascontiguousarray(rgb)).save(source, compress_level=1)
            except OSError as error:
                raise PageError(FAILED, f"{source} cannot be written: {error.strerror or error}") from error
            self._run_program(folder, source, result, (width, height), target)
            made = self._read(result, (width, height), target)
        return _to_target(made, (width, height), target, gray=page.shape[2] == 1)

    def _run_program(
        self, folder: Path, source: Path, result: Path, size: tuple[int, int], target: tuple[int, int]
    ) -> None:
        values = {
            "{in}": str(source),
            "{out}": str(result),
            "{scale}": str(self._options.scale or _least_scale(size, target)),
            "{width}": str(target[0]),
            "{height}": str(target[1]),
        }
        words = [self._words[0], *(_filled(word, values) for word in self._words[1:])]
        what = self._info.device.name
        if self._is_closed:
            raise DeviceError(f"{what} was stopped")
        try:
            ended = self._program.run(words, folder, self._options.timeout)
        except OSError as error:
            raise DeviceError(f"{words[0]} cannot be run: {error.strerror or error}") from error
        if self._is_closed:
            raise DeviceError(f"{what} was stopped")
        if ended.timed_out:
            said = f"; its last output: {ended.last_words}" if ended.last_words else ""
            raise PageError(
                TIMEOUT,
                f"{what} took longer than {self._options.timeout:g} s and was killed{said}. To allow more time: "
                "--engine-option timeout=SECONDS",
            )
        if ended.code:
            raise PageError(FAILED, f"{what} {ended.describe()}")
        if not result.is_file():
            raise PageError(FAILED, f"{what} wrote no output to {{out}}; it {ended.describe()}")

    def _read(self, result: Path, size: tuple[int, int], target: tuple[int, int]) -> UInt8Array:
        """Return the program's output: height x width x 3."""
        what = self._info.device.name
        most = max(size[0] * size[1] * _MOST_GROWTH**2, 4 * target[0] * target[1])
        try:
            weight = result.stat().st_size
            if weight > most * _BYTES_A_PIXEL:
                raise PageError(FAILED, f"{what} wrote {weight:,} bytes, more than any enlarged page has")
            color = decode(result.read_bytes(), max_pixels=most, gray="off").color
        except OSError as error:
            raise PageError(
                FAILED, f"{what} wrote a file that cannot be read: {error.strerror or error}"
            ) from error
        except PageError as error:
            if error.kind == FAILED:
                raise
            raise PageError(FAILED, f"{what} wrote a file that is not an image: {error.reason}") from error
        samples = eight_bits(color)
        return np.repeat(samples, 3, axis=2) if samples.shape[2] == 1 else samples


def _filled(word: str, values: dict[str, str]) -> str:
    """Return a word with its placeholders filled in; what is filled in is not looked at again."""
    for part in PLACEHOLDERS:
        before, found, after = word.partition(part)
        if found:
            return _filled(before, values) + values[part] + _filled(after, values)
    return word


def _least_scale(size: tuple[int, int], target: tuple[int, int]) -> int:
    """Return the least whole number, 2 at least, that brings a page to its target or beyond."""
    return max(2, *(-(-asked // side) for side, asked in zip(size, target, strict=True)))


def _to_target(
    made: UInt8Array, size: tuple[int, int], target: tuple[int, int], *, gray: bool
) -> tuple[UInt8Array, tuple[str, ...]]:
    """Return the program's output at the target size, by the rule of this module.

    Raises:
        PageError: it is no larger page.
    """
    width, height = made.shape[1], made.shape[0]
    notes: tuple[str, ...] = ()
    if (width, height) != target:
        factor = width // size[0]
        is_whole = factor >= 1 and (width, height) == (size[0] * factor, size[1] * factor)
        is_enough = width >= target[0] and height >= target[1]
        # A side may be a pixel off where the program rounds otherwise than we do.
        keeps_shape = abs(width * target[1] / target[0] - height) <= max(2.0, height / target[1])
        if not is_whole and not (is_enough and keeps_shape):
            raise PageError(
                FAILED,
                f"the program made {width}x{height} of {size[0]}x{size[1]}, but {target[0]}x{target[1]} is requested. "
                "Its output must have that size, be larger, or be a whole multiple of the page",
            )
        if not is_enough:
            notes = (f"the program enlarged {factor} times; resampling did the rest",)
        picture = Image.fromarray(made).resize(target, Image.Resampling.LANCZOS)
        made = np.asarray(picture, np.uint8)
    if gray:
        made = np.rint(made.mean(axis=2, keepdims=True)).astype(np.uint8)
    return made, notes
