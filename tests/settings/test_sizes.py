"""Sizes: one per job, and errors that say what to correct."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comic_upscale.errors import SettingsError
from comic_upscale.settings.job import JobSettings
from comic_upscale.settings.paths import default_output
from comic_upscale.settings.sizes import (
    Bounds,
    Fit,
    Height,
    LongSide,
    Print,
    Scale,
    Size,
    Width,
    choose_size,
    parse_size,
    size_text,
)


def test_each_way_of_asking() -> None:
    assert choose_size() == Scale(2.5)
    assert choose_size(scale=3) == Scale(3)
    assert choose_size(width=2000) == Width(2000)
    assert choose_size(height=3000) == Height(3000)
    assert choose_size(long_side=2400) == LongSide(2400)
    assert choose_size(fit="1600x2400") == choose_size(fit=" 1600 X 2400 ") == Fit(1600, 2400)
    assert choose_size(paper="170x260mm", dpi=600) == Print(170, 260, 600)
    assert choose_size(paper="17x26cm", bleed="3mm") == Print(170, 260, 300, 3)
    inches = choose_size(paper="6.69x10.24in", bleed="0.125in")
    assert isinstance(inches, Print)
    assert inches.width_mm == pytest.approx(169.926)
    assert inches.bleed_mm == pytest.approx(3.175)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"scale": 2, "width": 2000}, "--scale and --width"),
        ({"width": 2000, "height": 3000}, "--fit WxH"),
        ({"fit": "1x1", "paper": "170x260mm"}, "--fit and --print"),
        ({"scale": 0.9}, "--scale"),
        ({"width": 0}, "--width"),
        ({"height": 10**6}, "--height"),
        ({"long_side": -1}, "--long-side"),
        ({"fit": "1600"}, "--fit"),
        ({"fit": "0x5"}, "--fit"),
        ({"paper": "170x260"}, "--print"),
        ({"paper": "170x260px"}, "--print"),
        ({"paper": "1x260mm"}, "--print"),
        ({"paper": "170x260mm", "dpi": 5}, "--dpi"),
        ({"paper": "170x260mm", "bleed": "3"}, "--bleed"),
        ({"paper": "170x260mm", "bleed": "200mm"}, "--bleed"),
        ({"dpi": 300}, "--dpi needs --print"),
        ({"width": 2000, "bleed": "3mm"}, "--bleed needs --print"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_in_words(wrong: dict[str, object], named: str) -> None:
    with pytest.raises(SettingsError, match=named):
        choose_size(**wrong)  # type: ignore[arg-type]


def test_bounds() -> None:
    assert Bounds.parse("3000") == Bounds(3000, 3000)
    assert Bounds.parse("2000x3000") == Bounds(2000, 3000)
    for wrong in ("", "x", "2000x", "0", "-5", "2000x3000mm"):
        with pytest.raises(SettingsError, match="--skip-larger-than"):
            Bounds.parse(wrong)


def settings(**changes: object) -> JobSettings:
    return JobSettings(input=Path("pages"), output=Path("out"), **changes)  # type: ignore[arg-type]


def test_settings_take_a_scale_or_a_size() -> None:
    assert (settings().scale, settings().size) == (2.5, Scale(2.5))
    assert settings(size=Scale(3)) == settings(scale=3)
    wide = settings(size=Width(2000))
    assert (wide.scale, wide.size) == (None, Width(2000))
    assert '"size": "width 2000"' in wide.as_json()
    with pytest.raises(SettingsError, match="give one"):
        settings(scale=2, size=Width(2000))
    with pytest.raises(SettingsError, match="--scale"):
        settings(scale=0.9)


def test_settings_with_another_scale_or_size_keep_one() -> None:
    assert dataclasses.replace(settings(scale=2), scale=3).size == Scale(3)
    assert dataclasses.replace(settings(scale=2), workers=1).size == Scale(2)
    assert dataclasses.replace(settings(scale=2), scale=None, size=Width(9)).scale is None
    assert dataclasses.replace(settings(size=Width(9)), quality=None).size == Width(9)


sheets = st.floats(5, 5000, allow_nan=False)
some_sizes = (
    st.builds(Scale, st.floats(1, 8, exclude_min=True))
    | st.builds(Width, st.integers(1, 100_000))
    | st.builds(Height, st.integers(1, 100_000))
    | st.builds(LongSide, st.integers(1, 100_000))
    | st.builds(Fit, st.integers(1, 100_000), st.integers(1, 100_000))
    | st.builds(Print, sheets, sheets, st.floats(30, 2400), st.none() | st.floats(0, 2.5))
)


@given(some_sizes)
def test_a_size_is_read_from_its_text_as_the_very_same(size: Size) -> None:
    assert parse_size(size_text(size)) == size


def test_the_text_of_a_size_is_what_it_shows_where_that_loses_nothing() -> None:
    for size in (Scale(2.5), Width(9), LongSide(9), Fit(8, 9), Print(170, 260, 300, 3), Print(170, 260)):
        assert size_text(size) == str(size)


@pytest.mark.parametrize(
    "text", ["", "2.5", "scale", "scale x", "width 2.5", "side 5", "fit 5", "print 1x mm at 3 dpi", "width 0"]
)
def test_what_is_no_text_of_a_size(text: str) -> None:
    with pytest.raises(SettingsError):
        parse_size(text)


def test_a_size_is_part_of_the_fingerprint_and_a_scale_has_the_one_it_always_had() -> None:
    # As the first version made it, which kept what is gray: ledgers of old must go on.
    assert settings(scale=2.5, gray="keep").fingerprint("hash") == "cd433133e05ebfaed7e9127f46e91a6e"
    prints = {
        settings(size=size).fingerprint("hash")
        for size in (
            Scale(2),
            Width(2),
            Height(2),
            LongSide(2),
            Fit(2, 2),
            Print(50, 80),
            Print(50, 80, 300, 0),
        )
    }
    assert len(prints) == 7
    assert settings(skip_larger_than=Bounds(5, 5)).fingerprint("hash") == settings().fingerprint("hash")
    assert settings(sidecars="skip", copy_others=True).fingerprint("hash") == settings().fingerprint("hash")
    with pytest.raises(SettingsError, match="--sidecars"):
        settings(sidecars="move")


def test_a_folder_is_called_after_its_size(tmp_path: Path) -> None:
    names = [
        default_output(tmp_path / "a", size).name for size in (Width(9), Fit(8, 9), Print(170, 260, 300, 3))
    ]
    assert names == ["a-w9", "a-fit8x9", "a-print170x260mm-300dpi"]
