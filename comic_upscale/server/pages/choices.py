"""What the forms of the pages offer, in words for people who know comics and no networks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from comic_upscale.models.catalogue import CATALOGUE, FAMILIES, family_of
from comic_upscale.settings.screens import Device, read_devices

FACTORS = ("1.5", "2", "2.5", "3", "4")
"""What a form offers as factor."""


WORDS: Mapping[str, str] = MappingProxyType(
    {
        "comic-best": "Closest to the page, for comics and manga of all kinds. Without a GPU, it takes at least five "
        "times as long as comic-fast.",
        "comic-fast": "Close to the page and quick, also without a GPU.",
        "comic-crisp": "Crisp lines also where the page is soft. Less like the page than comic-best, and as slow.",
        "comic-compact-x3": "Comics and manga, true to the drawing, about as quick as comic-fast.",
        "RealESRGAN_x4plus_anime_6B": "The crispest lines, for comics and anime. Takes about 30 times as "
        "long as comic-fast.",
        "RealESRGAN_x2plus": "Photographs and painted pages at 2\N{MULTIPLICATION SIGN}. Takes about 25 times "
        "as long as comic-fast.",
        "RealESRGAN_x4plus": "Photographs and painted pages. Takes about 100 times as long as comic-fast.",
        "realesr-animevideov3": "Comics and anime. Takes about 3 times as long as comic-fast.",
        "realesr-general-x4v3": "Pages of all kinds, also photographs. Takes about 7 times as long as comic-fast.",
    }
)
"""What a reader needs to know to choose a model, those of the package first. The catalogue has what its users know."""


def in_families(models: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return what a menu offers: families in place of their networks, which a job chooses by its factor.

    A network whose family cannot be chosen, because another one of it was withdrawn, stays under its own name.

    Args:
        models: that requests may choose.
    """
    shown = {str(model["name"]): dict(model) for model in models}
    for family, networks in FAMILIES.items():
        if all(network.name in shown for network in networks):
            parts = [shown.pop(network.name) for network in networks]
            # One note may be on each of the networks.
            notes = dict.fromkeys(part["note"] for part in parts if part["note"])
            shown[family] = {**parts[0], "name": family, "note": " ".join(notes)}
    order = {name: number for number, name in enumerate(WORDS)}
    found = sorted(shown.values(), key=lambda model: order.get(model["name"], len(order)))
    return [{**model, "purpose": _words(model), "download": _download(model["name"])} for model in found]


def in_menu(name: str, models: Iterable[Mapping[str, Any]]) -> str:
    """Return the name under which a menu of models has a model: that of its family, or its own.

    Args:
        name: of a model.
        models: of the menu.
    """
    names = {model["name"] for model in models}
    return name if name in names or name not in CATALOGUE else family_of(CATALOGUE[name])


def _download(name: str) -> int:
    """Return the bytes that the first job with a model downloads, unless they are there; 0 for one of the package."""
    files = CATALOGUE[name].files if name in CATALOGUE else ()
    return sum(file.size for file in files if not file.bundled)


def _words(model: Mapping[str, Any]) -> str:
    name = str(model["name"])
    of = family_of(CATALOGUE[name]) if name in CATALOGUE else name
    return WORDS.get(name) or WORDS.get(of) or f"{str(model['purpose']).capitalize()}."


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
