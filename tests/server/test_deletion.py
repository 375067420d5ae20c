"""Deleting users over the API: some rows at a time, on each database, and while requests of the user are under way."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa

from comic_upscale.server import deletion, queue
from comic_upscale.server.api import uploads as uploads_api
from comic_upscale.server.database.schema import (
    files,
    jobs,
    pieces,
    resumable,
    sessions,
    spent,
    uploads,
    users,
)
from comic_upscale.server.services import Services
from comic_upscale.server.sessions import begin as begin_session
from comic_upscale.server.settings import ServerSettings
from tests.server.conftest import OpenServices, client_of, make_key
from tests.server.pages import csrf_of, pages_of, sign_in
from tests.server.test_access import add_person
from tests.server.test_page_admin import actions, post
from tests.server.test_queue import RESULT, taken
from tests.server.test_resumable import begin, patch
from tests.server.test_uploads import PNG, count, send

ANN = "/api/v1/admin/users/ann"


def test_a_user_with_many_rows_is_deleted_some_at_a_time(
    open_server: OpenServices, settings: ServerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deletion, "_AT_ONCE", 2)
    services = open_server(database=settings.database)
    with (
        client_of(services, make_key(services, "boss", "admin")) as boss,
        client_of(services, make_key(services, "ann")) as ann,
        client_of(services, make_key(services, "bob")) as bob,
    ):
        kept = send(bob).json()["job_id"]
        services.database.write(lambda c: c.execute(sa.update(jobs).values(status="completed")))
        stored = set(services.files.list())
        ids = [send(ann).json()["job_id"] for _ in range(5)]
        assert ann.delete(f"/api/v1/jobs/{ids.pop()}").status_code == 204
        again = begin(ann, len(PNG) * 2)
        assert patch(ann, again.headers["location"], 0, PNG).status_code == 204
        held = taken(services.database)
        refused = boss.delete(ANN)
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "running")
        # Whoever is not deleted is not blocked either.
        assert ann.get(f"/api/v1/jobs/{ids[-1]}").json()["status"] == "queued"
        services.database.write(lambda c: queue.complete(c, held, RESULT))
        assert boss.delete(ANN).status_code == 204
        assert ann.get("/api/v1/jobs").status_code == 401 and boss.delete(ANN).status_code == 404
        assert bob.get(f"/api/v1/jobs/{kept}").status_code == 200
    assert set(services.files.list()) == stored
    assert [count(services, table) for table in (jobs, uploads, files, resumable, pieces, spent)] == [
        1, 1, 1, 0, 0, 0,
    ]  # fmt: skip
    assert actions(services)[-2:] == ["user.change", "user.delete"]


def test_a_deletion_that_broke_off_leaves_a_blocked_user_and_goes_on(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        client_of(services, make_key(services, "boss", "admin")) as boss,
        client_of(services, make_key(services, "ann")) as ann,
    ):
        send(ann)
        who = services.database.read(lambda c: c.scalar(sa.select(users.c.id).where(users.c.name == "ann")))
        services.database.write(lambda c: begin_session(c, who, address=None, agent=None))

        def breaks(*_: object) -> None:
            raise RuntimeError("the server ends here")

        with monkeypatch.context() as broken:
            broken.setattr(deletion, "delete_some", breaks)
            assert boss.delete(ANN).status_code == 500
        assert ann.get("/api/v1/jobs").status_code == 401
        assert services.database.read(lambda c: c.scalar(sa.select(jobs.c.status))) == "canceled"
        # Otherwise it would be valid again once the block is taken back.
        assert not count(services, sessions)
        assert boss.delete(ANN).status_code == 204 and not count(services, jobs)


def test_a_request_of_a_user_who_is_deleted_meanwhile_is_refused_in_words(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    store_job = uploads_api.store_job

    async def deleted_before(services: Services, *rest: Any) -> Any:
        await services.database.write_async(
            lambda c: c.execute(sa.delete(users).where(users.c.name == "ann"))
        )
        return await store_job(services, *rest)

    monkeypatch.setattr(uploads_api, "store_job", deleted_before)
    with client_of(services, make_key(services, "ann")) as ann:
        answer = send(ann)
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "unauthorized")
    # Nothing stays in the storage.
    assert not list(services.files.list())


def test_a_form_of_a_user_who_is_deleted_meanwhile_leads_to_signing_in(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_person(services, "ann")
    write = services.database.write_async

    async def deleted_before(work: Any) -> Any:
        await write(lambda c: c.execute(sa.delete(users).where(users.c.name == "ann")))
        return await write(work)

    with pages_of(services) as browser:
        form = {
            "csrf_token": csrf_of(sign_in(browser, "ann").get("/account")),
            "name": "x",
            "scopes": "jobs:read",
        }
        monkeypatch.setattr(services.database, "write_async", deleted_before)
        answer = browser.post("/account/keys", data=form)
    assert answer.status_code == 303 and answer.headers["location"] == "/sign-in?notice=expired"


def test_the_user_of_the_key_from_the_environment_stays(open_server: OpenServices) -> None:
    services = open_server(api_key="x" * 40)
    add_person(services, "boss", "admin")
    add_person(services, "ann")
    with pages_of(services) as browser:
        boss = sign_in(browser, "boss")
        told = "This user belongs to the key in the environment of the server."
        refused = post(boss, "/admin/users/environment/delete")
        assert refused.status_code == 409 and told in refused.text
        assert told in boss.get("/admin/users/environment").text
        for name in ("ann", "environment"):
            has_form = f'action="/admin/users/{name}/delete"' in boss.get(f"/admin/users/{name}").text
            assert has_form == (name == "ann")


def test_a_library_user_of_the_start_or_of_now_is_not_deleted(open_server: OpenServices) -> None:
    services = open_server(library_users=("ann",))
    make_key(services, "ann")
    with client_of(services, make_key(services, "boss", "admin")) as boss:
        make_key(services, "bob")
        # In place of the value of the start, which may come back.
        assert boss.post("/api/v1/admin/settings", json={"library_users": ["bob"]}).status_code == 200
        for name, end in (("ann", "first in the options with which the server starts."), ("bob", "first.")):
            refused = boss.delete(f"/api/v1/admin/users/{name}").json()["error"]
            assert refused["code"] == "library_user" and refused["message"].endswith(end)
