"""What a format says about itself is true of the files that it writes, and nothing is missing."""

from __future__ import annotations

import json
import pkgutil
import re
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from comic_upscale.errors import PageError, SettingsError
from comic_upscale.imaging import codecs
from comic_upscale.imaging.codecs import FORMATS, find_assumed
from comic_upscale.imaging.codecs.base import Assumed, OutputFormat
from comic_upscale.imaging.decode import decode, read_header
from comic_upscale.imaging.encode import check_encoded, check_target, encode, list_omissions, quality_for
from comic_upscale.imaging.formats import (
    IMAGE_EXTENSIONS,
    find_format,
    is_lossless,
    output_extension,
    recognise,
    written_format,
)
from comic_upscale.imaging.pixels import Metadata, Pixels
from comic_upscale.settings.job import FORMATS as ASKED
from comic_upscale.settings.job import FormatName, JobSettings

LIMIT = 1_000_000
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"

every_format = pytest.mark.parametrize("format", FORMATS.values(), ids=lambda format: format.name)


def page(channels: int = 3, *, alpha: bool = False, bits: int = 8) -> Pixels:
    """Smooth shades with a sharp edge: what lossy formats keep nearly, and lossless ones exactly."""
    kind = np.uint8 if bits == 8 else np.uint16
    top = np.iinfo(kind).max
    ramp = np.linspace(0, 1, 24)[None, :, None] * np.linspace(0.4, 1, 36)[:, None, None]
    shades = np.concatenate([ramp * weight for weight in (1.0, 0.7, 0.4)[:channels]], axis=2)
    shades[:9] = 1.0
    mask = None
    if alpha:
        mask = np.full((36, 24), top, kind)
        mask[18:, :12] = 0
        mask[18:, 12:15] = top // 3
    return Pixels(np.rint(shades * top).astype(kind), mask)


def written(format: OutputFormat, before: Pixels, quality: int | None = None) -> Pixels:
    """Encode a page, hold the file against what its format says, and decode it."""
    data = encode(before, format=format.name, quality=quality)
    assert recognise(data[:64]) == format.recognised_as
    assert find_format(data) is format
    check_encoded(data, (before.width, before.height))
    header = read_header(data)
    assert (header.width, header.height) == (before.width, before.height)
    assert header.lossless is is_lossless(data)
    return decode(data, max_pixels=LIMIT, gray="auto")


def test_the_registry_holds_what_settings_name_and_every_module_that_describes_a_format() -> None:
    assert tuple(FORMATS) == tuple(name for name in ASKED if name != "auto")
    assert {name: format.name for name, format in FORMATS.items()} == {name: name for name in FORMATS}
    modules = (
        import_module(f"{codecs.__name__}.{each.name}") for each in pkgutil.iter_modules(codecs.__path__)
    )
    described = {module.FORMAT.name for module in modules if hasattr(module, "FORMAT")}
    assert described == set(FORMATS)
    assert "auto" not in FORMATS
    with pytest.raises(ValueError, match="auto"):
        encode(page(), format="auto")


def test_no_two_formats_are_called_the_same() -> None:
    formats = list(FORMATS.values())
    for names in (
        [format.title for format in formats],
        [format.recognised_as for format in formats],
        [
            each
            for format in formats
            for each in (format.extension, *format.kept_extensions, *format.adopted_extensions)
        ],
    ):
        assert len(set(names)) == len(names)


@every_format
def test_extensions_lead_to_the_format_and_back(format: OutputFormat) -> None:
    assert output_extension(format.name) == output_extension(format.name, "page.bmp") == format.extension
    own = (format.extension, *format.kept_extensions)
    for extension in (*own, *format.adopted_extensions):
        assert extension in IMAGE_EXTENSIONS, "a page that is written can be read again"
        assert written_format(extension, "auto") == format.name
        kept = extension if extension in own else format.extension
        assert output_extension("auto", f"page.{extension}") == kept
        # By the name of its output, too, a page is of that format.
        assert written_format(kept, "auto") == format.name


@every_format
def test_settings_take_a_quality_just_where_something_can_be_lost(
    format: OutputFormat, tmp_path: Path
) -> None:
    paths = {"input": tmp_path / "in", "output": tmp_path / "out"}
    assert JobSettings(format=format.name, **paths).format == format.name
    assert (format.default_quality is None) == (format.lossless == "always")
    if format.lossless == "always":
        with pytest.raises(SettingsError, match="--quality"):
            JobSettings(format=format.name, quality=80, **paths)
    else:
        assert JobSettings(format=format.name, quality=80, **paths).quality == 80


