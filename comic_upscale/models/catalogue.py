"""The models known by name: source and hash of their weights, and the work for one page.

Sizes and hashes are those of the published files. The arithmetic is that of the convolutions for one page of 512 x 768,
so the ratio of two models' numbers is roughly the ratio of their times.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from comic_upscale.errors import WeightsError

_RELEASES = "https://github.com/xinntao/Real-ESRGAN/releases/download"
_LICENCE = "BSD-3-Clause"


@dataclass(frozen=True, slots=True)
class WeightsFile:
    """One published file of weights."""

    name: str
    """The file name with its suffix."""
    url: str
    """The complete URL of the download; empty for a bundled file."""
    size: int
    """Bytes."""
    sha256: str
    """SHA-256 of the whole file, 64 lower-case hexadecimal digits."""

    @property
    def bundled(self) -> bool:
        """Whether the file is part of the package. Such a file is never downloaded."""
        return not self.url


@dataclass(frozen=True, slots=True)
class Model:
    """A model known by name."""

    name: str
    """The official name, without a suffix."""
    native_scale: int
    """The network's own factor."""
    purpose: str
    """A short phrase for users: its strengths, and its cost compared with the others."""
    licence: str
    """The licence of the weights, as an SPDX identifier."""
    tflop_per_page: float
    """Arithmetic for one page of 512 x 768 pixels, in 10^12 floating-point operations."""
    weights: WeightsFile
    """The weights, which are used alone if no denoise strength is given."""
    denoise_weights: WeightsFile | None = None
    """Weights with another denoise strength, mixed in for the strengths between; None if the model has none."""
    own_strength: int = 1
    """The denoise strength of ``weights``, 1 or 0. That of ``denoise_weights`` is the other one."""
    cleans_white: bool = False
    """Whether white paper becomes whiter than the page has it, whatever the denoise strength is."""
    fallback: str = ""
    """The bundled model that makes a page again on which this one invented texture; empty if there is none."""
    int8_weights: WeightsFile | None = None
    """The bundled weights in 8 bits, for CPUs; None if there are none."""

    @property
    def files(self) -> tuple[WeightsFile, ...]:
        """Every file that the model may need, the weights first."""
        more = (self.denoise_weights, self.int8_weights)
        return (self.weights, *(file for file in more if file is not None))


def _file(name: str, release: str, size: int, sha256: str) -> WeightsFile:
    return WeightsFile(name, f"{_RELEASES}/{release}/{name}", size, sha256)


def _own_tflop(features: int, convolutions: int, scale: int) -> float:
    """Return the arithmetic of a SRVGGNetCompact for 512 x 768 pixels. All its convolutions are 3 x 3."""
    channels = 3 * features + convolutions * features**2 + features * 3 * scale**2
    return round(2 * 9 * channels * 512 * 768 / 1e12, 2)


def _own(
    name: str,
    scale: int,
    features: int,
    convolutions: int,
    size: int,
    sha256: str,
    purpose: str,
    fallback: str = "",
    partner: tuple[int, str] | None = None,
    cleans_white: bool = False,
    int8: tuple[int, str] | None = None,
) -> Model:
    """Describe a bundled network, whose file is weights/NAME.safetensors. The tests compare both.

    Its denoising partner, if it has one, is weights/NAME-dn.safetensors, of this size and hash. Its weights in 8 bits
    are weights/NAME-int8.safetensors.
    """
    return Model(
        name=name,
        native_scale=scale,
        purpose=purpose,
        licence="MIT",
        tflop_per_page=_own_tflop(features, convolutions, scale),
        weights=WeightsFile(f"{name}.safetensors", "", size, sha256),
        fallback=fallback,
        cleans_white=cleans_white,
        denoise_weights=None if partner is None else WeightsFile(f"{name}-dn.safetensors", "", *partner),
        own_strength=0,
        int8_weights=None if int8 is None else WeightsFile(f"{name}-int8.safetensors", "", *int8),
    )


