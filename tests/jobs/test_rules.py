"""Rules: pages of one run with settings of their own, by several networks, in one ledger."""

from __future__ import annotations

import io
import shutil
import threading
import zipfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from comic_upscale.engines.base import Batch, DeviceInfo, Upscaled
from comic_upscale.errors import DeviceError, SettingsError, WeightsError
from comic_upscale.execution.events import Event, JobFinished, JobStarted
from comic_upscale.execution.local import networks
from comic_upscale.execution.ssh.listing import is_page_name
from comic_upscale.imaging.jpeg_quality import jpeg_quality
from comic_upscale.jobs.run import run_job
from comic_upscale.ledger.queries import read_done_pages
from comic_upscale.ledger.writer import Ledger
from comic_upscale.library.page_rules import PageRules, by_path_marks, path_marks
from comic_upscale.planning.preview import count_replaced, preview
from comic_upscale.settings.job import JobSettings
from comic_upscale.settings.processing import ProcessingSettings
from comic_upscale.settings.rules import Rule, read_rules
from tests.conftest import MakeSettings
from tests.fakes import NearestEngine

GRAY, COLOUR, JPEG = "gray.png", "colour.png", "extra/low.jpg"
OWN, FAST, OTHER = "comic-compact-x3", "comic-fast-x3", "comic-best-x3"


def rules(*records: dict[str, Any]) -> tuple[Rule, ...]:
    return read_rules(list(records), ProcessingSettings)


