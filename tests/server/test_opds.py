"""OPDS with page streaming, walked as a reader does it; and a model of the server, used by its worker."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree as ET

import httpx2 as httpx
import numpy as np
import pytest
from PIL import Image

from comic_upscale.worker.members import find_members
from tests.conftest import REPOSITORY, draw
from tests.server.conftest import client_of, make_key
from tests.server.running import PATIENCE, RunningServer

ATOM, PSE = "{http://www.w3.org/2005/Atom}", "{http://vaemendis.net/opds-pse/ns}"

posix = pytest.mark.skipif(os.name != "posix", reason="the worker is told to stop by signals")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    home = tmp_path_factory.mktemp("server")
    server = RunningServer(home / "data", home, "--device", "cpu")
    server.start()
    yield server
    server.kill()


def feed(client: httpx.Client, url: str) -> ET.Element:
    answer = client.get(url)
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("application/atom+xml")
    root = ET.fromstring(answer.content)
    for name in ("id", "title", "updated"):
        assert root.findtext(ATOM + name), name
    return root


def link(element: ET.Element, rel: str) -> ET.Element:
    (found,) = [each for each in element.findall(f"{ATOM}link") if each.get("rel") == rel]
    return found


def href(element: ET.Element, rel: str) -> str:
    return str(link(element, rel).get("href"))


@posix
def test_a_reader_walks_from_the_root_to_a_page(server: RunningServer, tmp_path: Path) -> None:
    volume = tmp_path / "Böse & <Buch>.cbz"
    with zipfile.ZipFile(volume, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in (10, 2, 1):
            archive.write(draw(tmp_path / f"{number}.png", number, size=(20, 24)), f"{number}.png")
    with server.client() as client:
        for paths in ([volume], [tmp_path / "1.png", tmp_path / "2.png"], [tmp_path / "10.png"]):
            assert server.wait(client, server.upload(client, *paths, factor="2"))["status"] == "completed"
    with httpx.Client(base_url=server.api, timeout=PATIENCE) as stranger:
        refused = stranger.get("/opds/v1.2")
        assert refused.status_code == 401 and refused.headers["www-authenticate"].startswith("Basic")
    reader = httpx.Client(
        base_url=server.api, auth=("reader", server.key), timeout=PATIENCE, follow_redirects=True
    )
    with reader:
        root = feed(reader, "/opds/v1.2")
        (shelf,) = root.findall(f"{ATOM}entry")
        volumes = feed(reader, href(shelf, "subsection"))
        assert href(volumes, "start") == "/opds/v1.2"
        # A single page is no volume.
        pages, book = volumes.findall(f"{ATOM}entry")
        assert book.findtext(f"{ATOM}title") == "Böse & _Buch_"
        stream = link(book, "http://vaemendis.net/opds-pse/stream")
        assert (stream.get(f"{PSE}count"), stream.get("type")) == ("3", "image/png")
        download = reader.get(href(book, "http://opds-spec.org/acquisition"))
        assert download.headers["content-type"] == "application/vnd.comicbook+zip"
        template = str(stream.get("href"))
        with zipfile.ZipFile(io.BytesIO(download.content)) as archive:
            for number, name in enumerate(("1.png", "2.png", "10.png")):
                url = template.replace("{pageNumber}", str(number)).replace("{maxWidth}", "1000")
                page = reader.get(url)
                assert page.content == archive.read(name) and page.headers["content-type"] == "image/png"
        cover = reader.get(href(book, "http://opds-spec.org/image/thumbnail"))
        assert Image.open(io.BytesIO(cover.content)).size == (40, 48)
        for wrong in ("3", "-1", "99999999999999999999", "x"):
            assert reader.get(template.split("?")[0].replace("{pageNumber}", wrong)).status_code in (400, 404)
        loose = link(pages, "http://vaemendis.net/opds-pse/stream")
        assert loose.get(f"{PSE}count") == "2"
        second = reader.get(str(loose.get("href")).replace("{pageNumber}", "1").replace("{maxWidth}", "9"))
        assert Image.open(io.BytesIO(second.content)).size == (40, 48)
        bundle = reader.get(href(pages, "http://opds-spec.org/acquisition"))
        assert zipfile.ZipFile(io.BytesIO(bundle.content)).namelist() == ["1.png", "2.png"]
        search = ET.fromstring(reader.get(href(root, "search")).content)
        found = search.find("{http://a9.com/-/spec/opensearch/1.1/}Url")
        assert found is not None
        for words, count in (("b%C3%B6SE".lower(), 1), ("%25", 0), ("nothing", 0)):
            result = feed(reader, str(found.get("template")).replace("{searchTerms}", words))
            assert len(result.findall(f"{ATOM}entry")) == count, words
    user = server.run("server", "key", "create", "--data", server.data, "--name", "other").strip()
    with httpx.Client(base_url=server.api, auth=("x", user), timeout=PATIENCE) as other:
        assert feed(other, "/opds/v1.2/volumes").findall(f"{ATOM}entry") == []
        for url in (
            template.replace("{pageNumber}", "0").split("?")[0],
            str(loose.get("href")).split("{")[0] + "0",
        ):
            assert other.get(url).status_code == 404


def test_only_pages_that_are_stored_as_they_are_are_streamed(tmp_path: Path) -> None:
    page = draw(tmp_path / "page.png", 1, size=(20, 24)).read_bytes()
    stored, packed, broken = (tmp_path / name for name in ("stored.cbz", "packed.cbz", "broken.cbz"))
    with zipfile.ZipFile(stored, "w") as archive:
        archive.writestr("ComicInfo.xml", "<ComicInfo/>")
        archive.writestr("b/2.png", page)
        archive.writestr("b/1.png", page[:50])
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("1.png", page)
    broken.write_bytes(stored.read_bytes()[:-30])
    found = find_members(stored)
    assert found is not None and [name for name, _, _ in found] == ["b/1.png", "b/2.png"]
    content = stored.read_bytes()
    assert [content[start : start + size] for _, start, size in found] == [page[:50], page]
    assert find_members(packed) is None and find_members(broken) is None
    assert find_members(tmp_path / "missing.cbz") is None


def test_the_feed_has_pages(services: object) -> None:
    """Without volumes it is a valid feed, too."""
    with client_of(services, make_key(services, "me")) as client:  # type: ignore[arg-type]
        assert feed(client, "/opds/v1.2/volumes").findall(f"{ATOM}entry") == []
        assert client.get("/opds/v1.2/volumes", params={"cursor": "x"}).status_code == 400
        for typed in ("/opds", "/opds/"):
            assert client.get(typed, follow_redirects=False).headers["location"] == "/opds/v1.2"


@posix
def test_a_registered_model_upscales(server: RunningServer, tmp_path: Path) -> None:
    weights = REPOSITORY / "weights" / "comic-compact-x3.safetensors"
    page = draw(tmp_path / "page.png", 5, size=(30, 40))
    with server.client() as client:
        form = {"name": "mine"}
        made = client.post(
            "/api/v1/admin/models", files={"file": ("net.safetensors", weights.read_bytes())}, data=form
        )
        assert made.status_code == 201, made.text
        jobs = [
            server.wait(client, server.upload(client, page, factor="2", model=model))
            for model in ("mine", "comic-compact-x3")
        ]
        assert [job["status"] for job in jobs] == ["completed"] * 2, jobs
        assert "mine" in jobs[0]["model"]
        mine, theirs = (
            np.asarray(Image.open(io.BytesIO(client.get(job["result_url"]).content))) for job in jobs
        )
        assert np.array_equal(mine, theirs)
        waiting = server.upload(client, page, factor="2", model="mine")
        server.wait(client, waiting)
        assert client.delete("/api/v1/admin/models/mine").status_code == 204
        again = client.post(f"/api/v1/admin/jobs/{waiting}/requeue", json={}).json()
        failed = server.wait(client, again["job_id"])
        assert failed["status"] == "failed" and "was deleted" in failed["error"]["message"]
        log = client.get(f"/api/v1/admin/jobs/{waiting}/logs").json()["lines"]
        assert any("run of 1 page:" in line["line"] for line in log)
