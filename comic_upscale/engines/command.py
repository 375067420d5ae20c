"""The engine that runs the user's own program for each page: ``--engine-command "tool -i {in} -o {out}"``.

The program reads a PNG and writes another. Its output gets the requested size like this:

* An output of that size is used unchanged.
* If both sides are the same integer multiple of the page's sides, the output is resampled to that size.
* If the output is at least that large and has the proportions of the page, it is shrunk to that size.
* In all other cases the page fails.
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
from comic_upscale.engines.unsupported import refuse_device_options, refuse_network_options
from comic_upscale.errors import DeviceError, PageError, SettingsError
from comic_upscale.imaging.decode import decode
from comic_upscale.imaging.gray import eight_bits
from comic_upscale.imaging.pixels import SampleArray, UInt8Array
from comic_upscale.settings.options import Opt

NAME = "command"
"""The engine's name in the registry."""
PLACEHOLDERS = ("{in}", "{out}", "{scale}", "{width}", "{height}")
FAILED = "command"
"""The kind of failure if the program made no valid output."""
TIMEOUT = "command-timeout"
"""The kind of failure if the program took too long."""
_MOST_GROWTH = 16
"""An output with sides of more than this multiple of the page's sides is not read."""
_BYTES_A_PIXEL = 16
"""An output file with more bytes per pixel than this is not read. It is twice the size of 16-bit RGBA."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandOptions:
    """Options of the engine ``command``."""

    command: Annotated[
        str,
        Opt(
            "The program and its arguments, the same as --engine-command. {in} and {out} stand for the paths of two "
            "PNG files, {scale} for an integer factor, {width} and {height} for the target size in pixels.",
            fingerprint="always",
        ),
    ]
    scale: Annotated[
        int | None,
        Ge(1),
        Le(_MOST_GROWTH),
        Opt(
            "The value of {scale}. auto: the smallest integer, at least 2, that reaches the target size.",
            fingerprint="if-changed",
        ),
    ] = None
    timeout: Annotated[
        float,
        Ge(1),
        Opt("Seconds per page. After this time the program is killed."),
    ] = 600.0
    processes: Annotated[
        int,
        Ge(1),
        Le(64),
        Opt("Pages at once, each in its own process."),
    ] = 1
    max_pixels: Annotated[
        int | None,
        Ge(1),
        Opt("The most pixels of a page for the program. Larger pages fail."),
    ] = None


class CommandFactory(EngineFactory):
    """Opens ``CommandEngine``, one for each process."""

    name = NAME
    summary = "Your own program that enlarges one image at a time (--engine-command)."
    options = CommandOptions

    def identify(self, spec: EngineSpec) -> Identity:
        """Return the program's name, and a hash of the command and its scale. The program's content is not hashed."""
        refuse_network_options(
            spec, model="add the model to the command", denoise="add the strength to the command"
        )
        words = split_command(spec.options.command)
        content = json.dumps([NAME, words, spec.options.scale])
        return Identity(Path(words[0]).name, hashlib.sha256(content.encode()).hexdigest())

    def prepare(self, spec: EngineSpec, on_progress: OnProgress | None = None) -> EngineSpec:
        """Check that the program exists."""
        find_program(split_command(spec.options.command))
        return spec

    def open(self, spec: EngineSpec, resources: EngineResources) -> list[Engine]:
        """Return an engine for each process."""
        refuse_device_options(NAME, resources, instead="add it to the command")
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
    """Return the words with the program's absolute path instead of its name.

    Raises:
        SettingsError: there is no such program, or an argument is a relative path, which would be wrong in the
            folder where the program runs.
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
    """An ``Engine`` that runs a program for each page, in its own temporary folder.

    Args:
        options: the command, its limits and its number of processes.
        identity: the hash from `CommandFactory.identify`.

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
        """The engine's properties."""
        return self._info

    def batch_limit(self, height: int, width: int) -> int:
        """Return 1: the program gets one page at a time."""
        return 1

    def upscale(self, batch: Batch) -> Upscaled:
        """Return the pages at their target size, in the sample type of the input.

        The program gets 8 bits and three channels. Its output is scaled to 16 bits for pages of 16 bits, and the mean
        of the channels is returned for gray pages.

        Raises:
            PageError: `FAILED`, `TIMEOUT`: the program did not make the page.
            DeviceError: the program cannot be started any more.
        """
        larger, notes = [], dict[str, None]()
        for page in batch.pixels:
            made, note = self._upscale_page(eight_bits(page), batch.target_size)
            larger.append(made)
            notes.update(dict.fromkeys(note))
        samples: SampleArray = np.stack(larger)
        if batch.pixels.dtype == np.uint16:
            samples = samples.astype(np.uint16) * np.uint16(257)
            notes["16 bits: the program got 8"] = None
        return Upscaled(samples, notes=tuple(notes))

    def interrupt(self) -> None:
        """Kill the running program, from any thread. No other is started."""
        self._is_closed = True
        self._program.kill()

    def close(self) -> None:
        """Kill the running program, if any. The engine is not used afterwards."""
        self.interrupt()

    def _upscale_page(self, page: UInt8Array, target: tuple[int, int]) -> tuple[UInt8Array, tuple[str, ...]]:
        """Return a page at its target size, with the same number of channels, and notes."""
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
        return _resize_to_target(made, (width, height), target, gray=page.shape[2] == 1)

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
        words = [self._words[0], *(_fill_placeholders(word, values) for word in self._words[1:])]
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
            last_output = f"; its last output: {ended.last_words}" if ended.last_words else ""
            raise PageError(
                TIMEOUT,
                f"{what} took longer than {self._options.timeout:g} s and was killed{last_output}. To allow more time: "
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
                raise PageError(FAILED, f"{what} wrote {weight:,} bytes, more than an enlarged page can have")
            color = decode(result.read_bytes(), max_pixels=most, gray="off").color
        except OSError as error:
            raise PageError(
                FAILED, f"{what} wrote a file that cannot be read: {error.strerror or error}"
            ) from error
        except PageError as error:
            if error.kind == FAILED:
                raise
            raise PageError(FAILED, f"{what} wrote {_describe_output(error, most)}") from error
        samples = eight_bits(color)
        return np.repeat(samples, 3, axis=2) if samples.shape[2] == 1 else samples


def _describe_output(error: PageError, most: int) -> str:
    """Return what is wrong with an output. The advice of the reader is about files of the user, so it is left out."""
    match error.kind:
        case "too-large":
            return f"an image of more than {most:,} pixels, more than an enlarged page can have"
        case "empty":
            return "an empty file"
        case "truncated":
            return "an incomplete image"
        case "not-an-image":
            return "a file that is not an image"
    return f"an image that cannot be read ({error.kind})"


def _fill_placeholders(word: str, values: dict[str, str]) -> str:
    """Return a word with its placeholders replaced. Placeholders within the replacements are not replaced."""
    for part in PLACEHOLDERS:
        before, found, after = word.partition(part)
        if found:
            return _fill_placeholders(before, values) + values[part] + _fill_placeholders(after, values)
    return word


def _least_scale(size: tuple[int, int], target: tuple[int, int]) -> int:
    """Return the smallest integer factor, at least 2, that reaches the target."""
    return max(2, *(-(-requested // side) for side, requested in zip(size, target, strict=True)))


def _resize_to_target(
    made: UInt8Array, size: tuple[int, int], target: tuple[int, int], *, gray: bool
) -> tuple[UInt8Array, tuple[str, ...]]:
    """Return the program's output at the target size, by the rule of this module.

    Raises:
        PageError: its size does not fit the page.
    """
    width, height = made.shape[1], made.shape[0]
    notes: tuple[str, ...] = ()
    if (width, height) != target:
        factor = width // size[0]
        is_whole = factor >= 1 and (width, height) == (size[0] * factor, size[1] * factor)
        is_enough = width >= target[0] and height >= target[1]
        # A side may differ by a pixel if the program rounds differently.
        keeps_shape = abs(width * target[1] / target[0] - height) <= max(2.0, height / target[1])
        if not is_whole and not (is_enough and keeps_shape):
            raise PageError(
                FAILED,
                f"the program turned {size[0]}x{size[1]} into {width}x{height}, but {target[0]}x{target[1]} is "
                "requested. Its output must have that size, be larger, or be an integer multiple of the page",
            )
        if not is_enough:
            notes = (f"the program enlarged {factor} times; resampling did the rest",)
        picture = Image.fromarray(made).resize(target, Image.Resampling.LANCZOS)
        made = np.asarray(picture, np.uint8)
    if gray:
        made = np.rint(made.mean(axis=2, keepdims=True)).astype(np.uint8)
    return made, notes
