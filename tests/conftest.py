"""Fixtures that several rooms share: real weights and pages where they are present, and small jobs over drawn pages."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

import hypothesis
import numpy as np
import pytest
from PIL import Image

from comic_upscale.provisioning.registry import PROVIDERS
from comic_upscale.settings.job import JobSettings

# A property that holds must not fail because the machine was busy for a moment.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")

# A shell starts its background jobs with SIGINT ignored, and their children inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# No variable leads a test to the account of whoever runs it; tests that rent have a home folder of their own, too. A
# provider with a program of its own needs no key.
for entry in PROVIDERS.values():
    for name in filter(None, (entry.key_variable, entry.key_variable and f"{entry.key_variable}_FILE")):
        os.environ.pop(name, None)
    if entry.program:
        os.environ[entry.url_variable] = f"no-{entry.program}-in-tests"

T = TypeVar("T")
U = TypeVar("U")

REPOSITORY = Path(__file__).resolve().parents[1]
SHARED = REPOSITORY.parent / "shared"


def _folder(variable: str, fallback: Path, what: str) -> Path:
    folder = Path(os.environ.get(variable) or fallback)
    if not folder.is_dir():
        pytest.skip(f"{what} are not here: set {variable} to the folder that holds them")
    return folder


@pytest.fixture(scope="session")
def weights_dir() -> Path:
    """The folder of official weights, or a skip."""
    return _folder("COMIC_UPSCALE_WEIGHTS", SHARED / "weights", "official weights")


@pytest.fixture(scope="session")
def animevideo_weights(weights_dir: Path) -> Path:
    path = weights_dir / "realesr-animevideov3.pth"
    if not path.is_file():
        pytest.skip(f"{path.name} is not in {weights_dir}")
    return path


@pytest.fixture(scope="session")
def comics_dir() -> Path:
    """The folder of real comic pages (``dev/``, ``odd/``), or a skip."""
    return _folder("COMIC_UPSCALE_COMICS", SHARED / "comics", "real comic pages")


@pytest.fixture(scope="session")
def faults_dir() -> Path:
    """The folder of small files that came out wrong once, each with what is right, or a skip."""
    return _folder("COMIC_UPSCALE_FAULTS", SHARED / "faults", "files that came out wrong once")


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A compact network of x4 with small random weights: real structure, real file, done in a moment."""
    import torch
    from safetensors.torch import save_file
    from spandrel.architectures.Compact import Compact

    torch.manual_seed(20)
    network = Compact(num_feat=16, num_conv=2, upscale=4)
    path = tmp_path_factory.mktemp("weights") / "tiny-x4.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, path)
    return path


def draw(path: Path, seed: int, size: tuple[int, int] = (24, 32), mode: str = "RGB") -> Path:
    """Write an image of noise that no other seed gives."""
    random = np.random.default_rng(seed)
    channels = {"L": 1, "RGB": 3, "RGBA": 4}[mode]
    samples = random.integers(0, 256, (size[1], size[0], channels), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(samples.squeeze(), mode).save(path)
    return path


LONG = bool(os.environ.get("COMIC_UPSCALE_TEST_LONG"))
"""Whether tests try everything that they can. By default, some try a part."""


def pairs(first: Iterable[T], second: Iterable[U]) -> list[tuple[T, U]]:
    """Return every pair in a long trial; else each value of both in one pair at least."""
    ones, others = list(first), list(second)
    if LONG:
        return [(one, other) for one in ones for other in others]
    return [(ones[at % len(ones)], others[at % len(others)]) for at in range(max(len(ones), len(others)))]


MakeJob = Callable[..., JobSettings]


@pytest.fixture
def make_job(tmp_path: Path, tiny_weights: Path) -> MakeJob:
    """Settings from `in` to `out` at 2x by a tiny network, with changes."""

    def make(**changes: object) -> JobSettings:
        values: dict[str, object] = {
            "input": tmp_path / "in", "output": tmp_path / "out", "model": str(tiny_weights), "workers": 2,
            "scale": 2.0,
        }  # fmt: skip
        return JobSettings(**{**values, **changes})  # type: ignore[arg-type]

    return make


@pytest.fixture
def pages(tmp_path: Path) -> Path:
    """Twelve pages in two folders, three shapes, gray and colour and with alpha."""
    folder = tmp_path / "pages"
    for number in range(8):
        draw(folder / f"page{number}.png", number, mode="L" if number % 4 == 3 else "RGB")
    for number in range(3):
        draw(folder / "extra" / f"{number}.png", 100 + number, size=(20, 20))
    draw(folder / "extra" / "sticker.png", 200, mode="RGBA")
    return folder


MakeSettings = Callable[..., JobSettings]


@pytest.fixture
def make_settings(pages: Path, tmp_path: Path, tiny_weights: Path) -> MakeSettings:
    def make(**changes: object) -> JobSettings:
        values: dict[str, object] = {
            "input": pages,
            "output": tmp_path / "out",
            "model": str(tiny_weights),
            "workers": 2,
        }
        return JobSettings(**{**values, **changes})  # type: ignore[arg-type]

    return make
