"""The storage of files: a copy is complete or absent, also where the file system has no links."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest

from comic_upscale.server.files import LocalFiles, store_file

pytest.importorskip("resource", reason="the copy is broken off by a limit of POSIX")

KEY = "uploads/u/0"
FETCH = """
import errno, os, resource, sys
from pathlib import Path
from comic_upscale.errors import OutputError
from comic_upscale.server.files import LocalFiles

def no_links(_source, target):
    raise OSError(errno.EEXIST if os.path.lexists(target) else errno.EXDEV, "no links here")

os.link = no_links
if sys.argv[3] != "0":
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]),) * 2)
try:
    LocalFiles(Path(sys.argv[1])).fetch("uploads/u/0", Path(sys.argv[2]))
except OutputError:
    print("broken off")
"""


def test_a_copy_that_breaks_off_is_not_taken_for_the_file(tmp_path: Path) -> None:
    content = bytes(range(256)) * 4096
    store_file(LocalFiles(tmp_path / "files"), KEY, io.BytesIO(content))
    target = tmp_path / "in" / "page.png"
    target.parent.mkdir()

    def fetch(most_bytes: int) -> str:
        words = [sys.executable, "-c", FETCH, str(tmp_path / "files"), str(target), str(most_bytes)]
        return subprocess.check_output(words, text=True)

    assert fetch(65536) == "broken off\n"
    assert list(target.parent.iterdir()) == []
    for _ in range(2):
        assert fetch(0) == ""
        assert target.read_bytes() == content


def test_a_file_is_begun_again_if_its_folder_was_just_deleted(tmp_path: Path) -> None:
    class Racing(LocalFiles):
        """Another file in the same folders is deleted at the worst moment."""

        deletions = 1

        def _make_folders(self, folder: Path) -> None:
            super()._make_folders(folder)
            if self.deletions:
                self.deletions -= 1
                self.delete("uploads/u/1")

    store = Racing(tmp_path)
    assert store_file(store, KEY, io.BytesIO(b"page")).size == 4
    assert store.deletions == 0
    assert (tmp_path / KEY).read_bytes() == b"page"
