"""Jobs over archives in parts, archives of archives, and archives that are cut short."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from comic_upscale.errors import PageError
from comic_upscale.jobs.job_files import Outputs, Sources
from comic_upscale.ledger.queries import read_done_pages
from comic_upscale.settings.job import JobSettings
from comic_upscale.storage.stores import open_stores
from tests.archives import make_zip, needs_libarchive, picture, pictures, read_cbz, rename_in_zip
from tests.conftest import MakeJob
from tests.jobs.test_volumes import loose, query, run, run_without_engine
from tests.rars import make_rar_parts

pytestmark = needs_libarchive


def jobs(settings: JobSettings) -> dict[str, object]:
    names = ("id", "input", "output", "settings")
    return dict(zip(names, query(settings, f"select {', '.join(names)} from jobs")[-1], strict=True))


def test_a_book_in_parts_is_done_once_and_again_where_one_changed(make_job: MakeJob, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    pages = pictures(6)
    parts = make_rar_parts(folder, lambda number: f"book.part{number + 1}.rar", pages, 4000)
    settings = make_job()
    finished = run(settings)
    assert (finished.done, finished.failed, finished.volumes, finished.volumes_done) == (6, 0, 1, 1)
    assert list(read_cbz(settings.output / "book.cbz")) == list(pages)
    assert [path.name for path in settings.output.iterdir() if path.is_file()] == ["book.cbz"]
    assert loose(settings) == []
    whole = hashlib.sha256(b"".join(part.read_bytes() for part in parts)).hexdigest()
    assert query(settings, "select source_sha256 from pages where kind = 'volume'") == [(whole,)]
    assert run_without_engine(settings).done == 6
    # Of the book in new parts, only the page that is another one is done.
    for part in parts:
        part.unlink()
    make_rar_parts(
        folder, lambda number: f"book.part{number + 1}.rar", {**pages, "p03.png": picture(99)}, 5000
    )
    finished = run(settings)
    assert (finished.done, finished.done_now, finished.volumes_done) == (6, 1, 1)


def test_a_missing_part_fails_the_book_until_it_is_there(make_job: MakeJob, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    parts = make_rar_parts(folder, lambda number: f"book.part{number + 1}.rar", pictures(6), 4000)
    kept = parts[1].read_bytes()
    parts[1].unlink()
    settings = make_job()
    finished = run(settings)
    assert (finished.done, finished.failed, finished.volumes_done) == (0, 1, 0)
    assert not (settings.output / "book.cbz").exists()
    assert query(settings, "select error_kind from pages") == [("missing-part",)]
    parts[1].write_bytes(kept)
    finished = run(settings)
    assert (finished.done, finished.failed, finished.volumes_done) == (6, 0, 1)


@pytest.mark.parametrize("archive_output", ["cbz", "folder"])
def test_the_volumes_in_an_archive(make_job: MakeJob, tmp_path: Path, archive_output: str) -> None:
    inside = {
        f"s/v{at}.cbz": make_zip(tmp_path / f"v{at}.cbz", pictures(2 + at, at)).read_bytes()
        for at in range(3)
    }
    make_zip(tmp_path / "in" / "pack.zip", inside)
    settings = make_job(archive_output=archive_output)
    finished = run(settings)
    assert (finished.done, finished.failed, finished.volumes, finished.volumes_done) == (9, 0, 3, 3)
    if archive_output == "cbz":
        assert list(read_cbz(settings.output / "pack" / "s" / "v2.cbz")) == list(pictures(4))
        assert sorted(path.name for path in (settings.output / "pack" / "s").iterdir()) == [
            "v0.cbz", "v1.cbz", "v2.cbz"
        ]  # fmt: skip
    else:
        assert sorted(path.name for path in (settings.output / "pack" / "s" / "v1").iterdir()) == list(
            pictures(3)
        )
    assert loose(settings) == []
    hashes = {(hashlib.sha256(data).hexdigest(),) for data in inside.values()}
    assert set(query(settings, "select source_sha256 from pages where kind = 'volume'")) == hashes
    assert run_without_engine(settings).done == 9
    # Sources and outputs are found again, for reports.
    stores = open_stores(settings.input, settings.output)
    sources, outputs = Sources(jobs(settings), stores.sources), Outputs(stores.outputs)
    _, rows = read_done_pages(settings.ledger_path)
    assert len(rows) == 9
    for row in rows:
        at = int(row["volume_source"][-5])
        assert sources.read(row) == pictures(2 + at, at)[row["source"].rpartition("/")[2]]
        assert outputs.read(row).startswith(b"\x89PNG")
    sources.close()
    # One volume is another one: the rest is not done again.
    inside["s/v1.cbz"] = make_zip(
        tmp_path / "v1.cbz", {**pictures(3, 1), "p02.png": picture(77)}
    ).read_bytes()
    make_zip(tmp_path / "in" / "pack.zip", inside)
    finished = run(settings)
    assert (finished.done, finished.done_now, finished.failed) == (9, 1, 0)
    (tmp_path / "in" / "pack.zip").unlink()
    sources = Sources(jobs(settings), stores.sources)
    with pytest.raises(PageError):
        sources.read(rows[0])
    sources.close()


def test_an_archive_of_volumes_with_a_new_date_is_not_done_again(make_job: MakeJob, tmp_path: Path) -> None:
    inside = {
        f"v{at}.cbz": make_zip(tmp_path / f"v{at}.cbz", pictures(2, 10 * at)).read_bytes() for at in range(3)
    }
    pack = make_zip(tmp_path / "in" / "pack.zip", inside)
    settings = make_job()
    assert run(settings).volumes_done == 3
    os.utime(pack, (1e9, 1e9))
    finished = run_without_engine(settings)
    assert (finished.done, finished.volumes_done, finished.orphans) == (6, 3, 0)


def test_a_cut_zip_gives_the_pages_before_the_cut_and_all_when_it_is_whole(
    make_job: MakeJob, tmp_path: Path
) -> None:
    path = make_zip(tmp_path / "in" / "v.cbz", pictures(6))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 2 // 3])
    settings = make_job()
    finished = run(settings)
    assert finished.failed == 0
    assert 0 < finished.done < 6
    (notes,) = query(settings, "select notes from pages where kind = 'volume'")[0]
    assert f"the archive is cut short after {finished.done} file(s)" in str(notes)
    path.write_bytes(whole)
    finished = run(settings)
    assert (finished.done, finished.volumes_done) == (6, 1)
    assert list(read_cbz(settings.output / "v.cbz")) == list(pictures(6))


def test_a_page_with_a_name_in_an_unknown_encoding_is_found_again(make_job: MakeJob, tmp_path: Path) -> None:
    path = make_zip(tmp_path / "in" / "v.cbz", {"pabc.png": picture(1), "q.png": picture(2)})
    rename_in_zip(path, b"pabc.png", b"p\xe8\xf8\x81.png")
    settings = make_job()
    finished = run(settings)
    assert (finished.done, finished.failed) == (2, 0)
    assert list(read_cbz(settings.output / "v.cbz")) == ["p%E8%F8%81.png", "q.png"]
    assert run_without_engine(settings).done == 2
    stores = open_stores(settings.input, settings.output)
    sources, outputs = Sources(jobs(settings), stores.sources), Outputs(stores.outputs)
    _, rows = read_done_pages(settings.ledger_path)
    found = {row["source"]: sources.read(row) for row in rows}
    assert found == {"v.cbz/p%E8%F8%81.png": picture(1), "v.cbz/q.png": picture(2)}
    assert all(outputs.read(row).startswith(b"\x89PNG") for row in rows)
    sources.close()
