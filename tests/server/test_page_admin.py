"""The pages of administrators: figures, queue, users, keys, audit, backups; every change is asked for by a form."""

from __future__ import annotations

import math
import re
import sqlite3
from collections.abc import Iterator
from typing import Any

import httpx2 as httpx
import pytest
import sqlalchemy as sa

from comic_upscale.models.catalogue import CATALOGUE, FAMILIES, family_of
from comic_upscale.server import accounts, job_log, queue, workers
from comic_upscale.server.api import admin_server
from comic_upscale.server.database.schema import audit, jobs, users
from comic_upscale.server.pages.app import ROUTERS
from comic_upscale.server.pages.choices import WORDS
from comic_upscale.server.services import Services
from tests.server.conftest import OpenServices, client_of, make_key
from tests.server.pages import csrf_of, pages_of, sign_in
from tests.server.test_access import OTHER, PASSWORD, add_person
from tests.server.test_page_jobs import EVIL, finish, page, upload
from tests.server.test_pages import check_html
from tests.server.test_queue import taken
from tests.server.test_uploads import PNG


@pytest.fixture
def boss(services: Services) -> Iterator[httpx.Client]:
    """A browser in which an administrator has signed in."""
    add_person(services, "boss", "admin")
    with pages_of(services) as client:
        yield sign_in(client, "boss")


def post(browser: httpx.Client, path: str, **fields: str) -> httpx.Response:
    return browser.post(path, data={"csrf_token": csrf_of(browser.get("/admin/users")), **fields})


def actions(services: Services) -> list[str]:
    return services.database.read(lambda c: list(c.scalars(sa.select(audit.c.action).order_by(audit.c.id))))


def test_every_page_of_the_administration_shows_itself(services: Services, boss: httpx.Client) -> None:
    """With jobs, failures, keys and names that try to be HTML."""
    job = upload(boss, EVIL)
    finish(services, page(EVIL), seconds=3.0, model="comic-compact-x3")
    upload(boss, EVIL)
    held = taken(services.database)
    services.database.write(lambda c: queue.fail(c, held, "x", EVIL))
    make_key(services, "program")
    found = 0
    for router in ROUTERS:
        for route in router.routes:
            path, methods = route.path, route.methods  # type: ignore[attr-defined]
            if path.startswith("/admin") and "GET" in methods:
                answer = boss.get(path.replace("{username}", "boss").replace("{job_id}", job))
                assert answer.status_code == 200, (path, answer.text)
                assert "<script>alert" not in answer.text
                check_html(answer.text)
                found += 1
    assert found >= 9


