"""The description of the interface: complete, true, and the base of tests over every route and every role."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import runpy
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from fastapi.routing import APIRoute
from starlette.routing import Route

from comic_upscale.server import accounts, keys
from comic_upscale.server.api import immediate
from comic_upscale.server.api.openapi import EXAMPLES
from comic_upscale.server.app import create_app
from comic_upscale.server.files import LocalFiles
from comic_upscale.server.metrics import Metrics
from comic_upscale.server.monitor import Monitor
from comic_upscale.server.pages.app import create_pages
from comic_upscale.server.services import Services
from tests.conftest import REPOSITORY
from tests.server.conftest import OpenServices, client_of, make_key
from tests.server.test_access import add_person, log_in
from tests.server.test_uploads import PNG, send
from tests.server.walk import walk

METHODS = ("get", "post", "put", "patch", "delete")
ADMINISTRATION = ("/api/v1/admin/",)
FOLDERS = (("post", "/api/upscale"), ("delete", "/api/upscale"))
"""Routes of administrators outside of /admin."""
READING = ("/api/v1/estimates",)
"""Routes that are sent by POST and change nothing."""
BY_PASSWORD = (
    "/api/v1/auth/login", "/api/v1/auth/logout", "/api/v1/auth/password", "/api/v1/auth/totp",
    "/api/v1/auth/totp/confirm", "/login",
)  # fmt: skip
"""Routes that look at a password or a session, and at no key."""
CONVERT = "/convert"
"""Answers a refusal with the page, so it has no status of an error."""


@pytest.fixture
def services(open_server: OpenServices, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Services:
    (tmp_path / "library").mkdir()
    # No worker runs here, so nobody need wait for one.
    monkeypatch.setattr(immediate, "WAIT_SECONDS", 0.1)
    # The limits of requests are not what is tested here.
    return open_server(roots=(str(tmp_path / "library"),), rate_limit=1_000_000)


@pytest.fixture
def paths(services: Services) -> dict[str, Any]:
    found: dict[str, Any] = create_app(services).openapi()["paths"]
    return found


def operations(paths: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in paths.items():
        for method, operation in methods.items():
            assert method in METHODS
            yield method, path, operation


def is_for_administrators(method: str, path: str) -> bool:
    return path.startswith(ADMINISTRATION) or (method, path) in FOLDERS


def changes_something(method: str, path: str) -> bool:
    return method != "get" and path not in READING and path not in BY_PASSWORD


def url_of(path: str, ids: dict[str, str] | None = None) -> str:
    values = {"action": "pause", "purpose": "results", "engine": "flux", "page": "0", **(ids or {})}
    return re.sub(r"\{(\w+)\}", lambda match: values.get(match[1], "x"), path)


def request(client: httpx.Client, method: str, url: str, operation: dict[str, Any]) -> httpx.Response:
    content = operation.get("requestBody", {}).get("content", {})
    if "multipart/form-data" in content:
        files = {"file": ("page.png", b"\x89PNG\r\n\x1a\n not opened"), "name": (None, "x")}
        return client.request(method.upper(), url, files=files)
    if "application/x-www-form-urlencoded" in content:
        return client.request(method.upper(), url, data={"username": "nobody", "password": "nothing"})
    fields = {"current_password": "nothing", "new_password": "nothing else", "name": "x", "code": "123456"}
    return client.request(method.upper(), url, json=fields if content else None)


def test_every_route_is_described(paths: dict[str, Any]) -> None:
    ids = set()
    for method, path, operation in operations(paths):
        place = f"{method} {path}"
        assert operation["summary"] and operation["tags"], place
        ids.add(operation["operationId"])
        assert isinstance(operation["security"], list), place
        assert "422" not in operation["responses"] or "ErrorBody" in str(operation["responses"]["422"]), place
        if operation["security"]:
            assert {"401", "429"} <= operation["responses"].keys(), place
        for status, response in operation["responses"].items():
            assert response["description"], place
            if int(status) >= 400 and response.get("content") and path != "/api/v1/health":
                assert "ErrorBody" in json.dumps(response["content"]), (place, status)
    assert len(ids) == len(list(operations(paths)))


def test_every_json_answer_has_an_example(paths: dict[str, Any]) -> None:
    missing = []
    for method, path, operation in operations(paths):
        if path.startswith("/sdapi/v1/extra"):
            continue  # an image in base64
        if (method, path) == ("post", "/sdapi/v1/options"):
            continue  # null
        if path == "/api/upscale/{engine}":
            continue  # that of /api/upscale/esrgan, on a server that has such an engine
        if path == "/api/v1/jobs/events" or path.endswith("/events") or path == "/login":
            continue
        for status in ("200", "201", "202"):
            content = operation["responses"].get(status, {}).get("content", {}).get("application/json")
            if content is not None and content.get("example") is None:
                missing.append(f"{method} {path}")
    assert missing == []


def shape(value: Any) -> Any:
    """What an answer looks like, without its values: names of fields, at any depth."""
    if isinstance(value, dict):
        return {name: shape(each) for name, each in value.items()}
    return [shape(value[0])] if isinstance(value, list) and value else None


def test_the_examples_are_those_of_this_version(services: Services, paths: dict[str, Any]) -> None:
    recorder = runpy.run_path(str(REPOSITORY / "scripts" / "api_examples.py"))
    recorded = json.loads(EXAMPLES.read_text(encoding="utf-8"))
    found = walk(services, paths)
    fresh = recorder["shorten"](found.answers)
    assert shape(fresh) == shape(recorded), "run: python scripts/api_examples.py --write"
    assert "/tmp" not in EXAMPLES.read_text(encoding="utf-8")


class Watched(LocalFiles):
    """A storage that knows the calls that blocked the event loop."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.blocked: set[str] = set()
        self.calls: set[str] = set()

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        # `read` returns an iterator, which works when it is asked for a piece.
        if name not in ("create", "size", "fetch", "delete", "list", "free_percent"):
            return found

        def call(*arguments: Any) -> Any:
            self.calls.add(name)
            # A thread of its own has no event loop.
            with contextlib.suppress(RuntimeError):
                asyncio.get_running_loop()
                self.blocked.add(name)
            return found(*arguments)

        return call


