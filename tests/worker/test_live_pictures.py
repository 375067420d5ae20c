"""Pages of a job that still runs: each can be seen and compared as it comes, and failures have their reasons."""

from __future__ import annotations

import asyncio
import io
import re
import threading
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
import sqlalchemy as sa

from comic_upscale.engines.base import Batch
from comic_upscale.execution.stop import StopRequest
from comic_upscale.server import queue
from comic_upscale.server.database.schema import files
from comic_upscale.server.files import store_file
from comic_upscale.server.pages import viewing
from comic_upscale.server.pages.jobs import suspects_first
from comic_upscale.server.pictures import LIVE_DATA, LIVE_LIST, PagePictures, Place, to_json
from comic_upscale.server.services import Services
from comic_upscale.worker import live_pictures
from comic_upscale.worker.engines import EngineCache
from comic_upscale.worker.job import JobRunner
from tests.conftest import draw
from tests.fakes import NearestEngine
from tests.server.pages import csrf_of, pages_of, sign_in
from tests.server.running import PATIENCE, wait_for
from tests.server.test_access import add_person
from tests.server.test_queue import taken


class Hold:
    """Lets some batches pass, and stops before the next one. The gate tries a suspect page twice."""

    def __init__(self, batches: int) -> None:
        self.left, self.go = batches, threading.Event()

    def __call__(self, batch: Batch) -> None:
        self.left -= 1
        if self.left < 0:
            assert self.go.wait(PATIENCE)


def make_volume(folder: Path, pages: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("00.png", b"\x89PNG\r\n\x1a\nbroken")
        for number in range(1, pages + 1):
            archive.write(draw(folder / f"{number}.png", number, size=(400, 640)), f"{number:02}.png")
    return buffer.getvalue()


def runner_of(services: Services, folder: Path, engine: NearestEngine) -> JobRunner:
    cache = EngineCache(lambda *_: [engine])
    defaults = {"workers": 1, "weights_cache": folder / "cache"}
    return JobRunner(services.settings, defaults, services.database, services.files, StopRequest(), cache)


def upload(browser: httpx.Client, name: str, data: bytes, **fields: str) -> str:
    headers = {"X-CSRF-Token": csrf_of(browser.get("/"))}
    answer = browser.post("/api/v1/uploads", files={"file": (name, data)}, data=fields, headers=headers)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["job_id"])


def stored_live(services: Services) -> int:
    kinds = files.c.kind.in_((LIVE_LIST, LIVE_DATA))
    count = sa.select(sa.func.count()).select_from(files).where(kinds)
    return int(services.database.read(lambda c: c.scalar(count)) or 0)


def test_pages_are_seen_and_compared_while_the_job_runs(
    services: Services, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_pictures, "INTERVAL", (0.05, 0.05))
    add_person(services, "ann")
    hold = Hold(5)
    engine = NearestEngine(hold)
    with pages_of(services) as browser:
        sign_in(browser, "ann")
        job = upload(browser, "Book.cbz", make_volume(tmp_path, 4), factor="1.5")
        assert browser.get(f"/jobs/{job}/new").status_code == 204
        held = taken(services.database)
        work = threading.Thread(target=runner_of(services, tmp_path, engine).run, args=(held,))
        work.start()
        try:
            shown = wait_for(lambda: _seen(browser, job, 1))
            # No noise enlarged is like its original: the reason is there at once, and the page comes first.
            assert "data-suspect" in shown and "to look at" in browser.get(f"/jobs/{job}").text
            wait_for(lambda: "Failed page" in browser.get(f"/jobs/{job}").text)
            assert "00.png" in browser.get(f"/jobs/{job}").text
            compared = browser.get(f"/jobs/{job}/pages/0?live=true").text
            name = re.search(r"<h1>(\d\d\.png)</h1>", compared)
            assert name is not None and "before, 400" in compared and "after, 600" in compared
            before = browser.get(f"/jobs/{job}/pictures/0/before?live=true")
            assert before.content == (tmp_path / f"{int(name[1][:2])}.png").read_bytes()
            after = browser.get(f"/jobs/{job}/pictures/0/after?live=true")
            assert after.headers["content-type"] == "image/png" and after.content[:4] == b"\x89PNG"
            thumb = browser.get(f"/jobs/{job}/pictures/0/thumb?live=true")
            assert thumb.headers["content-type"] == "image/webp"
            # The same address without the mark belongs to the finished job.
            assert browser.get(f"/jobs/{job}/pictures/0/thumb").status_code == 404
            assert browser.get(f"/jobs/{job}/new?after=9").status_code == 204
        finally:
            hold.go.set()
            work.join(PATIENCE)
        assert stored_live(services) == 0
        done = browser.get(f"/jobs/{job}")
        assert "completed" in done.text and "?live=true" not in done.text
        moved = browser.get(f"/jobs/{job}/pages/0?live=true")
        assert moved.status_code == 303 and moved.headers["location"] == f"/jobs/{job}"
        assert browser.get(f"/jobs/{job}/pictures/0/thumb").status_code == 200


