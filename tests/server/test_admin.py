"""Administration: for administrators alone, and every act is in the audit log."""

from __future__ import annotations

from collections.abc import Iterator

import httpx2 as httpx
import pytest
import sqlalchemy as sa

from comic_upscale.server import queue
from comic_upscale.server.app import create_app
from comic_upscale.server.database.schema import audit
from comic_upscale.server.services import Services
from comic_upscale.server.settings import ServerSettings
from tests.server.conftest import OpenServices, client_of, make_key
from tests.server.test_access import OTHER, PASSWORD, add_person, log_in
from tests.server.test_queue import RESULT, taken
from tests.server.test_uploads import PNG, left_over, send


@pytest.fixture
def boss(services: Services) -> Iterator[httpx.Client]:
    with client_of(services, make_key(services, "boss", "admin")) as client:
        yield client


def actions(services: Services) -> list[str]:
    return list(services.database.read(lambda c: c.scalars(sa.select(audit.c.action).order_by(audit.c.id))))


def test_users_cannot_administer(services: Services) -> None:
    """Every route below /admin, generated from the description of the API."""
    paths = create_app(services).openapi()["paths"]
    routes = [(method, path) for path, methods in paths.items() if "/admin/" in path for method in methods]
    assert len(routes) > 10
    with client_of(services, make_key(services, "me")) as client:
        for method, path in routes:
            url = path.replace("{action}", "pause").replace("{job_id}", "x").replace("{username}", "x")
            answer = client.request(
                method.upper(), url.replace("{key_id}", "x"), json={"username": "x", "model": "x"}
            )
            assert answer.status_code == 403, (method, path)
    assert not services.database.read(queue.is_paused)


def test_the_queue_is_paused_and_resumed(services: Services, boss: httpx.Client) -> None:
    assert boss.post("/api/v1/admin/queue/pause").json() == {"paused": True, "maintenance": False}
    assert boss.get("/api/v1/health").json()["paused"] is True
    assert boss.post("/api/v1/admin/queue/maintenance").json() == {"paused": True, "maintenance": True}
    assert boss.post("/api/v1/admin/queue/resume").json() == {"paused": False, "maintenance": True}
    assert boss.post("/api/v1/admin/queue/open").json() == {"paused": False, "maintenance": False}
    assert actions(services) == ["queue.pause", "queue.maintenance", "queue.resume", "queue.open"]


def test_a_job_runs_again_with_other_options_and_keeps_its_record(
    services: Services, boss: httpx.Client
) -> None:
    with client_of(services, make_key(services, "me")) as client:
        old = send(client, factor="2").json()["job_id"]
    again = {"options": {"factor": "3"}}
    assert boss.post(f"/api/v1/admin/jobs/{old}/requeue", json=again).status_code == 409
    held = taken(services.database)
    services.database.write(lambda c: queue.fail(c, held, "x", "It failed."))
    new = boss.post(f"/api/v1/admin/jobs/{old}/requeue", json=again).json()
    assert (new["status"], new["params"]["size"], new["upload_id"]) == (
        "queued",
        "scale 3",
        held.job["upload_id"],
    )
    assert boss.get(f"/api/v1/jobs/{old}").json()["status"] == "failed"
    # An option counts as given also where its value is the default.
    default = boss.post(f"/api/v1/admin/jobs/{old}/requeue", json={"options": {"factor": "2.5"}}).json()
    assert default["params"] == new["params"] | {"size": "scale 2.5"}
    boss.delete(f"/api/v1/jobs/{default['job_id']}")
    wrong = boss.post(f"/api/v1/admin/jobs/{old}/requeue", json={"options": {"model": "/etc/passwd"}})
    assert (wrong.status_code, wrong.json()["error"]["field"]) == (400, "model")
    listed = boss.get("/api/v1/admin/jobs", params={"limit": 1}).json()
    assert [job["job_id"] for job in listed["jobs"]] == [new["job_id"]]
    rest = boss.get("/api/v1/admin/jobs", params={"cursor": listed["next_cursor"]}).json()
    assert [job["job_id"] for job in rest["jobs"]] == [old]


