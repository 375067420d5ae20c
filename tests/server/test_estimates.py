"""How long a job will take: from the jobs of this server, and from those before it in its lane."""

from __future__ import annotations

import re

import pytest
import sqlalchemy as sa

from comic_upscale.server import queue, trials
from comic_upscale.server.database.schema import jobs, uploads
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
    assert re.search(r"About <strong>5 s</strong> of work, after 3 jobs", shown), shown
