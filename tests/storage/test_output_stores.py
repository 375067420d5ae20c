"""What every output store promises: whole or not at all, nothing outside, and errors told apart."""

from __future__ import annotations

import asyncio
import hashlib
import io
import itertools
import threading
from pathlib import Path
from typing import IO

import pytest

from comic_upscale.errors import PageError
from comic_upscale.storage.base import GONE, OutputStore, sha256_of, size_of
from comic_upscale.storage.object_outputs import ObjectOutputStore

OUTSIDE = ["../x.png", "/x.png", "a/../../x.png", "..", "", "a\0b"]


def put(store: OutputStore, name: str, data: bytes, token: int = 1) -> None:
    asyncio.run(store.put(name, data, token))


def accept(_: IO[bytes]) -> None:
    """For `build`: it is right."""


def test_what_was_put_is_there(outputs: OutputStore) -> None:
    assert outputs.stat("a/b/1.png") is None
    put(outputs, "a/b/1.png", b"one")
    assert outputs.read("a/b/1.png") == b"one"
    found = outputs.stat("a/b/1.png")
    assert found is not None
    assert (found.size, found.kind) == (3, "file")
    assert found.mtime_ns > 0
    with outputs.open("a/b/1.png") as file:
        file.seek(1)
        assert file.read(1) == b"n"
    assert size_of(outputs, "a/b/1.png") == 3
    assert sha256_of(outputs, "a/b/1.png") == hashlib.sha256(b"one").hexdigest()


def test_an_object_takes_the_place_of_an_older_one(outputs: OutputStore) -> None:
    put(outputs, "1.png", b"a longer one")
    put(outputs, "1.png", b"two", token=2)
    assert outputs.read("1.png") == b"two"


def test_what_is_not_there_is_gone(outputs: OutputStore) -> None:
    put(outputs, "a/1.png", b"one")
    for name in ("none.png", "a/none.png", "none/1.png", "a/1.png/x"):
        with pytest.raises(PageError) as caught:
            outputs.read(name)
        assert caught.value.kind == GONE
        with pytest.raises(PageError) as caught:
            outputs.open(name)
        assert caught.value.kind == GONE
        assert outputs.stat(name) is None
        assert size_of(outputs, name) is None
        assert sha256_of(outputs, name) is None


def test_a_folder_is_no_object(outputs: OutputStore) -> None:
    put(outputs, "a/1.png", b"one")
    found = outputs.stat("a")
    # A store that has no folders may see nothing.
    assert found is None or found.kind == "folder"
    assert size_of(outputs, "a") is None
    with pytest.raises(PageError) as caught:
        outputs.read("a")
    assert caught.value.kind == GONE