def test_the_jobs_of_a_model_run_again_once(services: Services, boss: httpx.Client) -> None:
    with client_of(services, make_key(services, "me")) as client:
        for _ in range(3):
            send(client)
    for model in ("bad", "bad", "good"):
        held = taken(services.database)
        services.database.write(lambda c, held=held, model=model: queue.heartbeat(c, held, model=model))
        result = queue.Result(pages_total=1, pages_done=1, pages_failed=0, model=model)
        services.database.write(lambda c, held=held, result=result: queue.complete(c, held, result))
    again = {"model": "bad", "options": {"model": "realesr-animevideov3"}}
    assert len(boss.post("/api/v1/admin/requeue", json=again).json()["job_ids"]) == 2
    assert boss.post("/api/v1/admin/requeue", json=again).json()["job_ids"] == []


def test_users_are_created_changed_and_blocked(services: Services, boss: httpx.Client) -> None:
    new = {"username": "ann", "password": PASSWORD}
    created = boss.post("/api/v1/admin/users", json=new)
    assert created.status_code == 201 and created.json()["must_change_password"] is True
    assert "hash" not in created.text
    assert boss.post("/api/v1/admin/users", json=new).status_code == 400
    assert boss.post("/api/v1/admin/users", json={"username": "../x"}).status_code == 400
    assert (
        boss.post("/api/v1/admin/users", json={"username": "bob", "password": "password123"}).status_code
        == 400
    )
    with client_of(services) as client:
        log_in(client, "ann")
        change = {"current_password": PASSWORD, "new_password": OTHER}
        answer = client.post("/api/v1/auth/password", json=change)
        client.headers["X-CSRF-Token"] = answer.json()["csrf_token"]
        assert client.get("/api/v1/jobs").status_code == 200
        assert client.get("/api/v1/admin/users").status_code == 403
        boss.patch("/api/v1/admin/users/ann", json={"role": "admin"})
        # A new role ends the session, so that an old one never has it.
        assert client.get("/api/v1/jobs").status_code == 401
        log_in(client, "ann", OTHER)
        assert client.get("/api/v1/admin/users").status_code == 200
        blocked = boss.patch("/api/v1/admin/users/ann", json={"disabled": True})
        assert (blocked.status_code, blocked.json()["error"]["code"]) == (409, "last_admin")
        add_person(services, "root", "admin")
        assert boss.patch("/api/v1/admin/users/ann", json={"disabled": True}).json()["can_log_in"] is False
        assert client.get("/api/v1/admin/users").status_code == 401
    assert boss.patch("/api/v1/admin/users/none", json={}).status_code == 404
    assert boss.patch("/api/v1/admin/users/anonymous", json={"role": "admin"}).status_code == 404


def test_the_audit_log_is_read_and_not_changed(services: Services, boss: httpx.Client) -> None:
    for action in ("pause", "resume", "pause"):
        boss.post(f"/api/v1/admin/queue/{action}")
    entries = boss.get("/api/v1/admin/audit", params={"limit": 2}).json()["entries"]
    assert [entry["action"] for entry in entries] == ["queue.pause", "queue.resume"]
    assert entries[0]["actor"] == "boss" and entries[0]["address"] == "192.0.2.1"
    older = boss.get("/api/v1/admin/audit", params={"before": entries[-1]["id"]}).json()["entries"]
    assert [entry["action"] for entry in older] == ["queue.pause"]
    methods = create_app(services).openapi()["paths"]["/api/v1/admin/audit"].keys()
    assert set(methods) == {"get"}