def test_no_route_waits_for_the_storage_on_the_event_loop(
    services: Services, paths: dict[str, Any], tmp_path: Path
) -> None:
    watched = Watched(tmp_path / "files")
    monitor = Monitor(services.database, watched, lambda: 2)
    metrics = Metrics(services.database, monitor.free_percent)
    services = replace(services, files=watched, monitor=monitor, metrics=metrics)
    walk(services, paths)
    with client_of(services, make_key(services, "ann")) as client:
        for _ in range(2):
            part = [("file", ("page.png", PNG))]
            key = {"Idempotency-Key": "the same"}
            assert client.post("/api/v1/uploads", files=part, headers=key).status_code == 202
    assert watched.calls >= {"create", "delete", "free_percent"} and watched.blocked == set()


def test_every_route_limits_the_body_of_a_request(services: Services) -> None:
    routes = [*create_app(services).routes, *create_pages(services).routes]
    assert [
        route.path for route in routes if isinstance(route, APIRoute) and route.max_body_size is None
    ] == ["/"]
    # Included routers would be built twice, and hide their routes from this test.
    assert [route for route in routes if not isinstance(route, Route)] == []


def test_no_request_waits_for_a_thread_that_only_looks_for_its_dependencies(services: Services) -> None:
    """FastAPI calls a plain function on a thread of its own, for each request."""
    with client_of(services, make_key(services, "ann")) as client:
        before = threading.enumerate()
        job_id = send(client).json()["job_id"]
        assert client.get(f"/api/v1/jobs/{job_id}").status_code == 200
        assert client.options("/api/v1/uploads/resumable").status_code == 204
        assert client.get("/api/v1/health").status_code == 200
        started = [thread.name for thread in threading.enumerate() if thread not in before]
    assert [name for name in started if "AnyIO" in name] == []


def test_the_viewer_loads_nothing_from_another_host(services: Services) -> None:
    with client_of(services) as client:
        page = client.get("/docs")
        assert "http" not in page.text and "unsafe" not in page.headers["content-security-policy"]
        for name in re.findall(r'(?:href|src)="([^"]+)"', page.text):
            answer = client.get(f"/{name}")
            assert answer.status_code == 200 and len(answer.content) > 100, name
        assert client.get("/docs/../app.py").status_code == client.get("/docs/x.js").status_code == 404
        assert client.get("/openapi.json").json()["openapi"].startswith("3.")


# Every route, every role


def test_strangers_get_nowhere(services: Services, paths: dict[str, Any]) -> None:
    with client_of(services) as stranger:
        for method, path, operation in operations(paths):
            if path == CONVERT or not operation["security"] or path == "/api/v1/auth/logout":
                continue
            answer = request(stranger, method, url_of(path), operation)
            assert answer.status_code == 401, (method, path, answer.status_code)


