"""Answers that were paid for, kept until their page is recorded."""

from __future__ import annotations

from pathlib import Path

import pytest

from comic_upscale.storage.answers import AnswerStore


@pytest.mark.parametrize("note", [b"9" * 40, b"no number", b"", b"-7", b"\xff"])
def test_a_note_that_is_none_harms_nothing(tmp_path: Path, note: bytes) -> None:
    store = AnswerStore(tmp_path / ".comic-upscale" / "answers")
    store.put("page", "part", b"paid")
    (tmp_path / ".comic-upscale" / "answers" / "page" / ".row").write_bytes(note)
    assert all(abs(row) < 2**63 for row in store.used().values())
    assert store.get("page", "part") == b"paid"


def test_a_folder_of_somebody_else_is_not_deleted(tmp_path: Path) -> None:
    store = AnswerStore(tmp_path / ".comic-upscale" / "answers")
    store.put("page", "part", b"paid")
    store.note_row(["page"], 7)
    other = tmp_path / ".comic-upscale" / "answers" / "Not Ours"
    other.mkdir()
    (other / ".row").write_bytes(b"7")
    assert store.used() == {"page": 7}
    store.forget(store.used())
    assert store.get("page", "part") is None
    assert other.is_dir()
