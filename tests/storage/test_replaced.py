"""Replaced originals: a kill at any step loses nothing, and every step back works."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from comic_upscale.settings.paths import TRASH
from comic_upscale.storage import parts
from comic_upscale.storage.guarded import NotReplacedError
from comic_upscale.storage.replaced import Trash
from comic_upscale.storage.replaced_view import ReplacedSourceStore
from tests.storage.windows import Windows

OLD, NEW = b"old" * 100_000, b"new" * 150_000


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def library(tmp_path: Path) -> Path:
    folder = tmp_path / "library"
    (folder / "series").mkdir(parents=True)
    (folder / "series" / "a.jpg").write_bytes(OLD)
    os.utime(folder / "series" / "a.jpg", ns=(10**18, 10**18))
    (tmp_path / "out.png").write_bytes(NEW)
    return folder


def exchange(library: Path, name: str = "a.png", source_sha256: str = sha(OLD)) -> Trash:
    trash = Trash(library)
    path = library / "series" / "a.jpg"
    trash.exchange(
        path,
        path.with_name(name),
        library.parent / "out.png",
        source_sha256=source_sha256,
        new_sha256=sha(NEW),
    )
    return trash


def visible(library: Path) -> dict[str, bytes]:
    return {
        path.relative_to(library).as_posix(): path.read_bytes()
        for path in sorted(library.rglob("*"))
        if path.is_file() and ".comic-upscale" not in path.relative_to(library).parts
    }


@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_an_original_goes_to_the_trash_and_comes_back(library: Path, name: str) -> None:
    trash = exchange(library, name)
    assert visible(library) == {f"series/{name}": NEW}
    assert (library / TRASH / "series" / "a.jpg").read_bytes() == OLD
    (record,) = trash.in_force()
    assert (record.source, record.new) == ("series/a.jpg", f"series/{name}")
    # The view of a later run has the original, as it was.
    store = ReplacedSourceStore(library)
    (entry,) = store.list(str(library / "series"))
    assert (entry.name, entry.stat().st_size, entry.stat().st_mtime_ns) == ("a.jpg", len(OLD), 10**18)
    assert store.read_now(Path(entry.path)) == OLD
    assert store.read_now(store.address("series/a.jpg")) == OLD
    trash.restore(record)
    assert visible(library) == {"series/a.jpg": OLD}
    assert (library / "series" / "a.jpg").stat().st_mtime_ns == 10**18
    assert trash.in_force() == ()
    assert trash.originals() == []


def test_a_pruned_original_is_gone_and_its_replacement_is_no_page(library: Path) -> None:
    trash = exchange(library)
    assert trash.originals() == [("series/a.jpg", len(OLD))]
    assert trash.prune() == []
    store = ReplacedSourceStore(library)
    assert store.list(str(library / "series")) == []
    assert store.pruned == 1
    with pytest.raises(NotReplacedError, match="no longer in the trash"):
        trash.restore(trash.in_force()[0])
    # A new file of the same name is a page again.
    (library / "series" / "a.png").write_bytes(b"another")
    assert [entry.name for entry in ReplacedSourceStore(library).list(str(library / "series"))] == ["a.png"]


def test_what_is_not_replaced(library: Path) -> None:
    with pytest.raises(NotReplacedError, match="has changed"):
        exchange(library, source_sha256=sha(b"other"))
    (library / "series" / "a.png").write_bytes(b"mine")
    with pytest.raises(NotReplacedError, match="exists already"):
        exchange(library)
    (library / "series" / "a.png").unlink()
    (library.parent / "out.png").write_bytes(b"changed since")
    with pytest.raises(NotReplacedError, match="output has changed"):
        exchange(library)
    (library / "series" / "a.jpg").rename(library / "real.jpg")
    (library / "series" / "a.jpg").symlink_to(library / "real.jpg")
    with pytest.raises(NotReplacedError, match="it is a link"):
        exchange(library)
    assert not list(library.rglob("*.part"))
    assert (library / "real.jpg").read_bytes() == OLD


def test_an_edited_replacement_stays(library: Path) -> None:
    trash = exchange(library)
    record = trash.in_force()[0]
    (library / "series" / "a.png").write_bytes(b"edited")
    with pytest.raises(NotReplacedError, match="was edited"):
        trash.restore(record)
    assert visible(library) == {"series/a.png": b"edited"}
    assert (library / TRASH / "series" / "a.jpg").read_bytes() == OLD


@pytest.mark.parametrize(
    "folder", [".Trash-1000/files", "#recycle", "@Recycle", "series/$RECYCLE.BIN", "@eaDir", "other-x2/sub"]
)
def test_a_replacement_that_was_removed_from_the_library_is_not_followed(library: Path, folder: str) -> None:
    """It may be in a recycle bin, or among the outputs of another job."""
    trash = exchange(library)
    (library / "other-x2" / ".comic-upscale").mkdir(parents=True)
    gone = library / folder / "a.png"
    gone.parent.mkdir(parents=True, exist_ok=True)
    (library / "series" / "a.png").rename(gone)
    trash.settle()
    assert trash.in_force() == ()
    (record,) = trash.stranded()
    trash.put_back(record, change=True)
    assert visible(library) == {"series/a.jpg": OLD, f"{folder}/a.png": NEW}


def test_the_copies_of_another_job_are_its_own(library: Path) -> None:
    trash = exchange(library)
    (library / "other-x2" / ".comic-upscale").mkdir(parents=True)
    copy = library / "other-x2" / "a.png"
    copy.write_bytes(NEW)
    trash.settle()
    assert [record.new for record in trash.in_force()] == ["series/a.png"]


def test_a_replacement_whose_name_is_in_capitals_now_is_followed(library: Path) -> None:
    trash = exchange(library)
    (library / "best").mkdir()
    (library / "series" / "a.png").rename(library / "best" / "A.PNG")
    trash.settle()
    (record,) = trash.in_force()
    trash.restore(record)
    assert visible(library) == {"best/A.jpg": OLD}


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        # Nothing in common: in their order.
        (("1.png", "2.png"), ("1.jpg", "2.jpg")),
        (("a (old).png", "b (old).png"), ("a (old).jpg", "b (old).jpg")),
        # The less alike comes first by its name.
        (("a1.png", "Z.png"), ("a1.jpg", "Z.jpg")),
        (("Z.png", "b1.png"), ("Z.jpg", "b1.jpg")),
        (("../one/a.png", "../one/b.png"), ("../one/a.jpg", "../one/b.jpg")),
        # One was moved, and the other is where it was.
        (("c.png", "b.png"), ("c.jpg", "b.jpg")),
        (("a.png", "c.png"), ("a.jpg", "c.jpg")),
    ],
)
def test_two_originals_with_equal_replacements_keep_their_files(
    library: Path, names: tuple[str, str], expected: tuple[str, str]
) -> None:
    exchange(library)
    series, other = library / "series", b"another original"
    (series / "b.jpg").write_bytes(other)
    trash = Trash(library)
    trash.exchange(
        series / "b.jpg",
        series / "b.png",
        library.parent / "out.png",
        source_sha256=sha(other),
        new_sha256=sha(NEW),
    )
    (library / "one").mkdir()
    for old, name in zip(("a.png", "b.png"), names, strict=True):
        (series / old).rename(series / name)
    trash.settle()
    # Each is followed again from where it is now.
    for name in names:
        (series / name).rename((series / name).with_stem(f"{Path(name).stem}+"))
    trash.settle()
    for record in trash.in_force():
        trash.restore(record)
    found = [(series / name).with_stem(f"{Path(name).stem}+").read_bytes() for name in expected]
    assert found == [OLD, other]
    assert len(visible(library)) == 2


def test_a_copy_shares_the_original_of_the_file_that_it_is_named_after(library: Path) -> None:
    exchange(library)
    series, other = library / "series", b"another original"
    (series / "b.jpg").write_bytes(other)
    trash = Trash(library)
    trash.exchange(
        series / "b.jpg",
        series / "b.png",
        library.parent / "out.png",
        source_sha256=sha(other),
        new_sha256=sha(NEW),
    )
    (series / "a copy.png").write_bytes(NEW)
    (series / "b copy.png").write_bytes(NEW)
    trash.settle()
    for record in trash.in_force():
        trash.restore(record)
    assert visible(library) == {
        "series/a copy.jpg": OLD, "series/a.jpg": OLD, "series/b copy.jpg": other, "series/b.jpg": other,
    }  # fmt: skip


def test_two_originals_of_one_name_are_both_kept(library: Path) -> None:
    trash = exchange(library)
    (library / "series" / "a.png").unlink()
    other = b"another original"
    (library / "series" / "a.jpg").write_bytes(other)
    exchange(library, source_sha256=sha(other))
    assert [(name, size) for name, size in trash.originals()] == [
        ("2/series/a.jpg", len(other)), ("series/a.jpg", len(OLD)),
    ]  # fmt: skip


@pytest.mark.parametrize("folder", ["journal.jsonl", "series/a.jpg"])
def test_names_in_the_trash_that_something_else_has(library: Path, folder: str) -> None:
    """A folder may have the name of the journal, or of a file that was replaced."""
    exchange(library)
    path = library / folder / "b.jpg"
    path.parent.mkdir(parents=True)
    path.write_bytes(OLD)
    trash = Trash(library)
    trash.exchange(
        path,
        path.with_suffix(".png"),
        library.parent / "out.png",
        source_sha256=sha(OLD),
        new_sha256=sha(NEW),
    )
    assert trash.originals() == [(f"2/{folder}/b.jpg", len(OLD)), ("series/a.jpg", len(OLD))]
    assert len(Trash(library).in_force()) == 2


def test_an_original_in_the_trash_that_two_need_stays_for_the_second(library: Path) -> None:
    exchange(library)
    (library / "series" / "a.png").unlink()
    (library / "series" / "a.jpg").write_bytes(b"another original")
    exchange(library, source_sha256=sha(b"another original"))
    # The same content in the folder whose name is that of the second place in the trash.
    (library / "2" / "series").mkdir(parents=True)
    path = library / "2" / "series" / "a.jpg"
    path.write_bytes(b"another original")
    trash = Trash(library)
    output = library.parent / "out.png"
    trash.exchange(
        path,
        path.with_name("a.png"),
        output,
        source_sha256=sha(b"another original"),
        new_sha256=sha(NEW),
    )
    for record in trash.in_force():
        trash.restore(record)
    assert visible(library) == {
        "2/series/a.jpg": b"another original", "series/a.jpg": b"another original",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["a.png", "a.webp"])
def test_a_newer_output_takes_the_place_of_an_older_one(library: Path, name: str) -> None:
    trash = exchange(library)
    newer = library.parent / "newer"
    newer.write_bytes(b"newer")
    trash.renew(trash.in_force()[0], name, newer, sha(b"newer"))
    assert visible(library) == {f"series/{name}": b"newer"}
    (record,) = trash.in_force()
    trash.restore(record)
    assert visible(library) == {"series/a.jpg": OLD}


def test_a_journal_of_a_stranger_leads_nowhere(library: Path) -> None:
    trash = exchange(library)
    journal = library / TRASH / "journal.jsonl"
    line = journal.read_text().strip()
    for name in ("../../x", "/etc/passwd", ""):
        journal.write_text(line.replace("series/a.png", name) + "\n" + line[:40] + "\n[]\n{}\n")
        assert trash.in_force() == ()
    journal.write_text(line[:50] + "\n" + line)
    assert len(trash.in_force()) == 1


def test_an_original_that_somebody_put_back_stays(library: Path) -> None:
    trash = exchange(library)
    (library / "series" / "a.jpg").write_bytes(OLD)
    trash.settle()
    trash.prune()
    assert visible(library) == {"series/a.jpg": OLD, "series/a.png": NEW}


def test_an_original_that_is_back_counts_as_put_back(library: Path) -> None:
    trash = exchange(library)
    (library / "series" / "a.jpg").write_bytes(OLD)
    trash.restore(trash.in_force()[0])
    assert visible(library) == {"series/a.jpg": OLD}
    assert trash.originals() == []


def test_a_journal_of_an_earlier_version_removes_nothing(library: Path) -> None:
    trash = exchange(library)
    journal = library / TRASH / "journal.jsonl"
    line = json.loads(journal.read_text().split("\n")[1])
    del line["done"], line["older"]
    journal.write_text(json.dumps(line))
    (library / "series" / "a.jpg").write_bytes(OLD)
    trash.settle()
    assert len(trash.in_force()) == 1
    assert visible(library) == {"series/a.jpg": OLD, "series/a.png": NEW}


class Meanwhile:
    """Saves a file the first time that a call touches a path that ends so."""

    active: tuple[str, str, Path] | None = None
    hooked = False

    @classmethod
    def save(cls, event: str, end: str, path: Path) -> None:
        cls.active = (event, end, path)
        if not cls.hooked:
            sys.addaudithook(cls.hook)
            cls.hooked = True

    @classmethod
    def hook(cls, event: str, arguments: tuple[object, ...]) -> None:
        if cls.active is None or event != cls.active[0]:
            return
        if any(str(each).endswith(cls.active[1]) for each in arguments):
            path, cls.active = cls.active[2], None
            # As most programs save: a new file takes the place.
            path.with_name("saved").write_bytes(b"saved just now")
            path.with_name("saved").replace(path)


@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
@pytest.mark.parametrize(
    ("event", "end"), [("open", ".part"), ("os.link", "/a.jpg"), ("open", "journal.jsonl")]
)
def test_an_original_that_is_saved_meanwhile_stays(library: Path, name: str, event: str, end: str) -> None:
    path = library / "series" / "a.jpg"
    Meanwhile.save(event, end, path)
    with pytest.raises(NotReplacedError, match="changed just now"):
        exchange(library, name)
    assert Meanwhile.active is None
    assert path.read_bytes() == b"saved just now"
    trash = Trash(library)
    trash.settle()
    assert path.read_bytes() == b"saved just now"


@pytest.mark.parametrize("name", ["a.png", "a.webp"])
def test_a_replacement_that_is_saved_meanwhile_stays(library: Path, name: str) -> None:
    trash = exchange(library)
    path = library / "series" / "a.png"
    record = trash.in_force()[0]
    newer = library.parent / "newer"
    newer.write_bytes(b"newer")
    Meanwhile.save("open", ".part", path)
    with pytest.raises(NotReplacedError, match="changed just now"):
        trash.renew(record, name, newer, sha(b"newer"))
    trash.settle()
    assert path.read_bytes() == b"saved just now"


@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_a_replacement_that_is_saved_during_restore_stays(library: Path, name: str) -> None:
    trash = exchange(library, name)
    path = library / "series" / name
    Meanwhile.save("open", ".part", path)
    with pytest.raises(NotReplacedError, match="changed just now"):
        trash.restore(trash.in_force()[0])
    assert path.read_bytes() == b"saved just now"
    assert (library / TRASH / "series" / "a.jpg").read_bytes() == OLD


def test_a_file_that_comes_to_the_place_of_an_original_during_restore_stays(library: Path) -> None:
    trash = exchange(library)
    path = library / "series" / "a.jpg"
    Meanwhile.save("open", ".part", path)
    with pytest.raises(NotReplacedError, match="exists already"):
        trash.restore(trash.in_force()[0])
    assert visible(library) == {"series/a.jpg": b"saved just now", "series/a.png": NEW}


@pytest.mark.skipif(os.name != "posix", reason="this system has no modes")
@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_a_replacement_has_the_mode_of_its_original(library: Path, name: str) -> None:
    (library / "series" / "a.jpg").chmod(0o640)
    trash = exchange(library, name)
    assert (library / "series" / name).stat().st_mode & 0o777 == 0o640
    newer = library.parent / "newer"
    newer.write_bytes(b"newer")
    trash.renew(trash.in_force()[0], name, newer, sha(b"newer"))
    assert (library / "series" / name).stat().st_mode & 0o777 == 0o640
    trash.restore(trash.in_force()[0])
    assert (library / "series" / "a.jpg").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("has_links", [True, False])
@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_an_original_that_is_read_only_is_replaced_and_restored_on_windows(
    name: str, has_links: bool, library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not has_links:
        monkeypatch.setattr(os, "link", refuse)
    Windows(monkeypatch)
    (library / "series" / "a.jpg").chmod(0o444)
    trash = exchange(library, name)
    kept = library / TRASH / "series" / "a.jpg"
    assert visible(library) == {f"series/{name}": NEW}
    assert [path.stat().st_mode & 0o777 for path in (library / "series" / name, kept)] == [0o444, 0o444]
    newer = library.parent / "newer"
    newer.write_bytes(b"newer")
    trash.renew(trash.in_force()[0], name, newer, sha(b"newer"))
    assert visible(library) == {f"series/{name}": b"newer"}
    trash.restore(trash.in_force()[0])
    assert visible(library) == {"series/a.jpg": OLD}, "there is no unfinished file either"
    assert (library / "series" / "a.jpg").stat().st_mode & 0o777 == 0o444
    assert not kept.exists()


def test_an_original_that_stays_is_read_only_still(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    windows = Windows(monkeypatch)
    monkeypatch.setattr(parts, "_PATIENCE_SECONDS", 0.01)
    path = library / "series" / "a.jpg"
    path.chmod(0o444)
    windows.refusals["a.jpg"] = 10**9
    with pytest.raises(NotReplacedError, match="used by another process"):
        exchange(library)
    assert path.stat().st_mode & 0o777 == 0o444


def test_an_original_that_is_removed_by_a_later_run_stays_read_only_in_the_trash(
    library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    windows = Windows(monkeypatch)
    monkeypatch.setattr(parts, "_PATIENCE_SECONDS", 0.01)
    (library / "series" / "a.jpg").chmod(0o444)
    windows.refusals["a.jpg"] = 10**9
    with pytest.raises(NotReplacedError):
        exchange(library)
    windows.refusals.clear()
    Trash(library).settle()
    assert visible(library) == {"series/a.png": NEW}
    assert (library / TRASH / "series" / "a.jpg").stat().st_mode & 0o777 == 0o444


def refuse(*_: object, **__: object) -> None:
    raise OSError(errno.EPERM, "there are no links")


def test_a_linked_folder_outside_of_the_library_is_left_alone(library: Path) -> None:
    outside = library.parent / "outside"
    (library / "series").rename(outside)
    try:
        (library / "series").symlink_to(outside, target_is_directory=True)
    except OSError:
        pytest.skip("this system makes no links")
    with pytest.raises(NotReplacedError, match="leads out of the input"):
        exchange(library)
    assert [path.name for path in outside.iterdir()] == ["a.jpg"]


def kill_at(library: Path, step: int, work: Callable[[], object]) -> bool:
    """Do some work in a child that is killed at a step; tell whether it was killed.

    A step is a call that opens or changes a file of the library.
    """
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    count = 0

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal count
        if event in ("open", "os.link", "os.rename", "os.remove", "os.mkdir", "os.utime", "os.rmdir"):
            count += any(str(library) in str(each) for each in arguments)
            if count == step:
                os._exit(9)

    try:
        sys.addaudithook(hook)
        work()
        os._exit(0)
    finally:
        os._exit(1)


def kill_everywhere(library: Path, name: str) -> None:
    """Kill a replacement at each step, and then the way back."""
    source, new, kept = (
        library / "series" / "a.jpg",
        library / "series" / name,
        library / TRASH / "series" / "a.jpg",
    )
    step, killed = 0, True
    while killed:
        step += 1
        killed = kill_at(library, step, lambda: exchange(library, name))
        assert source.exists() or new.exists()
        if source.exists() and source.read_bytes() != NEW:
            assert source.read_bytes() == OLD
        else:
            assert kept.read_bytes() == OLD
        if new.exists():
            # Whole at every moment.
            assert new.read_bytes() in (OLD, NEW)
        put_back(library, name)
    assert 8 < step < 99
    step, killed = 0, True
    while killed:
        step += 1
        trash = exchange(library, name)
        record = trash.in_force()[0]
        killed = kill_at(library, step, lambda: trash.restore(record))  # noqa: B023 - called at once
        assert any(path.exists() and path.read_bytes() == OLD for path in (kept, source))
        put_back(library, name)
    assert 5 < step < 99
    sys.stdout.write("nothing is lost")


def kill_renew_everywhere(library: Path, name: str) -> None:
    """Kill at each step of a replacement by a newer output."""
    newer = library.parent / "newer"
    newer.write_bytes(b"newer")
    step, killed = 0, True
    while killed:
        step += 1
        trash = exchange(library)
        record = trash.in_force()[0]
        killed = kill_at(library, step, lambda: trash.renew(record, name, newer, sha(b"newer")))  # noqa: B023
        trash.settle()
        (left,) = trash.in_force()
        assert visible(library) in ({"series/a.png": NEW}, {f"series/{name}": b"newer"})
        trash.restore(left)
        assert visible(library) == {"series/a.jpg": OLD}
    assert 5 < step < 99
    sys.stdout.write("nothing is lost")


def put_back(library: Path, name: str) -> None:
    trash = Trash(library)
    trash.settle()
    assert not list((library / "series").glob(".*"))
    for record in trash.in_force():
        assert visible(library)[f"series/{name}"] == NEW
        trash.restore(record)
    assert visible(library) == {"series/a.jpg": OLD}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize(
    ("work", "name"),
    [
        ("kill_everywhere", "a.png"), ("kill_everywhere", "a.jpg"),
        ("kill_renew_everywhere", "a.png"), ("kill_renew_everywhere", "a.webp"),
    ],
)  # fmt: skip
def test_a_kill_at_each_step_loses_nothing(library: Path, work: str, name: str) -> None:
    # In a process without threads, which can be forked.
    program = (
        f"import sys; from pathlib import Path; from tests.storage.test_replaced import {work};"
        f" {work}(Path(sys.argv[1]), sys.argv[2])"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, str(library), name],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.stdout == "nothing is lost", ended.stderr
