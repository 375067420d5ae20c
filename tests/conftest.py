"""Fixtures that several rooms share: real weights and real pages where they are present."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

# A property that holds must not fail because the machine was busy for a moment.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")

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


@pytest.fixture
def crisp_weights(tmp_path: Path) -> Iterator[Path]:
    """A small x4 network in the place of RealESRGAN_x4plus_anime_6B and its 18 MB; its folder is not searched yet.

    The catalogue knows the file's own size and hash meanwhile, and has no address that answers.
    """
    import torch
    from spandrel.architectures.Compact import Compact

    from comic_upscale.models.catalogue import CATALOGUE, WeightsFile

    torch.manual_seed(21)
    model = CATALOGUE["RealESRGAN_x4plus_anime_6B"]
    path = tmp_path / "crisp" / model.weights.name
    path.parent.mkdir()
    torch.save({"params": Compact(num_feat=16, num_conv=2, upscale=4).state_dict()}, path)
    content = path.read_bytes()
    official = model.weights
    mine = WeightsFile(
        official.name, "https://127.0.0.1:9/none", len(content), hashlib.sha256(content).hexdigest()
    )
    object.__setattr__(model, "weights", mine)  # an entry is frozen, and its users hold on to it
    yield path
    object.__setattr__(model, "weights", official)