@every_format
def test_a_format_says_what_it_costs_in_each_way_that_it_can_be_written(format: OutputFormat) -> None:
    assert (format.assumed_lossless is None) == (format.lossless == "never")
    assert (format.assumed_lossy is None) == (format.lossless == "always")
    for quality in (None, 80):
        assumed = format.assumed(quality)
        assert find_assumed(format.encoding(quality)) is assumed
        assert 0 < assumed.gray_bytes < 2
        assert 0 < assumed.color_bytes < 4
        assert assumed.seconds.low > 0
        assert re.search(
            r"benchmarks/results/[\w-]+\.json.* one thread of an .*, \d{4}-\d\d-\d\d", assumed.source
        )
    either = format.lossless == "without-quality"
    assert format.encoding(None) == format.name
    assert format.encoding(80) == (f"{format.name}-lossy" if either else format.name)
    assert find_assumed("auto") is None
    assert find_assumed("of-another-version") is None


def test_the_assumed_cost_of_a_format_is_what_its_source_measured() -> None:
    if not RESULTS.is_dir():
        pytest.skip("the benchmarks' results are not in this tree")
    for encoding in {format.encoding(quality) for format in FORMATS.values() for quality in (None, 80)}:
        assumed = assumed_for(encoding)
        named = re.findall(r"benchmarks/results/([\w-]+\.json)", assumed.source)
        assert named
        for name in named:
            report = json.loads((RESULTS / name).read_text(encoding="utf-8"))
            assert report["date"] in assumed.source
            if "assumed" in report:
                figures = report["assumed"][encoding]
                sizes = (figures["gray_bytes"], figures["colour_bytes"])
                assert (assumed.gray_bytes, assumed.color_bytes) == sizes
            else:
                figures = report["encode"][encoding]
                seconds = [assumed.seconds.low, assumed.seconds.likely, assumed.seconds.high]
                assert seconds == [figures["least"], figures["seconds_a_megapixel"], figures["most"]]


def assumed_for(encoding: str) -> Assumed:
    found = find_assumed(encoding)
    assert found is not None
    return found


@every_format
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("quality", [None, 95])
def test_a_page_comes_back_as_the_format_says(
    format: OutputFormat, channels: int, alpha: bool, bits: int, quality: int | None
) -> None:
    before = page(channels, alpha=alpha, bits=bits)
    after = written(format, before, quality)
    notes = " ".join(list_omissions(before, format.name, format.name))
    assert after.bits == (bits if bits in format.bits else 8)
    assert ("16-bit samples" in notes) == (bits not in format.bits)
    assert after.color.shape[2] == channels, "gray stays gray to the eye, colour colour"
    assert (after.alpha is not None) == (alpha and format.alpha)
    assert ("transparency" in notes) == (alpha and not format.alpha)
    expected = before.color.astype(float) / np.iinfo(before.color.dtype).max
    found = after.color.astype(float) / np.iinfo(after.color.dtype).max
    exact = format.is_lossless(quality) and after.bits == bits
    if before.alpha is not None and after.alpha is not None:
        shown = before.alpha.astype(float) / np.iinfo(before.alpha.dtype).max
        assert np.abs(after.alpha / np.iinfo(after.alpha.dtype).max - shown).max() <= (0 if exact else 0.02)
        if not exact:
            # The colour of what nobody sees may change.
            expected, found = expected * shown[:, :, None], found * shown[:, :, None]
    elif before.alpha is not None:
        shown = before.alpha.astype(float)[:, :, None] / np.iinfo(before.alpha.dtype).max
        expected = expected * shown + 1 - shown
    assert np.abs(found - expected).max() <= (0 if exact else 0.004 if format.is_lossless(quality) else 0.2)
    assert np.abs(found - expected).mean() <= 0.01
    if format.lossless == "never":
        assert not after.lossless
    if format.lossless == "always":
        assert after.lossless


@every_format
@pytest.mark.parametrize("alpha", [False, True])
def test_gray_is_one_channel_in_the_file_where_the_format_says_so(format: OutputFormat, alpha: bool) -> None:
    data = encode(page(1, alpha=alpha), format=format.name)
    if format.name == "avif":
        # Pillow reads every AVIF as three channels; the file itself says that it has light alone.
        one = bool(data[data.index(b"av1C") + 6] & 0b10000)
    else:
        one = decode(data, max_pixels=LIMIT, gray="keep").color.shape[2] == 1
    assert one is format.gray


@every_format
def test_a_quality_is_heeded_where_something_can_be_lost(format: OutputFormat) -> None:
    noise = Pixels(np.random.default_rng(5).integers(0, 256, (60, 60, 3), np.uint8))
    low, high = (len(encode(noise, format=format.name, quality=quality)) for quality in (20, 90))
    assert (low < high) is (format.lossless != "always")


