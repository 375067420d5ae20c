"""Runs where pages are sized each by itself, are large enough already, or are for paper."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from comic_upscale.execution.events import Event, JobFinished
from comic_upscale.jobs.run import run_job
from comic_upscale.ledger.records import PageDone, PageSkipped
from comic_upscale.planning.preview import preview
from comic_upscale.settings.job import JobSettings
from comic_upscale.settings.screens import Screen
from comic_upscale.settings.sizes import Bounds, Fit, LongSide, Print, Width
from tests.conftest import draw
from tests.fakes import NearestEngine


@pytest.fixture
def settings(tmp_path: Path) -> JobSettings:
    """A folder of three shapes, and a file in the place of a network: the engine is none that would read it."""
    (tmp_path / "any.pth").write_bytes(b"weights")
    for number in range(3):
        draw(tmp_path / "pages" / f"{number}.png", number, size=(20, 30))
    draw(tmp_path / "pages" / "wide.png", 7, size=(40, 30))
    draw(tmp_path / "pages" / "large.png", 8, size=(80, 60), mode="RGBA")
    return JobSettings(
        input=tmp_path / "pages", output=tmp_path / "out", model=str(tmp_path / "any.pth"), workers=2
    )


def change(settings: JobSettings, **changes: object) -> JobSettings:
    import dataclasses

    return dataclasses.replace(settings, scale=None, **changes)  # type: ignore[arg-type]


def run(settings: JobSettings, engine: NearestEngine | None = None) -> tuple[JobFinished, list[Event]]:
    events: list[Event] = []
    engines = [engine or NearestEngine(limit=4)]
    finished = run_job(settings, on_event=events.append, open_engines=lambda *_: list(engines))
    return finished, events


def sizes(folder: Path) -> dict[str, tuple[int, int]]:
    found = {}
    for path in sorted(folder.glob("*.png")):
        with Image.open(path) as image:
            found[path.name] = image.size
    return found


def refuse(*_: object) -> list[NearestEngine]:
    raise AssertionError("an engine was opened although nothing is left to do")


def test_every_page_has_its_own_factor_and_only_equal_ones_share_a_batch(settings: JobSettings) -> None:
    engine = NearestEngine(limit=4)
    finished, events = run(change(settings, size=Width(60)), engine)
    assert finished.done == 5
    assert sizes(settings.output) == {
        "0.png": (60, 90), "1.png": (60, 90), "2.png": (60, 90), "large.png": (60, 45), "wide.png": (60, 45),
    }  # fmt: skip
    assert {shape[1:3] for shape in engine.batches} == {(30, 20), (30, 40)}  # the large page went past it
    notes = {event.source: event.notes for event in events if isinstance(event, PageDone)}
    assert notes["large.png"] == ("larger than asked: shrunk by Lanczos, no network",)
    assert notes["0.png"] == ()
    again = run_job(change(settings, size=Width(60)), open_engines=refuse)
    assert (again.done, again.done_now) == (5, 0)


def test_a_page_that_is_shrunk_is_pillows_own(settings: JobSettings) -> None:
    run(change(settings, size=Width(60)))
    with (
        Image.open(settings.input / "large.png") as source,
        Image.open(settings.output / "large.png") as output,
    ):
        alpha = source.getchannel("A").resize((60, 45), Image.Resampling.LANCZOS)
        assert np.array_equal(np.asarray(output.getchannel("A")), np.asarray(alpha))


def test_a_page_of_that_size_already_keeps_its_samples(settings: JobSettings) -> None:
    _, events = run(change(settings, size=Fit(40, 30)))
    with (
        Image.open(settings.input / "wide.png") as source,
        Image.open(settings.output / "wide.png") as output,
    ):
        assert np.array_equal(np.asarray(source), np.asarray(output))
    notes = {event.source: event.notes for event in events if isinstance(event, PageDone)}
    assert notes["wide.png"] == ("large enough: kept at its size",)


def test_what_is_far_too_small_fails_alone_and_resampling_is_told(settings: JobSettings) -> None:
    finished, events = run(change(settings, size=LongSide(600)))
    assert (finished.done, finished.failed) == (2, 3)  # 20 times for three of them, 15 and 7.5 for two
    assert {kind for _, kind, _ in finished.failures} == {"too-small"}
    other = change(settings, size=LongSide(600), output=settings.output / "other")
    assert preview(other).counts == {"refuse": 3, "do": 2}
    notes = {event.source: event.notes for event in events if isinstance(event, PageDone)}
    assert notes["wide.png"] == ("enlarged 15.00 times: the network makes 4x, the rest is resampling",)


def test_pages_larger_than_bounds_are_skipped_for_as_long_as_they_are(settings: JobSettings) -> None:
    bounded = change(settings, size=Width(60), skip_larger_than=Bounds(50, 50))
    finished, events = run(bounded)
    assert (finished.done, finished.skipped, finished.pending, finished.state) == (4, 1, 0, "finished")
    assert "large.png" not in sizes(settings.output)
    (skipped,) = [event for event in events if isinstance(event, PageSkipped)]
    assert skipped.reason == "already larger than 50x50: 80x60"
    again = run_job(bounded, open_engines=refuse)
    assert (again.done, again.skipped) == (4, 1)
    planned = {page.source: page for page in preview(bounded).pages}
    assert (planned["large.png"].action, planned["0.png"].action) == ("skip", "done")
    finished, _ = run(change(settings, size=Width(60)))
    assert (finished.done, finished.done_now, finished.skipped) == (5, 1, 0)


@pytest.mark.parametrize("format", ["png", "webp", "jpeg"])
def test_a_page_for_paper_says_its_density_and_what_is_cut_off(settings: JobSettings, format: str) -> None:
    paper = Print(10, 12, 150, 0)
    _, events = run(change(settings, size=paper, format=format))
    page = next(event for event in events if isinstance(event, PageDone) and event.source == "0.png")
    assert (page.output_width, page.output_height) == (59, 89)
    assert page.notes[0] == "3.0 mm of its height is cut off: 1.5 mm a side"
    with Image.open(settings.output / page.output) as image:
        density = image.info.get("dpi") or [image.getexif()[282]] * 2
        assert [round(float(value)) for value in density] == [150, 150]
    ledger = sqlite3.connect(settings.ledger_path)
    (kept,) = ledger.execute("select notes from pages where source = '0.png'").fetchone()
    ledger.close()
    assert kept == "; ".join(page.notes)
    planned = {page.source: page for page in preview(change(settings, size=paper, format=format)).pages}
    assert planned["0.png"].note == page.notes[0]


def test_the_plan_tells_sizes_kinds_and_weight(settings: JobSettings) -> None:
    draw(settings.input / "gray.png", 9, size=(20, 30), mode="L")
    (settings.input / "0.txt").write_text("a caption")
    (settings.input / "notes.md").write_text("notes")
    told: list[str] = []
    planned = preview(change(settings, size=Width(60)), lambda page: told.append(page.source))
    pages = {page.source: page for page in planned.pages}
    assert told == [page.source for page in planned.pages]
    assert (pages["gray.png"].color, pages["0.png"].color) == ("gray", "colour")
    assert pages["0.png"].target_size == (60, 90)
    assert pages["0.png"].estimated_bytes == round(60 * 90 * 1.22)
    assert planned.bytes_per_pixel is None
    assert (planned.sidecars, planned.others, planned.passed_over) == (1, 0, {"not an image": 1})
    assert not settings.output.exists()
    run(change(settings, size=Width(60)))
    (settings.output / "0.png").unlink()
    planned = preview(change(settings, size=Width(60), copy_others=True))
    assert planned.bytes_per_pixel is not None
    assert planned.estimated_bytes == pytest.approx(60 * 90 * planned.bytes_per_pixel, abs=1)
    assert (planned.sidecars, planned.others) == (1, 1)


def test_the_plan_of_a_gray_screen_has_gray_pages(settings: JobSettings) -> None:
    gray, colour = (
        next(page for page in preview(change(settings, size=screen)).pages if page.source == "0.png")
        for screen in (Screen("e-ink", 100, 150, 16), Screen("lcd", 100, 150, None))
    )
    assert (gray.color, colour.color) == ("gray", "colour")
    assert gray.target_size == colour.target_size
    assert (gray.estimated_bytes or 0) < (colour.estimated_bytes or 0) / 2