def test_the_dashboard_shows_a_change_although_its_figures_are_older(
    services: Services, boss: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    boss.get("/admin")
    # As on a slow machine, where the figures are kept for a while.
    monkeypatch.setattr(services.monitor._figures, "_until", math.inf)
    for action, text in (
        ("pause", "The queue is paused"),
        ("maintenance", "Maintenance: uploads are refused"),
    ):
        assert text not in boss.get("/admin").text
        assert post(boss, "/admin/queue", action=action).status_code == 303
        assert text in boss.get("/admin").text


def test_the_dashboard_counts(services: Services, boss: httpx.Client) -> None:
    upload(boss)
    finish(services, seconds=90.0)
    upload(boss, "bad.png")
    held = taken(services.database)
    services.database.write(lambda c: queue.fail(c, held, "x", "The page is odd."))
    upload(boss)
    text = boss.get("/admin").text
    assert '<a href="/admin/jobs?status=queued">1</a>' in text
    for label, value in (
        ("Completed", "1"),
        ("Failed", "1"),
        ("Canceled", "0"),
        ("Average job", "1 min 30 s"),
    ):
        assert f"<dt>{label}</dt><dd>{value}</dd>" in text
    assert "The page is odd." in text and "bad.png" in text
    part = boss.get("/admin", headers={"HX-Request": "true"}).text
    assert "<html" not in part and 'id="dashboard"' in part


def test_the_queue_is_paused_by_a_form(services: Services, boss: httpx.Client) -> None:
    assert post(boss, "/admin/queue", action="pause").headers["location"] == "/admin?notice=queue"
    assert services.database.read(queue.is_paused)
    # A user who waits for a job can see why nothing happens.
    told, job = "An administrator has paused the queue.", upload(boss)
    for path in (f"/jobs/{job}", "/", "/try"):
        assert told in boss.get(path).text
    assert "The queue is paused" in boss.get("/admin").text
    post(boss, "/admin/queue", action="maintenance")
    assert "takes no uploads" in boss.get("/").text
    post(boss, "/admin/queue", action="resume")
    post(boss, "/admin/queue", action="open")
    assert not services.database.read(queue.is_paused)
    for path in (f"/jobs/{job}", "/"):
        assert told not in boss.get(path).text
    assert post(boss, "/admin/queue", action="explode").status_code == 400


def test_a_user_with_a_daily_limit_of_pages(services: Services, boss: httpx.Client) -> None:
    """The task of a newcomer: add a user who may upload 50 pages a day."""
    made = post(boss, "/admin/users", username="carl", password=PASSWORD, pages_per_day="50")
    assert made.headers["location"] == "/admin/users/carl?notice=created"
    assert 'value="50"' in boss.get("/admin/users/carl").text
    assert "50 pages a day" in boss.get("/admin/users").text
    with pages_of(services) as browser:
        assert sign_in(browser, "carl").get("/").headers["location"] == "/password"
        form = {"current_password": PASSWORD, "new_password": OTHER, "repeated": OTHER}
        browser.post("/password", data={**form, "csrf_token": csrf_of(browser.get("/password"))})
        assert "you have used 0 of 50 pages." in browser.get("/").text
        # At the limit, the page says so before anything is chosen, and when it ends.
        upload(browser)
        held = taken(services.database)
        services.database.write(lambda c: queue.heartbeat(c, held, pages_total=50))
        reached = browser.get("/").text
        assert "You have reached your limit of 24 hours: 50 of 50 pages. You can upload again in 2" in reached
        assert "data-is-used-up" in reached
        headers = {"X-CSRF-Token": csrf_of(browser.get("/"))}
        refused = browser.post("/api/v1/uploads", files={"file": ("a.png", PNG)}, headers=headers)
        said = "You may send 50 pages in 24 hours, and 50 are used: try again in 24 h 0 min."
        assert (refused.status_code, refused.json()["error"]["message"]) == (429, said)
        assert (
            "50 of 50 pages used in the last 24 hours; you can upload again in"
            in browser.get("/account").text
        )
        assert "50 of 50 pages" in boss.get("/admin/users/carl").text
        limits = {"pages_per_day": None, "bytes_per_day": len(PNG) + 1, "pixels_per_day": 9_000_000}
        services.database.write(
            lambda c: c.execute(sa.update(users).where(users.c.name == "carl").values(**limits))
        )
        other = browser.get("/").text
        assert "and 0 of 9,000,000 pixels of results." in other and 'data-bytes-left="1"' in other
    text = boss.get("/admin/users").text
    row = text[text.index(">carl</a>") :].split("</tr>")[0]
    assert "9,000,000 pixels a day" in row and "none of their own" not in row


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"username": "../x"}, "is not allowed"),
        ({"username": "boss"}, "already a user"),
        ({"username": "new", "password": "short"}, "10 to 256"),
        ({"username": "new", "role": "king"}, "user or admin"),
        ({"username": "new", "pages_per_day": "many"}, "pages a day"),
        ({"username": "new", "pages_per_day": "-1"}, "pages a day"),
        ({"username": "new", "pages_per_day": "9" * 1000}, "pages a day"),
        ({"username": "new", "email": "nope"}, "e-mail address"),
        ({"username": "new", "email": "a@b.example\r\nBcc: c@d.example"}, "e-mail address"),
        ({"username": "new", "email": f"{'a' * 900}@b.example"}, "e-mail address"),
        ({"username": "anonymous"}, "reserved"),
        ({"username": "Anonymous"}, "reserved"),
        ({"username": "BOSS"}, "already a user named boss"),
    ],
)
def test_a_wrong_form_keeps_what_was_typed(
    services: Services, boss: httpx.Client, fields: dict[str, str], message: str
) -> None:
    answer = post(boss, "/admin/users", **fields)
    assert answer.status_code == 400 and message in answer.text
    assert f'value="{fields["username"]}"' in answer.text
    count = services.database.read(
        lambda c: c.scalar(sa.select(sa.func.count()).select_from(users).where(users.c.name == "new"))
    )
    assert count == 0


