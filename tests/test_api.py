"""The public names, as a program would use them."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import comic_upscale
from comic_upscale import Upscaler, upscale_image
from comic_upscale.engines import upscaler as upscaler_module
from comic_upscale.errors import InputError, OutputError, PageError, SettingsError, WeightsError


@pytest.fixture(scope="module")
def upscaler(tiny_weights: Path) -> Upscaler:
    return Upscaler(str(tiny_weights), device="cpu")


@pytest.mark.parametrize("kind", [str, Path])
def test_paths_may_be_strings(kind: type, tiny_weights: Path, tmp_path: Path) -> None:
    with Upscaler(kind(tiny_weights), device="cpu") as upscaler:
        assert upscaler.model == tiny_weights.name
    with pytest.raises(WeightsError, match="not on this machine"):
        Upscaler("realesr-animevideov3", weights_folders=[kind(tmp_path)])
    with Upscaler("comic-fast", device="cpu", weights_cache=kind(tmp_path)) as upscaler:
        assert upscaler.model == "comic-fast-x3"


def test_a_file_with_the_name_of_a_model_is_no_model(tiny_weights: Path, tmp_path: Path) -> None:
    path = tmp_path / "comic-crisp-x3.pth"
    torch.save(load_file(tiny_weights), path)
    with Upscaler(path, device="cpu") as own, Upscaler("comic-crisp", device="cpu") as ours:
        assert (own._cleans_white, ours._cleans_white) == (False, True)


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_an_image_keeps_its_mode_and_gets_its_size(upscaler: Upscaler, mode: str) -> None:
    image = Image.effect_noise((21, 33), 50).convert(mode)
    result = upscaler.upscale(image, scale=2.5)
    assert (result.mode, result.size) == (mode, (round(21 * 2.5), round(33 * 2.5)))


def test_an_array_is_taken_for_the_image_that_it_is(upscaler: Upscaler) -> None:
    image = Image.effect_noise((20, 30), 50)
    assert upscaler.upscale(np.asarray(image), 2).tobytes() == upscaler.upscale(image, 2).tobytes()


@pytest.mark.parametrize(
    "wrong", [Image.new("CMYK", (4, 4)), np.zeros((4, 4, 5), np.uint8), np.zeros((4, 4), np.float32)]
)
def test_what_is_no_image_is_refused(upscaler: Upscaler, wrong: object) -> None:
    with pytest.raises(SettingsError):
        upscaler.upscale(wrong)  # type: ignore[arg-type]


def test_a_scale_that_cannot_be(upscaler: Upscaler) -> None:
    with pytest.raises(SettingsError, match="scale"):
        upscaler.upscale(Image.new("L", (4, 4)), 0.9)


def test_one_file_into_another(upscaler: Upscaler, tmp_path: Path) -> None:
    Image.effect_noise((20, 30), 50).save(tmp_path / "a.png")
    for name in ("b.png", "b.webp", "b.jpg"):
        upscale_image(tmp_path / "a.png", tmp_path / name, scale=3, upscaler=upscaler)
        with Image.open(tmp_path / name) as image:
            assert image.size == (60, 90)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.jpg", "b.png", "b.webp"]


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege on Windows")
def test_a_file_is_written_as_the_user_wants_and_through_no_link(upscaler: Upscaler, tmp_path: Path) -> None:
    Image.effect_noise((20, 30), 50).save(tmp_path / "a.png")
    precious = tmp_path / "precious.txt"
    precious.write_bytes(b"precious")
    (tmp_path / f".comic-upscale-{os.getpid()}.part").symlink_to(precious)
    upscale_image(tmp_path / "a.png", tmp_path / "b.png", scale=2, upscaler=upscaler)
    assert precious.read_bytes() == b"precious"
    assert stat.S_IMODE((tmp_path / "b.png").stat().st_mode) == stat.S_IMODE(precious.stat().st_mode)
    with pytest.raises(OutputError):
        upscale_image(tmp_path / "a.png", tmp_path / "none" / "b.png", scale=2, upscaler=upscaler)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png", "precious.txt"]


def test_files_that_cannot_be(upscaler: Upscaler, tmp_path: Path) -> None:
    with pytest.raises(InputError):
        upscale_image(tmp_path / "none.png", tmp_path / "b.png", upscaler=upscaler)
    (tmp_path / "bad.png").write_bytes(b"bad")
    with pytest.raises(PageError):
        upscale_image(tmp_path / "bad.png", tmp_path / "b.png", upscaler=upscaler)
    with pytest.raises(SettingsError, match=r"\.png"):
        upscale_image(tmp_path / "bad.png", tmp_path / "b.gif", upscaler=upscaler)


def test_weights_that_are_not_here_are_not_fetched_unasked(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="https://"):
        Upscaler("realesr-animevideov3", weights_folders=[tmp_path])


def test_without_a_name_a_cpu_gets_the_fast_model_of_the_package() -> None:
    with Upscaler(device="cpu") as upscaler:
        assert (upscaler.model, upscaler.native_scale) == ("comic-fast-x3", 3)
        assert upscaler.upscale(Image.effect_noise((20, 30), 50), 2.5).size == (50, 75)
    with (
        Upscaler(device="cpu", denoise=0.5) as cleaning,
        Upscaler("comic-fast", denoise=0.5, device="cpu") as named,
    ):
        page = Image.effect_noise((20, 30), 50)
        assert cleaning.model == "comic-fast-x3"
        assert cleaning.upscale(page, 2.5).tobytes() == named.upscale(page, 2.5).tobytes()


def test_without_a_name_an_accelerator_gets_the_most_faithful_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upscaler_module, "all_accelerators", lambda names: True)
    with Upscaler(device="cpu") as upscaler:
        assert upscaler.model == "comic-best-x3"


def test_every_public_name_is_there_and_importing_costs_nothing() -> None:
    for name in comic_upscale.__all__:
        assert getattr(comic_upscale, name) is not None
    heavy = (
        "import sys, comic_upscale; print([m for m in ('torch', 'numpy', 'PIL', 'rich') if m in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", heavy], text=True).strip() == "[]"
    with pytest.raises(AttributeError):
        comic_upscale.nothing  # noqa: B018
