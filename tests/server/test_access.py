"""Who may do what: keys, scopes, owners, sessions, passwords, and requests that other pages send."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx2 as httpx
import pytest
import sqlalchemy as sa

from comic_upscale.errors import SettingsError
from comic_upscale.server import accounts, keys, known_keys
from comic_upscale.server.database.engine import Database
from comic_upscale.server.database.schema import audit, sessions, users
from comic_upscale.server.database.schema import keys as keys_table
from comic_upscale.server.services import Services
from tests.server.conftest import OpenServices, client_of, make_key
from tests.server.test_uploads import send

PASSWORD, OTHER = "a long pass phrase", "another long phrase"


def add_person(
    services: Services, name: str, role: accounts.Role = "user", *, must_change: bool = False
) -> None:
    hashed = services.passwords.hash_now(PASSWORD)
    services.database.write(
        lambda c: accounts.create_user(c, name, role, password_hash=hashed, must_change_password=must_change)
    )


def log_in(client: httpx.Client, name: str, password: str = PASSWORD) -> httpx.Response:
    answer = client.post("/api/v1/auth/login", json={"username": name, "password": password})
    if answer.status_code == 200:
        client.headers["X-CSRF-Token"] = answer.json()["csrf_token"]
    return answer


@pytest.fixture
def person(services: Services) -> Iterator[httpx.Client]:
    """A client that is logged in."""
    add_person(services, "ann")
    with client_of(services) as client:
        assert log_in(client, "ann").status_code == 200
        yield client


@pytest.mark.parametrize("key", [None, "", "cu_", "cu_0123456789ab_" + "x" * 43, "x" * 5000, "cu_é", "\t"])
def test_without_a_valid_key_nothing_is_shown(services: Services, key: str | None) -> None:
    with client_of(services) as client:
        headers = {} if key is None else {"X-API-Key": key.encode()}
        for path in ("/api/v1/jobs", "/api/v1/jobs/x", "/api/v1/auth/keys"):
            answer = client.get(path, headers=headers)  # type: ignore[arg-type]
            assert (answer.status_code, answer.json()["error"]["code"]) == (401, "unauthorized")


def test_a_key_works_in_either_header_until_it_is_revoked(services: Services) -> None:
    key = make_key(services, "me")
    with client_of(services) as client:
        assert client.get("/api/v1/jobs", headers={"x-api-key": key}).status_code == 200
        assert client.get("/api/v1/jobs", headers={"Authorization": f"Bearer {key}"}).status_code == 200
        services.database.write(lambda c: keys.revoke_key(c, None, key.split("_")[1]))
        assert client.get("/api/v1/jobs", headers={"x-api-key": key}).status_code == 401


def test_a_key_that_another_process_revokes_is_known_for_a_second_at_most(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = make_key(services, "me")
    now = time.monotonic()
    monkeypatch.setattr(known_keys.time, "monotonic", lambda: now)
    with client_of(services, key) as client:
        assert client.get("/api/v1/jobs").status_code == 200
        with closing(Database(services.settings.database_url)) as elsewhere:
            elsewhere.write(lambda c: keys.revoke_key(c, None, key.split("_")[1]))
        now += known_keys.KNOWN_SECONDS
        assert client.get("/api/v1/jobs").status_code == 401


def test_a_key_is_known_no_longer_than_it_is_valid(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = known_keys.KnownKeys()
    now = time.monotonic()
    monkeypatch.setattr(known_keys.time, "monotonic", lambda: now)
    account = accounts.Account(user_id="1", name="me", role="user", scopes=frozenset())
    known.keep("cu_ends", account, seconds=0.25, changes=known.changes)
    known.keep("cu_lasts", account, seconds=None, changes=known.changes)
    assert known.find("cu_ends") == known.find("cu_lasts") == account
    now += 0.25
    assert (known.find("cu_ends"), known.find("cu_lasts")) == (None, account)


def test_a_key_that_is_revoked_while_it_is_looked_up_is_not_remembered(services: Services) -> None:
    key = make_key(services, "me")
    known = services.known_keys
    before = known.changes
    found = services.database.read(lambda c: keys.find_account(c, key))
    assert found is not None
    services.database.write(lambda c: keys.revoke_key(c, None, key.split("_")[1]))
    known.keep(key, found.account, seconds=None, changes=before)
    assert known.find(key) is None


def test_only_hashes_of_secrets_are_stored(services: Services, person: httpx.Client) -> None:
    key = make_key(services, "me")
    with client_of(services, key) as client:
        assert send(client).status_code == 202
    cookie = next(iter(person.cookies.values()))
    everything = b"".join(path.read_bytes() for path in services.settings.data.glob("server.sqlite3*"))
    for secret in (key.split("_", 2)[2], cookie, PASSWORD):
        assert secret.encode() not in everything
    assert services.database.read(lambda c: c.scalar(sa.select(keys_table.c.last_used_at))) is not None


def test_others_see_none_of_a_users_jobs(services: Services) -> None:
    with client_of(services, make_key(services, "me")) as mine:
        job = send(mine).json()
    calls = [
        ("GET", f"/api/v1/jobs/{job['job_id']}"),
        ("POST", f"/api/v1/jobs/{job['job_id']}/cancel"),
        ("DELETE", f"/api/v1/jobs/{job['job_id']}"),
        ("GET", f"/api/v1/jobs/{job['job_id']}/result"),
        ("GET", f"/api/v1/uploads/{job['upload_id']}/download"),
    ]
    with client_of(services, make_key(services, "them")) as theirs:
        for method, path in calls:
            assert theirs.request(method, path).status_code == 404, path
        assert theirs.get("/api/v1/jobs").json()["jobs"] == []
    with client_of(services, make_key(services, "boss", "admin")) as boss:
        assert boss.get(f"/api/v1/jobs/{job['job_id']}").status_code == 200


def test_a_key_for_reading_changes_nothing(services: Services) -> None:
    def create(connection: object) -> str:
        user = accounts.ensure_user(connection, "me", "user")  # type: ignore[arg-type]
        return keys.create_key(connection, user, "reader", ["jobs:read"]).text  # type: ignore[arg-type]

    with client_of(services, make_key(services, "me")) as client:
        job = send(client).json()["job_id"]
    with client_of(services, services.database.write(create)) as reader:
        assert reader.get(f"/api/v1/jobs/{job}").status_code == 200
        assert send(reader).status_code == 403
        assert reader.post(f"/api/v1/jobs/{job}/cancel").status_code == 403
        assert reader.delete(f"/api/v1/jobs/{job}").status_code == 403
        assert (
            reader.post("/api/v1/auth/keys", json={"name": "more", "scopes": ["jobs:write"]}).status_code
            == 403
        )


def test_a_public_server_takes_uploads_within_limits(open_server: OpenServices) -> None:
    services = open_server(public=True, uploads_per_hour=2)
    with client_of(services, address="192.0.2.7") as client:
        job = send(client).json()["job_id"]
        assert client.get(f"/api/v1/jobs/{job}").status_code == 200
        assert client.get("/api/v1/jobs").status_code == 403
        assert client.post("/api/v1/auth/keys", json={"name": "x"}).status_code == 403
        assert send(client).status_code == 202
        refused = send(client)
        assert refused.status_code == 429 and int(refused.headers["retry-after"]) > 0
    with client_of(services, address="192.0.2.8") as other:
        assert send(other).status_code == 202


def test_limits_count_networks_of_ipv6_and_believe_no_stranger(open_server: OpenServices) -> None:
    services = open_server(public=True, uploads_per_hour=1)
    with client_of(services, address="2001:db8::1") as client:
        assert send(client).status_code == 202
    with client_of(services, address="2001:db8::2:3") as client:
        client.headers["X-Forwarded-For"] = "203.0.113.5"
        assert send(client).status_code == 429
    with client_of(services, address="2001:db8:0:1::1") as client:
        assert send(client).status_code == 202


def test_too_many_requests_are_told_when_to_come_back(open_server: OpenServices) -> None:
    services = open_server(rate_limit=3)
    with client_of(services, make_key(services, "me")) as client:
        assert [client.get("/api/v1/jobs").status_code for _ in range(4)] == [200, 200, 200, 429]
        answer = client.get("/api/v1/jobs")
        assert 1 <= int(answer.headers["retry-after"]) <= 61
        assert answer.headers["ratelimit-limit"] == "3"
        client.headers["X-API-Key"] = make_key(services, "them")
        assert client.get("/api/v1/jobs").status_code == 200


def test_a_login_gives_a_cookie_that_scripts_cannot_read(services: Services) -> None:
    add_person(services, "ann")
    with client_of(services) as client:
        answer = log_in(client, "ann")
        assert answer.json()["role"] == "user" and answer.json()["must_change_password"] is False
        (cookie,) = answer.headers.get_list("set-cookie")
        assert cookie.startswith("__Host-") and "Domain" not in cookie
        for word in ("HttpOnly", "Secure", "Path=/", "SameSite=lax"):
            assert word in cookie
        assert client.get("/api/v1/jobs").status_code == 200
        assert client.get("/api/v1/auth/session").json()["csrf_token"] == answer.json()["csrf_token"]


def test_a_wrong_login_tells_nothing(services: Services) -> None:
    add_person(services, "ann")
    services.database.write(lambda c: accounts.create_user(c, "no-password", "user"))
    with client_of(services) as client:
        answers = [log_in(client, *each) for each in (("ann", "wrong pass"), ("nobody", PASSWORD), ("no-password", ""),
                                                      ("no-password", "nobody has this password"))]  # fmt: skip
    assert [answer.status_code for answer in answers] == [401, 401, 400, 401]
    assert answers[0].json() == answers[1].json() == answers[3].json()


def test_logins_are_slowed_down_by_address_and_by_name(services: Services) -> None:
    add_person(services, "ann")
    with client_of(services) as client:
        codes = [log_in(client, f"user{number}", "wrong pass").status_code for number in range(12)]
        assert codes == [401] * 10 + [429] * 2
        assert log_in(client, "ann").status_code == 429
    codes = []
    for number in range(33):
        with client_of(services, address=f"198.51.100.{number}") as client:
            codes.append(log_in(client, "Ann", "wrong pass").status_code)
    assert codes == [401] * 30 + [429] * 3


def test_two_servers_of_one_process_know_only_their_own_keys_and_jobs(
    open_server: OpenServices, tmp_path: Path
) -> None:
    """They share the routes, and nothing else."""
    first, second = open_server(), open_server(data=tmp_path / "second")
    one, other = make_key(first, "ann"), make_key(second, "ann")
    with client_of(first, one) as here, client_of(second, other) as there:
        jobs = [send(client).json()["job_id"] for client in (here, there)]
        for client, mine, theirs, foreign in ((here, *jobs, other), (there, *jobs[::-1], one)):
            assert client.get(f"/api/v1/jobs/{mine}").status_code == 200
            assert client.get(f"/api/v1/jobs/{theirs}").status_code == 404
            assert client.get("/api/v1/jobs", headers={"X-API-Key": foreign}).status_code == 401


def test_a_session_from_before_the_login_is_not_used_after_it(services: Services) -> None:
    add_person(services, "ann")
    add_person(services, "bob")
    with client_of(services) as client:
        log_in(client, "ann")
        planted = next(iter(client.cookies.values()))
        log_in(client, "bob")
        assert next(iter(client.cookies.values())) != planted
    with client_of(services) as client:
        client.cookies.set("__Host-comic-upscale", planted)
        assert client.get("/api/v1/jobs").status_code == 401


@pytest.mark.parametrize(
    "headers",
    [
        {"X-CSRF-Token": ""},
        {"X-CSRF-Token": "0" * 64},
        {"Origin": "https://evil.test"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_a_request_of_another_page_changes_nothing(
    services: Services, person: httpx.Client, headers: dict[str, str]
) -> None:
    job = send(person).json()["job_id"]
    for method, path in (
        ("POST", "/api/v1/uploads"),
        ("POST", f"/api/v1/jobs/{job}/cancel"),
        ("DELETE", f"/api/v1/jobs/{job}"),
        ("POST", "/api/v1/auth/logout"),
        ("POST", "/api/v1/auth/keys"),
    ):
        assert person.request(method, path, headers=headers).status_code == 403, path
    assert person.get(f"/api/v1/jobs/{job}").json()["status"] == "queued"
    with client_of(services) as client:
        login = {"username": "ann", "password": PASSWORD}
        refused = client.post("/api/v1/auth/login", json=login, headers=headers)
        assert refused.status_code == (200 if "X-CSRF-Token" in headers else 403)


def test_logging_out_ends_the_session(person: httpx.Client) -> None:
    cookie = next(iter(person.cookies.values()))
    assert person.post("/api/v1/auth/logout").status_code == 204
    person.cookies.set("__Host-comic-upscale", cookie)
    assert person.get("/api/v1/jobs").status_code == 401


def test_a_new_password_ends_all_other_sessions(services: Services, person: httpx.Client) -> None:
    old = next(iter(person.cookies.values()))
    with client_of(services) as elsewhere:
        log_in(elsewhere, "ann")
        change = {"current_password": PASSWORD, "new_password": OTHER}
        wrong = {**change, "current_password": "wrong"}
        assert person.post("/api/v1/auth/password", json=wrong).status_code == 401
        answer = person.post("/api/v1/auth/password", json=change)
        assert answer.status_code == 200
        person.headers["X-CSRF-Token"] = answer.json()["csrf_token"]
        assert person.get("/api/v1/jobs").status_code == 200
        assert elsewhere.get("/api/v1/jobs").status_code == 401
        elsewhere.cookies.set("__Host-comic-upscale", old)
        assert elsewhere.get("/api/v1/jobs").status_code == 401
        assert log_in(elsewhere, "ann").status_code == 401
        assert log_in(elsewhere, "ann", OTHER).status_code == 200


@pytest.mark.parametrize("password", ["short", "aaaaaaaaaaaa", "password1234", PASSWORD, "x" * 300])
def test_a_poor_new_password_is_refused(person: httpx.Client, password: str) -> None:
    answer = person.post(
        "/api/v1/auth/password", json={"current_password": PASSWORD, "new_password": password}
    )
    assert (answer.status_code, answer.json()["error"]["field"]) == (400, "new_password")


def test_the_first_administrator_must_change_the_password(open_server: OpenServices) -> None:
    services = open_server(admin_seed_user="root", admin_seed_pass=PASSWORD)
    with client_of(services) as client:
        assert log_in(client, "root").json()["must_change_password"] is True
        refused = client.get("/api/v1/jobs")
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "password_change_required")
        change = {"current_password": PASSWORD, "new_password": OTHER}
        answer = client.post("/api/v1/auth/password", json=change)
        client.headers["X-CSRF-Token"] = answer.json()["csrf_token"]
        assert client.get("/api/v1/jobs").status_code == 200


def test_a_seed_is_used_once_and_a_poor_one_refused(open_server: OpenServices, tmp_path: object) -> None:
    with pytest.raises(SettingsError, match="easy to guess"):
        open_server(admin_seed_pass="adminadmin")
    open_server(admin_seed_pass=PASSWORD)
    again = open_server(admin_seed_pass=OTHER)
    with client_of(again) as client:
        assert log_in(client, "admin", OTHER).status_code == 401
        assert log_in(client, "admin", PASSWORD).status_code == 200


def test_a_seed_does_not_take_over_a_user_who_is_no_administrator(open_server: OpenServices) -> None:
    first = open_server()
    add_person(first, "admin")
    with pytest.raises(SettingsError, match="the user admin exists and is not an administrator"):
        open_server(admin_seed_pass=OTHER)
    with client_of(first) as client:
        assert log_in(client, "admin", PASSWORD).status_code == 200


def test_nobody_gets_the_name_of_uploads_without_an_account(database: Database) -> None:
    """On a new database, before the server has created that user itself."""
    for role in ("user", "admin"):
        with pytest.raises(SettingsError, match="reserved for uploads without an account"):
            database.write(lambda c, role=role: accounts.create_user(c, accounts.ANONYMOUS, role))  # type: ignore[misc]
    assert database.write(lambda c: accounts.ensure_user(c, accounts.ANONYMOUS, "anonymous"))


def test_a_disabled_user_is_out_at_once(services: Services, person: httpx.Client) -> None:
    key = person.post("/api/v1/auth/keys", json={"name": "mine"}).json()["key"]
    services.database.write(
        lambda c: c.execute(sa.update(users).where(users.c.name == "ann").values(disabled=True))
    )
    assert person.get("/api/v1/jobs").status_code == 401
    with client_of(services, key) as client:
        assert client.get("/api/v1/jobs").status_code == 401
    with client_of(services, address="192.0.2.9") as client:
        assert log_in(client, "ann").status_code == 401


def test_a_session_ends_by_itself(services: Services, person: httpx.Client) -> None:
    services.database.write(lambda c: c.execute(sa.update(sessions).values(last_seen_at=0)))
    assert person.get("/api/v1/jobs").status_code == 401


def test_sessions_and_keys_can_be_listed_and_ended(services: Services, person: httpx.Client) -> None:
    with client_of(services) as elsewhere:
        log_in(elsewhere, "ann")
        listed = person.get("/api/v1/auth/sessions").json()["sessions"]
        assert len(listed) == 2 and "secret" not in str(listed)
        (other,) = [each["id"] for each in listed if not each["is_current"]]
        assert person.delete(f"/api/v1/auth/sessions/{other}").status_code == 204
        assert elsewhere.get("/api/v1/jobs").status_code == 401
    created = person.post("/api/v1/auth/keys", json={"name": "mine"}).json()
    (key,) = person.get("/api/v1/auth/keys").json()["keys"]
    assert key["name"] == "mine" and "key" not in key and "hash" not in str(key)
    assert person.post("/api/v1/auth/keys", json={"name": "x", "scopes": ["admin"]}).status_code == 403
    with client_of(services, make_key(services, "them")) as theirs:
        assert theirs.delete(f"/api/v1/auth/keys/{created['id']}").status_code == 404
    assert person.delete(f"/api/v1/auth/keys/{created['id']}").status_code == 204
    actions = services.database.read(
        lambda c: c.scalars(sa.select(audit.c.action).order_by(audit.c.id)).all()
    )
    assert actions[-3:] == ["session.end", "key.create", "key.revoke"]


def test_the_key_of_the_environment_works(open_server: OpenServices) -> None:
    services = open_server(api_key="a key of sixteen or more")
    with client_of(services, "a key of sixteen or more") as client:
        assert client.get("/api/v1/jobs").status_code == 200


def test_a_probe_needs_no_key_and_tells_of_the_database(services: Services) -> None:
    with client_of(services) as client:
        assert [client.get(path).text for path in ("/livez", "/readyz")] == ["ok", "ok"]
        services.database.migrating(lambda c: c.execute(sa.text("DROP TABLE queue")))
        assert [client.get(path).status_code for path in ("/livez", "/readyz")] == [200, 503]
        assert client.get("/api/v1/health").json()["status"] == "down"
