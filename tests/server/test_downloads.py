"""Files on their way out: volumes for readers behind a path of a proxy, lost files, and ranges that make no sense."""

from __future__ import annotations

import io
import re
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager

import httpx2 as httpx
import pytest
from fastapi.testclient import TestClient

from comic_upscale.server import jobs
from comic_upscale.server.app import create_app
from comic_upscale.server.files import store_file
from comic_upscale.server.services import Services, open_services
from comic_upscale.server.settings import ServerSettings
from comic_upscale.worker.results import complete
from tests.server.conftest import OpenServices, client_of, make_key
from tests.server.pages import pages_of, sign_in
from tests.server.test_access import add_person
from tests.server.test_opds import ATOM, feed, href
from tests.server.test_page_jobs import finish, page, upload
from tests.server.test_queue import RESULT, taken
from tests.server.test_uploads import send

PAGES = {"1.png": b"the first page", "2.png": b"the second page"}
HUGE = "9" * 5000
PLACES = {"pageNumber": "1", "maxWidth": "99", "searchTerms": "Book"}
"""What a reader puts into the templates of addresses."""


def add_job(services: Services, client: httpx.Client, name: str, *files: str) -> str:
    """Upload something, and complete its job with files as a worker does. A volume has its pages one after another."""
    accepted = send(client, name)
    assert accepted.status_code == 202, accepted.text
    held = taken(services.database)
    content = b"".join(PAGES.values())
    members = [("1.png", 0, 14), ("2.png", 14, 15)]
    stored = [
        (each, store_file(services.files, f"results/{held.job_id}/1-{number}", io.BytesIO(content)))
        for number, each in enumerate(files)
    ]
    found = [members if each.endswith(".cbz") else None for each in files]
    services.database.write(lambda c: complete(c, held, stored, found, [], RESULT))
    return str(held.job_id)


@contextmanager
def behind_a_proxy(services: Services, key: str | None) -> Iterator[httpx.Client]:
    """A client of a server under the path /comics, as uvicorn does it: it puts the path before that of a request."""
    with TestClient(
        create_app(services), base_url="https://server.test", root_path="/comics", follow_redirects=True,
        headers={} if key is None else {"X-API-Key": key},
    ) as client:  # fmt: skip
        yield client


def test_a_reader_behind_a_proxy_path_is_asked_for_a_password_and_finds_everything(
    open_server: OpenServices,
) -> None:
    services = open_server(root_path="/comics")
    with behind_a_proxy(services, None) as stranger:
        refused = stranger.get("/comics/opds/v1.2")
        assert refused.status_code == 401 and refused.headers["www-authenticate"].startswith("Basic")
        assert stranger.get("/comics/api/v1/jobs").headers["www-authenticate"] == "Bearer"
    key = make_key(services, "me")
    with client_of(services, key) as client:
        add_job(services, client, "Book.cbz", "Book.cbz")
        add_job(services, client, "1.png", "1.png", "2.png")
    with behind_a_proxy(services, key) as reader:
        seen: set[str] = set()
        waiting = ["/comics/opds/v1.2", "/comics/opds/v1.2/volumes?q=Book"]
        while waiting:
            address = waiting.pop()
            if address in seen:
                continue
            seen.add(address)
            answer = reader.get(address)
            assert answer.status_code == 200, (address, answer.status_code, answer.text)
            if answer.headers["content-type"].startswith(("application/atom", "application/opensearch")):
                found = re.findall(r'(?:href|template)="([^"]*)"', answer.text)
                assert found and all(each.startswith("/comics/") for each in found), found
                for each in found:
                    plain = re.sub(r"\{(\w+)\}", lambda match: PLACES[match[1]], each.replace("&amp;", "&"))
                    waiting.append(urllib.parse.urljoin(address, plain))
        assert len([each for each in seen if "/pages/" in each]) == 4 and len(seen) >= 9
        volumes = feed(reader, "/comics/opds/v1.2/volumes")
        _, book = volumes.findall(f"{ATOM}entry")
        cover = href(book, "http://opds-spec.org/image").replace("pages/0", "pages/1")
        assert reader.get(cover).content == PAGES["2.png"]


