from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.validation import (
    CROP,
    MULTIPLE,
    TRACKS,
    USER_PAGE,
    AbsentError,
    ValidationPage,
    open_original,
    open_user_pages,
    validation_pages,
)
from comic_upscale.evaluation.shrunk import Track, shrink_original, spread


def a_page(path: Path) -> ValidationPage:
    return ValidationPage(path.name, path, "test", "CC BY-SA 4.0", "nobody")


def test_the_pages_are_all_by_sa_and_all_there(pages: list[ValidationPage]) -> None:
    assert len(pages) == 36
    assert all(page.licence.startswith("CC BY-SA") and page.path.is_file() for page in pages)


def test_pages_under_another_licence_are_left_out(small_set: Path) -> None:
    assert [page.name for page in validation_pages()] == ["drawing.png"]


def test_without_the_pages_the_message_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMIC_UPSCALE_COMICS", str(tmp_path))
    with pytest.raises(AbsentError, match="COMIC_UPSCALE_COMICS"):
        validation_pages()


@pytest.mark.parametrize("track", TRACKS, ids=lambda track: track.name)
def test_shrunk_pages_have_exact_sizes(pages: list[ValidationPage], track: Track) -> None:
    for page in spread(pages, 3):
        original = open_original(page)
        assert original.width <= CROP[0] and original.height <= CROP[1]
        assert original.width % MULTIPLE == original.height % MULTIPLE == 0
        small = shrink_original(original, track)
        assert (small.width * track.factor, small.height * track.factor) == original.size
        assert small.mode == original.mode


def test_transparency_is_white_and_the_middle_is_kept(tmp_path: Path) -> None:
    image = Image.new("RGBA", (47, 33), (255, 0, 0, 0))
    image.putpixel((23, 16), (0, 0, 255, 255))
    image.save(tmp_path / "page.png")
    original = open_original(a_page(tmp_path / "page.png"))
    assert original.size == (40, 30)
    assert original.getpixel((0, 0)) == (255, 255, 255)
    assert original.getpixel((20, 15)) == (0, 0, 255)


def test_a_page_without_colour_is_gray_and_stays_so_through_jpeg(tmp_path: Path) -> None:
    gray = np.random.default_rng(1).integers(0, 256, (40, 40, 1), dtype=np.uint8)
    Image.fromarray(gray.repeat(3, 2)).save(tmp_path / "page.png")
    original = open_original(a_page(tmp_path / "page.png"))
    assert original.mode == "L"
    assert (np.asarray(original) == gray[:, :, 0]).all()
    noisy = shrink_original(original, TRACKS[1])
    assert noisy.mode == "L"
    assert (np.asarray(noisy) != np.asarray(shrink_original(original, TRACKS[0]))).any()


def test_user_pages_have_the_users_size(pages: list[ValidationPage]) -> None:
    assert [page.size for page in open_user_pages(pages[:5], 2)] == [USER_PAGE] * 2


@pytest.mark.parametrize(
    ("count", "expected"), [(None, "abcdef"), (2, "be"), (3, "bdf"), (1, "d"), (9, "abcdef")]
)
def test_a_sample_is_spread(count: int | None, expected: str) -> None:
    assert "".join(spread("abcdef", count)) == expected
