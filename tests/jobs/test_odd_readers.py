"""Nothing that a volume holds may end a run: whatever a reader or a writer raises is the failure of that volume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from comic_upscale.cli import app
from comic_upscale.jobs import volume_content
from comic_upscale.library import containers, nested, volume_reader
from tests.archives import make_zip, pictures
from tests.conftest import draw, pairs

ODD = [
    RecursionError("maximum recursion depth exceeded"),
    MemoryError(),
    AssertionError("we should not get here"),
    KeyError("no such key"),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
    ZeroDivisionError("division by zero"),
    OverflowError("too large"),
    SystemError("a library in C went wrong"),
]
MODEL: dict[str, Path] = {}
PLACES = ["open", "entries", "read", "close"]


def name_of(error: object) -> str:
    return type(error).__name__ if isinstance(error, Exception) else str(error)


class OddContainer:
    """A container that raises an error in one of its methods."""

    def __init__(self, container: Any, place: str, error: Exception) -> None:
        self._container, self._place, self._error = container, place, error

    def __getattr__(self, name: str) -> Any:
        if name == self._place:
            return self._fail
        return getattr(self._container, name)

    def _fail(self, *_: object) -> Any:
        raise self._error


@pytest.fixture
def library(tmp_path: Path, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A page, a sound volume and an odd one; the default model is tiny."""
    monkeypatch.setitem(MODEL, "path", tiny_weights)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    folder = tmp_path / "in"
    draw(folder / "page.png", 1)
    make_zip(folder / "odd.cbz", {**pictures(2), "notes.txt": b"words", "ComicInfo.xml": b"<ComicInfo/>"})
    make_zip(folder / "sound.cbz", pictures(2))
    return folder


def invoke(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def run(library: Path, *more: object) -> tuple[int, str]:
    output = library.with_name("out")
    return invoke(
        "run", "--input", library, "--output", output, "--model", MODEL["path"], "--device", "cpu", *more
    )


def cost(library: Path) -> int:
    # A machine whose rate is known: nothing is measured.
    return invoke("cost", "--input", library, "--gpu", "RTX 4090")[0]


def make_odd(monkeypatch: pytest.MonkeyPatch, place: str, error: Exception) -> None:
    open_container = containers.open_container

    def open_oddly(path: Path, *arguments: Any) -> Any:
        if path.name != "odd.cbz":
            return open_container(path, *arguments)
        if place == "open":
            raise error
        return OddContainer(open_container(path, *arguments), place, error)

    for module in (containers, nested, volume_reader):
        monkeypatch.setattr(module, "open_container", open_oddly)


@pytest.mark.parametrize(("place", "error"), pairs(PLACES, ODD), ids=name_of)
def test_a_reader_that_raises_fails_its_volume_only(
    library: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, place: str
) -> None:
    with monkeypatch.context() as patched:
        make_odd(patched, place, error)
        assert run(library, "--dry-run")[0] == 0
        assert cost(library) == 0
        code, out = run(library)
        assert (code, "failed: odd.cbz" in out) == (1, True), out
        assert "Traceback" not in out
    output = library.with_name("out")
    assert (output / "page.png").is_file() and (output / "sound.cbz").is_file()
    code, out = run(library, "--retry-failed")
    assert code == 0, out
    assert (output / "odd.cbz").is_file()


@pytest.mark.parametrize(
    ("where", "error"), pairs(["write_cbz", "check_cbz", "update_page_sizes"], ODD), ids=name_of
)
def test_a_writer_that_raises_fails_its_volume_only(
    library: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, where: str
) -> None:
    def fail(*_: object) -> None:
        raise error

    (library / "sound.cbz").unlink()
    with monkeypatch.context() as patched:
        patched.setattr(volume_content, where, fail)
        code, out = run(library)
        assert (code, "failed: odd.cbz" in out) == (1, True), out
    assert (library.with_name("out") / "page.png").is_file()
    code, out = run(library, "--retry-failed")
    assert code == 0, out
    assert (library.with_name("out") / "odd.cbz").is_file()


@pytest.mark.parametrize("error", ODD, ids=name_of)
def test_a_picture_whose_header_raises_is_listed(
    library: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    from comic_upscale.imaging import decode

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(decode, "open_image", fail)
    code, out = run(library, "--dry-run")
    assert (code, "5 pages: 5 unreadable" in out) == (0, True), out
    assert cost(library) == 0
    code, out = run(library)
    assert (code, "failed: page.png" in out) == (1, True), out
