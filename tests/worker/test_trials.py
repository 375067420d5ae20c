"""Trials: one page by several models, as a job of each of them would make it, side by side and live."""

from __future__ import annotations

import io
import re
import threading
import zipfile
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from PIL import Image

from comic_upscale.engines.base import Engine
from comic_upscale.errors import StorageError
from comic_upscale.server.services import Services
from comic_upscale.settings.job import JobSettings
from comic_upscale.settings.sizes import Scale
from comic_upscale.worker import trial_job
from tests.conftest import REPOSITORY, draw
from tests.fakes import NearestEngine
from tests.server.conftest import client_of, make_key
from tests.server.pages import csrf_of, pages_of, sign_in
from tests.server.running import PATIENCE, wait_for
from tests.server.test_access import add_person
from tests.server.test_pages import check_html
from tests.server.test_queue import change, taken
from tests.worker.test_live_pictures import Hold, runner_of, stored_live

BUNDLED = "comic-compact-x3"


def send(browser: httpx.Client, page: bytes, name: str = "page.png", **fields: str) -> httpx.Response:
    headers = {"X-CSRF-Token": csrf_of(browser.get("/"))}
    return browser.post("/api/v1/trials", files={"file": (name, page)}, data=fields, headers=headers)


@pytest.mark.parametrize(
    ("fields", "field", "message"),
    [
        ({"models": BUNDLED}, "models", "2 to 4 different models"),
        ({"models": f"{BUNDLED},{BUNDLED}"}, "models", "2 to 4 different models"),
        ({"models": "a,b,c,d,e"}, "models", "2 to 4 different models"),
        ({"models": f"{BUNDLED},auto"}, "models", "name the models themselves"),
        ({"models": f"{BUNDLED},/etc/passwd"}, "models", "passwd"),
        ({"models": f"{BUNDLED},none", "model": BUNDLED}, "model", "name them in the field models"),
        ({"models": f"{BUNDLED},realesr-animevideov3", "factor": "99"}, "factor", "Factor must be"),
    ],
)
def test_what_a_trial_may_ask_for(
    services: Services, fields: dict[str, str], field: str, message: str
) -> None:
    with client_of(services, make_key(services, "ann")) as client:
        answer = client.post("/api/v1/trials", files={"file": ("a.png", b"x")}, data=fields)
        assert answer.status_code == 400, answer.text
        assert answer.json()["error"]["field"] == field and message in answer.json()["error"]["message"]
        assert list(services.files.list()) == []


def test_a_trial_takes_one_page(services: Services) -> None:
    models = {"models": f"{BUNDLED},realesr-animevideov3"}
    with client_of(services, make_key(services, "ann")) as client:
        for files, status in (
            ([("file", ("a.cbz", b"x"))], 415),
            ([("file", ("a.png", b"x")), ("file", ("b.png", b"x"))], 413),
            ([("file", ("a.png", b""))], 400),
        ):
            assert client.post("/api/v1/trials", files=files, data=models).status_code == status
        assert (
            client.post("/api/v1/trials", files=[("file", ("a.png", b"x"))], data=models).status_code == 202
        )
    held = taken(services.database)
    assert held.job["lane"] == "interactive"


def test_models_are_seen_side_by_side_and_one_is_chosen(services: Services, tmp_path: Path) -> None:
    add_person(services, "ann")
    page = draw(tmp_path / "page.png", 3, size=(200, 300)).read_bytes()
    weights = (REPOSITORY / "weights" / f"{BUNDLED}.safetensors").read_bytes()
    with client_of(services, make_key(services, "boss", "admin")) as boss:
        for name in ("mine", "gone"):
            form = {"files": {"file": (f"{name}.safetensors", weights)}, "data": {"name": name}}
            assert boss.post("/api/v1/admin/models", **form).status_code == 201
        # A batch for the page, one more because the gate suspects it, and two for its score.
        hold = Hold(4)
        with pages_of(services) as browser:
            answer = send(sign_in(browser, "ann"), page, models=f"{BUNDLED},gone,mine", factor="2")
            assert answer.status_code == 202, answer.text
            job = answer.json()["job_id"]
            assert boss.delete("/api/v1/admin/models/gone").status_code == 204
            runner = runner_of(services, tmp_path, NearestEngine(hold))
            work = threading.Thread(target=runner.run, args=(taken(services.database),))
            work.start()
            try:
                # The first result is there while the others are not.
                pane = wait_for(lambda: _body(browser.get(f"/jobs/{job}/new")))
                assert pane.count('class="pane"') == 1 and BUNDLED in pane and "?live=true" in pane
                waiting = browser.get(f"/jobs/{job}")
                assert waiting.text.count('class="pane"') == 1 and "data-events" in waiting.text
            finally:
                hold.go.set()
                work.join(PATIENCE)
            _check_result(services, browser, job)


