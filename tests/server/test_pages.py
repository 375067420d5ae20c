"""The pages: who sees which, what forms need, and that they load nothing from elsewhere."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

import httpx2 as httpx
import pytest
import sqlalchemy as sa
from fastapi.testclient import TestClient

from comic_upscale.errors import SettingsError
from comic_upscale.server.app import create_app
from comic_upscale.server.database.schema import audit, sessions
from comic_upscale.server.pages.app import ROUTERS
from comic_upscale.server.pages.assets import assets
from comic_upscale.server.pages.render import detail_text, options_text, scopes_text
from comic_upscale.server.services import Services
from comic_upscale.server.settings import ServerSettings
from tests.server.conftest import OpenServices, client_of
from tests.server.pages import csrf_of, pages_of, sign_in
from tests.server.test_access import OTHER, PASSWORD, add_person
from tests.server.test_uploads import PNG


@pytest.fixture
def visitor(services: Services) -> Iterator[httpx.Client]:
    """A browser in which nobody has signed in."""
    with pages_of(services) as client:
        yield client


@pytest.fixture
def ann(services: Services, visitor: httpx.Client) -> httpx.Client:
    """A browser in which a user has signed in."""
    add_person(services, "ann")
    return sign_in(visitor, "ann")


def test_a_visitor_signs_in_and_comes_to_the_page_that_was_asked_for(
    services: Services, visitor: httpx.Client
) -> None:
    add_person(services, "ann")
    answer = visitor.get("/account")
    assert (answer.status_code, answer.headers["location"]) == (303, "/sign-in?next=/account")
    form = {"username": "ann", "password": PASSWORD, "next": "/account"}
    wrong = visitor.post("/sign-in", data=form | {"password": OTHER})
    assert wrong.status_code == 401 and "The name or the password is wrong." in wrong.text
    assert 'value="ann"' in wrong.text and OTHER not in wrong.text
    right = visitor.post("/sign-in", data=form)
    assert (right.status_code, right.headers["location"]) == (303, "/account")
    page = visitor.get("/account")
    assert page.status_code == 200 and "<h1>ann</h1>" in page.text


@pytest.mark.parametrize(
    ("came_from", "back"),
    [
        ("https://server.test/account?part=2", "next=/account%3Fpart%3D2&"),
        ("https://server.test/account/keys", ""),  # takes forms alone
        ("https://server.test/nothing", ""),
        ("https://evil.test/account", ""),
        ("https://server.test//evil.test/account", ""),
        ("", ""),
    ],
)
def test_after_the_session_has_ended_a_form_leads_back_to_its_page(
    services: Services, ann: httpx.Client, came_from: str, back: str
) -> None:
    services.database.write(lambda c: c.execute(sa.delete(sessions)))
    answer = ann.post("/account/keys", data={"name": "x"}, headers={"Referer": came_from})
    assert answer.headers["location"] == f"/sign-in?{back}notice=expired"
    assert "Your session has ended. Sign in again." in ann.get(answer.headers["location"]).text
    # A page says it, too, but not to a visitor who never signed in.
    assert ann.get("/account").headers["location"] == "/sign-in?next=/account&notice=expired"
    ann.cookies.clear()
    assert ann.get("/account").headers["location"] == "/sign-in?next=/account"
    sent = ann.post("/account/keys", data={"name": "x"}, headers={"Referer": came_from})
    assert sent.headers["location"] == f"/sign-in?{back}".rstrip("&?")


@pytest.mark.parametrize(
    "target", ["//evil.test", "https://evil.test", "/\\evil.test", "javascript:x", "/\tx"]
)
def test_signing_in_leads_to_no_other_host(services: Services, visitor: httpx.Client, target: str) -> None:
    add_person(services, "ann")
    answer = visitor.post("/sign-in", data={"username": "ann", "password": PASSWORD, "next": target})
    assert answer.headers["location"] == "/"
    assert visitor.get("/sign-in", params={"next": target}).headers["location"] == "/"


def test_a_first_password_must_be_changed(services: Services, visitor: httpx.Client) -> None:
    add_person(services, "boss", "admin", must_change=True)
    sign_in(visitor, "boss")
    for page in ("/", "/account"):
        assert visitor.get(page).headers["location"] == "/password"
    form = {"current_password": PASSWORD, "new_password": OTHER, "repeated": OTHER}
    form["csrf_token"] = csrf_of(visitor.get("/password"))
    differs = visitor.post("/password", data=form | {"repeated": "something else"})
    assert differs.status_code == 400 and "differ" in differs.text
    poor = visitor.post("/password", data=form | {"new_password": "short", "repeated": "short"})
    assert poor.status_code == 400 and "10 to 256 characters" in poor.text
    assert visitor.post("/password", data=form).headers["location"] == "/?notice=password"
    assert visitor.get("/").status_code == 200


def test_signing_out_ends_the_session(services: Services, ann: httpx.Client) -> None:
    token = csrf_of(ann.get("/account"))
    assert ann.post("/sign-out", data={"csrf_token": token}).headers["location"].startswith("/sign-in")
    assert ann.get("/account").status_code == 303
    assert services.database.read(lambda c: c.scalar(sa.select(sa.func.count()).select_from(sessions))) == 0


def test_every_form_needs_the_token_of_its_session(services: Services, ann: httpx.Client) -> None:
    """Generated from the routes: a route that is added is checked, too."""
    add_person(services, "boss", "admin")
    routes = [route for route in page_routes() if "POST" in route[0]]
    open_routes = {"/sign-in", "/setup/{token}"}
    assert {path for _, path in routes} > open_routes
    for _, path in routes:
        if path in open_routes:
            continue
        url = re.sub(r"\{[^}]+\}", "x", path)
        for form in ({}, {"csrf_token": "0" * 64}):
            answer = ann.post(url, data=form)
            assert answer.status_code == 403 and "This form is too old" in answer.text, path
        crossing = {"csrf_token": csrf_of(ann.get("/account"))}
        answer = ann.post(url, data=crossing, headers={"Origin": "https://evil.test"})
        assert answer.status_code == 403 and "another host" in answer.text, path


def page_routes() -> list[tuple[set[str], str]]:
    return [(route.methods, route.path) for router in ROUTERS for route in router.routes]  # type: ignore[attr-defined]


def test_a_form_that_is_far_too_large_is_refused_without_a_traceback(
    services: Services, ann: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    form = {"csrf_token": csrf_of(ann.get("/account")), "name": "x" * (2 << 20)}
    assert ann.post("/account/keys", data=form).status_code == 413
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


def test_visitors_see_the_sign_in_page_alone(services: Services, visitor: httpx.Client) -> None:
    open_pages = {"/sign-in", "/setup/{token}", "/static/{name}", "/shared/{token}"}
    for methods, path in page_routes():
        # Signing out says so, also where there was no session.
        if path in open_pages or path.startswith("/shared/"):
            continue
        for method in methods & {"GET", "POST"}:
            answer = visitor.request(method, re.sub(r"\{[^}]+\}", "1", path))
            assert answer.headers.get("location", "").startswith("/sign-in"), (
                method,
                path,
                answer.status_code,
            )


def test_users_see_no_administration(services: Services, ann: httpx.Client) -> None:
    token = csrf_of(ann.get("/account"))
    routes = [route for route in page_routes() if route[1].startswith("/admin")]
    for methods, path in routes:
        url = re.sub(r"\{[^}]+\}", "1", path)
        for method in methods & {"GET", "POST"}:
            data = {"csrf_token": token} if method == "POST" else None
            answer = ann.request(method, url, data=data)
            assert answer.status_code == 403 and "for administrators" in answer.text, (method, path)


def test_the_first_administrator_comes_by_a_link_that_works_once(
    services: Services, visitor: httpx.Client
) -> None:
    link = f"/setup/{services.setup_token}"
    # Who could be asked? There is nobody yet.
    new, wrong = "the link that the server printed when it started", {"username": "ann", "password": OTHER}
    for page in (visitor.get("/sign-in"), visitor.post("/sign-in", data=wrong)):
        assert new in page.text and "Ask the administrator" not in page.text
    assert visitor.get("/setup/guess").status_code == 404
    assert visitor.get(link).status_code == 200
    form = {"username": "root", "password": PASSWORD, "repeated": PASSWORD}
    assert visitor.post(link, data=form | {"repeated": OTHER}).status_code == 400
    assert visitor.post("/setup/guess", data=form).status_code == 404
    assert visitor.post(link, data=form, headers={"Origin": "https://evil.test"}).status_code == 403
    assert visitor.post(link, data=form).headers["location"] == "/"
    assert visitor.get("/account").status_code == 200
    assert visitor.get(link).status_code == visitor.post(link, data=form).status_code == 404
    visitor.cookies.clear()
    page = visitor.get("/sign-in")
    assert new not in page.text and "Ask the administrator" in page.text
    actions = services.database.read(
        lambda c: list(c.scalars(sa.select(audit.c.action).order_by(audit.c.id)))
    )
    assert actions == ["login.failed", "user.create", "login"]
    made = services.database.read(
        lambda c: c.execute(sa.select(audit).where(audit.c.action == "user.create")).mappings().one()
    )
    assert (made["actor"], made["address"]) == ("root", "192.0.2.1")


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ({"neutral_paper": True, "archive_output": "epub"}, "neutral paper, volumes as EPUB"),
        (
            {"gate": False, "levels": "auto", "quality": 90},
            "no quality gate, ink black, paper white, quality 90",
        ),
        ({"size": "screen kobo-libra-2 1264x1680 16 grays gamma 1 spreads keep"}, "Kobo Libra 2"),
        ({"rules": [{"gray": True, "levels": "auto"}]}, "1 rule"),
        ({"size": "width 1600", "strict": True}, "width 1600, strict"),
    ],
)
def test_the_options_of_a_job_are_words(params: dict[str, Any], text: str) -> None:
    assert options_text(params) == text


def test_what_is_stored_is_shown_in_words() -> None:
    assert (
        detail_text({"scopes": ["jobs:read"], "is_on": True, "to": None})
        == "scopes jobs:read, is on yes, to none"
    )
    assert scopes_text("jobs:read jobs:write") == "see jobs, upload and change jobs"


def test_a_server_with_an_administrator_prints_no_link(open_server: OpenServices) -> None:
    assert open_server(admin_seed_pass=PASSWORD).setup_token is None


def test_keys_are_made_shown_once_and_revoked(services: Services, ann: httpx.Client) -> None:
    token = csrf_of(ann.get("/account"))
    form: dict[str, Any] = {"csrf_token": token, "name": "laptop", "scopes": ["jobs:read"]}
    beyond = ann.post("/account/keys", data=form | {"scopes": ["jobs:read", "admin"]})
    assert beyond.status_code == 403 and "You cannot give the permission admin" in beyond.text
    for wrong, words in (([], "tick what it may do"), (["jobs:read", "all"], "no right &#39;all&#39;")):
        refused = ann.post("/account/keys", data=form | {"scopes": wrong})
        assert refused.status_code == 400 and words in refused.text and 'value="laptop"' in refused.text
    made = ann.post("/account/keys", data=form)
    key = re.search(r"cu_([0-9a-f]{12})_[A-Za-z0-9_-]{20,}", made.text)
    assert key is not None, made.text
    with client_of(services, key[0]) as program:
        assert program.get("/api/v1/jobs").status_code == 200
        assert program.get("/api/v1/admin/users").status_code == 403
        assert key[0] not in ann.get("/account").text
        bad = ann.post("/account/keys", data=form | {"name": "../x"})
        assert bad.status_code == 400 and "not allowed" in bad.text
        ann.post(f"/account/keys/{key[1]}/revoke", data={"csrf_token": token})
        assert program.get("/api/v1/jobs").status_code == 401


def test_the_upload_page_says_the_limits_before_they_are_hit(open_server: OpenServices) -> None:
    services = open_server(max_upload_size=3_000_000, max_files=7, retention_days=3)
    add_person(services, "ann")
    with pages_of(services) as browser:
        page = sign_in(browser, "ann").get("/").text
        assert "3.0 MB" in page and "7 files" in page and "after 3 days" in page
        assert 'data-max-bytes="3000000"' in page
        assert "No estimate yet" in browser.get("/upload/estimate", params={"bytes": 5}).text


def test_an_upload_by_the_session_of_a_page(services: Services, ann: httpx.Client) -> None:
    files = [("file", ("page.png", PNG))]
    assert ann.post("/api/v1/uploads", files=files).status_code == 403
    headers = {"X-CSRF-Token": csrf_of(ann.get("/"))}
    assert ann.post("/api/v1/uploads", files=files, headers=headers).status_code == 202


def test_a_public_server_shows_the_upload_page_to_everybody(open_server: OpenServices) -> None:
    with pages_of(open_server(public=True)) as visitor:
        assert visitor.get("/").status_code == 200
        assert visitor.get("/account").headers["location"] == "/sign-in?next=/account"


@pytest.mark.parametrize(
    ("path", "accept", "is_page"),
    [("/nothing", "text/html", True), ("/jobs/1/../../x", "*/*", True), ("/api/v1/nothing", "*/*", False)],
)
def test_a_missing_page_is_a_page_and_a_missing_call_is_json(
    ann: httpx.Client, path: str, accept: str, is_page: bool
) -> None:
    answer = ann.get(path, headers={"Accept": accept})
    assert answer.status_code == 404
    if is_page:
        assert "There is no such page." in answer.text
        # Whoever has signed in still is.
        assert 'href="/jobs"' in answer.text and "Sign in" not in answer.text
    else:
        assert answer.json()["error"]["code"] in ("error", "not_found")


def test_pages_may_load_nothing_from_elsewhere(services: Services, ann: httpx.Client) -> None:
    for path in ("/", "/account", "/nothing", "/password"):
        answer = ann.get(path)
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy
        assert answer.headers["cache-control"] == "no-store"
        check_html(answer.text)


def check_html(html: str) -> None:
    """No script or style in a page itself, which the policy would block, and no address of another host."""
    assert not re.search(r"<script(?![^>]*\bsrc=)", html)
    assert not re.search(r"<style|\bstyle=|\bon[a-z]+=\"", html)
    assert not re.search(r"""(?:src|href|action)=["'](?:https?:)?//""", html)