_MODELS = (
    _own(
        "comic-compact-x3",
        3,
        32,
        16,
        633_324,
        "8f276e09dc4ea5b87a12039420556e338500c89925ae19ba04bad0c1922de079",
        "comics and manga of all kinds, true to the drawing: a quarter of the work of "
        "realesr-animevideov3, no download",
        fallback="comic-fast-x3",
    ),
    _own(
        "comic-best-x2",
        2,
        64,
        24,
        1_799_648,
        "e42d8c3dc123077127671b224d9bc072e5e816e6885b8aef3489cd9e8d8de5bc",
        "comic-best for factors up to 2: about 1.4 times the work of realesr-animevideov3, with a denoise strength, "
        "no download",
        fallback="comic-fast-x2",
        partner=(1_799_680, "7c14fb350eed33154ee05db0e3a00f08c1cb67d9a0e111d4b4d1826cca1019a4"),
        cleans_white=True,
    ),
    _own(
        "comic-best-x3",
        3,
        64,
        24,
        1_816_950,
        "e9d3d0b229c611bdc4a7930125dd822513405d7d07e3a962612bd9a5a88c04a7",
        "comic-best for factors above 2: about 1.4 times the work of realesr-animevideov3, with a denoise strength, "
        "no download",
        fallback="comic-fast-x3",
        partner=(1_816_990, "bb386654760faceda6ba90686c721109aeb0f04469532f3f43a900d9232a25d4"),
        cleans_white=True,
    ),
    _own(
        "comic-crisp-x2",
        2,
        64,
        24,
        1_799_624,
        "4e2bc660a79b3c5bee237cc31d910ee4b72f71a3ef8965e7c0304fed81f4e3d8",
        "comic-crisp for factors up to 2: crisp contours also where the page is soft, about 1.4 times the work of "
        "realesr-animevideov3, no download",
        fallback="comic-fast-x2",
        cleans_white=True,
    ),
    _own(
        "comic-crisp-x3",
        3,
        64,
        24,
        1_816_934,
        "d8c32410ab31792b96d5b4af5d30f2c44fa5ce1be4e292b71feb28c4913bb7e7",
        "comic-crisp for factors above 2: crisp contours also where the page is soft, about 1.4 times the work of "
        "realesr-animevideov3, no download",
        fallback="comic-fast-x3",
        cleans_white=True,
    ),
    _own(
        "comic-fast-x2",
        2,
        32,
        18,
        347_824,
        "881cfa837eace258127d8b5aa8e2b3ba166f70d1d443f5b271b8b059d961957e",
        "comic-fast for factors up to 2: less than a third of the work of realesr-animevideov3, with a denoise "
        "strength, no download",
        partner=(347_544, "331e3edd642988ac10a4d2a7b7dbea707b9d1ec3b6e41a9b378464c834ee7b21"),
        cleans_white=True,
        int8=(182_340, "55225a0b4725750fd937b75ebf57886da92957c6b699f44a2f9462a2d9cf0506"),
    ),
    _own(
        "comic-fast-x3",
        3,
        32,
        18,
        356_494,
        "f8543e793f3d21d8008aadf7db2e97c64798c19c4a8665cfbf100743b97a6569",
        "comic-fast for factors above 2: less than a third of the work of realesr-animevideov3, with a denoise "
        "strength, no download",
        partner=(356_214, "ce0f76118544f017510685ba63596e00739d0587279af475ad2457ed25667625"),
        cleans_white=True,
        int8=(186_780, "a9df4cde22cb3f2e77ea17edaadba67fbac08c5a5b04558797d36b9a28d31d55"),
    ),
    Model(
        name="RealESRGAN_x4plus_anime_6B",
        native_scale=4,
        purpose="comics, manga and anime: the crispest lines, about 9 times the work of realesr-animevideov3",
        licence=_LICENCE,
        tflop_per_page=4.5,
        weights=_file(
            "RealESRGAN_x4plus_anime_6B.pth",
            "v0.2.2.4",
            17_938_799,
            "f872d837d3c90ed2e05227bed711af5671a6fd1c9f7d7e91c911a61f155e99da",
        ),
    ),
    Model(
        name="RealESRGAN_x2plus",
        native_scale=2,
        purpose="photographs and painted pages at 2x: about 7 times the work of realesr-animevideov3",
        licence=_LICENCE,
        tflop_per_page=3.5,
        weights=_file(
            "RealESRGAN_x2plus.pth",
            "v0.2.1",
            67_061_725,
            "49fafd45f8fd7aa8d31ab2a22d14d91b536c34494a5cfe31eb5d89c2fa266abb",
        ),
    ),
    Model(
        name="RealESRGAN_x4plus",
        native_scale=4,
        purpose="photographs and painted pages: about 29 times the work of realesr-animevideov3",
        licence=_LICENCE,
        tflop_per_page=14.1,
        weights=_file(
            "RealESRGAN_x4plus.pth",
            "v0.1.0",
            67_040_989,
            "4fa0d38905f75ac06eb49a7951b426670021be3018265fd191d2125df9d682f1",
        ),
    ),
    Model(
        name="realesr-animevideov3",
        native_scale=4,
        purpose="comics and anime at little cost: the lightest of the official models",
        licence=_LICENCE,
        tflop_per_page=0.49,
        weights=_file(
            "realesr-animevideov3.pth",
            "v0.2.5.0",
            2_504_012,
            "b8a8376811077954d82ca3fcf476f1ac3da3e8a68a4f4d71363008000a18b75d",
        ),
    ),
    Model(
        name="realesr-general-x4v3",
        native_scale=4,
        purpose="mixed material, with a denoise strength: about twice the work of realesr-animevideov3",
        licence=_LICENCE,
        tflop_per_page=0.95,
        weights=_file(
            "realesr-general-x4v3.pth",
            "v0.2.5.0",
            4_885_111,
            "8dc7edb9ac80ccdc30c3a5dca6616509367f05fbc184ad95b731f05bece96292",
        ),
        denoise_weights=_file(
            "realesr-general-wdn-x4v3.pth",
            "v0.2.5.0",
            4_885_111,
            "1641f8c4464b9f097c9fdda5589273713f67cf59f3d909e0bd688f0cee269dca",
        ),
    ),
)

