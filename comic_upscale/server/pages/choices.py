"""What the forms of the pages offer, in words for people who know comics and no networks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from comic_upscale.settings.screens import Device, read_devices

FACTORS = ("1.5", "2", "2.5", "3", "4")
"""What a form offers as factor."""


def with_sizes(presets: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return presets with what a form does about their size, as ``own_size``.

    It is one of `FACTORS`, which the form then selects; ``other`` for another size, with which the form sends none; or
    empty for a preset without a size.
    """
    return [{**preset, "own_size": _own_size(preset["options"])} for preset in presets]


def devices_by_maker() -> dict[str, list[Device]]:
    """Return the known e-readers by the first word of their titles, as a menu groups them."""
    makers: dict[str, list[Device]] = {}
    for device in read_devices().values():
        makers.setdefault(device.title.split()[0], []).append(device)
    return makers


def _own_size(options: Mapping[str, Any]) -> str:
    kind, _, factor = str(options.get("size") or "").partition(" ")
    if not kind:
        return ""
    return factor if kind == "scale" and factor in FACTORS else "other"