def test_open_routes_are_few_and_name_nobody(services: Services, paths: dict[str, Any]) -> None:
    free = {path for _, path, operation in operations(paths) if not operation["security"]}
    assert free == {
        "/api/v1/health", "/api/health", "/metrics", "/livez", "/readyz", "/api/v1/auth/login", "/login",
        "/api/v1/files/{token}/{name}", "/api/v1/bundles/{purpose}/{token}/{name}",
    }  # fmt: skip
    with client_of(services, make_key(services, "secretname")) as client:
        send(client, "secret-title.png")
    with client_of(services) as stranger:
        for method, path, operation in operations(paths):
            if path in free:
                answer = request(stranger, method, url_of(path), operation)
                assert answer.status_code < 500 and "secret" not in answer.text, path
                if "token" in path:
                    assert answer.status_code == 403, path


def test_users_cannot_administer(services: Services, paths: dict[str, Any]) -> None:
    seen = 0
    with client_of(services, make_key(services, "me")) as user:
        for method, path, operation in operations(paths):
            if is_for_administrators(method, path):
                answer = request(user, method, url_of(path), operation)
                assert answer.status_code == 403, (method, path, answer.status_code)
                seen += 1
    assert seen > 25


def test_an_administrators_key_without_the_permission_cannot_either(
    services: Services, paths: dict[str, Any]
) -> None:
    def create(connection: Any) -> str:
        user = accounts.ensure_user(connection, "boss", "admin")
        return keys.create_key(connection, user, "jobs", ["jobs:read", "jobs:write"]).text

    with client_of(services, services.database.write(create)) as client:
        for method, path, operation in operations(paths):
            if is_for_administrators(method, path):
                assert request(client, method, url_of(path), operation).status_code == 403, (method, path)


def test_a_key_for_reading_changes_nothing(services: Services, paths: dict[str, Any]) -> None:
    def create(connection: Any) -> str:
        user = accounts.ensure_user(connection, "me", "user")
        return keys.create_key(connection, user, "reader", ["jobs:read"]).text

    with client_of(services, services.database.write(create)) as reader:
        for method, path, operation in operations(paths):
            if not operation["security"] or path == CONVERT or not changes_something(method, path):
                continue
            answer = request(reader, method, url_of(path), operation)
            assert answer.status_code == 403, (method, path, answer.status_code)


def test_nobody_reaches_what_belongs_to_somebody_else(services: Services, paths: dict[str, Any]) -> None:
    add_person(services, "ann")
    with client_of(services) as person:
        log_in(person, "ann")
        upload = send(person).json()
        key = person.post("/api/v1/auth/keys", json={"name": "phone"}).json()["id"]
        (session,) = person.get("/api/v1/auth/sessions").json()["sessions"]
        job = upload["job_id"]
        ids = {
            "job_id": job, "task_id": job, "name": job, "upload_id": upload["upload_id"], "key_id": key,
            "session_id": session["id"], "username": "ann", "file_id": job,
        }  # fmt: skip
        with client_of(services, make_key(services, "them")) as other:
            for method, path, operation in operations(paths):
                if "{" not in path or not operation["security"] or "{engine}" in path:
                    continue
                answer = request(other, method, url_of(path, ids), operation)
                expected = 403 if is_for_administrators(method, path) else 404
                assert answer.status_code == expected, (method, path, answer.text)
                assert job not in answer.text.replace(url_of(path, ids), "") and "ann" not in answer.text
        # Nothing happened to any of it.
        assert person.get(f"/api/v1/jobs/{job}").json()["status"] == "queued"
        assert person.get("/api/v1/auth/keys").json()["keys"][0]["revoked_at"] is None


def test_a_session_without_its_token_changes_nothing(services: Services, paths: dict[str, Any]) -> None:
    add_person(services, "root", "admin")
    with client_of(services) as person:
        log_in(person, "root")
        del person.headers["X-CSRF-Token"]
        for method, path, operation in operations(paths):
            if method == "get" or not operation["security"] or path == CONVERT:
                continue
            answer = request(person, method, url_of(path), operation)
            assert (answer.status_code, answer.json()["error"]["code"]) == (403, "csrf"), (method, path)


