"""Answers that were paid for, kept until their page is recorded."""

from __future__ import annotations

from pathlib import Path

import pytest

from comic_upscale.errors import OutputError
from comic_upscale.storage import answers
from comic_upscale.storage.answers import AnswerStore, AskingPage

PAGE = AskingPage(7, "a/b\udcff.png")


def open_store(folder: Path) -> AnswerStore:
    return AnswerStore(folder / ".comic-upscale" / "answers")


@pytest.mark.parametrize(
    "note",
    [
        b"9" * 40, b"no note", b"", b"\xff", b"7", b"[" * 60_000, b"[7]", b'{"row_id": 7}',
        b'{"row_id": true, "source": "a"}', b'{"row_id": 7, "source": 7}', b'{"row_id": 1e400, "source": "a"}',
    ],
    ids=repr,
)  # fmt: skip
def test_a_note_that_is_none_harms_nothing(tmp_path: Path, note: bytes) -> None:
    store = open_store(tmp_path)
    store.put("page", "part", b"paid")
    (tmp_path / ".comic-upscale" / "answers" / "page" / ".page").write_bytes(note)
    assert store.noted() == {"page": None}
    assert store.get("page", "part") == b"paid"


def test_a_folder_of_somebody_else_is_not_deleted(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    assert store.noted() == {}
    store.put("page", "part", b"paid", PAGE)
    store.put("page", "more", b"too", AskingPage(8, "later.png"))
    other = tmp_path / ".comic-upscale" / "answers" / "Not Ours"
    other.mkdir()
    (other / ".page").write_bytes(b'{"row_id": 7, "source": "a"}')
    (tmp_path / ".comic-upscale" / "answers" / "file").write_bytes(b"")
    assert store.noted() == {"file": None, "page": AskingPage(7, "a/b?.png")}
    assert store.size(["page"]) == len(b"paidtoo")
    store.forget(store.noted())
    assert store.get("page", "part") is None
    assert other.is_dir()


def test_no_answer_is_without_its_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a kill before the answer is in its place: one without a note is taken for one that nobody needs."""
    real = answers.write_whole

    def write(data: bytes, path: Path) -> None:
        if path.name == "part":
            raise OutputError("the process was killed")
        real(data, path)

    monkeypatch.setattr(answers, "write_whole", write)
    store = open_store(tmp_path)
    with pytest.raises(OutputError):
        store.put("page", "part", b"paid", AskingPage(7, "a.png"))
    assert store.noted() == {"page": AskingPage(7, "a.png")}


def test_a_page_without_answers_gets_no_note(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.note(["page"], PAGE)
    assert not list(tmp_path.iterdir())