def test_a_page_whose_file_is_lost_is_not_found(services: Services) -> None:
    with client_of(services, make_key(services, "me")) as client:
        job = add_job(services, client, "Book.cbz", "Book.cbz")
        loose = add_job(services, client, "1.png", "1.png", "2.png")
        rows = [
            row
            for each in (job, loose)
            for row in services.database.read(lambda c, each=each: jobs.files_of(c, "result", job_id=each))
        ]
        addresses = [f"/opds/v1.2/files/{rows[0]['id']}/pages/1", f"/opds/v1.2/jobs/{loose}/pages/1"]
        assert [client.get(each).status_code for each in addresses] == [200, 200]
        for row in rows:
            services.files.delete(row["storage_key"])
        assert [client.get(each).status_code for each in addresses] == [404, 404]


def test_a_storage_that_is_away_breaks_no_answer_off(
    open_server: OpenServices, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("obstore", reason="obstore is not installed: pip install '.[s3]'")
    from comic_upscale.storage import buckets

    monkeypatch.setitem(buckets.RETRIES, "max_retries", 0)
    here = open_server()
    key = make_key(here, "me")
    with client_of(here, key) as client:
        loose = add_job(here, client, "1.png", "1.png", "2.png")
    add_person(here, "ann")
    with pages_of(here) as browser:
        job = upload(sign_in(browser, "ann"))
        finish(here, page())
        # The page of the job is known. Its pictures are in the bucket.
        assert browser.get(f"/jobs/{job}/pictures/0/after").status_code == 200
    settings = ServerSettings(
        data=here.settings.data, storage="s3://comics/server", s3_endpoint="http://127.0.0.1:9",
        s3_access_key_id="key", s3_secret_access_key="secret",
    )  # fmt: skip
    away = open_services(settings)
    try:
        with client_of(away, key) as client:
            answer = client.get(f"/opds/v1.2/jobs/{loose}/pages/1")
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "unavailable")
        with pages_of(away) as browser:
            assert sign_in(browser, "ann").get(f"/jobs/{job}/pictures/0/after").status_code == 503
    finally:
        away.close()


@pytest.mark.parametrize("asked", [f"bytes={HUGE}-", f"bytes=-{HUGE}", f"bytes=0-{HUGE}", "bytes=\u0663-"])
@pytest.mark.parametrize("files", [("1.png",), ("1.png", "2.png")], ids=["a file", "a ZIP"])
def test_a_range_that_makes_no_sense_is_no_fault_of_the_server(
    services: Services, asked: str, files: tuple[str, ...]
) -> None:
    with client_of(services, make_key(services, "me")) as client:
        job = add_job(services, client, "1.png", *files)
        link = client.get(f"/api/v1/jobs/{job}/result").headers["location"]
        answer = client.get(link, headers={"Range": asked.encode()})
        assert answer.status_code in (200, 206, 400, 416), answer.text


def test_a_length_that_makes_no_sense_is_no_fault_of_the_server(services: Services) -> None:
    headers = {"Content-Length": HUGE, "Content-Type": "multipart/form-data; boundary=b"}
    with client_of(services, make_key(services, "me")) as client:
        answer = client.post("/api/v1/uploads", content=b"x", headers=headers)
    assert answer.status_code == 413, answer.text


@pytest.mark.parametrize("files", [("1.png",), ("1.png", "2.png")], ids=["a file", "a ZIP"])
def test_a_file_that_lost_its_end_is_never_sent_as_whole(services: Services, files: tuple[str, ...]) -> None:
    with client_of(services, make_key(services, "me")) as client:
        job = add_job(services, client, "1.png", *files)
        link = client.get(f"/api/v1/jobs/{job}/result").headers["location"]
        assert client.get(link).status_code == 200
        row = services.database.read(lambda c: jobs.files_of(c, "result", job_id=job))[0]
        path = services.files.local_path(row["storage_key"])
        assert path is not None
        with path.open("r+b") as file:
            file.truncate(row["size"] // 2)
        assert client.get(link).status_code == 404
        assert client.get(link, headers={"Range": "bytes=0-1"}).status_code == 404
