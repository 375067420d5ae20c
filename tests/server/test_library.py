"""The library: what people may browse of the server's machine, the jobs that they begin there, and their reports."""

from __future__ import annotations

import json
import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
import sqlalchemy as sa

from comic_upscale.errors import SettingsError
from comic_upscale.server import library
from comic_upscale.server.database.schema import users
from comic_upscale.server.library import list_folder
from comic_upscale.server.services import Services
from comic_upscale.settings.paths import MARKER_FOLDER
from comic_upscale.settings.selection import Selection, write_selection
from tests.conftest import draw
from tests.fakes import NearestEngine
from tests.server.conftest import OpenServices, client_of, make_key
from tests.server.pages import csrf_of, pages_of, sign_in
from tests.server.test_access import add_person
from tests.server.test_pages import check_html
from tests.server.test_queue import change, taken
from tests.worker.test_live_pictures import runner_of

pytestmark = pytest.mark.skipif(os.name != "posix", reason="links of POSIX")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A library with a volume, pages, and links in it and out of it."""
    root = tmp_path / "root"
    (root / "Series" / "Book 10").mkdir(parents=True)
    (root / "Series" / "Book 2").mkdir()
    (root / "Series" / "v01.cbz").write_bytes(b"x" * 2000)
    (root / "Series" / "notes.txt").write_text("no page")
    (root / "Series" / ".hidden.png").write_bytes(b"x")
    draw(root / "Series" / "cover.png", 1, size=(40, 60))
    (root / "Series" / "upscaled" / MARKER_FOLDER).mkdir(parents=True)
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "page.png").write_bytes(b"x")
    (root / "Series" / "way out").symlink_to(tmp_path / "secret")
    (root / "Series" / "page out.png").symlink_to(tmp_path / "secret" / "page.png")
    (root / "Series" / "nowhere").symlink_to(tmp_path / "nothing")
    (root / "Series" / "inside").symlink_to(root / "Series" / "Book 2")
    return root


@pytest.fixture
def services(open_server: OpenServices, root: Path) -> Services:
    found = open_server(roots=(str(root),), library_users=("bob",))
    for name, role in (("boss", "admin"), ("bob", "user"), ("ann", "user")):
        add_person(found, name, role)  # type: ignore[arg-type]
    return found


@pytest.fixture
def boss(services: Services) -> Iterator[httpx.Client]:
    with pages_of(services) as client:
        yield sign_in(client, "boss")


def test_a_level_is_listed_in_the_order_of_a_reader(root: Path) -> None:
    shown = list_folder((root,), str(root / "Series"))
    assert [each.name for each in shown.entries] == ["Book 2", "Book 10", "inside", "v01.cbz", "cover.png"]
    assert (shown.total, shown.hidden, shown.is_upscaled) == (5, 3, True)
    assert [name for name, _ in shown.parts] == ["root", "Series"]
    # A link inside shows where it leads, so that each folder has one address.
    assert next(each for each in shown.entries if each.name == "inside").path == str(
        root / "Series" / "Book 2"
    )


def test_what_a_run_leaves_out_is_not_listed(root: Path) -> None:
    for name in ("@eaDir", "Thumbs.db"):
        (root / "Series" / name).mkdir()
    listed = {each.name for each in list_folder((root,), str(root / "Series")).entries}
    assert listed.isdisjoint(("@eaDir", "Thumbs.db"))


def test_large_folders_have_pages(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(1, 251):
        (root / "Series" / "Book 2" / f"{number}.png").write_bytes(b"x")
    pages = [list_folder((root,), str(root / "Series" / "Book 2"), page) for page in (1, 2, 3, 4)]
    assert [len(each.entries) for each in pages] == [100, 100, 50, 0]
    assert [pages[0].entries[0].name, pages[2].entries[-1].name] == ["1.png", "250.png"]
    monkeypatch.setattr(library, "MOST_ENTRIES", 20)
    cut = list_folder((root,), str(root / "Series" / "Book 2"))
    assert cut.is_cut and cut.total == 20


def test_no_way_leads_out(boss: httpx.Client, root: Path) -> None:
    token = csrf_of(boss.get("/account"))
    for path in ("Series/way out", "..", "Series/../../secret", "Series/nowhere", "/etc", "a\0b"):
        with pytest.raises(SettingsError):
            list_folder((root,), path)
        answer = boss.get("/library", params={"path": path})
        assert answer.status_code == 404 and "page.png" not in answer.text, path
        form = {"csrf_token": token, "path": path, "factor": "2"}
        assert boss.post("/library", data=form).status_code == 400, path


def test_who_may_use_it(services: Services) -> None:
    with pages_of(services) as ann, pages_of(services) as bob, pages_of(services) as boss:
        refused = sign_in(ann, "ann").get("/library")
        assert refused.status_code == 403 and 'href="/library"' not in refused.text
        form = {"csrf_token": csrf_of(ann.get("/account")), "path": "Series", "factor": "2"}
        assert ann.post("/library", data=form).status_code == 403
        shown = sign_in(bob, "bob").get("/library?path=Series")
        assert shown.status_code == 200 and "Book 10" in shown.text and 'href="/library"' in shown.text
        check_html(shown.text)
        form["csrf_token"] = csrf_of(shown)
        job = bob.post("/library", data=form).headers["location"]
        assert bob.get(job).status_code == 200 and ann.get(job).status_code == 404
        # An administrator gives the right to another user at run time.
        sign_in(boss, "boss")
        change = {"csrf_token": csrf_of(boss.get("/admin/settings")), "library_users": "ann"}
        wrong = boss.post("/admin/settings", data=change | {"library_users": "ann, anne"})
        assert wrong.status_code == 400 and "There is no user named anne" in wrong.text
        assert boss.post("/admin/settings", data=change).status_code == 303
        assert bob.get("/library").status_code == 403 and ann.get("/library").status_code == 200


def test_jobs_of_others_are_seen_and_not_opened(services: Services, boss: httpx.Client, root: Path) -> None:
    form = {
        "csrf_token": csrf_of(boss.get("/account")),
        "path": str(root / "Series" / "v01.cbz"),
        "factor": "2",
    }
    job = boss.post("/library", data=form).headers["location"].partition("?")[0]
    with pages_of(services) as bob:
        waits = sign_in(bob, "bob").get("/library?path=Series").text
        # The folders, and the image, can be begun; the volume waits.
        assert "queued" in waits and job not in waits and waits.count(">Upscale 2") == 4
        change(services.database, job.rpartition("/")[2], status="failed")
        ended = bob.get("/library?path=Series").text
        assert "failed" in ended and job not in ended and ended.count(">Upscale 2") == 5
        check_html(ended)
    assert f"{job}/again" in boss.get("/library?path=Series").text


def test_the_limits_of_users_count_in_the_library(services: Services, boss: httpx.Client) -> None:
    token = csrf_of(boss.get("/account"))
    with pages_of(services) as bob:
        form = {"csrf_token": csrf_of(sign_in(bob, "bob").get("/account")), "path": "Series", "factor": "2"}
        limits = {users.c.pages_per_day: 0}
        services.database.write(
            lambda connection: connection.execute(
                sa.update(users).where(users.c.name == "bob").values(limits)
            )
        )
        assert bob.post("/library", data=form).status_code == 429
        with client_of(services, make_key(services, "chief", "admin")) as chief:
            assert chief.post("/api/v1/admin/queue/maintenance").status_code == 200
        assert bob.post("/library", data=form).status_code == 503
        assert boss.post("/library", data={**form, "csrf_token": token}).status_code == 303


@pytest.mark.parametrize("way", ["/library", "/library/watched"])
@pytest.mark.parametrize(
    "output",
    [
        "x" * 300,
        "/".join(["x" * 208] * 19),
        "/".join(["x" * 90] * 7),
        "new/" + "x" * 300,
        "s3://b/x",
        "cover.png/inside",
        "cover.png",
        "..",
        "../else",
    ],
)
def test_an_output_that_cannot_be_is_refused_and_what_was_typed_is_kept(
    services: Services, boss: httpx.Client, root: Path, way: str, output: str
) -> None:
    """Not when the worker begins, an hour later."""
    folder = root / "Series"
    (root / "cover.png").write_bytes(b"x")
    form = {
        "csrf_token": csrf_of(boss.get("/account")), "path": str(folder), "factor": "2.5", "preset": "art",
        "output": output,
    }  # fmt: skip
    refused = boss.post(way, data=form)
    assert refused.status_code == 400 and 'role="alert"' in refused.text, refused.text
    assert "Book 10" in refused.text and f'value="{output}"' in refused.text
    assert 'value="2.5" checked' in refused.text and '<option data-own-size="" selected>art' in refused.text
    check_html(refused.text)
    # A form of one entry shows the folder that the entry is in.
    entry = form | {"path": str(folder / "cover.png"), "folder": str(folder)}
    assert "Book 10" in boss.post("/library", data=entry).text


def test_a_server_without_roots_has_none(open_server: OpenServices) -> None:
    services = open_server()
    add_person(services, "boss", "admin")
    with pages_of(services) as boss:
        answer = sign_in(boss, "boss").get("/library")
        assert answer.status_code == 404 and "--root" in answer.text


def test_names_of_files_are_text(services: Services, boss: httpx.Client, root: Path) -> None:
    (root / "<script>alert(1)<").mkdir()
    (root / "<script>alert(1)<" / "\"'&.png").write_bytes(b"x")
    for path in ("", "<script>alert(1)<"):
        text = boss.get("/library", params={"path": path}).text
        assert "<script>alert" not in text and "&lt;script&gt;alert(1)" in text
        check_html(text)


def test_a_name_that_is_not_utf_8_hides_itself_alone(boss: httpx.Client, root: Path) -> None:
    folder = os.fsencode(root / "Series" / "Book 2")
    try:
        for name in (b"caf\xe9.png", b"v\xff.cbz"):
            Path(os.fsdecode(folder + b"/" + name)).write_bytes(b"x")
    except OSError:
        pytest.skip("this file system takes names in UTF-8 alone")
    (root / "Series" / "Book 2" / "2.png").write_bytes(b"x")
    shown = boss.get("/library?path=Series/Book 2")
    assert shown.status_code == 200 and "2.png" in shown.text
    assert "2 entries are not shown" in shown.text and "not UTF-8" in shown.text
    check_html(shown.text)


def test_a_folder_is_upscaled_has_a_report_and_continues(
    services: Services, boss: httpx.Client, root: Path, tmp_path: Path
) -> None:
    folder = root / "Series" / "Book 2"
    draw(folder / "1.png", 1, size=(40, 60))
    page = boss.get("/library", params={"path": str(folder)})
    form = {"csrf_token": csrf_of(page), "path": str(folder), "factor": "2", "preset": "standard"}
    begun = boss.post("/library", data=form).headers["location"].partition("?")[0]
    assert "queued" in boss.get("/library?path=Series").text
    runner = runner_of(services, tmp_path, NearestEngine())
    runner.run(taken(services.database))
    assert (folder / "upscaled" / "1.png").exists()
    shown = boss.get(begun)
    assert f'href="{begun}/report"' in shown.text and f"{folder} →" in shown.text
    # A link would show nothing: the pages are in the folder.
    assert f"{begun}/share" not in shown.text
    assert boss.post(f"{begun}/share", data={"csrf_token": csrf_of(shown)}).status_code == 409
    report = boss.get(f"{begun}/report")
    policy = report.headers["content-security-policy"]
    assert report.text.startswith("<!-- report of comic-upscale -->") and "1.png" in report.text
    # Its own script is the only one that runs, in a document that is no page of this server.
    assert policy.startswith("sandbox allow-scripts;") and "allow-same-origin" not in policy
    assert re.search(r"script-src '(sha256-[^']+)'$", policy)[1] in report.text  # type: ignore[index]
    # Somebody looked at a part of it on the command line. A job of the server takes the whole folder.
    part = write_selection(Selection(paths=("1.png",)))
    with closing(sqlite3.connect(folder / "upscaled" / ".comic-upscale" / "ledger.sqlite3")) as ledger:
        ledger.execute(
            "update jobs set settings = json_set(settings, '$.selection', json(?))", [json.dumps(part)]
        )
        ledger.commit()
    # A page that is added is the only one that is done next.
    draw(folder / "2.png", 2, size=(40, 60))
    listed = boss.get("/library?path=Series").text
    again = re.search(r'action="(/jobs/[^"]+/again)"', listed)
    assert again is not None and "1 of 1" in listed
    assert boss.post(again[1], data={"csrf_token": csrf_of(shown)}).status_code == 303
    held: Any = taken(services.database)
    runner.run(held)
    done = boss.get(f"/jobs/{held.job_id}").text
    assert "2 of 2 pages" in done and (folder / "upscaled" / "2.png").exists()
    assert boss.post(f"{begun}/delete", data={"csrf_token": csrf_of(shown)}).status_code == 303
    assert boss.get(f"{begun}/report").status_code == 404
    assert [each.key for each in services.files.list() if begun.rpartition("/")[2] in each.key] == []
    assert (folder / "upscaled" / "1.png").exists()