def test_what_an_administrator_does_to_a_job_of_somebody_else_is_audited(
    services: Services, boss: httpx.Client
) -> None:
    with client_of(services, make_key(services, "me")) as client:
        mine, theirs = (send(client).json()["job_id"] for _ in range(2))
        client.post(f"/api/v1/jobs/{mine}/cancel")
        client.delete(f"/api/v1/jobs/{mine}")
    assert actions(services) == []
    boss.post(f"/api/v1/jobs/{theirs}/cancel")
    boss.delete(f"/api/v1/jobs/{theirs}")
    assert actions(services) == ["job.cancel", "job.delete"]


def test_metrics_count_and_name_nobody(services: Services, boss: httpx.Client) -> None:
    with client_of(services, make_key(services, "secretname")) as client:
        send(client, "secret-title.png")
        send(client)
    held = taken(services.database)
    services.database.write(lambda c: queue.complete(c, held, RESULT))
    text = boss.get("/metrics").text
    assert (
        'comic_upscale_jobs{status="queued"} 1.0' in text
        and 'comic_upscale_jobs{status="completed"} 1.0' in text
    )
    assert "secret" not in text


def test_deleting_a_job_deletes_its_files(services: Services, boss: httpx.Client) -> None:
    with client_of(services, make_key(services, "me")) as client:
        job = send(client).json()["job_id"]
        held = taken(services.database)
        assert client.delete(f"/api/v1/jobs/{job}").status_code == 409
        services.database.write(lambda c: queue.complete(c, held, RESULT))
        assert client.delete(f"/api/v1/jobs/{job}").status_code == 204
        assert client.get(f"/api/v1/jobs/{job}").status_code == 404
    assert [path for path in (services.settings.data / "files").rglob("*") if path.is_file()] == []


def test_a_user_may_have_quotas(services: Services, boss: httpx.Client) -> None:
    key = make_key(services, "me")
    limits = {"bytes_per_day": len(PNG) * 2, "pages_per_day": 3}
    assert boss.patch("/api/v1/admin/users/me", json=limits).json()["bytes_per_day"] == len(PNG) * 2
    with client_of(services, key) as client:
        assert [send(client).status_code for _ in range(3)] == [202, 202, 429]
        refused = send(client)
        assert refused.json()["error"]["code"] == "quota" and "retry-after" in refused.headers
        boss.patch("/api/v1/admin/users/me", json={"bytes_per_day": None})
        held = taken(services.database)
        services.database.write(lambda c: queue.heartbeat(c, held, pages_total=3))
        assert send(client).status_code == 429
        boss.patch("/api/v1/admin/users/me", json={"pages_per_day": None})
        assert send(client).status_code == 202
    assert len(left_over(services)) == 3


def test_jobs_of_one_user_are_listed(open_server: OpenServices, settings: ServerSettings) -> None:
    """On each kind of database; a note on a model is in the list of models there, too."""
    services = open_server(database=settings.database)
    with client_of(services, make_key(services, "boss", "admin")) as boss:
        first = send(boss).json()["job_id"]
        with client_of(services, make_key(services, "me")) as me:
            second = send(me).json()["job_id"]
        listed = boss.get("/api/v1/admin/jobs", params={"owner": "me", "status": "queued"}).json()["jobs"]
        assert [job["job_id"] for job in listed] == [second]
        assert {job["job_id"] for job in boss.get("/api/v1/admin/jobs").json()["jobs"]} == {first, second}
        unknown = boss.get("/api/v1/admin/jobs", params={"owner": "nobody"})
        assert (unknown.status_code, unknown.json()["error"]["field"]) == (400, "owner")
        note = {"note": "Best for old scans."}
        assert boss.put("/api/v1/admin/models/comic-compact-x3/note", json=note).status_code == 200
        assert boss.put("/api/v1/admin/models/none/note", json=note).status_code == 404
        assert (
            boss.put("/api/v1/admin/models/comic-compact-x3/note", json={"note": "x" * 501}).status_code
            == 400
        )
        models = {model["name"]: model for model in boss.get("/api/v1/models").json()["models"]}
        assert models["comic-compact-x3"]["note"] == note["note"]
        assert models["comic-compact-x3"]["is_default"] is False
        assert models["realesr-animevideov3"]["note"] == ""
