"""Broken archives of every kind: the readers answer, or fail in words; never a crash, a hang, a stray file."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.archives import needs_libarchive
from tests.fuzz import mutate, outcome, seeds

pytestmark = needs_libarchive


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    return seeds(tmp_path_factory.mktemp("seeds"))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("fuzz") / "deep" / "deeper"
    folder.mkdir(parents=True)
    yield folder
    everything = sorted(path.name for path in folder.parents[1].rglob("*"))
    assert everything == ["deep", "deeper", "volume.cbz"]


def test_the_untouched_corpus_is_read(corpus: list[bytes], tmp_path: Path) -> None:
    for number, data in enumerate(corpus):
        path = tmp_path / f"{number}.cbz"
        path.write_bytes(data)
        assert outcome(path) == "read", number


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(min_value=0, max_value=2**32))
def test_mutated_archives(corpus: list[bytes], place: Path, seed: int) -> None:
    chance = random.Random(seed)
    path = place / "volume.cbz"
    path.write_bytes(mutate(chance.choice(corpus), chance, corpus))
    start = time.monotonic()
    outcome(path)
    assert time.monotonic() - start < 60