def test_behind_a_proxy_path_every_address_has_it(open_server: OpenServices) -> None:
    services = open_server(root_path="/comics")
    add_person(services, "ann")
    app = create_app(services, pages=True)
    # As uvicorn does it: the proxy has removed the path from the request, and the server puts it before.
    with TestClient(
        app, base_url="https://server.test", root_path="/comics", follow_redirects=False
    ) as browser:
        assert browser.get("/comics/account").headers["location"].startswith("/comics/sign-in?next=/account")
        answer = browser.post("/comics/sign-in", data={"username": "ann", "password": PASSWORD})
        assert answer.headers["location"] == "/comics/"
        page = browser.get("/comics/").text
        found = set(re.findall(r'(?:href|src|action)="(/[^"]*)"', page))
        assert len(found) > 5 and all(address.startswith("/comics/") for address in found), found
        # Signing out is a form, which is sent by POST.
        for address in found - {"/comics/sign-out"}:
            assert browser.get(address, follow_redirects=True).status_code == 200, address
        assert browser.get("/comics/sign-out").status_code == 405


@pytest.mark.parametrize("path", ["comics", "/comics/", "/a b", "//x", "/<x>"])
def test_a_bad_root_path_is_refused(tmp_path: Any, path: str) -> None:
    with pytest.raises(SettingsError, match="--root-path"):
        ServerSettings(data=tmp_path, root_path=path)


