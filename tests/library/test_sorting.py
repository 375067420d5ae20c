import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from comic_upscale.library.sorting import fold, natural_key

NAMES = st.text(st.characters(), max_size=12)


def in_order(*names: str) -> None:
    disordered = names[::-1]
    assert tuple(sorted(disordered, key=natural_key)) == names


def test_numbers_count_as_numbers() -> None:
    in_order("page1.png", "page2.png", "page10.png", "page010b.png")
    in_order("2", "10", "1" + "0" * 5000)
    in_order("第２話", "第１０話")


def test_upper_and_lower_case_stand_together() -> None:
    in_order("A1", "a2", "A3", "b1")


def test_a_folder_stays_together() -> None:
    in_order("01/b.png", "1/a.png", "1/c.png")
    in_order("vol 2/10.png", "vol 10/2.png")


def test_a_name_comes_before_longer_ones() -> None:
    in_order("page.png", "page-2.png", "page2.png", "pages.png")


def test_numerals_that_int_refuses_do_no_harm() -> None:
    in_order("a1", "a2", "a²")


@given(NAMES, NAMES)
def test_different_names_have_different_keys(one: str, other: str) -> None:
    assert (natural_key(one) == natural_key(other)) == (one == other)


@given(st.integers(0, 10**30), st.integers(0, 10**30), st.sampled_from(["", "p", "第", "x-"]))
def test_order_of_numbers_is_that_of_integers(one: int, other: int, prefix: str) -> None:
    names = [f"{prefix}{one}.png", f"{prefix}{other}.png"]
    assert (natural_key(names[0]) < natural_key(names[1])) == (one < other)


@given(NAMES)
def test_fold_joins_what_file_systems_join(name: str) -> None:
    assert fold(name) == fold(unicodedata.normalize("NFD", name)) == fold(unicodedata.normalize("NFC", name))
    assert fold("É") == fold("e\N{COMBINING ACUTE ACCENT}")
