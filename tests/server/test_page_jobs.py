"""The pages of jobs: the list, what a job offers, who may look, and its pictures."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from typing import Any

import httpx2 as httpx
import pytest
import sqlalchemy as sa

from comic_upscale.server import accounts, pictures, queue, search
from comic_upscale.server.database.schema import audit, files, jobs, now_ms, users
from comic_upscale.server.files import store_file
from comic_upscale.server.ids import new_id
from comic_upscale.server.jobs import create_folder_job, delete_job
from comic_upscale.server.links import Link
from comic_upscale.server.pictures import PagePictures, Place
from comic_upscale.server.services import Services
from tests.server.conftest import OpenServices
from tests.server.pages import csrf_of, pages_of, sign_in
from tests.server.test_access import add_person
from tests.server.test_pages import check_html
from tests.server.test_queue import taken
from tests.server.test_uploads import PNG

THUMB, BEFORE, AFTER = b"small picture", b"the original", b"the result"
EVIL = "<script>alert(1)</script>\"'.png"


@pytest.fixture
def ann(services: Services) -> Iterator[httpx.Client]:
    add_person(services, "ann")
    with pages_of(services) as client:
        yield sign_in(client, "ann")


@pytest.fixture
def bob(services: Services) -> Iterator[httpx.Client]:
    add_person(services, "bob")
    with pages_of(services) as client:
        yield sign_in(client, "bob")


def upload(browser: httpx.Client, *names: str, **fields: str) -> str:
    parts = [("file", (name, PNG)) for name in names or ("page.png",)]
    headers = {"X-CSRF-Token": csrf_of(browser.get("/"))}
    answer = browser.post("/api/v1/uploads", files=parts, data=fields, headers=headers)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["job_id"])


def test_the_list_counts_models_of_a_trial_and_pages_of_other_jobs(
    services: Services, ann: httpx.Client
) -> None:
    for params in ({}, {"try_models": ["comic-best", "comic-fast"]}):
        job = upload(ann)
        finish(services, page(), page())
        services.database.write(
            lambda c: c.execute(
                sa.update(jobs).where(jobs.c.id == job).values(params=params, pages_total=2)  # noqa: B023
            )
        )
    assert re.findall(r"\b2 (?:pages|models)\b", ann.get("/jobs").text) == ["2 models", "2 pages"]


def test_a_job_that_waits_for_its_next_attempt_says_when_and_names_no_folder(
    services: Services, ann: httpx.Client
) -> None:
    job = upload(ann)
    reason = (
        "net.pth could not be downloaded in 3 attempts: no connection. Check the connection and try again."
    )
    places = "Or download https://example.com/net.pth by hand and save it as /srv/cache/net.pth"
    held = taken(services.database)
    services.database.write(lambda c: queue.retry(c, held, "weights", f"{reason} {places}"))
    # An hour, so that no time of a test counts.
    services.database.write(lambda c: c.execute(sa.update(jobs).values(not_before=now_ms() + 3_600_000)))
    shown = ann.get(f"/jobs/{job}").text
    assert reason in shown and "the next attempt begins in about" in shown
    assert "/srv" not in shown and "/srv" not in ann.get(f"/api/v1/jobs/{job}").text


def finish(services: Services, *pages: PagePictures, **changes: Any) -> str:
    """Complete the next job as a worker does: one result, and its pictures."""
    held = taken(services.database)
    stored = [
        (kind, store_file(services.files, f"pictures/{held.job_id}/1-{kind}", io.BytesIO(data)))
        for kind, data in (
            ("result", AFTER), (pictures.LIST, pictures.to_json(pages)), (pictures.DATA, THUMB + BEFORE),
        )
        if pages or kind == "result"
    ]  # fmt: skip

    def write(connection: Any) -> None:
        result = queue.Result(pages_total=1, pages_done=1, pages_failed=0, **changes)
        queue.complete(connection, held, result)
        for kind, file in stored:
            connection.execute(
                sa.insert(files).values(
                    id=new_id(), job_id=held.job_id, kind=kind, position=0, name="page.png", storage_key=file.key,
                    size=file.size, sha256=file.sha256, created_at=1,
                )
            )  # fmt: skip

    services.database.write(write)
    return str(held.job_id)


def page(name: str = "page.png", suspect: str | None = None) -> PagePictures:
    return PagePictures(
        name=name, size=(20, 30), thumb=Place(None, 0, len(THUMB), "image/webp"),
        before=Place(None, len(THUMB), len(BEFORE), "image/jpeg"), before_size=(10, 15),
        after=Place(0, 0, len(AFTER), "image/png"), suspect=suspect,
    )  # fmt: skip


def test_a_job_page_shows_what_there_is_to_do(services: Services, ann: httpx.Client) -> None:
    job = upload(ann, "Book.png")
    waiting = ann.get(f"/jobs/{job}")
    assert "number 1 in the queue" in waiting.text and "Cancel" in waiting.text
    assert f'data-events="/api/v1/jobs/{job}/events"' in waiting.text
    # It reads without JavaScript: the page loads itself again.
    assert '<noscript><meta http-equiv="refresh"' in waiting.text
    finish(services, page(), seconds=2.0, model="some-model", device="cpu")
    done = ann.get(f"/jobs/{job}").text
    for text in (
        "1 of 1 page",
        "some-model on cpu",
        "All in a CBZ",
        "Run again",
        "Delete the job",
    ):
        assert text in done
    assert "1 pages" not in done
    assert "data-events" not in done and "http-equiv" not in done
    part = ann.get(f"/jobs/{job}", headers={"HX-Request": "true"}).text
    assert part.lstrip().startswith("<section") and "<html" not in part


def test_names_of_strangers_are_text(services: Services, ann: httpx.Client) -> None:
    job = upload(ann, EVIL)
    held = taken(services.database)
    failures = [{"source": EVIL, "kind": "x", "reason": f"broken {EVIL}"}]
    result = queue.Result(pages_total=1, pages_done=0, pages_failed=1, failures=failures, model=EVIL)
    services.database.write(lambda c: queue.fail(c, held, "no_page", f"No page: {EVIL}", result))
    shown = ann.get(f"/jobs/{job}").text
    assert "&lt;script&gt;alert(1)" in shown and "The job failed." in shown
    for address in (
        f"/jobs/{job}",
        "/jobs",
        f"/jobs?q={EVIL}",
        f"/jobs?notice={EVIL}",
        f"/sign-in?next={EVIL}",
    ):
        text = ann.get(address).text
        assert "<script>alert" not in text
        check_html(text)


def test_suspect_pages_come_first_with_their_reasons(services: Services, ann: httpx.Client) -> None:
    job = upload(ann)
    finish(services, page("1.png"), page("2.png", "colours differ"), page("3.png"))
    text = ann.get(f"/jobs/{job}").text
    assert text.index("2.png") < text.index("1.png") < text.index("3.png")
    assert "colours differ" in text and "1 to look at" in text
    compared = ann.get(f"/jobs/{job}/pages/1").text
    assert "Suspect: colours differ" in compared
    assert f"/jobs/{job}/pages/0" in compared and f"/jobs/{job}/pages/2" in compared


@pytest.mark.parametrize(
    ("kind", "content", "media_type"),
    [("thumb", THUMB, "image/webp"), ("before", BEFORE, "image/jpeg"), ("after", AFTER, "image/png")],
)
def test_a_picture_is_a_part_of_a_stored_file(
    services: Services, ann: httpx.Client, kind: str, content: bytes, media_type: str
) -> None:
    job = upload(ann)
    finish(services, page())
    address = f"/jobs/{job}/pictures/0/{kind}"
    answer = ann.get(address)
    assert (answer.content, answer.headers["content-type"]) == (content, media_type)
    assert answer.headers["content-security-policy"].startswith("sandbox")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert ann.get(address, headers={"If-None-Match": answer.headers["etag"]}).status_code == 304
    for missing in (f"/jobs/{job}/pictures/1/{kind}", f"/jobs/{job}/pictures/-1/{kind}"):
        assert ann.get(missing).status_code == 404


@pytest.mark.parametrize(
    "place",
    [
        [None, 0, 5, "text/html"], [None, 0, 5, "image/svg+xml"], [None, -1, 5, "image/png"],
        [None, 0.5, 5, "image/png"], ["0", 0, 5, "image/png"], [True, 0, 5, "image/png"],
        [None, 0, 5], None, "thumb",
    ],
)  # fmt: skip
def test_a_list_from_a_worker_is_checked(place: Any) -> None:
    listed = json.loads(pictures.to_json([page()]))
    assert pictures.from_json(json.dumps(listed).encode()) == (page(),)
    listed[0]["after"] = place
    with pytest.raises(ValueError):
        pictures.from_json(json.dumps(listed).encode())


def test_a_place_beyond_its_file_is_no_picture(services: Services, ann: httpx.Client) -> None:
    job = upload(ann)
    beyond = PagePictures(
        name="x", size=(1, 1), thumb=Place(None, 0, 10_000, "image/png"), after=Place(7, 0, 1, "image/png")
    )
    finish(services, beyond)
    for kind in ("thumb", "after", "before"):
        assert ann.get(f"/jobs/{job}/pictures/0/{kind}").status_code == 404
    assert "This page was not upscaled" in ann.get(f"/jobs/{job}/pages/0").text


def test_others_see_nothing_of_a_job(services: Services, ann: httpx.Client, bob: httpx.Client) -> None:
    job = upload(ann, "secret.png")
    finish(services, page("secret.png"))
    for path in ("", "/pages/0", "/read", "/pictures/0/thumb", "/pictures/0/after"):
        answer = bob.get(f"/jobs/{job}{path}")
        assert answer.status_code == 404 and "secret" not in answer.text
    token = {"csrf_token": csrf_of(bob.get("/jobs"))}
    for act in ("cancel", "delete", "again", "share"):
        assert bob.post(f"/jobs/{job}/{act}", data=token).status_code == 404
    assert "secret" not in bob.get("/jobs").text
    assert ann.get(f"/jobs/{job}").status_code == 200


def test_a_job_is_canceled_run_again_and_deleted(services: Services, ann: httpx.Client) -> None:
    token = {"csrf_token": csrf_of(ann.get("/jobs"))}
    job = upload(ann, factor="2")
    assert ann.post(f"/jobs/{job}/again", data=token).status_code == 409
    assert ann.post(f"/jobs/{job}/cancel", data=token).headers["location"] == f"/jobs/{job}?notice=canceled"
    assert "canceled" in ann.get(f"/jobs/{job}?notice=canceled").text
    # The address still says what was true at first.
    assert "The job is queued." not in ann.get(f"/jobs/{job}?notice=queued").text
    wrong = ann.post(f"/jobs/{job}/again", data=token | {"model": "/etc/passwd"})
    assert wrong.status_code == 400 and "/etc/passwd" in wrong.text
    again = ann.post(f"/jobs/{job}/again", data=token | {"model": "realesr-animevideov3", "factor": "3"})
    new = again.headers["location"].removeprefix("/jobs/").removesuffix("?notice=queued")
    shown = ann.get(f"/jobs/{new}").text
    assert "3\N{MULTIPLICATION SIGN}, realesr-animevideov3" in shown and f'href="/jobs/{job}"' in shown
    assert ann.post(f"/jobs/{job}/delete", data=token).headers["location"] == "/jobs?notice=deleted"
    assert ann.get(f"/jobs/{job}").status_code == 404
    # The new job has the same upload, which therefore stays.
    assert ann.get(f"/jobs/{new}").status_code == 200


def test_a_job_over_a_folder_runs_again_for_administrators_alone(services: Services) -> None:
    add_person(services, "boss", "admin")

    def create(connection: Any) -> str:
        person = accounts.find_user(connection, "boss")
        assert person is not None
        boss = accounts.Account(
            user_id=person["id"], name="boss", role="admin", scopes=accounts.scopes_of("admin")
        )
        row = create_folder_job(
            connection, boss, source="/srv/books", output="/srv/out", params={}, lane="batch"
        )
        queue.request_cancel(connection, row["id"])
        return str(row["id"])

    job = services.database.write(create)
    with pages_of(services) as browser:
        token = {"csrf_token": csrf_of(sign_in(browser, "boss").get("/jobs"))}
        shown = browser.get(f"/jobs/{job}").text
        assert "The files in its folders stay." in shown and "its originals" not in shown
        again = browser.post(f"/jobs/{job}/again", data=token)
        assert again.status_code == 303, again.text
        new = again.headers["location"].removeprefix("/jobs/").removesuffix("?notice=queued")
        assert (row_of(services, new)["input"], row_of(services, new)["output"]) == ("/srv/books", "/srv/out")
        # The job stays that of its owner, who is no administrator any more.
        services.database.write(lambda c: c.execute(sa.update(users).values(role="user")))
        assert browser.get(f"/jobs/{job}").status_code == 200
        assert browser.post(f"/jobs/{job}/again", data=token).status_code == 403


def row_of(services: Services, job: str) -> Any:
    return services.database.read(
        lambda c: c.execute(sa.select(jobs).where(jobs.c.id == job)).mappings().one()
    )


def test_the_limits_of_uploads_count_for_jobs_that_run_again(services: Services, ann: httpx.Client) -> None:
    job = upload(ann)
    finish(services)
    token = {"csrf_token": csrf_of(ann.get("/jobs"))}
    services.database.write(lambda c: c.execute(sa.update(users).values(pages_per_day=1)))
    refused = ann.post(f"/jobs/{job}/again", data=token)
    assert (
        refused.status_code == 429
        and "You may send 1 page in 24 hours, and 1 are used: try again in " in refused.text
    )
    services.database.write(lambda c: c.execute(sa.update(users).values(pages_per_day=None)))
    services.database.write(lambda c: queue.set_state(c, maintenance=True))
    services.live.read_now()
    assert ann.post(f"/jobs/{job}/again", data=token).status_code == 503
    services.database.write(lambda c: queue.set_state(c, maintenance=False))
    services.live.read_now()
    assert ann.post(f"/jobs/{job}/again", data=token).status_code == 303


def test_a_visitor_keeps_files_no_longer_by_running_a_job_again(open_server: OpenServices) -> None:
    services = open_server(public=True, uploads_per_hour=2)
    with pages_of(services) as visitor:
        job = visitor.post("/api/v1/uploads", files=[("file", ("page.png", PNG))]).json()["job_id"]
        finish(services)
        # The job is 40 minutes old.
        earlier = {name: jobs.c[name] - 2_400_000 for name in ("created_at", "expires_at")}
        services.database.write(lambda c: c.execute(sa.update(jobs).values(earlier)))
        again = visitor.post(f"/jobs/{job}/again")
        assert again.status_code == 303, again.text
        new = again.headers["location"].removeprefix("/jobs/").removesuffix("?notice=queued")
        assert row_of(services, new)["expires_at"] == row_of(services, job)["expires_at"]
        assert visitor.post(f"/jobs/{job}/again").status_code == 429


@pytest.mark.parametrize("act", ["again", "cancel", "delete"])
def test_a_job_that_is_deleted_meanwhile_is_not_found(
    services: Services, ann: httpx.Client, monkeypatch: pytest.MonkeyPatch, act: str
) -> None:
    job = upload(ann)
    finish(services)
    token = {"csrf_token": csrf_of(ann.get("/jobs"))}
    write = services.database.write_async

    async def write_late(work: Any) -> Any:
        # Somebody else is first.
        await write(lambda c: delete_job(c, job))
        return await write(work)

    monkeypatch.setattr(services.database, "write_async", write_late)
    answer = ann.post(f"/jobs/{job}/{act}", data=token)
    assert answer.status_code == 404 and "There is no such job." in answer.text


def test_what_an_administrator_does_to_a_job_of_somebody_is_recorded(
    services: Services, ann: httpx.Client
) -> None:
    job = upload(ann)
    ann.post(f"/jobs/{job}/cancel", data={"csrf_token": csrf_of(ann.get("/jobs"))})
    add_person(services, "boss", "admin")
    with pages_of(services) as boss:
        token = {"csrf_token": csrf_of(sign_in(boss, "boss").get("/jobs"))}
        assert boss.post(f"/jobs/{job}/again", data=token | {"factor": "3"}).status_code == 303
    row = services.database.read(
        lambda c: c.execute(sa.select(audit).where(audit.c.action == "job.requeue")).mappings().one()
    )
    assert (row["actor"], row["object"], row["details"]["options"]) == ("boss", job, {"factor": "3"})


def test_a_shared_job_is_seen_without_an_account_and_changed_by_nobody(
    services: Services, ann: httpx.Client
) -> None:
    job = upload(ann, "Book.png")
    finish(services, page())
    shared = ann.post(f"/jobs/{job}/share", data={"csrf_token": csrf_of(ann.get("/jobs"))})
    link = shared.text.split('readonly value="')[1].split('"')[0]
    assert link.startswith("/shared/")
    with pages_of(services) as stranger:
        shown = stranger.get(link)
        assert shown.status_code == 200 and "Book.png" in shown.text
        assert "<form" not in shown.text.split("<main")[1]
        assert stranger.get(f"{link}/pictures/0/after").content == AFTER
        assert stranger.get(f"{link}/pages/0").status_code == stranger.get(f"{link}/read").status_code == 200
        assert stranger.get(f"/jobs/{job}").status_code == 303
        assert stranger.get(f"{link}x").status_code == 404
        # A link to a file is no link to a job.
        other = services.links.sign(Link("file", job))
        assert stranger.get(f"/shared/{other}").status_code == 404
        ann.post(f"/jobs/{job}/delete", data={"csrf_token": csrf_of(ann.get("/jobs"))})
        assert stranger.get(link).status_code == 404


@pytest.mark.parametrize(
    ("asked", "numbers", "before", "after"),
    [
        ("page=1&mode=page", [0], None, 2), ("page=3&mode=page", [2], 2, 4), ("page=9&mode=page", [4], 4, None),
        ("page=1&mode=spread", [0], None, 2), ("page=2&mode=spread", [1, 2], 1, 4),
        ("page=3&mode=spread", [1, 2], 1, 4), ("page=5&mode=spread", [3, 4], 2, None),
        ("mode=webtoon", [0, 1, 2, 3, 4], None, None),
    ],
)  # fmt: skip
def test_the_reader_turns_pages(
    services: Services,
    ann: httpx.Client,
    asked: str,
    numbers: list[int],
    before: int | None,
    after: int | None,
) -> None:
    job = upload(ann)
    finish(services, *(page(f"{number}.png") for number in range(5)))
    text = ann.get(f"/jobs/{job}/read?{asked}").text
    check_html(text)
    body = text.split("<main")[1]
    assert [number for number in range(5) if f'src="/jobs/{job}/pictures/{number}/after"' in body] == numbers
    for rel, number in (("prev", before), ("next", after)):
        there = f'rel="{rel}" href="/jobs/{job}/read?page={number}&amp;' in text
        assert there == (number is not None and "webtoon" not in asked)


def test_jobs_are_filtered_found_and_paged(services: Services, ann: httpx.Client) -> None:
    first = upload(ann, "Alpha 100%.png")
    upload(ann, "beta.png")
    ann.post(f"/jobs/{first}/cancel", data={"csrf_token": csrf_of(ann.get("/jobs"))})
    both = ann.get("/jobs").text
    assert "Alpha" in both and "beta" in both
    assert "beta" not in ann.get("/jobs?status=canceled").text
    assert "Alpha" not in ann.get("/jobs?status=queued").text
    assert "No job is failed." in ann.get("/jobs?status=failed").text
    found = ann.get("/jobs?q=BETA", headers={"HX-Request": "true"}).text
    assert "beta" in found and "Alpha" not in found and "<html" not in found
    # What a pattern would mean is text here.
    assert "Alpha" in ann.get("/jobs?q=100%25").text
    assert "beta" not in ann.get("/jobs?q=_").text
    assert ann.get("/jobs?status=nothing").status_code == 400
    assert ann.get("/jobs?cursor=nothing").status_code == 400


def add_jobs(services: Services, count: int, *, every: int) -> str:
    """Add completed jobs; each one of some has another title. Return their owner."""

    def write(connection: Any) -> str:
        owner = accounts.create_user(connection, "many", "user")
        rows = [
            {
                "id": f"{number:08}", "owner_id": owner, "lane": "batch", "status": "completed", "params": {},
                "title": f"rare {number}" if number % every == 0 else f"page {number}", "created_at": 1000 + number,
                "updated_at": 1,
            }
            for number in range(count)
        ]  # fmt: skip
        for start in range(0, count, 5000):
            connection.execute(sa.insert(jobs), rows[start : start + 5000])
        return owner

    return services.database.write(write)


def test_a_search_looks_at_some_jobs_at_a_time_and_finds_all(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "WINDOW", 40)
    owner = add_jobs(services, 100, every=30)
    found: list[str] = []
    before, steps = None, 0
    while True:
        part = services.database.read(
            lambda c, before=before: search.find_jobs(c, owner_id=owner, text="RARE", before=before, limit=2)
        )
        found += [str(row["title"]) for row in part.rows]
        steps += 1
        if part.following is None:
            break
        before = part.following
    assert found == ["rare 90", "rare 60", "rare 30", "rare 0"]
    assert 3 <= steps <= 6


def test_the_list_pages_without_gaps(services: Services) -> None:
    owner = add_jobs(services, 25, every=100)
    seen: list[str] = []
    before = None
    while True:
        part = services.database.read(
            lambda c, before=before: search.find_jobs(c, owner_id=owner, before=before, limit=10)
        )
        seen += [str(row["id"]) for row in part.rows]
        before = part.following
        if before is None:
            break
    assert seen == sorted(seen, reverse=True) and len(seen) == 25