def drawn(seed: int, *, gray: bool, side: int = 96) -> Image.Image:
    noise = np.random.default_rng(seed).integers(60, 200, (side // 8, side // 8, 1 if gray else 3), np.uint8)
    page = np.kron(noise, np.ones((8, 8, 1), np.uint8))
    return Image.fromarray(page[:, :, 0] if gray else page)


@pytest.fixture
def book(tmp_path: Path) -> Path:
    """A gray page, one in colour, and a JPEG in a folder."""
    folder = tmp_path / "book"
    (folder / "extra").mkdir(parents=True)
    drawn(1, gray=True).save(folder / GRAY)
    drawn(2, gray=False).save(folder / COLOUR)
    drawn(3, gray=False, side=64).save(folder / JPEG, quality=40)
    return folder


@pytest.fixture
def make(make_settings: MakeSettings, book: Path) -> Callable[..., JobSettings]:
    def settings(*records: dict[str, Any], **changes: Any) -> JobSettings:
        return make_settings(
            **{"input": book, "model": OWN, "scale": 2.0, "rules": rules(*records), **changes}
        )

    return settings


class Shop:
    """Opens fake engines, and knows which networks were open at the same time."""

    def __init__(self) -> None:
        self.opened: list[str] = []
        self.open: set[str] = set()
        self.most_open = 0
        self.pages: dict[str, int] = {}

    def __call__(self, settings: JobSettings, weights: Any) -> list[Any]:
        assert weights.model_name == Path(settings.model).name
        assert not settings.rules
        self.opened.append(settings.model)
        self.open.add(settings.model)
        self.most_open = max(self.most_open, len(self.open))
        return [_Engine(self, settings.model)]


class _Engine(NearestEngine):
    def __init__(self, shop: Shop, model: str) -> None:
        super().__init__()
        self._shop, self._model = shop, model

    def upscale(self, batch: Batch) -> Upscaled:
        assert self._model in self._shop.open
        self._shop.pages[self._model] = self._shop.pages.get(self._model, 0) + len(batch.pixels)
        return super().upscale(batch)

    def close(self) -> None:
        super().close()
        self._shop.open.discard(self._model)


def run(settings: JobSettings, shop: Any = None, events: list[Event] | None = None) -> JobFinished:
    listener = None if events is None else events.append
    return run_job(settings, open_engines=shop or Shop(), on_event=listener)


def notes(settings: JobSettings) -> dict[str, str]:
    return {str(page["source"]): str(page["notes"]) for page in read_done_pages(settings.ledger_path)[1]}


def test_each_page_goes_through_the_network_of_its_rules(make: Callable[..., JobSettings]) -> None:
    shop, events = Shop(), list[Event]()
    settings = make(
        {"gray": False, "model": "comic-fast"}, {"max_jpeg_quality": 60, "model": OTHER}, scale=2.5
    )
    finished = run(settings, shop, events)
    assert (finished.done_now, finished.failed) == (3, 0)
    assert shop.pages == {OWN: 1, FAST: 1, OTHER: 1}
    # The network of the job, and the others when a page needs them; never more than a few at a time.
    assert shop.opened[0] == OWN and set(shop.opened) == {OWN, FAST, OTHER}
    assert shop.most_open <= networks.MOST_OPEN and not shop.open
    told = notes(settings)
    assert f"model: {FAST}, by a rule" in told[COLOUR] and f"model: {OTHER}, by a rule" in told[JPEG]
    assert "model" not in told[GRAY]
    started = next(event for event in events if isinstance(event, JobStarted))
    assert started.rules == (f"not gray: model {FAST}", f"max_jpeg_quality 60: model {OTHER}")


def test_a_network_that_no_page_needs_is_not_opened(make: Callable[..., JobSettings]) -> None:
    shop = Shop()
    run(make({"min_height": 5000, "model": FAST}), shop)
    assert shop.opened == [OWN]


def test_networks_come_and_go_when_pages_alternate(
    make: Callable[..., JobSettings], book: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(networks, "MOST_OPEN", 1)
    for number in range(12):
        drawn(number, gray=number % 2 == 0).save(book / f"{number:02}.png")
    shop = Shop()
    assert run(make({"gray": False, "model": FAST}), shop).done_now == 15
    assert shop.most_open == 1 and not shop.open
    assert shop.pages == {OWN: 7, FAST: 8}


def test_a_network_that_cannot_be_opened_ends_the_run_and_the_rest_goes_on_later(
    make: Callable[..., JobSettings],
) -> None:
    shop = Shop()

    def broken(settings: JobSettings, weights: Any) -> list[Any]:
        if settings.model == FAST:
            raise WeightsError("the weights are broken")
        return shop(settings, weights)

    with pytest.raises(WeightsError, match="broken"):
        run(make({"gray": False, "model": FAST}), broken)
    assert not shop.open
    finished = run(make({"gray": False, "model": FAST}))
    assert finished.done == 3


def test_the_quality_gate_repeats_a_page_by_its_own_network(make: Callable[..., JobSettings]) -> None:
    conservative: list[str] = []

    class Odd(_Engine):
        def upscale(self, batch: Batch) -> Upscaled:
            larger = super().upscale(batch)
            if batch.conservative:
                conservative.append(self._model)
                return larger
            return Upscaled(255 - larger.pixels) if self._model == FAST else larger

    shop = Shop()

    def open_engines(settings: JobSettings, weights: Any) -> list[Any]:
        shop(settings, weights)
        return [Odd(shop, settings.model)]

    settings = make({"gray": False, "model": FAST})
    run(settings, open_engines)
    assert conservative == [FAST, FAST]
    told = notes(settings)
    assert "upscaled again" in told[COLOUR] and "upscaled again" not in told[GRAY]


def test_a_gpu_that_fails_with_one_network_is_not_used_by_another(
    make: Callable[..., JobSettings], book: Path
) -> None:
    for number in range(12):
        drawn(number, gray=number % 2 == 0).save(book / f"{number:02}.png")
    shop, used, lost = Shop(), list[tuple[str, int]](), threading.Event()

    class OnGpu(_Engine):
        def __init__(self, model: str, index: int) -> None:
            super().__init__(shop, model)
            self.info = replace(self.info, device=DeviceInfo("cuda", index, "a GPU"))
            self._index = index

        def upscale(self, batch: Batch) -> Upscaled:
            assert not (self._index == 1 and lost.is_set())
            used.append((self._model, self._index))
            if (self._model, self._index) == (FAST, 1):
                lost.set()
                raise DeviceError("the GPU fell off the bus")
            if self._model == FAST:
                lost.wait(10)
            return super().upscale(batch)

    def open_engines(settings: JobSettings, weights: Any) -> list[Any]:
        shop(settings, weights)
        return [OnGpu(settings.model, index) for index in range(2)]

    finished = run(make({"gray": False, "model": FAST}), open_engines)
    assert (finished.done_now, finished.failed) == (15, 0)
    assert lost.is_set() and {(OWN, 0), (FAST, 0)} <= set(used)


def output(settings: JobSettings, name: str) -> np.ndarray:
    return np.asarray(Image.open(settings.output / name))


def test_levels_and_quality_by_rule(make: Callable[..., JobSettings], tmp_path: Path) -> None:
    plain = make(output=tmp_path / "plain", format="webp", quality=90)
    ruled = make(
        {"gray": True, "levels": "100,150"}, {"max_jpeg_quality": 60, "quality": 20},
        output=tmp_path / "ruled", format="webp", quality=90,
    )  # fmt: skip
    run(plain)
    run(ruled)
    before, after = output(plain, "gray.webp"), output(ruled, "gray.webp")
    assert (after[before < 95] < 20).all() and (after[before > 155] > 235).all()
    assert "levels: black from 100, white from 150" in notes(ruled)[GRAY]
    # The gate compares with the levelled page: an inverted or stretched one would be suspect.
    assert all(page["suspect"] is None and page["scores"] for page in read_done_pages(ruled.ledger_path)[1])
    assert (output(plain, "colour.webp") == output(ruled, "colour.webp")).all()
    sizes = [(each.output / "extra" / "low.webp").stat().st_size for each in (plain, ruled)]
    assert sizes[1] < 0.7 * sizes[0]


def test_a_path_decides_the_format_of_pages_and_volumes(make: Callable[..., JobSettings], book: Path) -> None:
    with zipfile.ZipFile(book / "vol.cbz", "w") as archive:
        archive.write(book / GRAY, "inside/1.png")
        archive.write(book / COLOUR, "cover.png")
    Image.open(book / COLOUR).save(book / "gray.bmp")
    settings = make(
        {"path": ["extra/", "cover.png"], "format": "jpeg", "quality": 80}, {"path": "gray.*", "format": "auto"},
        format="webp", quality=90,
    )  # fmt: skip
    names = {page.source: page.output for page in preview(settings).pages}
    assert run(settings).failed == 0
    made = {path.name for path in settings.output.rglob("*.*") if ".comic-upscale" not in path.parts}
    assert made == {"gray.png", "gray_bmp.png", "colour.webp", "low.jpg", "vol.cbz"}
    assert {names[GRAY], names["gray.bmp"]} == {"gray.png", "gray_bmp.png"} and names[JPEG] == "extra/low.jpg"
    with zipfile.ZipFile(settings.output / "vol.cbz") as archive:
        held = {name: archive.read(name)[:4] for name in archive.namelist()}
    assert held["cover.jpg"][:2] == b"\xff\xd8" and held["inside/1.webp"] == b"RIFF"
    with Image.open(settings.output / "extra" / "low.jpg") as image:
        assert image.format == "JPEG"
    assert jpeg_quality((settings.output / "extra" / "low.jpg").read_bytes()) == 80
    assert run(settings).done_now == 0


def test_all_matching_rules_count_and_a_later_one_wins(make: Callable[..., JobSettings]) -> None:
    settings = make(
        {"levels": "10,240"},
        {"path": "gray.*", "levels": "100,150"},
        {"path": ["gray.*", "!gray.png"], "levels": "off"},
    )  # fmt: skip
    run(settings)
    assert "black from 100" in notes(settings)[GRAY]


def test_equal_pages_at_paths_with_different_rules_are_two_pages(
    make: Callable[..., JobSettings], book: Path
) -> None:
    shutil.copy(book / GRAY, book / "extra" / "same.png")
    shutil.copy(book / GRAY, book / "zz.png")
    settings = make({"path": "extra/", "levels": "100,150"})
    run(settings)
    made = {str(page["source"]): page for page in read_done_pages(settings.ledger_path)[1]}
    assert made["extra/same.png"]["copied_from"] is None
    assert {made[GRAY]["copied_from"], made["zz.png"]["copied_from"]} in ({None, "zz.png"}, {None, GRAY})
    assert (output(settings, GRAY) == output(settings, "zz.png")).all()
    assert (output(settings, GRAY) != output(settings, "extra/same.png")).any()
    # Also by a later run, whose pages of the first one are known by the ledger alone.
    shutil.copy(book / GRAY, book / "extra" / "later.png")
    run(settings)
    assert (output(settings, "extra/later.png") == output(settings, "extra/same.png")).all()


def test_a_page_or_volume_that_moves_under_another_rule_is_made_again(
    make: Callable[..., JobSettings], book: Path
) -> None:
    with zipfile.ZipFile(book / "vol.cbz", "w") as archive:
        archive.write(book / GRAY, "1.png")
    settings = make({"path": ["covers/", "special*"], "levels": "100,150"})
    assert run(settings).done_now == 4
    (book / "covers").mkdir()
    (book / GRAY).rename(book / "covers" / GRAY)
    (book / COLOUR).rename(book / "renamed.png")
    (book / "vol.cbz").rename(book / "special.cbz")
    finished = run(settings)
    # The page in colour moves with its output; the two others get the levels of their new place.
    assert finished.done_now == 2
    assert (output(settings, f"covers/{GRAY}") == 0).any()
    with zipfile.ZipFile(settings.output / "special.cbz") as archive:
        assert (np.asarray(Image.open(io.BytesIO(archive.read("1.png")))) == 0).any()


def test_marks_in_the_names_of_pages_stand_for_their_paths(make: Callable[..., JobSettings]) -> None:
    """As a remote machine gets its pages: with names of its own, and without a path."""
    settings = make(
        {"path": "extra/", "levels": "10,240"},
        {"gray": True, "levels": "20,230"},
        {"path": "*.jpg", "format": "webp"},
    )
    known = PageRules(settings)
    names = {}
    for source in (GRAY, COLOUR, JPEG):
        marks = path_marks(known.path_matches(source))
        names[source] = f"{source.encode().hex():0<64}{marks}.{'webp' if source == JPEG else 'png'}"
        assert is_page_name(names[source])
    assert ".p0.p2." in names[JPEG]
    there = by_path_marks(settings)
    assert "extra" not in str(there.rules)
    rules = PageRules(there)
    for source, name in names.items():
        assert rules.path_matches(name) == known.path_matches(source)
        assert rules.format_of(name) == known.format_of(source)
    assert not is_page_name(f"{'0' * 64}/../.p0.png") and not is_page_name(f"{'0' * 64}.p.png")


def test_a_second_run_has_nothing_to_do(make: Callable[..., JobSettings]) -> None:
    settings = make({"gray": False, "model": FAST})
    run(settings)
    shop = Shop()
    assert run(settings, shop).done == 3 and not shop.opened


def test_a_changed_rule_makes_only_its_pages_again(make: Callable[..., JobSettings], tmp_path: Path) -> None:
    run(make())
    before = {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in (GRAY, COLOUR)}
    changed = make({"gray": False, "min_height": 90, "model": FAST})
    assert count_replaced(changed) == 1
    foreseen = {page.source: (page.action, page.again) for page in preview(changed).pages}
    assert foreseen == {GRAY: ("done", None), JPEG: ("done", None), COLOUR: ("do", "made with no rules")}
    shop = Shop()
    finished = run(changed, shop)
    assert (finished.done, finished.done_now) == (3, 1)
    assert shop.pages == {FAST: 1}
    assert (tmp_path / "out" / GRAY).stat().st_mtime_ns == before[GRAY]
    assert (tmp_path / "out" / COLOUR).stat().st_mtime_ns != before[COLOUR]
    # And back: the page in colour again, and no other.
    assert run(make()).done_now == 1


@pytest.mark.parametrize(
    "change",
    [
        {"quality": 80, "format": "webp"},
        {"neutral_paper": True},
        {"gray": "keep"},
        {"raw": True},
        {"model": FAST},
    ],
    ids=str,
)
def test_other_settings_make_every_page_again(
    make: Callable[..., JobSettings], change: dict[str, Any]
) -> None:
    run(make())
    assert run(make(**change)).done_now == 3


def test_an_edited_output_or_source_is_not_kept(make: Callable[..., JobSettings], book: Path) -> None:
    run(make())
    (book.parent / "out" / GRAY).write_bytes(b"edited")
    drawn(9, gray=False, side=64).save(book / JPEG, quality=41)
    # The file that somebody wrote there is no output of ours, so its page fails, and says why.
    finished = run(make({"gray": False, "min_height": 5000, "model": FAST}))
    assert (finished.done_now, finished.failed) == (1, 1)


def test_a_ledger_with_odd_settings_of_pages_makes_them_again(make: Callable[..., JobSettings]) -> None:
    settings = make()
    run(settings)
    with closing(Ledger(settings.ledger_path)) as ledger:
        for row, text in enumerate(["[]", '{"fingerprint": 3}', "{}"], start=1):
            ledger._db.execute("update pages set own_settings = ? where id = ?", [text, row])
        ledger._db.conn.commit()
    assert run(make({"min_height": 5000, "levels": "auto"})).done_now == 3


def test_the_weights_of_a_rule_identify_the_job_not_their_name(
    make: Callable[..., JobSettings], tiny_weights: Path, tmp_path: Path
) -> None:
    copy = shutil.copy(tiny_weights, tmp_path / "copy.safetensors")
    run(make({"gray": False, "model": str(tiny_weights)}))
    # The same file under another name goes on.
    assert run_job(make({"gray": False, "model": str(copy)}), open_engines=Shop()).done_now == 0


@pytest.mark.parametrize(
    ("rule", "error", "says"),
    [
        ({"model": "comic-bset"}, WeightsError, "rule 1: .*comic-best"),
        ({"model": "auto"}, SettingsError, "rule 1: the model of a rule must be named"),
        ({"model": OWN, "denoise": 0.5}, SettingsError, "rule 1: .*denoise"),
        ({"path": "!", "levels": "auto"}, SettingsError, "rule 1: path"),
    ],
)
def test_a_wrong_rule_is_told_before_anything_is_written(
    make: Callable[..., JobSettings], rule: dict[str, Any], error: type[Exception], says: str
) -> None:
    settings = make(rule)
    if "model" in rule:
        # Who did not write the rule needs to know where it is.
        with pytest.raises(error, match=says.replace("rule 1", "rule 1 of the profile mine")):
            run_job(replace(settings, profile="mine"))
    with pytest.raises(error, match=says):
        run(settings)
    assert not settings.output.exists() or not list(settings.output.rglob("*.png"))
