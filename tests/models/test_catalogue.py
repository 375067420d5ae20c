"""The catalogue: complete, well-formed, and forgiving of how a name is written."""

from __future__ import annotations

import hashlib
import json
import math
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from comic_upscale import costs
from comic_upscale.errors import WeightsError
from comic_upscale.gate.verdict import thresholds
from comic_upscale.models.catalogue import CATALOGUE, FAMILIES, Model, find_model, in_family
from comic_upscale.models.weights import known_model, locate
from tests.conftest import REPOSITORY

OWN = (
    "comic-compact-x3",
    "comic-best-x2",
    "comic-best-x3",
    "comic-crisp-x2",
    "comic-crisp-x3",
    "comic-fast-x2",
    "comic-fast-x3",
)
BUNDLED = pytest.mark.parametrize("own", OWN)
MODELS = pytest.mark.parametrize("model", CATALOGUE.values(), ids=list(CATALOGUE))
OFFICIAL = pytest.mark.parametrize(
    "model", [model for model in CATALOGUE.values() if model.name not in OWN], ids=lambda model: model.name
)


def own_file(own: str) -> Path:
    path = locate(CATALOGUE[own].weights, [])
    assert path is not None
    return path


def test_holds_our_own_models_first_and_the_five_official_ones() -> None:
    assert tuple(CATALOGUE)[: len(OWN)] == OWN
    assert set(CATALOGUE) == {
        *OWN,
        "RealESRGAN_x4plus_anime_6B",
        "RealESRGAN_x2plus",
        "RealESRGAN_x4plus",
        "realesr-animevideov3",
        "realesr-general-x4v3",
    }


@OFFICIAL
def test_an_entry_is_well_formed(model: Model) -> None:
    assert CATALOGUE[model.name] is model
    assert model.native_scale == (2 if "x2" in model.name else 4)
    assert model.weights.name == f"{model.name}.pth"
    assert model.licence == "BSD-3-Clause"
    for file in model.files:
        assert not file.bundled
        assert re.fullmatch(r"[0-9a-f]{64}", file.sha256)
        release = re.escape("https://github.com/xinntao/Real-ESRGAN/releases/download/")
        assert re.fullmatch(release + r"v[\d.]+/" + re.escape(file.name), file.url)


@BUNDLED
def test_our_own_file_is_the_one_of_the_catalogue(own: str) -> None:
    entry, content = CATALOGUE[own], own_file(own).read_bytes()
    assert (len(content), hashlib.sha256(content).hexdigest()) == (entry.weights.size, entry.weights.sha256)
    assert len(content) <= 3_000_000
    assert (entry.licence, entry.weights.bundled, entry.own_strength) == ("MIT", True, 0)


@pytest.mark.parametrize("own", ["comic-best-x2", "comic-best-x3", "comic-fast-x2", "comic-fast-x3"])
def test_our_own_denoising_partner_is_the_one_of_the_catalogue(own: str) -> None:
    partner = CATALOGUE[own].denoise_weights
    assert partner is not None and partner.bundled and partner.name == f"{own}-dn.safetensors"
    path = locate(partner, [])
    assert path is not None
    content = path.read_bytes()
    assert (len(content), hashlib.sha256(content).hexdigest()) == (partner.size, partner.sha256)
    layers, of_base = (
        {name: tensor["shape"] for name, tensor in header_of(each).items() if name != "__metadata__"}
        for each in (content, own_file(own).read_bytes())
    )
    assert layers == of_base


def test_a_fallback_model_is_part_of_the_package_and_has_the_same_factor() -> None:
    fallback = {model.name: model.fallback for model in CATALOGUE.values() if model.fallback}
    assert set(fallback) == {name for name in OWN if not name.startswith("comic-fast")}
    for name, other in fallback.items():
        assert CATALOGUE[other].weights.bundled
        assert CATALOGUE[other].native_scale == CATALOGUE[name].native_scale


@BUNDLED
def test_our_own_network_has_bounds_of_its_own_and_a_rate(own: str) -> None:
    measured = thresholds()["measured"]
    rates = tomllib.loads((Path(costs.__file__).parent / "rates.toml").read_text("utf-8"))
    assert own in {network["model"] for network in rates["network"]}
    # The bounds of all models are those of comic-compact-x3.
    assert own == "comic-compact-x3" or measured[own]["identity"] == CATALOGUE[own].weights.sha256


