"""Watched folders and their users: who may watch, limits, the pages."""

from __future__ import annotations

import os
from pathlib import Path

import httpx2 as httpx
import pytest
import sqlalchemy as sa

from comic_upscale.server import queue
from comic_upscale.server.accounts import ensure_user
from comic_upscale.server.database.schema import audit, now_ms, users, watches
from comic_upscale.server.services import Services
from tests.conftest import draw
from tests.server.conftest import client_of, make_key
from tests.server.pages import csrf_of, pages_of, sign_in
from tests.server.test_access import add_person
from tests.server.test_pages import check_html
from tests.server.watches.watching import Clock, Watch, begin, shown

pytestmark = pytest.mark.skipif(os.name != "posix", reason="links of POSIX")


def test_who_may_watch(services: Services, boss: httpx.Client) -> None:
    keys = {name: make_key(services, name) for name in ("ann", "bob")}
    with client_of(services, keys["ann"]) as ann, client_of(services, keys["bob"]) as bob:
        body = {"input": "Inbox"}
        assert ann.post("/api/v1/watches", json=body).status_code == 403
        made = begin(bob)["watch_id"]
        assert len(bob.get("/api/v1/watches").json()["watches"]) == 1
        assert ann.get("/api/v1/watches").json() == {"watches": []}
        assert len(boss.get("/api/v1/watches").json()["watches"]) == 1
        for method, way in (("get", ""), ("post", "/pause"), ("post", "/resume"), ("delete", "")):
            assert ann.request(method.upper(), f"/api/v1/watches/{made}{way}").status_code == 404
        assert boss.post(f"/api/v1/watches/{made}/pause").json()["state"] == "paused"
        assert bob.post(f"/api/v1/watches/{made}/resume").json()["state"] == "watching"
        # Whoever may no longer use the library may still end it, and nothing else.
        assert boss.post("/api/v1/admin/settings", json={"library_users": ["ann"]}).status_code == 200
        watch = Watch(services, Clock())
        watch.settle()
        assert "may not use the library any more" in shown(boss)["problem"] and watch.jobs() == []
        assert bob.post(f"/api/v1/watches/{made}/pause").status_code == 200
        assert bob.post(f"/api/v1/watches/{made}/resume").status_code == 403
        assert bob.delete(f"/api/v1/watches/{made}").status_code == 204
        assert boss.get(f"/api/v1/watches/{made}").status_code == 404
    actions = services.database.read(
        lambda c: list(
            c.scalars(sa.select(audit.c.action).where(audit.c.object == made).order_by(audit.c.id))
        )
    )
    assert actions == ["watch.create", "watch.pause", "watch.resume", "watch.pause", "watch.delete"]


def test_limits_of_users_count_for_what_they_watch(services: Services, boss: httpx.Client) -> None:
    with client_of(services, make_key(services, "bob")) as bob:
        begin(bob)
    change_user = sa.update(users).where(users.c.name == "bob")
    services.database.write(lambda c: c.execute(change_user.values(pages_per_day=0)))
    watch = Watch(services, Clock())
    watch.settle()
    assert "No job begins: you may send 0 pages in 24 hours" in shown(boss)["problem"]
    services.database.write(lambda c: c.execute(change_user.values(pages_per_day=None)))
    services.database.write(lambda c: queue.set_state(c, maintenance=True))
    watch.settle()
    assert "takes no uploads for now" in shown(boss)["problem"] and watch.jobs() == []
    services.database.write(lambda c: queue.set_state(c, maintenance=False))
    watch.settle()
    (job,) = watch.jobs()
    bob_id = services.database.read(lambda c: ensure_user(c, "bob", "user"))
    assert job["owner_id"] == bob_id and shown(boss)["problem"] is None


def test_a_paused_folder_is_left_alone_and_a_removed_one_forgotten(
    watch: Watch, boss: httpx.Client, root: Path
) -> None:
    watch_id = watch.row()["id"]
    watch.look()
    assert boss.post(f"/api/v1/watches/{watch_id}/pause").json()["state"] == "paused"
    watch.settle()
    assert watch.jobs() == [] and watch.folders._held == {}
    boss.post(f"/api/v1/watches/{watch_id}/resume")
    watch.settle()
    assert len(watch.jobs()) == 1
    assert boss.delete(f"/api/v1/watches/{watch_id}").status_code == 204
    watch.end_job()
    draw(root / "Inbox" / "2.png", 2, size=(40, 60))
    watch.settle()
    assert len(watch.jobs()) == 1 and (root / "Inbox" / "1.png").exists()


def test_a_folder_that_no_server_looks_at_says_so(watch: Watch, boss: httpx.Client) -> None:
    assert shown(boss)["problem"] is None
    ago = now_ms() - 200_000
    watch.services.database.write(
        lambda c: c.execute(sa.update(watches).values(created_at=ago, lease_until=ago))
    )
    assert "No server looks at this folder" in shown(boss)["problem"]
    watch.look()
    assert shown(boss)["problem"] is None


def test_the_pages_of_watched_folders(services: Services, root: Path) -> None:
    for name, role in (("bob", "user"), ("ann", "user")):
        add_person(services, name, role)  # type: ignore[arg-type]
    with pages_of(services) as bob, pages_of(services) as ann:
        empty = sign_in(bob, "bob").get("/library/watched")
        assert "No folder is watched." in empty.text
        folder = bob.get("/library", params={"path": str(root / "Inbox")})
        assert 'formaction="/library/watched"' in folder.text
        form = {
            "csrf_token": csrf_of(folder), "path": str(root / "Inbox"), "factor": "2", "preset": "standard",
            "output": str(root / "Results"),
        }  # fmt: skip
        sent = bob.post("/library/watched", data=form)
        assert sent.headers["location"] == "/library/watched?notice=watched"
        twice = bob.post("/library/watched", data=form)
        assert twice.status_code == 400 and "already" in twice.text
        watch = Watch(services, Clock())
        watch.settle()
        page = bob.get(sent.headers["location"])
        check_html(page.text)
        for text in (
            "The folder is watched.",
            str(root / "Inbox"),
            str(root / "Results"),
            "1 page or volume",
            "queued",
        ):
            assert text in page.text, text
        assert bob.get("/library/watched", headers={"HX-Request": "true"}).text.startswith(
            '<div id="watched"'
        )
        assert 'href="/library/watched"' in bob.get("/library?path=Inbox").text
        assert "watched folder" in bob.get("/library").text
        watch_id = watch.row()["id"]
        sign_in(ann, "ann")
        token = {"csrf_token": csrf_of(ann.get("/account"))}
        assert ann.get("/library/watched").status_code == 403
        assert ann.post("/library/watched", data=form | token).status_code == 403
        assert ann.post(f"/library/watched/{watch_id}/remove", data=token).status_code == 404
        token = {"csrf_token": csrf_of(page)}
        for action, text in (
            ("pause", "is paused"),
            ("resume", "watched again"),
            ("remove", "no longer watched"),
        ):
            sent = bob.post(f"/library/watched/{watch_id}/{action}", data=token)
            assert text in bob.get(sent.headers["location"]).text, action
