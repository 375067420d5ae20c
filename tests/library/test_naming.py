import os
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from comic_upscale.library.naming import folder_names, output_names, valid_names
from comic_upscale.library.sorting import fold

# Few letters, so that names do clash.
STEMS = st.text(st.sampled_from("aAéÉe\u0301_2ßs."), min_size=1, max_size=5)
EXTENSIONS = st.sampled_from(["png", "PNG", "jpg", "Jpg", "webp", "gif", "png ", "jpg.", "gif .."])
NAMES = st.lists(st.builds("{}.{}".format, STEMS, EXTENSIONS), unique=True, max_size=12)
FOLDERS = st.lists(st.one_of(STEMS, st.builds("{}.{}".format, STEMS, EXTENSIONS)), unique=True, max_size=4)


@given(NAMES, FOLDERS, st.sampled_from(["png", "webp", "jpg"]), st.randoms(use_true_random=False))
def test_outputs_never_clash_and_never_depend_on_the_listing(names, folders, extension, random) -> None:  # type: ignore[no-untyped-def]
    outputs = output_names(names, extension=extension, folders=folders)
    assert outputs.keys() == set(names)
    assert all(output.endswith(f".{extension}") for output in outputs.values())
    folded = [fold(output) for output in outputs.values()]
    assert len(set(folded)) == len(folded)
    assert not set(folded) & {fold(folder) for folder in folders}
    shuffled = random.sample(names, len(names))
    assert output_names(shuffled, extension=extension, folders=reversed(folders)) == outputs


@given(FOLDERS)
def test_folders_never_clash(names: list[str]) -> None:
    outputs = folder_names(names)
    assert len({fold(output) for output in outputs.values()}) == len(names)
    assert folder_names(reversed(names)) == outputs


def named(names: Sequence[str], extension: str = "png", folders: Sequence[str] = ()) -> dict[str, str]:
    return output_names(names, extension=extension, folders=folders)


def test_the_suffix_is_replaced_and_dots_are_kept() -> None:
    assert named(["a.b.jpg", "c.PNG"]) == {"a.b.jpg": "a.b.png", "c.PNG": "c.png"}


def test_the_page_of_the_output_format_keeps_its_name() -> None:
    assert named(["a.jpg", "a.png", "a.WEBP"]) == {
        "a.png": "a.png",
        "a.jpg": "a_jpg.png",
        "a.WEBP": "a_webp.png",
    }


def test_spaces_and_dots_at_the_end_of_a_name_do_not_count() -> None:
    assert output_names(["a.jpg ", "b.png..", "c.png", "c.png "], extension="png") == {
        "a.jpg ": "a.png", "b.png..": "b.png", "c.png": "c.png", "c.png ": "c_png.png",
    }  # fmt: skip


def test_without_such_a_page_all_are_told_apart() -> None:
    assert named(["a.jpg", "a.webp"]) == {"a.jpg": "a_jpg.png", "a.webp": "a_webp.png"}


def test_names_that_differ_by_case_alone_are_numbered() -> None:
    assert named(["A.png", "a.png"]) == {"A.png": "A_png.png", "a.png": "a_png_2.png"}


def test_another_page_is_not_overwritten() -> None:
    assert named(["a.jpg", "a.webp", "a_jpg.png"]) == {
        "a_jpg.png": "a_jpg.png",
        "a.jpg": "a_jpg_2.png",
        "a.webp": "a_webp.png",
    }


def test_a_folder_keeps_its_name_before_a_page() -> None:
    assert named(["x.jpg"], folders=["X.png"]) == {"x.jpg": "x_jpg.png"}


def test_folders_that_differ_by_case_alone() -> None:
    assert folder_names(["vol", "Vol", "vol_2"]) == {"Vol": "Vol", "vol": "vol_3", "vol_2": "vol_2"}


def test_bytes_that_are_no_unicode_are_escaped() -> None:
    raw = os.fsdecode(b"p\xff%.png")
    assert valid_names([raw, "ok%.png"]) == {raw: "p%FF%25.png", "ok%.png": "ok%.png"}
    assert valid_names([os.fsdecode(b"\xff.png"), "%FF.png"]) == {
        os.fsdecode(b"\xff.png"): "%%FF.png",
        "%FF.png": "%FF.png",
    }


@given(st.lists(st.text(st.sampled_from("a%F\udcff\udcfe\ud800"), min_size=1, max_size=4), unique=True))
def test_escaped_names_are_valid_and_unique(names: list[str]) -> None:
    valid = valid_names(names)
    assert len({*valid.values()}) == len(names)
    assert all(name.encode() for name in valid.values())


def test_names_that_would_be_too_long_are_cut_and_told_apart() -> None:
    long = "頁" * 84  # 252 bytes
    names = [f"{long}a.j", f"{'x' * 251}.jpg", f"{'x' * 251}.png", f"{'x' * 250}y.png", "short.jpg"]
    outputs = output_names(names, extension="webp")
    assert outputs["short.jpg"] == "short.webp"
    assert len(set(outputs.values())) == len(names)
    assert all(len(output.encode()) <= 255 and output.endswith(".webp") for output in outputs.values())
