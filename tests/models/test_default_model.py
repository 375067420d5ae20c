"""What ``auto`` stands for: by the device, and by what can be had."""

from __future__ import annotations

from pathlib import Path

import pytest

from comic_upscale.errors import SettingsError
from comic_upscale.models.catalogue import CATALOGUE, Model
from comic_upscale.models.default_model import (
    CPU_DEFAULT,
    GPU_DEFAULT,
    DefaultModel,
    check_auto,
    choose_model,
    is_auto,
)
from tests.models.misbehaving_server import PAYLOAD, Server, answer


@pytest.fixture
def catalogue(server: Server) -> dict[str, Model]:
    """The large model, as a file that the local server has, and our own."""
    file = server.file(f"{GPU_DEFAULT}.pth")
    large = Model(GPU_DEFAULT, 4, "for tests", "MIT", 1.0, file)
    return {large.name: large, CPU_DEFAULT: CATALOGUE[CPU_DEFAULT]}


def test_both_choices_are_in_the_catalogue() -> None:
    assert not CATALOGUE[GPU_DEFAULT].weights.bundled
    assert CATALOGUE[CPU_DEFAULT].weights.bundled


def test_a_cpu_gets_the_model_of_the_package_and_nothing_is_fetched(
    server: Server, catalogue: dict[str, Model], tmp_path: Path
) -> None:
    (tmp_path / f"{GPU_DEFAULT}.pth").write_bytes(PAYLOAD)
    choice = choose_model(accelerator=False, folders=[tmp_path], cache=tmp_path, catalogue=catalogue)
    assert choice == DefaultModel(CPU_DEFAULT)
    assert server.ranges == []


def test_an_accelerator_gets_the_large_model_where_it_is_here(
    server: Server, catalogue: dict[str, Model], tmp_path: Path
) -> None:
    (tmp_path / f"{GPU_DEFAULT}.pth").write_bytes(PAYLOAD)
    choice = choose_model(
        accelerator=True, folders=[tmp_path], cache=tmp_path / "cache", download=False, catalogue=catalogue
    )
    assert choice == DefaultModel(GPU_DEFAULT)
    assert server.ranges == []


def test_an_accelerator_gets_the_large_model_where_it_can_be_fetched(
    catalogue: dict[str, Model], tmp_path: Path
) -> None:
    seen: list[str] = []
    choice = choose_model(
        accelerator=True,
        folders=[],
        cache=tmp_path,
        on_progress=lambda name, done, total: seen.append(name),
        catalogue=catalogue,
    )
    assert choice == DefaultModel(GPU_DEFAULT)
    assert (tmp_path / f"{GPU_DEFAULT}.pth").read_bytes() == PAYLOAD
    assert set(seen) == {f"{GPU_DEFAULT}.pth"}


def test_without_a_download_it_falls_back_and_says_why(
    server: Server, catalogue: dict[str, Model], tmp_path: Path
) -> None:
    choice = choose_model(accelerator=True, folders=[], cache=tmp_path, download=False, catalogue=catalogue)
    assert choice.model == CPU_DEFAULT
    for part in (CPU_DEFAULT, GPU_DEFAULT, "downloads are off"):
        assert part in str(choice.note)
    assert server.ranges == []


def test_a_download_that_fails_falls_back_and_says_why(
    server: Server, catalogue: dict[str, Model], tmp_path: Path
) -> None:
    server.steps.append(answer(404))
    choice = choose_model(accelerator=True, folders=[], cache=tmp_path, catalogue=catalogue)
    assert choice.model == CPU_DEFAULT
    assert "404" in str(choice.note)


def test_other_bytes_under_the_official_name_are_not_taken(
    catalogue: dict[str, Model], tmp_path: Path
) -> None:
    (tmp_path / f"{GPU_DEFAULT}.pth").write_bytes(b"other")
    choice = choose_model(accelerator=True, folders=[tmp_path], cache=tmp_path, catalogue=catalogue)
    assert choice.model == CPU_DEFAULT
    assert "is not the official" in str(choice.note)


@pytest.mark.parametrize(
    ("model", "expected"), [("auto", True), (" Auto ", True), ("./auto", False), ("auto.pth", False)]
)
def test_only_the_word_is_auto(model: str, expected: bool) -> None:
    assert is_auto(model) is expected


def test_a_denoise_strength_wants_a_model_by_name() -> None:
    check_auto(None)
    with pytest.raises(SettingsError, match="realesr-general-x4v3"):
        check_auto(0.5)
