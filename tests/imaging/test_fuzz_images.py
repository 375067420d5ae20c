"""Broken images of every format: the readers answer, or fail in words; never a crash or a hang."""

from __future__ import annotations

import random
import time
import warnings

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz import image_outcome, image_seeds, mutate


@pytest.fixture(scope="module")
def corpus() -> list[bytes]:
    return image_seeds()


def test_the_untouched_corpus_is_read(corpus: list[bytes]) -> None:
    assert [image_outcome(data) for data in corpus] == ["read"] * len(corpus)


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(min_value=0, max_value=2**32))
def test_mutated_images(corpus: list[bytes], seed: int) -> None:
    chance = random.Random(seed)
    data = mutate(chance.choice(corpus), chance, corpus)
    start = time.monotonic()
    with warnings.catch_warnings():
        # What libraries warn of in odd tags is no failure, as on the command line.
        warnings.simplefilter("ignore")
        image_outcome(data)
    assert time.monotonic() - start < 60
