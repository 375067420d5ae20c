"""`WatchedFolder`: a file is due once it is new or changed and was still for long enough."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comic_upscale.library.selector import Selector
from comic_upscale.settings.selection import Selection
from comic_upscale.watching.folder import Due, WatchedFolder
from comic_upscale.watching.scan import scan_folder


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


Look = Callable[[], Due | None]


@pytest.fixture
def watched(root: Path, clock: Clock) -> WatchedFolder:
    return WatchedFolder(root, settle=30, clock=clock)


def write(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    before = path.stat().st_mtime_ns if path.exists() else 0
    path.write_text(content)
    # Clocks of file systems are coarse.
    os.utime(path, ns=(before + 10**9, before + 10**9))


def finish(watched: WatchedFolder, clock: Clock) -> None:
    """Let a run do everything that is there."""
    watched.look()
    clock.now += 30
    due = watched.look()
    assert due is not None
    watched.note_done(due)
    assert watched.look() is None


def test_a_file_that_grows_is_not_due_until_it_is_still(
    watched: WatchedFolder, root: Path, clock: Clock
) -> None:
    for length in range(1, 5):
        write(root / "a.cbz", "x" * length)
        assert watched.look() is None
        clock.now += 29
    # Its size is the same, but it was written to again.
    write(root / "a.cbz", "y" * 4)
    assert watched.look() is None
    clock.now += 29
    assert watched.look() is None
    assert watched.settles_in == pytest.approx(1)
    clock.now += 1
    due = watched.look()
    assert due is not None
    assert (due.paths, due.unsettled) == (None, ())
    assert watched.settles_in is None
    watched.note_done(due)
    assert watched.look() is None


def test_after_the_first_run_only_what_is_new_or_changed_is_looked_at(
    watched: WatchedFolder, root: Path, clock: Clock
) -> None:
    write(root / "a.png", "a")
    write(root / "vol 1" / "b.png", "b")
    finish(watched, clock)
    write(root / "vol 1" / "b.png", "c")
    write(root / "c.cbz", "c")
    assert watched.look() is None
    clock.now += 30
    write(root / "d.png", "half")
    due = watched.look()
    assert due is not None
    assert (due.paths, due.unsettled) == (("c.cbz", "vol 1/b.png"), ("d.png",))
    selector = Selector(due.selection(Selection(exclude=("*.gif",))))
    for source, taken in (
        ("c.cbz", True), ("vol 1/b.png", True), ("a.png", False), ("d.png", False), ("vol 1/x.gif", False),
    ):  # fmt: skip
        assert selector.takes(source) == taken, source
    watched.note_done(due)
    clock.now += 30
    due = watched.look()
    assert due is not None
    assert due.paths == ("d.png",)


def test_a_file_that_changes_during_the_run_is_due_again(
    watched: WatchedFolder, root: Path, clock: Clock
) -> None:
    write(root / "a.png", "a")
    watched.look()
    clock.now += 30
    due = watched.look()
    write(root / "a.png", "b")
    assert due is not None
    watched.note_done(due)
    assert watched.look() is None
    clock.now += 30
    due = watched.look()
    assert due is not None
    assert due.paths == ("a.png",)


@pytest.mark.parametrize("name", ["a.txt", "b.7z.001", "c.part2.rar", "d.r00"])
def test_what_is_no_page_or_volume_by_itself_makes_the_whole_folder_due(
    watched: WatchedFolder, root: Path, clock: Clock, name: str
) -> None:
    write(root / "a.png", "a")
    finish(watched, clock)
    write(root / name, "a caption, or a part of an archive")
    watched.look()
    clock.now += 30
    due = watched.look()
    assert due is not None
    assert due.paths is None


def test_a_renamed_page_makes_the_whole_folder_due_so_that_its_output_moves(
    watched: WatchedFolder, root: Path, clock: Clock
) -> None:
    write(root / "a.png", "a")
    write(root / "b.png", "b")
    finish(watched, clock)
    (root / "a.png").rename(root / "c.png")
    # Not the loss of its old name alone: the output would count as one without a source.
    assert watched.look() is None
    assert watched.settles_in == pytest.approx(30)
    clock.now += 30
    due = watched.look()
    assert due is not None
    assert due.paths is None
    assert "c.png" in due.state
    watched.note_done(due)
    assert watched.look() is None


def test_a_deleted_page_is_noticed_although_others_keep_changing(
    watched: WatchedFolder, root: Path, clock: Clock
) -> None:
    write(root / "a.png", "a")
    write(root / "b.png", "b")
    finish(watched, clock)
    (root / "a.png").unlink()
    looks: list[Due | None] = []
    for number in range(12):
        write(root / f"{number}.png", "c")
        looks.append(watched.look())
        clock.now += 29
    assert looks[0] is None
    (due,) = {id(look): look for look in looks[-1:]}.values()
    assert due is not None
    assert due.paths is None


def test_a_drive_that_is_unplugged_and_plugged_in_again_makes_nothing_due(
    watched: WatchedFolder, root: Path, clock: Clock
) -> None:
    write(root / "a.png", "a")
    finish(watched, clock)
    root.rename(root.with_name("unplugged"))
    assert watched.look() is None
    assert watched.away is not None
    # The folder into which it was mounted is empty without it.
    root.mkdir()
    assert watched.look() is None
    assert watched.away is not None
    root.rmdir()
    root.with_name("unplugged").rename(root)
    assert watched.look() is None
    assert watched.away is None


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may list every folder")
def test_a_folder_that_cannot_be_listed_is_not_gone(
    watched: WatchedFolder, root: Path, clock: Clock
) -> None:  # pragma: no cover
    write(root / "sub" / "a.png", "a")
    finish(watched, clock)
    (root / "sub").chmod(0)
    try:
        assert watched.look() is None
    finally:
        (root / "sub").chmod(0o700)
    assert watched.look() is None


def test_a_link_to_another_drive_that_is_away_is_not_gone(
    watched: WatchedFolder, root: Path, clock: Clock
) -> None:
    write(root.with_name("other") / "a.png", "a")
    write(root / "b.png", "b")
    (root / "more").symlink_to(root.with_name("other"))
    finish(watched, clock)
    root.with_name("other").rename(root.with_name("away"))
    assert watched.look() is None
    root.with_name("away").rename(root.with_name("other"))
    assert watched.look() is None


def test_what_a_run_leaves_out_is_not_watched(root: Path) -> None:
    for name in ("a.png", ".hidden.png", "Thumbs.db", "out/b.png", "other/.comic-upscale/x", "other/c.png"):
        write(root / name, "x")
    (root / "round").symlink_to(root)
    assert set(scan_folder(root, [root / "out"]).files) == {"a.png"}


NAMES = st.text(st.characters(blacklist_characters="/\0", blacklist_categories=("Cs", "Cc")), min_size=1)


@given(NAMES.filter(lambda name: name.strip() and not name.startswith(".")), NAMES)
def test_a_file_that_still_changes_is_left_out_by_a_pattern_for_exactly_its_name(
    name: str, other: str
) -> None:
    due = Due({}, None, (f"sub/{name}",))
    selector = Selector(due.selection(Selection()))
    assert not selector.takes(f"sub/{name}")
    if other != name:
        assert selector.takes(f"sub/{other}")
    assert selector.takes(name)


def test_a_digest_says_to_another_process_what_was_done(root: Path, clock: Clock) -> None:
    first, second = (WatchedFolder(root, settle=30, clock=clock) for _ in range(2))
    write(root / "a.png", "a")
    write(root / "b.png", "b")
    first.look()
    clock.now += 30
    due = first.look()
    assert due is not None
    done = first.digest_after(due)
    first.note_done(due)
    second.look()
    clock.now += 30
    due = second.look()
    assert due is not None and second.digest_after(due) == done
    second.note_done(due)
    # One knows a part that is due, and one all that there is.
    write(root / "b.png", "changed")
    write(root / "c.png", "c")
    third = WatchedFolder(root, settle=30, clock=clock)
    for each in (second, third):
        each.look()
    clock.now += 30
    part, whole = second.look(), third.look()
    assert part is not None and whole is not None
    assert (part.paths, whole.paths) == (("b.png", "c.png"), None)
    assert second.digest_after(part) == third.digest_after(whole) != done


def test_a_run_that_was_not_completed_continues_with_everything_that_is_still(
    watched: WatchedFolder, root: Path, clock: Clock
) -> None:
    assert watched.everything() is None
    write(root / "a.png", "a")
    finish(watched, clock)
    write(root / "b.png", "half")
    assert watched.look() is None
    due = watched.everything()
    assert due is not None
    assert (set(due.state), due.paths, due.unsettled) == ({"a.png"}, None, ("b.png",))


@pytest.mark.skipif(os.name != "posix", reason="links of POSIX")
def test_links_that_lead_out_are_named_and_not_followed(root: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    write(tmp_path / "secret" / "page.png", "x")
    write(root / "vol 1" / "a.png", "a")
    (root / "out").symlink_to(tmp_path / "secret")
    (root / "page out.png").symlink_to(tmp_path / "secret" / "page.png")
    (root / "in").symlink_to(root / "vol 1" / "a.png")
    (root / "nowhere").symlink_to(tmp_path / "nothing")
    found = scan_folder(root, within=[root.resolve()])
    assert sorted(found.files) == ["in", "vol 1/a.png"]
    assert (sorted(found.outside), found.unread) == (["out", "page out.png"], ("nowhere/",))
    # Without a limit, they are followed.
    assert "out/page.png" in scan_folder(root).files


def test_problems_and_pages_are_told(watched: WatchedFolder, root: Path, clock: Clock) -> None:
    watched.look()
    assert watched.problem is not None and "has no files yet" in watched.problem
    write(root / "a.png", "a")
    write(root / "v01.cbz", "v")
    write(root / "notes.txt", "n")
    watched.look()
    assert (watched.problem, watched.pages_found) == (None, 2)
    root.rename(root.with_name("away"))
    watched.look()
    assert watched.problem is not None and "is its drive there?" in watched.problem