@pytest.mark.parametrize("name", OUTSIDE)
def test_no_name_leads_outside(outputs: OutputStore, name: str, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    for write in (
        lambda: put(outputs, name, b"x"),
        lambda: outputs.build(name, 1, lambda file: None, accept),
        lambda: outputs.copy(name, io.BytesIO(b"x"), 1),
        lambda: outputs.stat(name),
        lambda: outputs.real_folder(name),
        lambda: outputs.is_same(name, tmp_path),
    ):
        with pytest.raises(PageError) as caught:
            write()
        assert caught.value.kind == "output"
    for read in (outputs.read, outputs.open):
        with pytest.raises(PageError) as caught:
            read(name)
        assert caught.value.kind == GONE
    outputs.delete([name], below="a")
    outputs.sweep([(name, 1)])
    assert sorted(tmp_path.rglob("*")) == before


def test_a_built_object_is_read_back_before_it_stands(outputs: OutputStore) -> None:
    seen = []

    def write(file: IO[bytes]) -> None:
        file.write(b"0123456789")
        # As a ZIP does, whose directory says what came before.
        file.seek(2)
        file.write(b"xy")
        file.seek(0, io.SEEK_END)
        file.write(b"end")

    def check(file: IO[bytes]) -> None:
        assert outputs.stat("v.cbz") is None
        file.seek(0)
        seen.append(file.read())

    assert outputs.build("v.cbz", 7, write, check) == (13, hashlib.sha256(b"01xy456789end").hexdigest())
    assert seen == [b"01xy456789end"]
    assert outputs.read("v.cbz") == b"01xy456789end"


def test_a_build_that_fails_changes_nothing(outputs: OutputStore) -> None:
    put(outputs, "v.cbz", b"old")

    def fail(file: IO[bytes]) -> None:
        file.write(b"half")
        raise PageError("encode", "it cannot be read back")

    for steps in ((fail, accept), (accept, fail)):
        with pytest.raises(PageError) as caught:
            outputs.build("v.cbz", 7, *steps)
        assert caught.value.kind == "encode"
        assert outputs.read("v.cbz") == b"old"

    def stumble(file: IO[bytes]) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        outputs.build("v.cbz", 7, stumble, accept)
    assert outputs.read("v.cbz") == b"old"


def test_a_build_may_read_what_it_replaces(outputs: OutputStore) -> None:
    put(outputs, "v.cbz", b"old")
    old = outputs.open("v.cbz")

    def write(file: IO[bytes]) -> None:
        file.write(old.read() + b" and new")

    outputs.build("v.cbz", 7, write, lambda _: old.close())
    assert outputs.read("v.cbz") == b"old and new"


def test_a_copy_is_what_was_read(outputs: OutputStore) -> None:
    data = bytes(range(256)) * 9000
    assert outputs.copy("a/notes.md", io.BytesIO(data), "carry") == (
        len(data),
        hashlib.sha256(data).hexdigest(),
    )
    assert outputs.read("a/notes.md") == data


def test_a_copy_that_cannot_be_read_changes_nothing(outputs: OutputStore) -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise OSError(5, "Input/output error")

    put(outputs, "notes.md", b"old")
    with pytest.raises(PageError) as caught:
        outputs.copy("notes.md", Broken(), "carry")
    assert caught.value.reason == "cannot be copied: Input/output error"
    assert outputs.read("notes.md") == b"old"


def test_what_is_below_a_folder_is_deleted_and_nothing_else(outputs: OutputStore) -> None:
    for name in ("top/a/1.png", "top/a/2.png", "top/b/c/3.png", "top.png", "other/4.png"):
        put(outputs, name, b"x")
    outputs.delete(
        ["top/a/1.png", "top/b/c/3.png", "top/none.png", "other/4.png", "top/../top.png"], below="top"
    )
    assert [outputs.stat(name) is not None for name in ("top/a/1.png", "top/a/2.png", "top/b/c/3.png")] == [
        False, True, False,
    ]  # fmt: skip
    assert outputs.stat("top/b") is None
    assert outputs.stat("other/4.png") is not None
    assert outputs.stat("top.png") is not None
    outputs.delete(["top/a/2.png"], below="top")
    assert outputs.stat("top") is None


def test_a_store_that_becomes_empty_stays(outputs: OutputStore) -> None:
    for name in ("a/b/1.png", "2.png"):
        put(outputs, name, b"x")
    outputs.delete(["a/b/1.png", "2.png", "../3.png"])
    assert [outputs.stat(name) for name in ("a/b/1.png", "2.png", "a/b", "a")] == [None] * 4
    put(outputs, "4.png", b"y")
    assert outputs.read("4.png") == b"y"


def test_an_object_that_moves_leaves_no_empty_folder(outputs: OutputStore) -> None:
    put(outputs, "old/deep/1.png", b"one")
    put(outputs, "2.png", b"two")
    outputs.relocate("old/deep/1.png", "new/1.png")
    assert outputs.read("new/1.png") == b"one"
    assert [outputs.stat(name) for name in ("old/deep/1.png", "old/deep", "old")] == [None] * 3
    # Over another one.
    outputs.relocate("new/1.png", "2.png")
    assert outputs.read("2.png") == b"one"
    for name, to in (("none.png", "3.png"), ("2.png", "../3.png"), ("../2.png", "3.png")):
        with pytest.raises(PageError) as caught:
            outputs.relocate(name, to)
        assert caught.value.kind == "output"
    assert outputs.read("2.png") == b"one"


@pytest.mark.parametrize("tokens", ["one token", "tokens of their own"])
def test_puts_of_one_name_at_one_time_leave_one_of_them_whole(outputs: OutputStore, tokens: str) -> None:
    contents = [bytes([number]) * 300_000 for number in range(8)]
    number = itertools.count()
    torn: list[int] = []
    ended = threading.Event()

    def watch() -> None:
        while not ended.is_set():
            try:
                data = outputs.read("a/1.png")
            except PageError:
                continue
            if data not in contents:
                torn.append(len(data))

    async def all_at_once() -> None:
        await asyncio.gather(
            *(
                outputs.put("a/1.png", data, 1 if tokens == "one token" else next(number))
                for data in contents * 4
            )
        )

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        asyncio.run(all_at_once())
    finally:
        ended.set()
        watcher.join()
    assert not torn
    assert outputs.read("a/1.png") in contents


def test_a_put_that_is_cancelled_is_done_or_was_never_begun(outputs: OutputStore) -> None:
    put(outputs, "1.png", b"old")
    new = b"new" * 1_000_000

    async def cancel() -> None:
        task = asyncio.create_task(outputs.put("1.png", new, 1))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel())
    assert outputs.read("1.png") in (b"old", new)


def test_the_folder_of_an_output_can_be_compared(outputs: OutputStore) -> None:
    top = outputs.real_folder()
    assert outputs.real_folder("1.png") == top
    assert outputs.real_folder("a/b/1.png") == top / "a" / "b"
    assert outputs.real_folder("a/1.png").is_relative_to(top)
    outputs.check()


def test_a_folder_that_becomes_empty_while_another_output_is_written(outputs: OutputStore) -> None:
    if isinstance(outputs, ObjectOutputStore):
        pytest.skip("a bucket has no folders")
    # One volume is finished and its pages are deleted, while a page of the volume beside it is written.
    finished = threading.Event()

    def delete_again_and_again() -> None:
        try:
            for number in range(150):
                put(outputs, f"waiting/pack/s/v1/{number}.png", b"x")
                outputs.delete([f"waiting/pack/s/v1/{number}.png"], below="waiting")
        finally:
            finished.set()

    thread = threading.Thread(target=delete_again_and_again)
    thread.start()
    number = 0
    try:
        while not finished.is_set():
            put(outputs, f"waiting/pack/s/v2/{number}.png", b"y", token=2)
            assert outputs.read(f"waiting/pack/s/v2/{number}.png") == b"y"
            outputs.delete([f"waiting/pack/s/v2/{number}.png"], below="waiting")
            number += 1
    finally:
        thread.join()
    assert number > 0