def test_a_user_is_changed_blocked_and_let_in_again(services: Services, boss: httpx.Client) -> None:
    add_person(services, "ann")
    with pages_of(services) as browser:
        sign_in(browser, "ann")
        limits = {"role": "user", "pages_per_day": "7", "megabytes_per_day": "3", "jobs_at_once": "1"}
        assert post(boss, "/admin/users/ann", **limits).status_code == 303
        # Other limits leave the session alone; a block ends it.
        assert "0 of 7 pages" in browser.get("/").text
        row = services.database.read(lambda c: accounts.find_user(c, "ann"))
        assert row is not None and (row["pages_per_day"], row["bytes_per_day"], row["jobs_at_once"]) == (
            7,
            3_000_000,
            1,
        )
        services.database.write(lambda c: c.execute(sa.update(users).values(bytes_per_day=3_999_999)))
        # The form shows 3 megabytes. Sending it again changes nothing.
        assert post(boss, "/admin/users/ann", **limits).status_code == 303
        row = services.database.read(lambda c: accounts.find_user(c, "ann"))
        assert row is not None and row["bytes_per_day"] == 3_999_999
        # The largest limits of the REST interface can be sent again, too.
        most = {"bytes_per_day": 1 << 50, "pages_per_day": 1 << 31}
        services.database.write(lambda c: c.execute(sa.update(users).values(most)))
        shown = limits | {"megabytes_per_day": str((1 << 50) // 1_000_000), "pages_per_day": str(1 << 31)}
        assert post(boss, "/admin/users/ann", **shown).status_code == 303
        row = services.database.read(lambda c: accounts.find_user(c, "ann"))
        assert row is not None and {name: row[name] for name in most} == most
        wrong = post(boss, "/admin/users/ann", role="user", jobs_at_once="0")
        assert wrong.status_code == 400 and "from 1 to 1,000" in wrong.text
        none = {"pages_per_day": "", "megabytes_per_day": "", "jobs_at_once": ""}
        assert post(boss, "/admin/users/ann", role="user", **none).status_code == 303
        row = services.database.read(lambda c: accounts.find_user(c, "ann"))
        assert row is not None and row["pages_per_day"] is row["bytes_per_day"] is row["jobs_at_once"] is None
        post(boss, "/admin/users/ann/block", disabled="true")
        assert browser.get("/").status_code == 303
        assert "blocked" in boss.get("/admin/users/ann").text
        post(boss, "/admin/users/ann/block", disabled="false")
        sign_in(browser, "ann")
        post(boss, "/admin/users/ann/password", password=OTHER)
        assert browser.get("/").status_code == 303
        assert sign_in(browser, "ann", OTHER).get("/").headers["location"] == "/password"
        post(boss, "/admin/users/ann/sessions/end")
        assert browser.get("/password").headers["location"] == "/sign-in?next=/password&notice=expired"
    assert post(boss, "/admin/users/nobody", role="user").status_code == 404
    last = post(boss, "/admin/users/boss", role="user")
    assert last.status_code == 409 and "last administrator" in last.text


def test_jobs_of_all_users_are_listed_and_run_again_by_model(services: Services, boss: httpx.Client) -> None:
    add_person(services, "ann")
    with pages_of(services) as browser:
        job = upload(sign_in(browser, "ann"), "Ann's.png")
    finish(services, model="realesr-animevideov3")
    assert "Ann&#39;s.png" in boss.get("/admin/jobs").text
    assert "Ann&#39;s.png" not in boss.get("/jobs").text
    again = post(boss, "/admin/models/again", model="realesr-animevideov3", other="comic-compact-x3")
    assert again.headers["location"] == "/admin/jobs?status=queued&notice=queued"
    assert "comic-compact-x3" in boss.get("/admin/jobs?status=queued").text
    assert boss.get(f"/jobs/{job}").status_code == 200


def test_a_key_of_any_user_is_revoked(services: Services, boss: httpx.Client) -> None:
    key = make_key(services, "program")
    assert key.split("_")[1] in boss.get("/admin/keys").text
    with client_of(services, key) as program:
        assert program.get("/api/v1/jobs").status_code == 200
        post(boss, f"/admin/keys/{key.split('_')[1]}/revoke")
        assert program.get("/api/v1/jobs").status_code == 401
    assert key not in boss.get("/admin/keys").text


def test_the_system_page_shows_no_secret_and_backs_up(open_server: OpenServices) -> None:
    services = open_server(secret_key="a secret of signatures", api_key="a key of the environment")
    add_person(services, "boss", "admin")
    with pages_of(services) as boss:
        text = sign_in(boss, "boss").get("/admin/system").text
        assert "set, not shown" in text and "signatures" not in text and "a key of" not in text
        made = post(boss, "/admin/backup")
        assert made.status_code == 303
        text = boss.get(made.headers["location"]).text
        assert "The database is saved" in text and "server-2" in text
        # Within the same second.
        assert post(boss, "/admin/backup").status_code == 303
    copy, _ = (services.settings.data / "backups").iterdir()
    with sqlite3.connect(copy) as connection:
        assert connection.execute("select count(*) from users where name = 'boss'").fetchone() == (1,)
    connection.close()
    assert actions(services)[-1] == "server.backup"


def test_a_model_is_made_the_default_withdrawn_and_offered_again(
    services: Services, boss: httpx.Client
) -> None:
    model = "realesr-animevideov3"
    assert post(boss, f"/admin/models/{model}/default").status_code == 303
    assert f"Uploads without a model get {model}" in boss.get("/admin/models").text
    post(boss, "/admin/models/auto/default")
    post(boss, f"/admin/models/{model}/demote")
    assert "withdrawn" in boss.get("/admin/models").text
    assert f'value="{model}"' not in boss.get("/").text
    post(boss, f"/admin/models/{model}/promote")
    assert f'value="{model}"' in boss.get("/").text
    assert post(boss, "/admin/models/none/default").status_code == 404
    assert post(boss, f"/admin/models/{model}/burn").status_code == 400


def test_models_are_counted_without_jobs_that_used_none(services: Services, boss: httpx.Client) -> None:
    for model in ("realesr-animevideov3", None):
        upload(boss)
        finish(services, model=model)
    text = boss.get("/admin/models").text
    assert "None" not in text


def test_a_preset_is_made_chosen_and_deleted(services: Services, boss: httpx.Client) -> None:
    made = post(
        boss, "/admin/presets", name="mine", description="For old scans", denoise="low", format="webp"
    )
    assert made.status_code == 303
    assert "For old scans" in boss.get("/admin/models").text
    assert 'value="mine"' in boss.get("/").text
    job = upload(boss, preset="mine")
    assert "webp" in boss.get(f"/jobs/{job}").text
    wrong = post(
        boss, "/admin/presets", name="other", format="bmp2", model="realesr-animevideov3", quality="80"
    )
    assert wrong.status_code == 400 and "Format must be" in wrong.text
    for typed in ('value="other"', 'value="bmp2"', 'value="80"', "<option selected>realesr-animevideov3"):
        assert typed in wrong.text
    post(boss, "/admin/presets/mine/delete")
    assert 'value="mine"' not in boss.get("/").text


def test_settings_change_at_once_and_return(services: Services, boss: httpx.Client) -> None:
    page = boss.get("/admin/settings").text
    assert 'name="retention_days"' in page and "secret" not in page
    changed = post(
        boss, "/admin/settings", retention_days="3", max_upload_size="5M", accepted_types="png, cbz"
    )
    assert changed.headers["location"] == "/admin/settings?notice=changed"
    shown = boss.get("/").text
    assert "after 3 days" in shown and 'data-extensions="png cbz"' in shown
    wrong = post(boss, "/admin/settings", retention_days="never")
    assert wrong.status_code == 400 and 'value="never"' in wrong.text
    post(boss, "/admin/settings", retention_days="", accepted_types="")
    assert "after 30 days" in boss.get("/").text
    assert actions(services).count("settings.change") == 2


def shown_before(answer: httpx.Response) -> dict[str, str]:
    """What the page of a form showed, as the browser sends it back."""
    found = re.findall(r'name="(before\.\w+)" value="([^"]*)"', answer.text)
    return {**dict(found), **{name.removeprefix("before."): value for name, value in found}}


def test_bytes_are_shown_as_they_are_typed(services: Services, boss: httpx.Client) -> None:
    assert 'name="max_upload_size" value="2G"' in boss.get("/admin/settings").text
    assert post(boss, "/admin/settings", max_upload_size="1536M").status_code == 303
    assert services.live.settings.max_upload_size == 1536 << 20
    assert 'name="max_upload_size" value="1536M"' in boss.get("/admin/settings").text
    # Nothing of Python is in what people read.
    assert "max upload size 1610612736" in boss.get("/admin/audit").text
    assert not re.search(r"[\[{]&#39;|\bTrue\b|\bNone\b", boss.get("/admin/audit").text)


def test_two_people_change_settings_at_a_time(services: Services, boss: httpx.Client) -> None:
    """The form of each sends all fields. Neither takes back what the other has changed."""
    first, second = (shown_before(boss.get("/admin/settings")) for _ in range(2))
    assert post(boss, "/admin/settings", **first | {"retention_days": "3"}).status_code == 303
    assert post(boss, "/admin/settings", **second | {"max_files": "7"}).status_code == 303
    settings = services.settings
    assert (settings.retention_days, settings.max_files) == (3, 7)
    # Both changed the same field: the second one sees a message, and can save again.
    told = post(boss, "/admin/settings", **second | {"retention_days": "5", "max_files": "9"})
    assert told.status_code == 409 and "somebody changed max files to 7, retention days to 3." in told.text
    assert services.settings.retention_days == 3
    again = shown_before(told)
    assert again["before.retention_days"] == "3" and 'value="5"' in told.text
    again |= {"retention_days": "5", "max_files": "8"}
    assert post(boss, "/admin/settings", **again).status_code == 303
    assert (services.settings.retention_days, services.settings.max_files) == (5, 8)


def test_two_people_change_a_user_at_a_time(services: Services, boss: httpx.Client) -> None:
    add_person(services, "ann")
    first, second = (shown_before(boss.get("/admin/users/ann")) for _ in range(2))
    assert post(boss, "/admin/users/ann", **first | {"pages_per_day": "3"}).status_code == 303
    assert post(boss, "/admin/users/ann", **second | {"jobs_at_once": "7"}).status_code == 303
    row = services.database.read(lambda c: accounts.find_user(c, "ann"))
    assert row is not None and (row["pages_per_day"], row["jobs_at_once"]) == (3, 7)
    told = post(boss, "/admin/users/ann", **second | {"pages_per_day": "", "megabytes_per_day": "9"})
    # An empty field is the value that both had before, so it is not a change.
    assert told.status_code == 303
    services.database.write(lambda c: c.execute(sa.update(users).values(bytes_per_day=None)))
    told = post(boss, "/admin/users/ann", **second | {"pages_per_day": "4", "megabytes_per_day": "12"})
    assert told.status_code == 409 and "somebody changed pages a day to 3." in told.text
    assert 'value="4"' in told.text and 'value="12"' in told.text


def test_a_form_with_older_values_alone_is_not_said_to_be_saved(
    services: Services, boss: httpx.Client
) -> None:
    """As after going back, where the page shows what was there before."""
    old = shown_before(boss.get("/admin/settings"))
    assert "Nothing was changed" in boss.get(post(boss, "/admin/settings", **old).headers["location"]).text
    assert post(boss, "/admin/settings", **old | {"max_files": "66"}).status_code == 303
    told = post(boss, "/admin/settings", **old)
    assert told.status_code == 409 and "Nothing was saved" in told.text
    now = shown_before(told)
    assert now["before.max_files"] == now["max_files"] == "66"
    assert post(boss, "/admin/settings", **now | {"max_files": "2000"}).status_code == 303
    assert services.settings.max_files == 2000
    add_person(services, "ann")
    old = shown_before(boss.get("/admin/users/ann"))
    post(boss, "/admin/users/ann", **old | {"role": "admin"})
    told = post(boss, "/admin/users/ann", **old | {"role": "user"})
    assert told.status_code == 409 and "Nothing was saved" in told.text
    # More digits than Python reads as a number.
    assert post(boss, "/admin/users/ann", pages_per_day="9" * 5000).status_code == 400


def test_of_saves_at_the_same_time_one_is_told(
    services: Services, boss: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another save is stored between the form's own look at the settings and its write."""
    page = shown_before(boss.get("/admin/settings"))
    store = admin_server.store_settings

    async def after_another(services: Services, *arguments: Any) -> Any:
        await store(services, arguments[0], {"max_files": 21})
        return await store(services, *arguments)

    monkeypatch.setattr(admin_server, "store_settings", after_another)
    told = post(boss, "/admin/settings", **page | {"max_files": "22"})
    assert told.status_code == 409 and services.settings.max_files == 21


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("max_files", str(10**19)),
        ("rate_limit", str(10**30)),
        ("job_timeout", "1e300"),
        ("max_upload_size", "9" * 40),
    ],
)
def test_a_number_that_no_database_holds_is_refused(
    services: Services, boss: httpx.Client, name: str, text: str
) -> None:
    before = services.settings
    wrong = post(boss, "/admin/settings", **{name: text})
    assert wrong.status_code == 400
    (alert,) = re.findall('role="alert">([^<]*)<', wrong.text)
    assert alert.startswith(name.replace("_", " ").capitalize()), alert
    assert services.settings == before


def test_a_preset_is_changed_by_a_form_that_has_it(services: Services, boss: httpx.Client) -> None:
    post(boss, "/admin/presets", name="mine", description="For old scans", denoise="low")
    page = boss.get("/admin/models?preset=mine").text
    assert 'value="For old scans"' in page and "preset=mine#preset-form" in page
    form = dict(re.findall(r'id="preset-\w+" name="(\w+)" value="([^"]*)"', page))
    assert post(boss, "/admin/presets", **form).status_code == 303
    assert boss.get("/admin/models?preset=mine").text == page
    post(boss, "/admin/presets", name="larger", factor="2.5", model="realesr-animevideov3")
    page = boss.get("/admin/models?preset=larger").text
    assert 'name="factor" value="2.5"' in page and "<option selected>realesr-animevideov3" in page
    # What only the REST interface sets would be lost.
    with client_of(services, make_key(services, "chief", "admin")) as chief:
        body = {"description": "", "options": {"factor": "2", "tta": "true"}}
        assert chief.put("/api/v1/admin/presets/whole", json=body).status_code == 200
    assert "preset=whole" not in boss.get("/admin/models").text
    assert 'value="For old scans"' not in boss.get("/admin/models?preset=art").text


@pytest.mark.parametrize("types", ["nonsense", "png, exe", ".jpg, .", "*"])
def test_types_that_cannot_be_read_are_not_accepted(
    services: Services, boss: httpx.Client, types: str
) -> None:
    wrong = post(boss, "/admin/settings", accepted_types=types)
    assert (
        wrong.status_code == 400
        and "no type that can be read" in wrong.text
        and "Accepted types has" in wrong.text
    )
    assert services.settings.accepted_types == ()
    assert post(boss, "/admin/settings", accepted_types=".PNG, cbz").status_code == 303
    assert upload(boss, "1.png")


def test_the_log_of_a_job_is_for_administrators(services: Services, boss: httpx.Client) -> None:
    job = upload(boss)
    assert f"/admin/jobs/{job}/log" in boss.get(f"/jobs/{job}").text
    assert "No worker has written" in boss.get(f"/admin/jobs/{job}/log").text
    assert boss.get("/admin/jobs/none/log").status_code == 404
    services.database.write(lambda c: job_log.add(c, job, ["attempt 1", "<b>done</b>"]))
    part = boss.get(f"/admin/jobs/{job}/log", headers={"HX-Request": "true"}).text
    assert part.startswith('<div id="log" data-refresh="5"') and "&lt;b&gt;done" in part
    sent = boss.get(f"/admin/jobs/{job}/log.txt")
    assert sent.headers["content-type"] == "text/plain; charset=utf-8"
    assert [line.split(" ", 1)[1] for line in sent.text.splitlines()] == ["attempt 1", "<b>done</b>"]
    assert boss.get("/admin/jobs/none/log.txt").status_code == 404


def test_the_storage_is_checked(
    services: Services, boss: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    worked = post(boss, "/admin/storage").text
    assert "The storage works. The server may write, write a large file, read, list, delete." in worked
    assert not [path for path in (services.settings.data / "files").rglob("*") if path.is_file()]
    # A disk that loses what it was given.
    monkeypatch.setattr(type(services.files), "read", lambda *_: iter([b"something else"]))
    failed = post(boss, "/admin/storage").text
    assert "The storage does not let this server read: the storage did not do what it said." in failed


def test_the_cost_of_a_day_and_what_a_worker_does(open_server: OpenServices) -> None:
    services = open_server(price=3.6)
    add_person(services, "boss", "admin")
    with pages_of(services) as browser:
        sign_in(browser, "boss")
        job = upload(browser, "Book.png")
        services.database.write(lambda c: workers.register(c, "w"))
        services.database.write(lambda c: workers.seen(c, "w", job_id=job))
        assert f'<a href="/jobs/{job}">Book.png</a>' in browser.get("/admin/workers").text
        finish(services, page(), seconds=1000.0)
        assert "<dd>$1.00 <small>at $3.60 an hour</small></dd>" in browser.get("/admin").text


def test_a_note_on_a_model_is_shown_where_one_is_chosen(services: Services, boss: httpx.Client) -> None:
    note = "Best for <old> scans."
    assert post(boss, "/admin/models/comic-compact-x3/note", note=f" {note} ").status_code == 303
    for path in ("/admin/models", "/", "/try"):
        text = boss.get(path).text
        assert "Best for &lt;old&gt; scans." in text and note not in text
    post(boss, "/admin/models/comic-compact-x3/note", note="")
    assert "scans." not in boss.get("/").text
    assert actions(services)[-2:] == ["model.note", "model.note"]
    assert post(boss, "/admin/models/none/note", note="x").status_code == 404


def models_in(page: httpx.Response) -> list[str]:
    menu = re.search(r'<select id="model".*?</select>', page.text, re.DOTALL)
    return (
        re.findall(r'value="([^"]+)"', menu[0])
        if menu
        else re.findall(r'name="models" value="(.*?)"', page.text)
    )


def test_the_e_mail_address_of_a_user_is_shown_and_changed(services: Services, boss: httpx.Client) -> None:
    post(boss, "/admin/users", username="ann", email="ann@example.com")
    post(boss, "/admin/users", username="bob", email="bob@example.com")
    assert 'value="ann@example.com"' in boss.get("/admin/users/ann").text
    for wrong, told in (("ann", "such as ann@example.com"), ("bob@example.com", "Another user has that")):
        refused = post(boss, "/admin/users/ann", email=wrong)
        assert refused.status_code == 400 and told in refused.text and f'value="{wrong}"' in refused.text
    for new in ("a@example.org", ""):
        assert post(boss, "/admin/users/ann", email=new).headers["location"].endswith("notice=changed")
        assert f'name="email" type="email" value="{new}"' in boss.get("/admin/users/ann").text


def test_a_user_is_deleted_with_everything_and_nobody_else(services: Services, boss: httpx.Client) -> None:
    add_person(services, "ann")
    add_person(services, "bob")
    stored: list[set[str]] = []
    with pages_of(services) as browser:
        for name in ("bob", "ann"):
            sign_in(browser, name)
            upload(browser, "Book.png")
            finish(services, page())
            stored.append(set(services.files.list()))
        gone = upload(browser, "Next.png")
        assert post(browser, f"/jobs/{gone}/delete").status_code == 303
        upload(browser, "Next.png")
        key = make_key(services, "ann")
        taken(services.database)
        running = post(boss, "/admin/users/ann/delete")
        assert running.status_code == 409 and "A job of ann is running" in running.text
        services.database.write(lambda c: c.execute(sa.update(jobs).values(status="failed")))
        assert post(boss, "/admin/users/ann/delete").headers["location"] == "/admin/users?notice=user-deleted"
        assert browser.get("/account").headers["location"].startswith("/sign-in")
    with client_of(services, key) as client:
        assert client.get("/api/v1/jobs").status_code == 401
    assert set(services.files.list()) == stored[0]
    owners = services.database.read(lambda c: set(c.scalars(sa.select(users.c.name).join(jobs))))
    assert owners == {"bob"} and actions(services)[-1] == "user.delete"
    for name, told in (
        ("boss", "You cannot delete yourself"),
        ("ann", "There is no such"),
        ("anonymous", "no such"),
    ):
        assert told in post(boss, f"/admin/users/{name}/delete").text


def test_a_user_of_the_library_is_not_deleted_before_the_name_has_left_it(open_server: OpenServices) -> None:
    services = open_server(library_users=("ann",))
    add_person(services, "boss", "admin")
    add_person(services, "ann")
    with pages_of(services) as client:
        refused = post(sign_in(client, "boss"), "/admin/users/ann/delete")
        assert refused.status_code == 409 and "out of the setting library users first" in refused.text


def test_menus_offer_families_in_place_of_their_networks(services: Services, boss: httpx.Client) -> None:
    for path in ("/", "/try"):
        assert models_in(boss.get(path))[:4] == [
            "comic-best",
            "comic-fast",
            "comic-crisp",
            "comic-compact-x3",
        ]
        assert set(models_in(boss.get(path))) == {*FAMILIES, *map(family_of, CATALOGUE.values())}
        # No hint compares a model with one that only the makers know.
        assert "the work of" not in boss.get(path).text
    # What has to be downloaded is marked, as its first job takes longer, or cannot begin.
    assert "RealESRGAN_x4plus (67.0 MB to download once)</option>" in boss.get("/").text
    assert "comic-best</option>" in boss.get("/").text and "67.0 MB to download once" in boss.get("/try").text
    # A link of an older trial names a network.
    assert '<option value="comic-best" selected>' in boss.get("/?model=comic-best-x2").text
    assert 'value="comic-fast" checked' in boss.get("/try?models=comic-fast-x3&models=comic-crisp").text
    # A note on a network is on its family. A family with a withdrawn network cannot be chosen, its other one can.
    post(boss, "/admin/models/comic-best-x3/note", note="Best for old scans.")
    assert "Best for old scans." in boss.get("/").text
    assert post(boss, "/admin/models/comic-best-x2/demote").status_code == 303
    assert models_in(boss.get("/"))[:3] == ["comic-fast", "comic-crisp", "comic-compact-x3"]
    assert "comic-best-x3" in models_in(boss.get("/"))


def test_every_model_of_the_catalogue_has_words_for_readers() -> None:
    assert WORDS.keys() == {*FAMILIES, *map(family_of, CATALOGUE.values())}


def test_jobs_of_one_user_are_listed(services: Services, boss: httpx.Client) -> None:
    add_person(services, "ann")
    upload(boss, "Mine.png")
    with pages_of(services) as browser:
        upload(sign_in(browser, "ann"), "Hers.png")
        # A user sees no jobs of others by naming them.
        assert "Mine.png" not in browser.get("/jobs?owner=boss").text
    both = boss.get("/admin/jobs").text
    assert "Mine.png" in both and '<a href="/admin/jobs?owner=ann">ann</a>' in both
    hers = boss.get("/admin/jobs?owner=ann&status=queued").text
    assert "Hers.png" in hers and "Mine.png" not in hers
    assert 'name="owner" value="ann"' in hers and 'href="/admin/jobs?status=failed&amp;owner=ann"' in hers
    assert "“ann” has no failed jobs." in boss.get("/admin/jobs?owner=ann&status=failed").text
    assert "There is no user named “carl”." in boss.get("/admin/jobs?owner=carl").text
