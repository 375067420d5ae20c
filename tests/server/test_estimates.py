"""How long a job will take: from the jobs of this server, and from those before it in its lane."""

from __future__ import annotations

import re

import httpx2 as httpx
import pytest
import sqlalchemy as sa

from comic_upscale.console.text import about_money
from comic_upscale.server import estimates, queue, trials
from comic_upscale.server.database.schema import jobs, uploads
from comic_upscale.server.pages.render import about_seconds
from comic_upscale.server.quotes import pixels_per_second
from comic_upscale.server.services import Services
from tests.server.conftest import client_of, make_key
from tests.server.pages import pages_of, sign_in
from tests.server.test_access import add_person
from tests.server.test_queue import taken
from tests.server.test_resumable import ADDRESS, begin, patch
from tests.server.test_uploads import send


def set_size(services: Services, upload_id: str, size: int) -> None:
    """Give an upload a number of bytes that nobody wants to send in a test."""
    changed = sa.update(uploads).where(uploads.c.id == upload_id).values(size=size)
    services.database.write(lambda c: c.execute(changed))
    # Read again now, and not in a second.
    services.estimator._until = 0.0


def done(services: Services, client: httpx.Client, seconds: float, network: str, **fields: str) -> None:
    """An upload of a thousand bytes whose job took some seconds, with a network."""
    set_size(services, send(client, **fields).json()["upload_id"], 1000)
    held = taken(services.database)
    result = queue.Result(
        pages_total=1, pages_done=1, pages_failed=0, model=network, seconds=seconds, pixels=1_000_000
    )
    services.database.write(lambda c: queue.complete(c, held, result))


def test_the_estimate_of_the_upload_page_is_for_its_model_and_its_size(services: Services) -> None:
    add_person(services, "ann")
    with client_of(services, make_key(services, "me")) as client, pages_of(services) as browser:
        sign_in(browser, "ann")

        def shown(size: int = 1000, **fields: str) -> str:
            return browser.get("/upload/estimate", params={"bytes": size, **fields}).text

        done(services, client, 8.0, "comic-best-x2", model="comic-best", factor="2")
        assert "About 8 s" in shown(model="comic-best", factor="2")
        assert "About 18 s" in shown(model="comic-best", factor="3")
        # Not of a page of unknown size, not of another model, and not of options that are wrong.
        for fields in ({"width": "900"}, {"model": "comic-fast", "factor": "2"}, {"preset": "photo"}):
            assert "No estimate yet" in shown(
                **{"model": "comic-best", **fields} if "width" in fields else fields
            )
        assert shown(model="comic-best", factor="99").strip() == ""
        done(services, client, 4.0, "comic-fast", model="comic-fast", width="900")
        assert "About 4 s" in shown(model="comic-fast", width="900")
        assert "Less than a second" in shown(size=100, model="comic-best", factor="2")
        pages = {"pages": [{"width": 500, "height": 500}], "options": {"model": "comic-best", "factor": "2"}}
        assert client.post("/api/v1/estimates", json=pages).json()["seconds"] == pytest.approx(8.0)


def test_the_speed_of_a_model_is_looked_for_among_the_last_jobs_alone(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimates, "_LOOKED_AT", 2)

    def speed(model: str) -> float | None:
        return services.database.read(lambda c: pixels_per_second(c, model))

    with client_of(services, make_key(services, "me")) as client:
        done(services, client, 4.0, "comic-fast-x2", model="comic-fast", factor="2")
        done(services, client, 8.0, "comic-best-x2", model="comic-best", factor="2")
        assert speed("comic-fast") == pytest.approx(250_000)
        done(services, client, 8.0, "comic-best-x2", model="comic-best", factor="2")
    assert speed("comic-fast") is None and speed("comic-best") == pytest.approx(125_000)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "less than a second"), (0.4, "less than a second"), (125.0, "about 2 min 5 s")],
)
def test_a_time_below_a_second_is_said_in_words(seconds: float, text: str) -> None:
    assert about_seconds(seconds) == text


@pytest.mark.parametrize(
    ("dollars", "text"), [(0.0, "about $0.00"), (0.0004, "less than $0.001"), (1.2, "about $1.20")]
)
def test_a_cost_below_a_tenth_of_a_cent_is_said_in_words(dollars: float, text: str) -> None:
    assert about_money(dollars) == text


def test_a_job_waits_for_its_own_lane_alone(services: Services) -> None:
    add_person(services, "ann")
    with client_of(services, make_key(services, "me")) as client:
        set_size(services, send(client).json()["upload_id"], 1000)
        held = taken(services.database)
        result = queue.Result(pages_total=1, pages_done=1, pages_failed=0, seconds=1.0)
        services.database.write(lambda c: queue.complete(c, held, result))
        # A second for a thousand bytes. A volume of an hour waits.
        volume = send(client, "book.cbz").json()["upload_id"]
        set_size(services, volume, 3_600_000)
        page = send(client, lane="interactive").json()
        assert page["estimated_seconds"] < 1
        second = send(client, "second.cbz").json()
        assert second["estimated_seconds"] == pytest.approx(3600, abs=1)
        url = begin(client, 1000, "third.cbz", hold=True).headers["location"]
        patch(client, url, 0, bytes(1000))
        third = client.post(f"{ADDRESS}/complete", json={"uploads": [url.rpartition("/")[2]]}).json()
        assert third["estimated_seconds"] == pytest.approx(3600, abs=3)
        trial = taken(services.database)
        params = {**trial.job["params"], trials.MODELS: ["a", "b"]}
        slow = queue.Result(pages_total=1, pages_done=1, pages_failed=0, seconds=9999.0)
        services.database.write(lambda c: queue.complete(c, trial, slow))
        changed = sa.update(jobs).where(jobs.c.id == trial.job_id).values(params=params)
        services.database.write(lambda c: c.execute(changed))
        services.estimator._until = 0.0
        assert send(client, lane="interactive").json()["estimated_seconds"] < 1
    with pages_of(services) as browser:
        shown = sign_in(browser, "ann").get("/upload/estimate", params={"bytes": 5000}).text
    # The three volumes, and not the page.
    assert re.search(r"<strong>About 5 s</strong> of work, after 3 jobs", shown), shown
