"""The screens of e-readers: a size that fits pages to one, and the devices that are known by name.

`devices.toml` has the devices, with sources. A `Screen` holds their figures, so that a job that has begun continues
unchanged if a figure is corrected.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from comic_upscale.errors import SettingsError

Spreads: TypeAlias = Literal["keep", "split", "rotate", "both"]

MOST_PIXELS = 10_000
"""Of a side of a screen. A larger number is a typing error."""

_FILE = Path(__file__).with_name("devices.toml")
_NAME = re.compile(r"[a-z0-9-]{1,64}")
_TEXT = re.compile(
    r"screen ([a-z0-9-]{1,64}) (\d{1,5})x(\d{1,5}) (?:(\d{1,3}) grays|(colour)) gamma ([0-9.]{1,12})"
    r" spreads (keep|split|rotate|both)"
)


@dataclass(frozen=True, slots=True)
class Screen:
    """Every page becomes as large as fits on the screen of an e-reader. It keeps its proportions."""

    device: str
    """The name of the device."""
    width: int
    """Pixels, held upright."""
    height: int
    """Pixels."""
    levels: int | None = 16
    """The grays that it shows, evenly spaced from black to white: 2 to 256. None for a colour screen."""
    gamma: float = 1.0
    """Exponent that is applied to gray pages, 0.2 to 5: below 1 brightens, above 1 darkens."""
    spreads: Spreads = "keep"
    """What becomes of a landscape page: it is kept whole, split into two pages, rotated, or both of these."""

    def __post_init__(self) -> None:
        """Check the figures."""
        if not isinstance(self.device, str) or not _NAME.fullmatch(self.device):
            raise SettingsError(f"--fit-device takes the name of a device, not {self.device!r}")
        for side in (self.width, self.height):
            if type(side) is not int or not 100 <= side <= MOST_PIXELS:
                raise SettingsError(f"a side of a screen has 100 to {MOST_PIXELS} pixels, not {side!r}")
        if self.levels is not None and (type(self.levels) is not int or not 2 <= self.levels <= 256):
            raise SettingsError(f"a gray screen shows 2 to 256 grays, not {self.levels!r}")
        if not isinstance(self.gamma, (int, float)) or not 0.2 <= self.gamma <= 5:
            raise SettingsError(f"the gamma of a screen is between 0.2 and 5, not {self.gamma!r}")
        object.__setattr__(self, "gamma", float(self.gamma))
        if self.spreads not in get_args(Spreads):
            raise SettingsError(
                f"--spreads must be one of {', '.join(get_args(Spreads))}, not {self.spreads!r}"
            )

    def __str__(self) -> str:
        shown = "colour" if self.levels is None else f"{self.levels} grays"
        gamma = repr(self.gamma).removesuffix(".0")
        return f"screen {self.device} {self.width}x{self.height} {shown} gamma {gamma} spreads {self.spreads}"

    @property
    def label(self) -> str:
        """The suffix of the default output folder."""
        return self.device

    @property
    def cuts_spreads(self) -> bool:
        """Whether a spread becomes more than one page."""
        return self.spreads in ("split", "both")

    @classmethod
    def parse(cls, text: str) -> Screen | None:
        """Read the text of a screen, as `str` writes it; None if it is no such text.

        Raises:
            SettingsError: a figure is out of its range.
        """
        match = _TEXT.fullmatch(text.strip())
        if match is None:
            return None
        device, width, height, levels, _, gamma, spreads = match.groups()
        try:
            exponent = float(gamma)
        except ValueError:
            return None
        grays = None if levels is None else int(levels)
        return cls(device, int(width), int(height), grays, exponent, spreads)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Device:
    """A known e-reader."""

    name: str
    """For ``--fit-device``."""
    title: str
    """For people."""
    screen: Screen
    """Its figures."""
    source: str
    """Where the figures come from, and the date."""


@functools.cache
def read_devices() -> dict[str, Device]:
    """Return the known e-readers, by name, in the order of the file."""
    import tomllib

    with _FILE.open("rb") as file:
        content: dict[str, Any] = tomllib.load(file)
    sources = {name: f"{each['title']}, {each['date']}" for name, each in content["sources"].items()}
    devices = {}
    for each in content["device"]:
        levels = None if each.get("color") else each["levels"]
        width, height = each["screen"]
        screen = Screen(each["name"], width, height, levels, each.get("gamma", content["gamma"]))
        devices[each["name"]] = Device(each["name"], each["title"], screen, sources[each["source"]])
    return devices


def find_device(name: str) -> Device:
    """Return a device by its name or title. Case, spaces and punctuation do not count.

    Raises:
        SettingsError: there is none. The message names similar ones.
    """
    import difflib

    devices = read_devices()
    known = {_plain(text): each for each in devices.values() for text in (each.title, each.name)}
    wanted = _plain(name)
    if wanted in known:
        return known[wanted]
    near = [devices[each].name for each in devices if wanted and wanted in _plain(each + devices[each].title)]
    near += [known[each].name for each in difflib.get_close_matches(wanted, known, n=5, cutoff=0.6)]
    similar = ", ".join([*dict.fromkeys(near)][:5])
    hint = f"did you mean {similar}? " if similar else ""
    raise SettingsError(
        f"--fit-device: there is no device {name[:64]!r}: {hint}`comic-upscale devices` lists all; "
        "for another one, --fit WxH takes the pixels of its screen"
    )


def _plain(text: str) -> str:
    """Return what counts of a name. Kobo writes Colour, the others write Color."""
    return "".join(char for char in text.casefold().replace("colour", "color") if char.isalnum())
