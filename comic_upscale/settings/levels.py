"""`Levels`: the black and the white point of gray pages."""

from __future__ import annotations

from dataclasses import dataclass

from comic_upscale.errors import SettingsError

_OFF = "off"
_AUTO = "auto"
_VOLUME = "volume"


@dataclass(frozen=True, slots=True)
class Levels:
    """The shades that become black and white; both None to find them in each page, or in each volume.

    Raises:
        SettingsError: the points are impossible.
    """

    black: int | None = None
    """0 to 254, in shades of 8 bits: this shade and darker ones become black."""
    white: int | None = None
    """1 to 255, above ``black``: this shade and lighter ones become white."""
    per_volume: bool = False
    """Whether all gray pages of a volume get the same points, which are found in its pages."""

    def __post_init__(self) -> None:
        """Check the points."""
        if self.black is None and self.white is None:
            return
        if self.per_volume:
            raise SettingsError("--levels volume finds its points itself")
        for point in (self.black, self.white):
            if type(point) is not int or not 0 <= point <= 255:
                raise SettingsError(f"--levels takes shades from 0 to 255, not {point!r}")
        if not (self.black or 0) < (self.white or 0):
            raise SettingsError(
                f"--levels takes the darker shade first, such as 20,235, not {self.black},{self.white}"
            )

    @classmethod
    def parse(cls, text: str) -> Levels | None:
        """Read ``"auto"``, ``"volume"``, ``"20,235"`` or ``"off"``, which is None.

        Raises:
            SettingsError: the text is none of these.
        """
        plain = text.strip().casefold()
        if plain == _OFF:
            return None
        if plain == _AUTO:
            return cls()
        if plain == _VOLUME:
            return cls(per_volume=True)
        parts = plain.split(",")
        try:
            black, white = map(int, parts)
        except ValueError:
            raise SettingsError(
                f"--levels must be auto, volume, off, or a black and a white point such as 20,235, not {text!r}"
            ) from None
        return cls(black, white)

    @classmethod
    def read(cls, value: object) -> Levels | None:
        """Read a list of two shades, or False for ``off``, as a profile may have them.

        Raises:
            SettingsError: the value is something else.
        """
        if value is False:
            return None
        if isinstance(value, (list, tuple)) and len(value) == 2:
            return cls(*value)
        if isinstance(value, Levels):
            return value
        raise SettingsError(
            f"--levels must be auto, volume, off, or a black and a white point such as 20,235, not {value!r}"
        )

    def __str__(self) -> str:
        """Return the text that `parse` reads."""
        if self.per_volume:
            return _VOLUME
        return _AUTO if self.black is None else f"{self.black},{self.white}"