def test_without_a_quality_a_format_that_always_loses_takes_its_own() -> None:
    for format in FORMATS.values():
        if format.lossless == "never":
            own = encode(page(), format=format.name, quality=format.default_quality)
            assert encode(page(), format=format.name) == own


@every_format
def test_a_lossy_file_stays_lossy_and_a_lossless_one_lossless(format: OutputFormat) -> None:
    for lossless in (False, True):
        quality = quality_for(format.name, "auto", None, lossless=lossless)
        if format.lossless == "without-quality":
            assert format.is_lossless(quality) is lossless
        else:
            assert quality is None
        assert quality_for(format.name, format.name, 70, lossless=lossless) == 70
    data = encode(page(), format=format.name)
    assert is_lossless(data) is format.is_lossless(None)
    if format.has_lossless_samples is not None:
        assert not is_lossless(encode(page(), format=format.name, quality=80))


@every_format
def test_the_limits_are_held_and_told(format: OutputFormat) -> None:
    longest, pixels = format.longest_side, format.pixel_limit()
    check_target(min(longest, pixels or longest), 1, format.name)
    for size in ((longest + 1, 1), (1, longest + 1)):
        with pytest.raises(PageError) as caught:
            check_target(*size, format.name)
        assert caught.value.kind == "too-large-for-format"
        assert f"{format.title} holds at most {longest} pixels a side" in caught.value.reason
        for other in FORMATS.values():
            offered = re.search(rf"(choose|,) {other.title}(,| or)", caught.value.reason) is not None
            assert offered is other.holds(*size), (other.name, caught.value.reason)
    if pixels is not None:
        side = min(longest, int(pixels**0.5) + 1)
        across = pixels // side + 1
        assert across <= longest
        with pytest.raises(PageError, match=f"{format.title} holds at most {pixels} pixels in all"):
            check_target(across, side, format.name)
        check_target(across - 1, side, format.name)


def test_a_guard_that_is_lifted_lifts_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    check_target(16383, 16383, "webp")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    with pytest.raises(PageError, match="WebP holds at most 100 pixels in all"):
        check_target(10, 11, "webp")


@pytest.mark.parametrize("name", ["webp", "jpeg", "avif"])
def test_the_longest_side_is_really_written(name: FormatName) -> None:
    row = np.zeros((1, FORMATS[name].longest_side, 1), np.uint8)
    data = encode(Pixels(row), format=name)
    check_encoded(data, (FORMATS[name].longest_side, 1))


@every_format
def test_the_resolution_is_kept_in_exif_where_there_is_no_other_place(format: OutputFormat) -> None:
    after = written(format, replace(page(), metadata=Metadata(dpi=(300.0, 300.0))))
    assert after.metadata.dpi == pytest.approx((300, 300), rel=0.001)
    assert (after.metadata.exif is not None) is format.density_in_exif


@every_format
def test_texts_are_kept_or_their_loss_is_told(format: OutputFormat) -> None:
    texts = (("parameters", "a cat"),)
    before = replace(page(), metadata=Metadata(text=texts))
    assert written(format, before).metadata.text == (texts if format.texts else ())
    assert (
        any("parameters" in note for note in list_omissions(before, format.name, format.name))
        is not format.texts
    )


@every_format
def test_a_profile_is_carried_or_its_loss_is_told(format: OutputFormat) -> None:
    # Red and blue exchanged, so that nobody takes it for sRGB.
    profile = SRGB.replace(b"rXYZ", b"?XYZ", 1).replace(b"bXYZ", b"rXYZ", 1).replace(b"?XYZ", b"bXYZ", 1)
    before = replace(page(), icc_profile=profile)
    carried = format.carries_profile is None or format.carries_profile(profile)
    assert (written(format, before).icc_profile is not None) is carried
    assert any("ICC" in note for note in list_omissions(before, format.name, format.name)) is not carried


@every_format
def test_metadata_of_any_length_is_kept_or_its_loss_is_told(format: OutputFormat) -> None:
    long = Metadata(xmp=b"<x:xmpmeta>" + b" " * 100_000 + b"</x:xmpmeta>")
    before = replace(page(), metadata=long)
    kept = written(format, before).metadata.xmp is not None
    assert (
        any("XMP left out" in note for note in list_omissions(before, format.name, format.name)) is not kept
    )


@every_format
def test_a_file_without_its_end_is_no_page(format: OutputFormat) -> None:
    data = encode(page(), format=format.name)
    for cut in (1, 12, len(data) // 2):
        if format.name == "tiff" and cut == 1:
            continue  # the last byte of a directory says that no other follows
        with pytest.raises(PageError) as caught:
            check_encoded(data[:-cut], (24, 36))
        assert caught.value.kind == "encode"
