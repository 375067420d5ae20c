"""E-readers: the data, how a device is found by its name, and the text of a screen."""

from __future__ import annotations

from pathlib import Path

import pytest

from comic_upscale.errors import SettingsError
from comic_upscale.settings.job import JobSettings
from comic_upscale.settings.screens import Screen, find_device, read_devices
from comic_upscale.settings.sizes import choose_size, parse_size, size_text


def test_every_device_has_a_screen_and_a_dated_source() -> None:
    devices = read_devices()
    assert len(devices) >= 40
    for name, device in devices.items():
        assert (device.name, device.screen.device) == (name, name)
        assert device.screen.width < device.screen.height
        assert device.source.rpartition(", ")[2].startswith("20")
    brands = {name.partition("-")[0] for name in devices}
    assert brands == {"kindle", "kobo", "pocketbook", "remarkable", "boox"}
    assert devices["kobo-libra-2"].screen == Screen("kobo-libra-2", 1264, 1680, 16)
    assert devices["kobo-libra-colour"].screen.levels is None


@pytest.mark.parametrize(
    "name", ["kobo-libra-colour", "Kobo Libra Colour", "KOBO libra color", "kobolibracolor"]
)
def test_a_device_has_more_than_one_spelling(name: str) -> None:
    assert find_device(name).name == "kobo-libra-colour"


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("kobo libre 2", "kobo-libra-2"),
        ("libra", "kobo-libra-h2o"),
        ("kindle paperwite 5", "kindle-paperwhite-5"),
    ],
)
def test_a_wrong_name_gets_similar_ones(name: str, hint: str) -> None:
    with pytest.raises(SettingsError, match=hint):
        find_device(name)


@pytest.mark.parametrize("name", ["", "   ", "\0", "zzzzzzzz"])
def test_a_name_of_nothing_is_refused(name: str) -> None:
    with pytest.raises(SettingsError, match="comic-upscale devices"):
        find_device(name)


@pytest.mark.parametrize("device", read_devices().values(), ids=lambda device: device.name)
def test_the_text_of_a_screen_reads_back(device: object) -> None:
    for spreads in ("keep", "split", "rotate", "both"):
        size = choose_size(fit_device=device.name, spreads=spreads)  # type: ignore[attr-defined, arg-type]
        assert parse_size(size_text(size)) == size


def test_a_job_keeps_the_figures_of_its_screen() -> None:
    settings = JobSettings(
        input=Path("in"),
        output=Path("out"),
        size=Screen("mine", 600, 800, 4, 1.25, "both"),
        right_to_left=True,
    )
    again = JobSettings.from_json(settings.as_json())
    assert again.size == settings.size
    assert again.screen == settings.size
    assert again.icc_mode == "srgb"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"spreads": "split"}, "--spreads needs --fit-device"),
        ({"fit_device": "kobo-nia", "width": 100}, "exclude each other"),
    ],
)
def test_options_that_contradict_each_other(given: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        choose_size(**given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "figures",
    [("x", 50, 800), ("x", 600, 20_000), ("x", 600, 800, 1), ("x", 600, 800, 16, 9.0), ("X y", 600, 800)],
)
def test_impossible_screens(figures: tuple[object, ...]) -> None:
    with pytest.raises(SettingsError):
        Screen(*figures)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"archive_output": "epub", "format": "avif"}, "--format png or jpeg or webp"),
        ({"archive_output": "pdf", "format": "webp"}, "--format png or jpeg"),
        ({"max_volume_size": 10**6}, "--archive-output epub"),
        ({"archive_output": "epub", "max_volume_size": 10}, "at least"),
    ],
)
def test_books_take_what_e_readers_show(options: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        JobSettings(input=Path("in"), output=Path("out"), **options)  # type: ignore[arg-type]