def test_styles_and_scripts_are_packed_and_kept(services: Services, visitor: httpx.Client) -> None:
    page = visitor.get("/sign-in").text
    found = re.findall(r'"(/static/[^"]+)"', page)
    assert len(found) >= 3
    for address in found:
        answer = visitor.get(address)
        assert "immutable" in answer.headers["cache-control"]
        assert visitor.get(address, headers={"If-None-Match": answer.headers["etag"]}).status_code == 304
    assert visitor.get("/static/app.css").headers["content-encoding"] == "gzip"
    assert (
        visitor.get("/static/app.css", headers={"Accept-Encoding": "identity"}).content
        == assets()["app.css"].content
    )
    assert visitor.get("/static/..%2Fapp.py").status_code == 404


def test_the_first_page_is_small(services: Services, ann: httpx.Client) -> None:
    page = ann.get("/")
    total = len(page.content) + sum(
        len(ann.get(address, headers={"Accept-Encoding": "identity"}).content)
        for address in set(re.findall(r'"(/static/[^"]+)"', page.text))
    )
    assert total < 100_000


def test_the_vendored_file_is_the_one_of_its_registry() -> None:
    folder = files("comic_upscale.server.pages").joinpath("static")
    digest = hashlib.sha256(folder.joinpath("htmx.min.js").read_bytes()).hexdigest()
    assert digest in folder.joinpath("LICENSES.md").read_text(encoding="utf-8")
