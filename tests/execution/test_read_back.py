"""Files that were just written are read back: the first ones always, later ones of some formats now and then."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from comic_upscale.errors import PageError
from comic_upscale.execution.local import steps as module
from comic_upscale.execution.local.steps import Handover, PageSteps
from comic_upscale.imaging.codecs import FORMATS
from comic_upscale.imaging.pixels import Pixels
from comic_upscale.settings.job import FormatName
from tests.conftest import MakeSettings

WRITTEN = 100
FIRST = 16


def page() -> Handover:
    return Handover(Pixels(np.full((4, 6, 3), 90, np.uint8)))


def read_back(steps: PageSteps, format: FormatName, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Write pages; return the numbers of those whose files were read back."""
    found, checks = [], Counter[str]()
    with monkeypatch.context() as patch:
        patch.setattr(module, "check_encoded", lambda *_: checks.update(["all"]))
        for number in range(WRITTEN):
            before = checks.total()
            steps.encode(page(), (6, 4), format)
            if checks.total() > before:
                found.append(number)
    return found


def test_the_first_pngs_and_then_every_sixteenth_are_read_back(
    make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = PageSteps(make_settings(), {"auto": 4})
    expected = [*range(FIRST), *range(FIRST, WRITTEN, 16)]

    assert read_back(steps, "png", monkeypatch) == expected
    # Each format counts for itself, and has to show that it works.
    quick = {**FORMATS, "tiff": replace(FORMATS["tiff"], read_back_every=16)}
    monkeypatch.setattr(module, "FORMATS", quick)
    assert read_back(steps, "tiff", monkeypatch) == expected


@pytest.mark.parametrize("format", [name for name in FORMATS if name != "png"])
def test_every_file_of_another_format_is_read_back(format: FormatName) -> None:
    assert FORMATS[format].read_back_every == 1


def test_every_file_that_takes_the_place_of_its_original_is_read_back(
    make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = make_settings()
    steps = PageSteps(replace(settings, output=None, replace_sources=True), {"auto": 4})
    assert read_back(steps, "png", monkeypatch) == list(range(WRITTEN))


def test_a_damaged_file_is_found_late_in_a_run_too(
    make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = PageSteps(make_settings(), {"auto": 4})
    for _ in range(FIRST + 1):
        steps.encode(page(), (6, 4), "png")
    whole = module.encode
    monkeypatch.setattr(module, "encode", lambda *args, **named: whole(*args, **named)[:-20])

    with pytest.raises(PageError, match="does not decode"):
        for _ in range(16):
            steps.encode(page(), (6, 4), "png")
