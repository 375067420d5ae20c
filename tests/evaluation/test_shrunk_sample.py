"""Items that are taken in place of ones that cannot be used."""

from __future__ import annotations

from comic_upscale.evaluation.shrunk import Sample


def test_a_large_library_of_useless_pages_is_not_tried_to_the_end() -> None:
    sample = Sample(range(10_000), 2)
    taken = 0
    while sample:
        sample.take()
        taken += 1
        sample.replace()
    assert 2 < taken < 20


def test_other_items_are_tried_until_the_sample_is_full() -> None:
    sample = Sample(range(5), 3)
    tried = []
    while sample:
        tried.append(sample.take())
        sample.replace()
    assert sorted(tried) == [0, 1, 2, 3, 4]
