"""Running a job again with other options and sharing it, by the REST interface and the client."""

from __future__ import annotations

from collections.abc import Iterator

import httpx2 as httpx
import pytest
import sqlalchemy as sa

from comic_upscale.client import Client
from comic_upscale.server.database.schema import audit, idempotency, jobs, users
from comic_upscale.server.services import Services
from comic_upscale.server.settings import ServerSettings
from tests.server.conftest import OpenServices, client_of, make_key
from tests.server.pages import pages_of
from tests.server.test_page_jobs import finish, page
from tests.server.test_uploads import send


@pytest.fixture
def services(open_server: OpenServices, settings: ServerSettings) -> Services:
    """On each kind of database."""
    return open_server(database=settings.database, public_url="https://comics.example/c")


@pytest.fixture
def me(services: Services) -> Iterator[httpx.Client]:
    with client_of(services, make_key(services, "me")) as client:
        yield client


def done_job(services: Services, client: httpx.Client) -> str:
    job = str(send(client, factor="2", format="webp").json()["job_id"])
    finish(services, page())
    return job


def test_a_job_runs_again_with_other_options_and_keeps_the_rest(services: Services, me: httpx.Client) -> None:
    job = done_job(services, me)
    answer = me.post(f"/api/v1/jobs/{job}/again", json={"options": {"factor": "3"}})
    assert answer.status_code == 202, answer.text
    new = answer.json()
    assert new["job_id"] != job and new["status"] == "queued"
    assert (new["params"]["size"], new["params"]["format"]) == ("scale 3", "webp")
    assert new["upload_id"] == me.get(f"/api/v1/jobs/{job}").json()["upload_id"]
    early = me.post(f"/api/v1/jobs/{new['job_id']}/again", json={})
    assert (early.status_code, early.json()["error"]["code"]) == (409, "not_ended")
    wrong = me.post(f"/api/v1/jobs/{job}/again", json={"options": {"model": "/etc/passwd"}})
    assert (wrong.status_code, wrong.json()["error"]["field"]) == (400, "model")


def test_a_request_that_is_repeated_queues_one_job(services: Services, me: httpx.Client) -> None:
    job, key = done_job(services, me), {"Idempotency-Key": "again-1"}
    again = lambda **options: me.post(  # noqa: E731
        f"/api/v1/jobs/{job}/again", json={"options": options}, headers=key
    )
    first, second = again(factor="3"), again(factor="3")
    assert first.json()["job_id"] == second.json()["job_id"]
    other = again(factor="4")
    assert (other.status_code, other.json()["error"]["code"]) == (409, "key_reused")
    assert services.database.read(lambda c: c.scalar(sa.select(sa.func.count()).select_from(jobs))) == 2
    assert services.database.read(lambda c: c.scalar(sa.select(idempotency.c.key))) == "again-1"


def test_the_limits_of_uploads_count(services: Services, me: httpx.Client) -> None:
    job = done_job(services, me)
    services.database.write(lambda c: c.execute(sa.update(users).values(pages_per_day=1)))
    assert me.post(f"/api/v1/jobs/{job}/again", json={}).status_code == 429


def test_a_link_shows_the_job_until_it_is_deleted(services: Services, me: httpx.Client) -> None:
    job = done_job(services, me)
    shared = me.post(f"/api/v1/jobs/{job}/share").json()
    assert shared["url"] == f"https://comics.example/c{shared['path']}"
    assert shared["expires_at"].endswith("Z")
    with pages_of(services) as stranger:
        assert stranger.get(shared["path"]).status_code == 200
        assert stranger.get(shared["path"] + "x").status_code == 404
        assert me.delete(f"/api/v1/jobs/{job}").status_code == 204
        assert stranger.get(shared["path"]).status_code == 404
    actions = services.database.read(lambda c: list(c.scalars(sa.select(audit.c.action))))
    assert actions.count("job.share") == 1


def test_the_client_repeats_a_lost_answer_with_the_same_key(services: Services, me: httpx.Client) -> None:
    """So the server makes one job of all tries."""
    job, keys = done_job(services, me), []

    def answer(request: httpx.Request) -> httpx.Response:
        keys.append(request.headers["idempotency-key"])
        reply = me.request(
            request.method, request.url.path, content=request.content, headers=dict(request.headers)
        )
        return httpx.Response(502) if len(keys) == 1 else httpx.Response(202, content=reply.content)

    with Client("https://server.test", transport=httpx.MockTransport(answer)) as client:
        client._http.headers.update(me.headers)
        assert client.again(job, factor=3).raw["params"]["size"] == "scale 3"
    assert len(keys) == 2 and len(set(keys)) == 1
    assert services.database.read(lambda c: c.scalar(sa.select(sa.func.count()).select_from(jobs))) == 2
