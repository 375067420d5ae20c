"""One call of each route whose answer is JSON, in an order in which each one succeeds."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import httpx2 as httpx

from comic_upscale.server import job_log, queue
from comic_upscale.server.services import Services
from comic_upscale.settings.paths import MARKER_FOLDER
from tests.server.conftest import client_of, make_key
from tests.server.test_access import OTHER, PASSWORD, add_person
from tests.server.test_queue import taken
from tests.server.test_uploads import PNG

ESTIMATE = {"pages": [{"width": 512, "height": 768, "count": 36}], "gpus": ["RTX 4090"]}


class Walk:
    """Calls routes, and keeps what they answer by method and path of the description."""

    def __init__(self, paths: Mapping[str, Any]) -> None:
        self._paths = {re.compile(re.sub(r"\{\w+\}", "[^/]+", path) + r"(\?.*)?"): path for path in paths}
        self._methods = {path: set(operations) for path, operations in paths.items()}
        self.answers: dict[str, Any] = {}
        self.called: set[str] = set()

    def call(self, client: httpx.Client, method: str, url: str, **arguments: Any) -> Any:
        answer = client.request(method, url, **arguments)
        assert answer.status_code < 400, (method, url, answer.status_code, answer.text)
        (path,) = {
            path
            for pattern, path in self._paths.items()
            if pattern.fullmatch(url)
            and method.lower() in self._methods[path]
            and (path == url.split("?")[0] or not self._is_literal(url))
        }
        self.called.add(f"{method} {path}")
        if answer.content and answer.headers.get("content-type", "").startswith("application/json"):
            self.answers.setdefault(f"{method} {path}", answer.json())
            return answer.json()
        return answer

    def _is_literal(self, url: str) -> bool:
        return url.split("?")[0] in self._paths.values()


def walk(services: Services, paths: Mapping[str, Any]) -> Walk:
    """Walk over a server without a worker."""
    walk, files = Walk(paths), {"file": ("page.png", PNG)}
    library = services.settings.root_folders[0]
    (library / "books").mkdir(parents=True, exist_ok=True)
    (library / "cover.png").write_bytes(PNG)
    add_person(services, "ann", must_change=True)
    with client_of(services, make_key(services, "boss", "admin")) as boss:
        call = lambda method, url, **more: walk.call(boss, method, url, **more)  # noqa: E731
        accepted = call("POST", "/api/v1/uploads", files=files, data={"factor": "2x"})
        job, upload = accepted["job_id"], accepted["upload_id"]
        held = taken(services.database)
        done = queue.Result(
            pages_total=1, pages_done=1, pages_failed=0, model="comic-compact-x3", device="cpu", seconds=1.5,
            pixels=1 << 20,
        )  # fmt: skip
        services.database.write(lambda c: job_log.add(c, job, ["attempt 1 on a machine"]))
        services.database.write(lambda c: queue.complete(c, held, done))
        for url in (
            f"/api/v1/jobs/{job}", "/api/v1/jobs", f"/api/v1/uploads/{upload}/download", "/api/v1/models",
            "/api/v1/presets", "/api/v1/engines", "/api/v1/options", "/api/v1/health", "/metrics", "/livez", "/readyz",
            "/api/v1/admin/jobs", f"/api/v1/admin/jobs/{job}/logs", "/api/v1/admin/workers", "/api/v1/admin/queue",
            "/api/v1/admin/users", "/api/v1/admin/keys", "/api/v1/admin/settings", "/api/v1/admin/presets",
            "/api/v1/admin/models", "/api/v1/admin/log", f"/status/{job}", f"/api/status/{job}", "/api/health",
            "/sdapi/v1/upscalers",
            "/sdapi/v1/progress", "/sdapi/v1/options", "/sdapi/v1/sd-models", "/opds/v1.2", "/opds/v1.2/search",
            "/opds/v1.2/volumes",
        ):  # fmt: skip
            call("GET", url)
        call("POST", "/api/v1/estimates", json=ESTIMATE)
        call("POST", f"/api/v1/jobs/{job}/again", json={"options": {"factor": "3"}})
        call("POST", f"/api/v1/jobs/{job}/share")
        call("POST", f"/api/v1/admin/jobs/{job}/requeue", json={"options": {"factor": "3"}})
        call("POST", "/api/v1/admin/requeue", json={"model": "none"})
        call("POST", "/api/v1/admin/queue/pause")
        call("POST", "/api/v1/admin/queue/resume")
        call("POST", "/api/v1/admin/users", json={"username": "bob", "password": PASSWORD})
        call("PATCH", "/api/v1/admin/users/bob", json={"pixels_per_day": 10**9})
        call("DELETE", "/api/v1/admin/users/bob")
        call("POST", "/api/v1/admin/settings", json={"retention_days": 7})
        preset = {"description": "For the web.", "options": {"format": "webp", "denoise": "low"}}
        call("PUT", "/api/v1/admin/presets/web", json=preset)
        call("DELETE", "/api/v1/admin/presets/web")
        weights = {"file": ("net.safetensors", b"weights")}
        call("POST", "/api/v1/admin/models", files=weights, data={"name": "mine"})
        call("POST", "/api/v1/admin/models/mine/default")
        call("POST", "/api/v1/admin/models/auto/default")
        call("DELETE", "/api/v1/admin/models/mine")
        call("PUT", "/api/v1/admin/models/comic-compact-x3/note", json={"note": "Best for old scans."})
        call("POST", "/api/v1/admin/jobs", json={"input": "books", "options": {"factor": "2x"}})
        made = call("POST", "/api/v1/watches", json={"input": "books", "options": {"factor": "2x"}})
        call("GET", "/api/v1/watches")
        call("GET", f"/api/v1/watches/{made['watch_id']}")
        call("POST", f"/api/v1/watches/{made['watch_id']}/pause")
        call("POST", f"/api/v1/watches/{made['watch_id']}/resume")
        call("DELETE", f"/api/v1/watches/{made['watch_id']}")
        call("POST", "/api/upscale", json={"filepath": "cover.png"})
        (library / "upscaled" / "old.png" / MARKER_FOLDER).mkdir(parents=True)
        call("DELETE", "/api/upscale", json={"filepath": "old.png"})
        call("POST", "/enhance", files={"files": ("photo.png", PNG)}, data={"face_enhance": "true"})
        call("POST", "/api/upscale/esrgan", files={"image": ("a.png", PNG)}, data={"target_width": "2000"})
        models = {"models": "comic-compact-x3,realesr-animevideov3"}
        call("POST", "/api/v1/trials", files=files, data=models)
        call("POST", "/sdapi/v1/interrupt")
        call("POST", "/sdapi/v1/options", json={"samples_format": "png"})
        call("GET", "/api/v1/admin/audit")
        made = call("POST", "/api/v1/auth/keys", json={"name": "phone"})
        call("GET", "/api/v1/auth/keys")
        call("DELETE", f"/api/v1/auth/keys/{made['id']}")
        other = call("POST", "/api/v1/auth/keys", json={"name": "tablet"})
        call("DELETE", f"/api/v1/admin/keys/{other['id']}")
        _walk_resumable(walk, boss)
        waiting = call("POST", "/api/v1/uploads", files=files)["job_id"]
        call("POST", f"/api/v1/jobs/{waiting}/cancel")
        call("DELETE", f"/api/v1/jobs/{waiting}")
        _walk_sessions(walk, services, boss)
    return walk


def _walk_resumable(walk: Walk, client: httpx.Client) -> None:
    headers, address = {"Tus-Resumable": "1.0.0"}, "/api/v1/uploads/resumable"
    metadata = {"Upload-Length": str(len(PNG)), "Upload-Metadata": "filename cGFnZS5wbmc=,hold"}
    begin = lambda: walk.call(client, "POST", address, headers=headers | metadata).headers["location"]  # noqa: E731
    kind = {"Content-Type": "application/offset+octet-stream", "Upload-Offset": "0"}
    url = begin()
    walk.call(client, "PATCH", url, content=PNG, headers=headers | kind)
    walk.call(client, "GET", url)
    walk.call(client, "POST", f"{address}/complete", json={"uploads": [url.rpartition("/")[2]]})
    walk.call(client, "DELETE", begin(), headers=headers)


def _walk_sessions(walk: Walk, services: Services, boss: httpx.Client) -> None:
    with client_of(services) as person:
        login = {"username": "ann", "password": PASSWORD}
        token = walk.call(person, "POST", "/api/v1/auth/login", json=login)["csrf_token"]
        person.headers["X-CSRF-Token"] = token
        change = {"current_password": PASSWORD, "new_password": OTHER}
        token = walk.call(person, "POST", "/api/v1/auth/password", json=change)["csrf_token"]
        person.headers["X-CSRF-Token"] = token
        walk.call(person, "GET", "/api/v1/auth/session")
        walk.call(person, "POST", "/api/v1/auth/totp", json={"current_password": OTHER})
        walk.call(person, "GET", "/api/v1/auth/sessions")
        walk.call(boss, "GET", "/api/v1/admin/sessions")
        walk.call(person, "POST", "/api/v1/auth/logout")
        form = {"username": "ann", "password": OTHER}
        person.headers.pop("X-CSRF-Token")
        walk.call(person, "POST", "/login", data=form)
        (session,) = boss.get("/api/v1/admin/sessions").json()["sessions"]
        walk.call(boss, "DELETE", f"/api/v1/admin/sessions/{session['id']}")
        token = person.post("/api/v1/auth/login", json={"username": "ann", "password": OTHER}).json()
        person.headers["X-CSRF-Token"] = token["csrf_token"]
        (session,) = person.get("/api/v1/auth/sessions").json()["sessions"]
        walk.call(person, "DELETE", f"/api/v1/auth/sessions/{session['id']}")