def _seen(browser: httpx.Client, job: str, least: int) -> Any:
    answer = browser.get(f"/jobs/{job}/new")
    return answer.text if answer.status_code == 200 and answer.text.count("<li") >= least else None


def test_others_do_not_see_them(services: Services, tmp_path: Path) -> None:
    for name in ("ann", "bob"):
        add_person(services, name)
    with pages_of(services) as ann, pages_of(services) as bob:
        job = upload(sign_in(ann, "ann"), "1.png", draw(tmp_path / "1.png", 1, size=(20, 30)).read_bytes())
        sign_in(bob, "bob")
        for path in ("new", "pages/0?live=true", "pictures/0/after?live=true"):
            assert bob.get(f"/jobs/{job}/{path}").status_code == 404


def test_a_worker_that_lost_the_job_stores_none(services: Services, tmp_path: Path) -> None:
    add_person(services, "ann")
    with pages_of(services) as browser:
        page = draw(tmp_path / "1.png", 1, size=(40, 60)).read_bytes()
        upload(sign_in(browser, "ann"), "1.png", page, factor="2")
    held = taken(services.database)
    runner_of(services, tmp_path, NearestEngine()).run(held)
    live = live_pictures.LivePictures(
        services.database, services.files, held, services.settings.data / "work" / held.job_id / "out"
    )
    # Its folder is gone with the job, so there is nothing to show either.
    assert live.look() == 0
    with pytest.raises(queue.LostLeaseError):
        live._record("pictures/1/2-live-0", live_data(services), [])
    assert stored_live(services) == 0
    assert [each.key for each in services.files.list() if "live" in each.key] == []


def live_data(services: Services) -> Any:
    with services.files.create("pictures/1/2-live-0-data") as writer:
        writer.write(b"data")
        return writer.commit()


def page_named(name: str, suspect: str | None = None) -> PagePictures:
    place = Place(0, 0, 1, "image/png")
    return PagePictures(name=name, size=(1, 1), thumb=place, after=place, suspect=suspect)


def test_the_latest_pages_follow_the_suspect_ones_while_a_job_runs() -> None:
    pages = [page_named("0"), page_named("1", "blurred"), page_named("2"), page_named("3", "blurred")]
    assert [number for number, _ in suspects_first(pages)] == [1, 3, 0, 2]
    assert [number for number, _ in suspects_first(pages, newest_first=True)] == [1, 3, 2, 0]


def test_lists_in_memory_are_bounded_by_their_pages(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(viewing, "_PAGES_KEPT", 5)
    monkeypatch.setattr(viewing, "_lists", OrderedDict())
    kept = []
    for number, count in enumerate((3, 2, 1, 9)):
        pages = [page_named(f"{number}-{each}") for each in range(count)]
        stored = store_file(services.files, f"pictures/{number}/list", io.BytesIO(to_json(pages)))
        row = {"storage_key": stored.key, "size": stored.size, "sha256": stored.sha256}
        assert len(asyncio.run(viewing._read_list(services, row))) == count
        kept.append([len(each) for each in viewing._lists.values()])
    assert kept == [[3], [3, 2], [2, 1], [9]]


@pytest.mark.parametrize(("factor", "network"), [("2", "comic-fast-x2"), ("2.5", "comic-fast-x3")])
def test_a_job_of_a_family_uses_the_network_of_its_factor(
    services: Services, tmp_path: Path, factor: str, network: str
) -> None:
    add_person(services, "ann")
    page = draw(tmp_path / "page.png", 3, size=(200, 300)).read_bytes()
    with pages_of(services) as browser:
        job = upload(sign_in(browser, "ann"), "page.png", page, model="comic-fast", factor=factor)
        runner_of(services, tmp_path, NearestEngine()).run(taken(services.database))
        answer = browser.get(f"/api/v1/jobs/{job}").json()
    assert (answer["status"], answer["model"]) == ("completed", network)
