"""The reason that users see for a failed job does not name folders of the worker."""

from __future__ import annotations

import base64
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa

from comic_upscale.server import queue
from comic_upscale.server.database.schema import jobs
from comic_upscale.server.services import Services
from tests.server.conftest import client_of, make_key
from tests.server.running import wait_for
from tests.server.test_queue import taken
from tests.server.test_uploads import PNG, send

REASON = "net.pth could not be downloaded in 3 attempts: no connection. Check the connection and try again."
WITH_PLACES = f"{REASON} Or download https://example.com/net.pth by hand and save it as /srv/cache/net.pth"
"""What a worker records, whose folders a user cannot use."""


def test_the_interfaces_of_other_programs_name_no_folder(services: Services) -> None:
    with client_of(services, make_key(services, "me")) as client:
        job = send(client).json()["job_id"]
        held = taken(services.database)
        services.database.write(lambda c: queue.fail(c, held, "weights", WITH_PLACES))
        for way in ("/api/status", "/status"):
            assert client.get(f"{way}/{job}").json()["error"] == REASON
        assert client.get(f"/api/v1/jobs/{job}").json()["error"]["message"] == REASON


@pytest.mark.parametrize("of_page", [True, False])
def test_who_waits_for_a_result_is_told_no_folder(services: Services, of_page: bool) -> None:
    failures = [{"source": "page.png", "kind": "weights", "reason": WITH_PLACES}]
    result = queue.Result(pages_total=1, pages_done=0, pages_failed=1, failures=failures)
    with client_of(services, make_key(services, "me")) as client, ThreadPoolExecutor(1) as thread:
        image = base64.b64encode(PNG).decode()
        waiting = thread.submit(client.post, "/sdapi/v1/extra-single-image", json={"image": image})
        wait_for(lambda: services.database.read(lambda c: c.scalar(sa.select(jobs.c.id))))
        held = taken(services.database)
        services.database.write(
            lambda c: (
                queue.complete(c, held, result) if of_page else queue.fail(c, held, "weights", WITH_PLACES)
            )
        )
        answer = waiting.result()
    assert answer.status_code == 422 and REASON in answer.text and "/srv" not in answer.text