def test_a_trial_that_runs_a_second_time_shows_each_result_once(
    services: Services, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def is_away(*_: object) -> Any:
        raise StorageError("the storage is away")

    monkeypatch.setattr("comic_upscale.worker.job.store_trial", is_away)
    add_person(services, "ann")
    weights = (REPOSITORY / "weights" / f"{BUNDLED}.safetensors").read_bytes()
    with client_of(services, make_key(services, "boss", "admin")) as boss:
        form = {"files": {"file": ("mine.safetensors", weights)}, "data": {"name": "mine"}}
        assert boss.post("/api/v1/admin/models", **form).status_code == 201
    with pages_of(services) as browser:
        page = draw(tmp_path / "page.png", 3, size=(40, 60)).read_bytes()
        answer = send(sign_in(browser, "ann"), page, models=f"{BUNDLED},mine", factor="2")
        job = answer.json()["job_id"]
        for _ in range(2):
            change(services.database, job, not_before=0)
            runner_of(services, tmp_path, NearestEngine()).run(taken(services.database))
            assert browser.get(f"/jobs/{job}/new").text.count('class="pane"') == 2


def _body(answer: httpx.Response) -> str:
    return answer.text if answer.status_code == 200 else ""


def _check_result(services: Services, browser: httpx.Client, job: str) -> None:
    done: Any = browser.get(f"/api/v1/jobs/{job}").json()
    assert done["status"] == "completed", done
    shown = browser.get(f"/jobs/{job}").text
    check_html(shown)
    assert BUNDLED in shown and "SSIM" in shown and "plain resampling" in shown
    found = re.findall(r'href="(/\?model=[^"]+)"', shown)
    assert found
    form = browser.get(found[0].replace("&amp;", "&")).text
    assert re.search(rf'<option value="{BUNDLED}" selected>', form)
    assert re.search(r'value="2" checked', form)
    bundle = browser.get(f"/api/v1/jobs/{job}/result?format=zip", follow_redirects=True).content
    with zipfile.ZipFile(io.BytesIO(bundle)) as archive:
        assert f"page {BUNDLED}.png" in archive.namelist()
        with Image.open(io.BytesIO(archive.read(f"page {BUNDLED}.png"))) as image:
            assert image.size == (400, 600)
    after = browser.get(f"/jobs/{job}/pictures/0/after").content
    with zipfile.ZipFile(io.BytesIO(bundle)) as archive:
        assert archive.read(f"page {BUNDLED}.png") == after
    assert stored_live(services) == 0
    # What could not be tried has its reason.
    assert "The model gone was deleted" in shown
    assert shown.count('class="pane"') == 2 and shown.count("Use this model") == 2
    again = browser.get(f"/jobs/{job}/pages/1").text
    assert "mine" in again and "before, 200" in again and "after, 400" in again


def test_the_form_remembers_what_was_tried(services: Services) -> None:
    add_person(services, "ann")
    with pages_of(services) as browser:
        page = sign_in(browser, "ann").get(f"/try?models={BUNDLED}&models=other&factor=3").text
        check_html(page)
        assert re.findall(r'name="models" value="([^"]+)" checked', page) == [BUNDLED]
        assert 'value="3" checked' in page


@pytest.mark.parametrize(("factor", "network"), [(2.0, "comic-best-x2"), (3.0, "comic-best-x3")])
def test_the_score_of_a_family_is_that_of_the_network_of_the_factor(
    tmp_path: Path, factor: float, network: str
) -> None:
    settings = JobSettings(input=tmp_path, output=tmp_path / "out", model="comic-best", size=Scale(factor))
    scored: list[str] = []

    def opener(settings: JobSettings, weights: Any) -> list[Engine]:
        scored.append(weights.model_name)
        return [NearestEngine()]

    with trial_job._open(settings, opener):
        pass
    assert scored == [network]
