from __future__ import annotations

from pathlib import Path

import pytest

from training.pages import fonts


def test_missing_fonts_name_the_packages_that_have_them(tmp_path: Path) -> None:
    with pytest.raises(fonts.MissingFontsError, match=r"latin.*apt-get install .*fonts-comic-neue"):
        fonts.find("latin", folders=(tmp_path,))
    with pytest.raises(fonts.MissingFontsError, match=r"japanese.*fonts-noto-cjk"):
        fonts.find("japanese", folders=(tmp_path,))


def test_a_font_is_found_by_its_name_in_any_folder_below(tmp_path: Path) -> None:
    place = tmp_path / "deep" / "down"
    place.mkdir(parents=True)
    (place / "Humor-Sans.ttf").touch()

    assert [path for _, path in fonts.find("latin", folders=(tmp_path,))] == [place / "Humor-Sans.ttf"]


def test_sounds_fall_back_to_the_dialogue_font_where_there_is_no_other(tmp_path: Path) -> None:
    (tmp_path / "Humor-Sans.ttf").touch()

    assert fonts.find("latin", "display", folders=(tmp_path,)) == fonts.find("latin", folders=(tmp_path,))