def test_every_file_of_the_package_is_in_the_repository() -> None:
    if shutil.which("git") is None or not (REPOSITORY / ".git").exists():
        pytest.skip("there is no git repository here")
    files = [file for model in CATALOGUE.values() for file in model.files if file.bundled]
    paths = [f"weights/{file.name}" for file in files]
    ignored = subprocess.run(
        ["git", "check-ignore", "--no-index", *paths], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert ignored.stdout == ""


def header_of(content: bytes) -> dict[str, Any]:
    header: dict[str, Any] = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return header


@BUNDLED
def test_our_own_entry_tells_the_factor_and_the_cost_of_its_file(own: str) -> None:
    content = own_file(own).read_bytes()
    header = header_of(content)
    kernels = [
        tensor["shape"]
        for name, tensor in header.items()
        if name != "__metadata__" and len(tensor["shape"]) == 4
    ]
    last = max(
        (name for name in header if name.endswith(".weight")), key=lambda name: int(name.split(".")[1])
    )
    assert header[last]["shape"][0] == 3 * CATALOGUE[own].native_scale ** 2
    tflop = 2 * sum(math.prod(shape) for shape in kernels) * 512 * 768 / 1e12
    assert CATALOGUE[own].tflop_per_page == pytest.approx(tflop, abs=0.005)


def test_no_two_files_share_a_hash() -> None:
    files = [file for model in CATALOGUE.values() for file in model.files]
    assert len({file.sha256 for file in files}) == len(files) == 19


def test_comic_best_comic_fast_and_the_general_model_have_denoise_weights() -> None:
    strengths = {model.name: model.own_strength for model in CATALOGUE.values() if model.denoise_weights}
    own = dict.fromkeys(("comic-best-x2", "comic-best-x3", "comic-fast-x2", "comic-fast-x3"), 0)
    assert strengths == own | {"realesr-general-x4v3": 1}


@MODELS
def test_the_cost_told_to_users_is_that_of_the_arithmetic(model: Model) -> None:
    told = re.search(r"about (\d+) times|about (twice)", model.purpose)
    ratio = model.tflop_per_page / CATALOGUE["realesr-animevideov3"].tflop_per_page
    if "less than a third of the work" in model.purpose:
        assert 1 / 4 < ratio < 1 / 3
        return
    if "a quarter of the work" in model.purpose:
        assert ratio == pytest.approx(1 / 4, abs=0.02)
        return
    assert round(ratio) == (1 if told is None else 2 if told[2] else int(told[1]))


def test_the_official_file_is_the_one_of_the_catalogue(animevideo_weights: Path) -> None:
    content = animevideo_weights.read_bytes()
    entry = CATALOGUE["realesr-animevideov3"].weights
    assert (len(content), hashlib.sha256(content).hexdigest()) == (entry.size, entry.sha256)


@pytest.mark.parametrize(
    "name", ["RealESRGAN_x4plus", "realesrgan_X4PLUS", "RealESRGAN_x4plus.pth", " realesrgan_x4plus.PTH "]
)
def test_finds_a_model_however_it_is_written(name: str) -> None:
    assert find_model(name) is CATALOGUE["RealESRGAN_x4plus"]


def test_a_wrong_name_gets_the_nearest_and_all() -> None:
    with pytest.raises(WeightsError) as caught:
        find_model("RealESRGAN_x4plus_anime")
    message = str(caught.value)
    assert "Did you mean RealESRGAN_x4plus_anime_6B" in message
    assert all(name in message for name in CATALOGUE)
    assert ".safetensors" in message


def test_a_name_like_none_gets_no_guess() -> None:
    with pytest.raises(WeightsError) as caught:
        find_model("waifu2x")
    assert "Did you mean" not in str(caught.value)


def test_catalogue_and_weights_import_nothing_heavy() -> None:
    code = (
        "import sys, comic_upscale.models.catalogue, comic_upscale.models.weights\n"
        "heavy = {'torch', 'spandrel', 'requests', 'pooch', 'numpy'}\n"
        "raise SystemExit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    repository = Path(__file__).resolve().parents[2]
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=repository
    )
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize(
    ("factor", "network"),
    [
        (1.2, "comic-best-x2"),
        (2.0, "comic-best-x2"),
        (2.1, "comic-best-x3"),
        (5, "comic-best-x3"),
        (None, "comic-best-x3"),
    ],
)
def test_a_family_has_a_network_for_every_factor(factor: float | None, network: str) -> None:
    assert in_family("comic-best", factor) == network
    assert in_family(" Comic-Best ", factor) == network


def test_only_families_stand_for_others() -> None:
    assert in_family("comic-best-x3", 2.0) == "comic-best-x3"
    assert in_family("./comic-best", 2.0) == "./comic-best"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_is_found_by_name_and_serves_every_factor(family: str) -> None:
    assert find_model(family) is CATALOGUE[f"{family}-x3"]
    with pytest.raises(WeightsError, match=family):
        find_model("no such model")


def test_a_file_of_the_user_is_no_model_of_the_catalogue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert known_model("Comic-Best-x3.pth") is CATALOGUE["comic-best-x3"]
    Path("Comic-Best-x3.pth").touch()
    assert known_model("Comic-Best-x3.pth") is None
    assert known_model("./comic-best-x3") is None
    assert known_model("nobody") is None
