from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.candidates import gather
from benchmarks.peers import PEERS, PeerNetwork, open_peer
from benchmarks.validation import TRACKS, AbsentError
from comic_upscale.evaluation.picture import as_pixels, luma
from comic_upscale.evaluation.trial import lanczos


@pytest.fixture(scope="module")
def peers_dir(weights_dir: Path) -> Path:
    pytest.importorskip("ncnn", reason="ncnn is not installed")
    if not (weights_dir / "peers").is_dir():
        pytest.skip("the peers' networks are not with the weights")
    return weights_dir / "peers"


@pytest.mark.parametrize("network", PEERS, ids=lambda network: network.file)
@pytest.mark.parametrize("size", [(64, 48), (51, 37)], ids=str)
def test_a_peer_gives_the_right_size_and_keeps_its_place(
    network: PeerNetwork, size: tuple[int, int], peers_dir: Path, drawing: Image.Image
) -> None:
    small = drawing.resize((96, 144), Image.Resampling.BICUBIC).crop((8, 10, 8 + size[0], 10 + size[1]))
    with open_peer(network, peers_dir, 1) as upscale:
        output = upscale(small, network.scale)
    assert output.size == (size[0] * network.scale, size[1] * network.scale)
    expected = lanczos(small, network.scale)
    distance = np.mean((luma(as_pixels(output).color) - luma(as_pixels(expected).color)) ** 2)
    assert 10 * np.log10(255**2 / distance) > 20


def test_another_factor_is_reached_by_resampling(peers_dir: Path, drawing: Image.Image) -> None:
    with open_peer(PEERS[0], peers_dir, 1) as upscale:
        assert upscale(drawing.crop((0, 0, 32, 24)), 2.5).size == (80, 60)


def test_absent_networks_are_told_of(tmp_path: Path) -> None:
    pytest.importorskip("ncnn", reason="ncnn is not installed")
    with (
        pytest.raises(AbsentError, match="COMIC_UPSCALE_WEIGHTS"),
        open_peer(PEERS[0], tmp_path, 1),
    ):
        pass


def test_peers_take_part_where_they_suit() -> None:
    candidates = gather([], peers=True)

    def variants(track: int) -> list[str]:
        return [each.variant for each in candidates if each.network and each.fits(TRACKS[track])]

    assert variants(0) == ["no denoise x2", "no-denoise x2"]
    assert variants(2) == ["no denoise x2", "no-denoise x2", "no-denoise x3"]
    assert len(variants(1)) == 4
    assert len(variants(3)) == len(PEERS)


def test_without_peers_there_is_none_and_a_model_takes_part_once() -> None:
    candidates = gather(["realesr-animevideov3", "some/folder/own.safetensors"], peers=False)
    names = [each.name for each in candidates]
    assert names[:2] == ["Lanczos", "realesr-animevideov3"]
    assert names.count("realesr-animevideov3") == 1
    assert names[-1] == "own"
