"""``--max-cost``: a run stops before its ceiling, within a batch of it, and goes on when it is raised."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from comic_upscale.errors import SettingsError
from comic_upscale.execution.events import JobFinished
from comic_upscale.jobs.run import run_job
from comic_upscale.ledger.status import read_status
from comic_upscale.settings.job import JobSettings
from tests.conftest import MakeSettings
from tests.fakes import NearestEngine, pause

PAGE_SECONDS = 0.3
PRICE = 3600.0
"""A dollar a second, so that the figures are seconds too."""


def go(settings: JobSettings, engine: NearestEngine | None = None) -> JobFinished:
    slow = engine or NearestEngine(pause(PAGE_SECONDS))
    return run_job(settings, open_engines=lambda *_: [slow])


def test_a_run_stops_within_one_batch_below_the_ceiling_and_goes_on(make_settings: MakeSettings) -> None:
    settings = make_settings(price=PRICE, max_cost=3.0)
    began = time.monotonic()
    engine = NearestEngine(pause(PAGE_SECONDS))
    first = go(settings, engine)
    took = time.monotonic() - began
    assert (first.state, first.stopped_by) == ("interrupted", "max-cost")
    assert first.reason is not None
    assert first.reason.startswith("--max-cost $3")
    assert first.spent is not None
    assert 0 < first.done < first.total
    assert len(engine.batches) <= 2 * first.done, "nothing was taken on that was not finished"
    assert first.spent <= 3.0 + PAGE_SECONDS, "within a batch of it"
    assert first.spent <= took, "a dollar a second"
    # Nothing is lost or half done, and a higher ceiling continues where it was; what was spent counts.
    with closing(sqlite3.connect(settings.ledger_path)) as ledger, ledger:
        states = dict(ledger.execute("select state, count(*) from pages group by state"))
    assert states == {"done": first.done, "pending": first.total - first.done}
    second = go(make_settings(price=PRICE, max_cost=first.spent + 100))
    assert (second.state, second.done, second.stopped_by) == ("finished", second.total, None)
    assert second.done_now == second.total - first.done
    assert second.spent is not None
    assert second.spent > first.spent


def test_a_batch_that_would_not_fit_below_the_ceiling_is_not_begun(make_settings: MakeSettings) -> None:
    """The device takes 0.8 s a page: with 3.0 s to spend and one kept back, a third page would end too late."""
    settings = make_settings(price=PRICE, max_cost=3.0)
    finished = go(settings, NearestEngine(pause(0.8)))
    assert finished.done in (1, 2)
    assert finished.spent is not None
    assert finished.spent <= 3.0


def test_without_money_left_no_network_is_loaded(make_settings: MakeSettings) -> None:
    first = go(make_settings(price=PRICE, max_cost=2.0))
    assert first.stopped_by == "max-cost"

    def refuse(*_: object) -> list[NearestEngine]:
        raise AssertionError("the network was loaded")

    again = run_job(make_settings(max_cost=0.01), open_engines=refuse)  # type: ignore[arg-type]
    assert (again.stopped_by, again.done, again.done_now) == ("max-cost", first.done, 0)
    assert again.price == PRICE, "the job remembers its price"


def test_a_run_that_could_only_load_its_network_is_not_begun(make_settings: MakeSettings) -> None:
    def load(*_: object) -> list[NearestEngine]:
        time.sleep(1.5)
        return [NearestEngine(pause(PAGE_SECONDS))]

    first = run_job(make_settings(price=PRICE, max_cost=4.0), open_engines=load)
    assert first.stopped_by == "max-cost"
    assert first.done
    assert first.spent is not None

    def refuse(*_: object) -> list[NearestEngine]:
        raise AssertionError("the network was loaded")

    # Enough for a second and for the end, which is kept back; not for loading.
    again = run_job(make_settings(max_cost=first.spent + 2.2), open_engines=refuse)  # type: ignore[arg-type]
    assert (again.stopped_by, again.done_now) == ("max-cost", 0)
    assert again.reason is not None
    assert "before the first page" in again.reason
    assert run_job(make_settings(max_cost=first.spent + 100), open_engines=load).state == "finished"


def test_a_network_that_took_too_long_to_load_is_given_no_page(make_settings: MakeSettings) -> None:
    def load(*_: object) -> list[NearestEngine]:
        time.sleep(3)
        return [NearestEngine()]

    settings = make_settings(price=PRICE, max_cost=3.5)
    finished = run_job(settings, open_engines=load)
    assert (finished.stopped_by, finished.done) == ("max-cost", 0)
    with closing(sqlite3.connect(settings.ledger_path)) as ledger, ledger:
        assert ledger.execute("select sum(attempts) from pages").fetchone() == (0,), "none is even read"


def test_a_ceiling_without_a_price_is_refused(make_settings: MakeSettings) -> None:
    with pytest.raises(SettingsError, match=r"--price 0\.20"):
        go(make_settings(max_cost=1))
    for wrong in ({"price": -1}, {"max_cost": float("inf")}, {"price": float("nan")}):
        with pytest.raises(SettingsError, match="number of dollars"):
            make_settings(**wrong)


def test_status_tells_what_was_spent_and_what_is_to_come(make_settings: MakeSettings) -> None:
    settings = make_settings(price=PRICE, max_cost=2.5)
    finished = go(settings)
    report = read_status(settings.ledger_path)
    assert report.spent is not None
    assert report.spent == pytest.approx(finished.spent, abs=0.3)
    assert report.price == PRICE
    assert report.pages_per_second is not None
    assert report.to_come == pytest.approx(report.pending / report.pages_per_second, rel=0.01)
    go(make_settings(price=PRICE))
    report = read_status(settings.ledger_path)
    assert (report.pending, report.to_come) == (0, 0.0)


def test_price_and_ceiling_do_not_change_what_a_job_is(make_settings: MakeSettings) -> None:
    assert make_settings(price=1, max_cost=2).fingerprint("0") == make_settings().fingerprint("0")


def test_a_ledger_of_before_prices_is_read(make_settings: MakeSettings, tmp_path: Path) -> None:
    settings = make_settings()
    go(settings, NearestEngine())
    with closing(sqlite3.connect(settings.ledger_path)) as ledger, ledger:
        ledger.execute("alter table runs drop column price")
        ledger.execute("delete from _sqlite_migrations where name = 'm006_price'")
    report = read_status(settings.ledger_path)
    assert (report.price, report.spent, report.to_come) == (None, None, None)
    finished = go(make_settings(price=0.2), NearestEngine())
    assert (finished.done_now, finished.spent is None) == (0, False)


def test_pages_tell_how_long_they_waited(make_settings: MakeSettings) -> None:
    from comic_upscale.ledger.records import PageDone

    done: list[PageDone] = []

    def note(event: object) -> None:
        if isinstance(event, PageDone):
            done.append(event)

    run_job(make_settings(), on_event=note, open_engines=lambda *_: [NearestEngine(pause(0.05))])
    assert all(set(page.waited) == {"upscale", "encode", "place"} for page in done)
    assert all(seconds >= 0 for page in done for seconds in page.waited.values())
    assert max(page.waited["upscale"] for page in done) > 0.05, "pages wait while the device is busy"