def test_an_administrator_gets_no_server_error(services: Services, paths: dict[str, Any]) -> None:
    with client_of(services, make_key(services, "boss", "admin")) as boss:
        for method, path, operation in operations(paths):
            if path.endswith("/events") or path == "/api/v1/auth/logout":
                continue
            answer = request(boss, method, url_of(path), operation)
            assert answer.status_code < 500 or "{engine}" in path, (method, path, answer.text)
            if answer.status_code >= 400 and path != CONVERT:
                assert answer.json()["error"]["message"], (method, path)


# Requests made from the description

CASES = int(os.environ.get("COMIC_UPSCALE_TEST_SCHEMA_CASES", "60"))
"""Requests over all roles. A long trial sets 2000."""


def test_odd_requests_get_no_server_error_and_described_answers(services: Services) -> None:
    schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")
    schemathesis.serializer("application/offset+octet-stream")(lambda _context, value: value)
    app = create_app(services)
    schema = schemathesis.openapi.from_dict(app.openapi())
    found = [
        operation
        for result in schema.get_all_operations()
        # Streams do not end, and 1 GiB of weights is no odd request.
        if not (operation := result.ok()).path.endswith("/events") and "/docs" not in operation.path
    ]
    roles = {
        "stranger": None, "user": make_key(services, "me"), "admin": make_key(services, "boss", "admin"),
    }  # fmt: skip
    each, sent = max(1, -(-CASES // (len(found) * len(roles)))), 0
    for role, key in roles.items():
        with client_of(services, key) as client:
            for operation in found:
                sent += _send_cases(client, role, operation, each)
    assert sent >= len(found) * len(roles)


def _send_cases(client: httpx.Client, role: str, operation: Any, most: int) -> int:
    """Send some requests to one route, check the answers, and return the number of requests."""
    from hypothesis import HealthCheck, Phase, given, settings
    from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance

    described, sent = operation.definition.raw["responses"], 0

    @settings(
        max_examples=most, database=None, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )  # fmt: skip
    @given(case=operation.as_strategy())
    def check(case: Any) -> None:
        nonlocal sent
        sent += 1
        answer = send_case(client, case)
        place = (role, case.method, case.path, case.body, answer.status_code, answer.text[:300])
        assert answer.status_code < 500 or answer.status_code in (501, 503, 504), place
        framework = answer.status_code in (404, 405, 413, 415)
        assert str(answer.status_code) in described or framework, place
        if str(answer.status_code) in described:
            # The framework's own errors are the same on every route, and are not described on each.
            case.validate_response(
                as_checked(answer), checks=[content_type_conformance, response_schema_conformance]
            )
        if answer.status_code >= 400 and case.path not in (CONVERT, "/api/v1/health"):
            assert answer.json()["error"]["code"], place

    check()
    return sent


def send_case(client: httpx.Client, case: Any) -> httpx.Response:
    """Send a made request, also where its client would refuse to."""
    arguments = case.as_transport_kwargs(base_url="https://server.test")
    headers = {
        str(name): str(value).encode("utf-8", "replace")
        for name, value in dict(arguments.get("headers") or {}).items()
        if name.lower() not in ("x-api-key", "authorization", "cookie", "host", "user-agent")
    }
    sendable = {name: value for name, value in headers.items() if b"\n" not in value and b"\r" not in value}
    body = {name: arguments[name] for name in ("json", "data", "files") if arguments.get(name) is not None}
    if isinstance(body.get("data"), (bytes, str)):
        body["content"] = body.pop("data")
    if "files" in body:
        body = {"files": _parts(body["files"]) + _parts(body.get("data") or {})}
    return client.request(
        arguments["method"], arguments["url"], params=arguments.get("params"), headers=sendable, **body
    )


def as_checked(answer: httpx.Response) -> Any:
    """Return an answer as the checks take it: they would read the request again, whose body was a stream."""
    import requests
    from schemathesis.core.transport import Response

    request = requests.Request(answer.request.method, str(answer.request.url)).prepare()
    headers = {name.lower(): [value] for name, value in answer.headers.items()}
    return Response(answer.status_code, headers, answer.content, request, 0.1, verify=True)


def _parts(given: Any) -> list[Any]:
    """Return the parts of a form as the test client takes them: values may be anything at all."""

    def as_bytes(value: Any) -> bytes:
        return value if isinstance(value, bytes) else str(value).encode("utf-8", "replace")

    pairs = given.items() if isinstance(given, dict) else given
    return [
        (str(name), (value[0], as_bytes(value[1])) if isinstance(value, tuple) else (None, as_bytes(value)))
        for name, value in pairs
    ]
