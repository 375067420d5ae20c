"""Fingerprints as they were recorded before they were derived from the options: a job that was begun goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from comic_upscale.settings.job import LEGACY_PARTS, FailureLimit, JobSettings
from comic_upscale.settings.levels import Levels
from comic_upscale.settings.options import definitions
from comic_upscale.settings.paths import replace_folder
from comic_upscale.settings.rules import Conditions, Rule
from comic_upscale.settings.screens import Screen
from comic_upscale.settings.selection import Selection
from comic_upscale.settings.sizes import Bounds, Fit, Height, LongSide, Print, Scale, Width, choose_size

DEFAULTS = "48d9d3a6ac0d9d091df2d5ccfc560588"

IN_PLACE = {"input": Path("pages").absolute(), "output": replace_folder(Path("pages").absolute())}

# Made by the version that wrote the fingerprint by hand, for the weights called "weights". They never change.
RECORDED: list[tuple[dict[str, Any], str]] = [
    ({}, DEFAULTS),
    ({"scale": 2}, "4955e09c6424cbe076cfc239909c178e"),
    ({"scale": 2.0}, "4955e09c6424cbe076cfc239909c178e"),
    ({"scale": 2.123456789}, "26f3d52819bf0df58441df88ff92caf2"),
    ({"size": Scale(4)}, "378653df3679c62fc53bc13e89012d2a"),
    ({"size": Width(2000)}, "5ccbcdc32ab28ddfbe8c070f96e87ff1"),
    ({"size": Height(3000)}, "a0832fa00d9dae724ab07c04265e17aa"),
    ({"size": LongSide(2400)}, "d4ba9c7568995c2377f1e5cef6449784"),
    ({"size": Fit(1600, 2400)}, "3e2a838c590ed20ebed46984d51536a9"),
    ({"size": Print(170, 260)}, "6735a76f8776c1c8e6ec32c550bc0c7c"),
    (
        {"size": choose_size(paper="6.69x10.24in", dpi=600, bleed="0.125in")},
        "013d4689b443ea7e13633c2b22494019",
    ),
    ({"size": Print(170, 260, 300, 0)}, "6001b8e811a4af1ff39db233c59485e5"),
    ({"denoise": 0.5}, "a7076953834e906f43a4db7953acc211"),
    # As --denoise 1 always had it. A program that gave the whole number had a fingerprint of its own.
    ({"denoise": 1.0}, "28f9c5bfbfb1208cafe689a0f9f18dc9"),
    ({"denoise": 1}, "28f9c5bfbfb1208cafe689a0f9f18dc9"),
    ({"format": "webp"}, "137dd7904c1e6ea5a2f6fa5a30c9e4c9"),
    ({"format": "jpeg", "quality": 90}, "bc145d127f6ff87404de091aba93b5f9"),
    ({"format": "avif", "quality": 70}, "1018a38f08ff170811cbab0a4140e975"),
    ({"format": "jxl"}, "36c2095d8d70a1996ff312df91a34fc0"),
    ({"format": "tiff"}, "d023fac236f0923f34c2678480ffbf3e"),
    ({"format": "auto", "quality": 80}, "3f0f00f9004d5afa131de71dc8daa2ae"),
    ({"png_level": 0}, "fbed7d3f06bd159c304bc8327496e907"),
    ({"format": "auto", "png_level": 9}, "fd4ea9081f6f1b680b404faf16997eaa"),
    ({"gray": "keep"}, "3ca49f2fd6e00d26ba0f28b3148f4cde"),
    ({"gray": "auto"}, DEFAULTS),
    ({"gray": "off"}, "9114be71eb9948862c5c658759375491"),
    ({"icc": "srgb"}, "50a24680503d028f6a61c3eeea0e8e76"),
    ({"animated": "skip"}, "9a7a1e240af9156824f0e5e39370cb8e"),
    ({"archive_output": "folder"}, "7bc01cc3c74317ac91ab624fd8bd613a"),
    ({"pdf_dpi": 300}, "662650215d4f36c0322fbf9f7de8fdb6"),
    ({"backend": "realesrgan"}, "6a3c712e9092d99f0d48c29bcd8ef127"),
    ({"tile": 256}, "e551cb802e3da4a19bc8f17884e8653b"),
    ({"precision": "fp32"}, "b44e61ab4d1c16006b130c8e51689626"),
    # Hashed by the weights of the file, with the options of the engine.
    ({"face_model": Path("gfpgan.pth")}, DEFAULTS),
    ({"face_strength": 0.5}, DEFAULTS),
    (
        {
            "size": Width(1999), "denoise": 0.25, "format": "auto", "quality": 77, "png_level": 3, "gray": "off",
            "icc": "srgb", "animated": "skip", "archive_output": "folder", "pdf_dpi": 200, "backend": "realesrgan",
            "tile": 400, "precision": "bf16",
        },
        "a418688a93153454f99320181cf3e985",
    ),
    (
        {
            "model": "x.pth", "device": "cpu", "workers": 9, "batch": 3, "max_pixels": 5,
            "max_failures": FailureLimit(count=1), "sidecars": "skip", "copy_others": True, "overwrite": True,
            "retry_failed": True, "strict": True, "keep_original_on_failure": True, "max_members": 7, "max_unpacked": 8,
            "max_ratio": 9.5, "ledger": Path("l"), "price": 1.0, "max_cost": 2.0, "skip_larger_than": Bounds(5, 5),
            "weights_folders": (Path("w"),), "weights_cache": Path("c"),
            "selection": Selection(("a",), exclude=("b",)), "engine_options": {"threads": 2},
        },
        DEFAULTS,
    ),
    ({"gate": False}, DEFAULTS),
    ({"raw": True}, "bf9542aefc234d970eddc60bcbec100e"),
    ({"raw": False}, DEFAULTS),
    ({"tta": True}, "204170030998eecbfadf6a78e1634eb6"),
    ({"tta": False}, DEFAULTS),
    ({"size": Screen("kobo-libra-2", 1264, 1680)}, "9fb90382705943b018d47d2db66cde8d"),
    (
        {"size": Screen("kobo-libra-colour", 1264, 1680, None, 1.0, "split")},
        "5f115030918efb2772b5a6f24e938b8c",
    ),
    ({"archive_output": "epub"}, "5ba5f3ebfbe08dc6b6008aa63c1e7737"),
    ({"archive_output": "pdf", "max_volume_size": 200_000_000}, "f59279b23169a6a6ba1c0b8b998efe65"),
    ({"right_to_left": True}, "78b02556f479bca853d4f1e13e77fd7d"),
    ({"replace_sources": True, **IN_PLACE}, DEFAULTS),
    ({"crop_margins": True}, "beac0191eb94ace37dd287dcb7decff1"),
    ({"levels": Levels()}, "5328b3bdf8cc24655f712fa1074bbbf3"),
    ({"levels": Levels(20, 235)}, "4fee079dc865489ef0c6721d8841b78c"),
    ({"neutral_paper": True}, "7cab2bfdecb9fabc8dce86cf5610e25d"),
    (
        {
            "rules": (
                Rule(
                    Conditions(gray=True, min_height=1200, path=("a/*",)),
                    (("levels", Levels()), ("model", "x.pth")),
                ),
            )
        },
        "0ebf520c1c7b6943677378b4ca25b47a",
    ),
    ({"profile": "manga"}, DEFAULTS),
]  # fmt: skip


def settings(**changes: Any) -> JobSettings:
    return JobSettings(**{"input": Path("pages"), "output": Path("out"), **changes})


@pytest.mark.parametrize(("changes", "recorded"), RECORDED, ids=str)
def test_every_job_has_the_fingerprint_that_it_had(changes: dict[str, Any], recorded: str) -> None:
    assert settings(**changes).fingerprint("weights") == recorded


@pytest.mark.parametrize(("changes", "recorded"), RECORDED, ids=str)
def test_a_job_has_the_same_fingerprint_once_its_record_is_read(
    changes: dict[str, Any], recorded: str
) -> None:
    assert JobSettings.from_json(settings(**changes).as_json()).fingerprint("weights") == recorded


def test_the_table_has_every_option_that_counts_and_every_option_that_does_not() -> None:
    # A new option: add a line above, with its fingerprint where it has another value than its default.
    seen = {name for changes, _ in RECORDED for name in changes} - {"scale", "input", "output"}
    left = {definition.name for definition in definitions(JobSettings)} - seen
    assert left == {"input", "output"}
    rules = {
        definition.name: definition.opt.fingerprint != "never" for definition in definitions(JobSettings)
    }
    counted = {name for changes, recorded in RECORDED if recorded != DEFAULTS for name in changes} - {"scale"}
    assert counted == {name for name, counts in rules.items() if counts}
    assert set(LEGACY_PARTS) <= counted


@pytest.mark.parametrize(
    "name", [each.name for each in definitions(JobSettings) if each.kind is float] + ["scale"]
)
def test_a_whole_number_and_the_same_float_are_one_value(name: str) -> None:
    value = {"scale": 2, "denoise": 1, "face_strength": 1}.get(name, 5)
    more = {"price": 1.0} if name == "max_cost" else {}
    whole, exact = settings(**more, **{name: value}), settings(**more, **{name: float(value)})
    assert type(getattr(whole, name)) is float
    assert whole.as_json() == exact.as_json()
    assert whole.fingerprint("weights") == exact.fingerprint("weights")


def test_zero_has_no_sign() -> None:
    assert settings(denoise=-0.0).fingerprint("weights") == settings(denoise=0).fingerprint("weights")


def test_a_sheet_in_whole_millimetres_is_that_in_floats() -> None:
    whole, exact = settings(size=Print(170, 260, 300, 0)), settings(size=Print(170.0, 260.0, 300.0, 0.0))
    assert repr(whole.size) == repr(exact.size)
