"""Settings: checked once, and a fingerprint of what decides the pixels."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comic_upscale.errors import SettingsError
from comic_upscale.settings.job import FailureLimit, JobSettings, parse_bytes
from comic_upscale.settings.paths import default_output


def settings(**changes: object) -> JobSettings:
    return JobSettings(**{"input": Path("pages"), "output": Path("out"), **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "wrong",
    [
        {"scale": 0.9},
        {"scale": 8.01},
        {"scale": float("nan")},
        {"scale": float("inf")},
        {"format": "bmp"},
        {"precision": "fp8"},
        {"archive_output": "rar"},
        {"pdf_dpi": 0},
        {"max_members": 0},
        {"max_unpacked": 0},
        {"max_ratio": 0.5},
        {"backend": "caffe"},
        {"format": "webp", "quality": 0},
        {"format": "jpeg", "quality": 101},
        {"quality": 90},
        {"denoise": -0.1},
        {"denoise": 1.1},
        {"workers": 0},
        {"batch": 0},
        {"tile": 63},
        {"max_pixels": 0},
        {"output": Path("pages")},
        {"output": Path("pages/../pages")},
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_in_words(wrong: dict[str, object]) -> None:
    with pytest.raises(SettingsError, match=r"--\w+"):
        settings(**wrong)


def test_output_that_is_the_input_by_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pages").mkdir()
    (tmp_path / "link").symlink_to("pages")
    with pytest.raises(SettingsError):
        settings(input=tmp_path / "pages", output=tmp_path / "link")


CHANGES_PIXELS = [
    {"scale": 2.4},
    {"denoise": 0.5},
    {"format": "webp"},
    {"format": "jpeg", "quality": 90},
    {"precision": "fp32"},
    {"tile": 256},
    {"backend": "realesrgan"},
]
CHANGES_NOTHING = [
    {"workers": 9},
    {"batch": 3},
    {"device": "cpu"},
    {"overwrite": True},
    {"retry_failed": True},
    {"max_failures": FailureLimit(count=1)},
    {"ledger": Path("x.sqlite3")},
    {"weights_cache": Path("x")},
]


@pytest.mark.parametrize("change", CHANGES_PIXELS, ids=str)
def test_what_changes_pixels_changes_the_fingerprint(change: dict[str, object]) -> None:
    assert settings(**change).fingerprint("hash") != settings().fingerprint("hash")


@pytest.mark.parametrize("change", CHANGES_NOTHING, ids=str)
def test_what_changes_no_pixel_does_not(change: dict[str, object]) -> None:
    assert settings(**change).fingerprint("hash") == settings().fingerprint("hash")


def test_the_weights_are_part_of_the_fingerprint() -> None:
    assert settings().fingerprint("one") != settings().fingerprint("two")


def test_settings_are_kept_as_json() -> None:
    kept = json.loads(settings(max_failures=FailureLimit.parse("5%"), weights_folders=(Path("w"),)).as_json())
    assert kept["max_failures"] == "5%"
    assert kept["weights_folders"] == ["w"]
    assert kept["input"] == str(Path("pages").absolute())


def test_the_default_output_says_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "cover.final.png").touch()
    assert default_output(tmp_path / "pages", 2.5) == tmp_path / "pages-x2.5"
    assert default_output(tmp_path / "pages/", 2.0) == tmp_path / "pages-x2"
    assert default_output(tmp_path / "cover.final.png", 2.5) == tmp_path / "cover.final-x2.5"
    assert default_output(tmp_path / "a" / "..", 2.5) == tmp_path.with_name(f"{tmp_path.name}-x2.5")


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(1, 10**6))
def test_a_count_of_failures(count: int, failed: int, total: int) -> None:
    assert FailureLimit.parse(str(count)).is_exceeded(failed, total) == (failed > count)


@pytest.mark.parametrize(("text", "failed", "exceeded"), [("5%", 5, False), ("5%", 6, True), ("0%", 1, True)])
def test_a_share_of_failures(text: str, failed: int, exceeded: bool) -> None:
    assert FailureLimit.parse(text).is_exceeded(failed, 100) is exceeded


@pytest.mark.parametrize("text", ["", "-1", "many", "101%", "-1%", "%", "nan%"])
def test_a_limit_that_is_none(text: str) -> None:
    with pytest.raises(SettingsError, match="--max-failures"):
        FailureLimit.parse(text)


@pytest.mark.parametrize(
    ("text", "size"), [("1", 1), ("500M", 500 << 20), ("16g", 16 << 30), ("2 KiB", 2048), ("3TB", 3 << 40)]
)
def test_bytes(text: str, size: int) -> None:
    assert parse_bytes(text, "--max-unpacked") == size


@pytest.mark.parametrize("text", ["", "G", "-1", "1.5G", "1X", "1" * 16])
def test_no_bytes(text: str) -> None:
    with pytest.raises(SettingsError, match="--max-unpacked"):
        parse_bytes(text, "--max-unpacked")


def test_what_volumes_become_is_part_of_the_fingerprint_where_it_is_not_the_default() -> None:
    plain = settings().fingerprint("model")
    assert settings(archive_output="folder").fingerprint("model") != plain
    assert settings(pdf_dpi=300).fingerprint("model") != plain
    assert settings(keep_original_on_failure=True, max_members=5).fingerprint("model") == plain