CATALOGUE: Mapping[str, Model] = MappingProxyType({model.name: model for model in _MODELS})
"""Every model known by name, the bundled ones first."""

FAMILIES: Mapping[str, tuple[Model, ...]] = MappingProxyType(
    {
        family: tuple(model for model in _MODELS if model.name.startswith(f"{family}-x"))
        for family in ("comic-best", "comic-crisp", "comic-fast")
    }
)
"""Names that stand for one network for each native factor, the smallest factor first."""

NAMES = frozenset((*FAMILIES, *CATALOGUE))
"""Every name by which a job can ask for a network of the catalogue."""
SUFFIXES = (".pth", ".pt", ".safetensors")
"""Suffixes by which a name without a folder counts as a file of weights."""
PATHS_WORK = "The path of a .pth or .safetensors file works too"
"""The end of the message of `find_model`. Whoever takes no path leaves it out."""


def in_family(name: str, factor: float | None) -> str:
    """Return the name of a family's network for a factor; any other name is returned unchanged.

    Args:
        name: the name that the user gave.
        factor: the requested factor; None if pages have different ones. The result is then the x3 network.
    """
    models = FAMILIES.get(name.strip().casefold())
    if models is None:
        return name
    enough = (model for model in models if factor is not None and model.native_scale >= factor)
    return next(enough, models[-1]).name


def family_of(model: Model) -> str:
    """Return the name of the family of a model; the model's own name if it belongs to none."""
    return next((family for family, models in FAMILIES.items() if model in models), model.name)


def find_model(name: str, catalogue: Mapping[str, Model] = CATALOGUE) -> Model:
    """Return the model with this name, in any case and with or without ``.pth``; for a family, its largest factor.

    Args:
        name: the name that the user gave.
        catalogue: the models to search.

    Raises:
        WeightsError: there is no such model. The message suggests similar names and lists all.
    """
    by_plain_name = {model.name.casefold(): model for model in catalogue.values()}
    plain = in_family(name, None).strip().casefold().removesuffix(".pth")
    found = by_plain_name.get(plain)
    if found is not None:
        return found
    near = difflib.get_close_matches(plain, [*FAMILIES, *by_plain_name], n=2, cutoff=0.6)
    names = [by_plain_name[each].name if each in by_plain_name else each for each in near]
    hint = f" Did you mean {' or '.join(names)}?" if near else ""
    is_file = name.strip().casefold().endswith(SUFFIXES)
    what = (
        f"The file {name} does not exist, and no model has that name"
        if is_file
        else f"There is no model named {name!r}"
    )
    raise WeightsError(
        f"{what}.{hint} "
        f"The models are: {', '.join([*FAMILIES, *(model.name for model in catalogue.values())])}. {PATHS_WORK}"
    )
