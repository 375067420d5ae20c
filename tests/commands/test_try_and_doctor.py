"""``try`` shows a page as several models upscale it; ``doctor`` says what this machine offers."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from comic_upscale.cli import app
from comic_upscale.engines.torch import cpu_precision, int8
from comic_upscale.estimates import machine
from tests.archives import make_zip
from tests.conftest import draw
from tests.windows import as_on_windows


@pytest.fixture(autouse=True)
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("COMIC_UPSCALE_WEIGHTS", raising=False)
    monkeypatch.chdir(tmp_path)


def invoke(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """A volume of three pages: noise of 170 x 200, and the second one red."""
    contents = {}
    for number in (1, 2, 3):
        path = draw(tmp_path / "made" / f"{number}.png", number, (170, 200))
        if number == 2:
            Image.new("RGB", (170, 200), "red").save(path)
        contents[f"{number}.png"] = path.read_bytes()
    return make_zip(tmp_path / "book.cbz", contents)


def test_a_page_of_a_volume_in_one_picture(volume: Path, tiny_weights: Path, tmp_path: Path) -> None:
    other = shutil.copy(tiny_weights, tmp_path / "other.safetensors")
    code, out, err = invoke(
        "try", f"{volume}#2", "--models", f"{tiny_weights},{other}", "-s", 2, "-d", "cpu",
        "--output", "try.png",
    )  # fmt: skip
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert [line.partition(":")[0] for line in lines[:3]] == ["Lanczos", "tiny-x4", "other"]
    recommended = next(line for line in lines if line.startswith("recommended: ")).removeprefix(
        "recommended: "
    )
    # Which one it is depends on their speeds here, too. The tests of the verdict have fixed speeds.
    assert recommended in ("Lanczos", "tiny-x4", "other")
    with Image.open(tmp_path / "try.png") as picture:
        samples = np.asarray(picture.convert("RGB"))
    # The whole page and the crops of Lanczos and two models, each 340 x 400, are side by side. The page is red.
    assert samples.shape[1] >= 4 * 340
    red = (samples[:, :, 0] > 180) & (samples[:, :, 1] < 70)
    # Lanczos at least; the networks with random weights give other colours.
    assert red.sum() >= 340 * 400 * 0.98


def test_the_default_picture_replaces_no_file(tiny_weights: Path, tmp_path: Path) -> None:
    page = draw(tmp_path / "in" / "one.png", 5)
    (tmp_path / "one-models.png").write_bytes(b"mine")
    arguments = ("try", tmp_path / "in", "--page", 1, "--models", tiny_weights, "-s", 2, "-d", "cpu")
    code, out, _ = invoke(*arguments)
    assert code == 0
    assert "picture: one-models_2.png" in out
    assert (tmp_path / "one-models.png").read_bytes() == b"mine"
    assert invoke(*arguments, "--output", "picture.jpg")[0] == 2
    before = page.read_bytes()
    code, _, err = invoke("try", page, "--models", tiny_weights, "--output", page)
    assert (code, "is the page itself" in err) == (2, True)
    assert page.read_bytes() == before


def test_a_page_that_is_too_small_to_measure_is_shown(tiny_weights: Path, tmp_path: Path) -> None:
    page = draw(tmp_path / "small#1.png", 1)
    code, out, _ = invoke("try", page, "--models", tiny_weights, "-d", "cpu")
    assert code == 0
    assert "no recommendation" in out
    assert "at least 160 pixels" in out
    assert (tmp_path / "small#1-models.png").is_file()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("book.cbz#4",), 3, "has 3 pages"),
        (("book.cbz#0",), 3, "has 3 pages"),
        (("book.cbz#1", "--page", "2"), 2, "leave out --page"),
        (("book.cbz", "--models", ","), 2, "--models is empty"),
        (("missing.cbz#1",), 3, "missing.cbz does not exist"),
    ],
)
def test_pages_that_cannot_be_tried(
    volume: Path, arguments: tuple[str, ...], code: int, message: str
) -> None:
    got, _, err = invoke("try", *arguments)
    assert (got, message in err) == (code, True)


def test_doctor_names_what_is_there(tmp_path: Path) -> None:
    code, out, err = invoke("doctor")
    assert (code, err) == (0, "")
    assert "Pages can be upscaled." in out
    code, out, _ = invoke("doctor", "--json", "--output", tmp_path / "missing")
    answer = json.loads(out)
    assert (code, answer["works"]) == (0, True)
    found = {each["topic"]: each for each in answer["findings"]}
    assert {"version", "torch", "gpu", "precision", "cores", "memory", "disk", "weights"} <= found.keys()
    assert found["disk"]["level"] == "missing"
    assert {"extra server", "extra onnx", "extra s3"} <= found.keys()
    assert all(each["level"] == "ok" or each["advice"] for each in answer["findings"])
    assert list(tmp_path.glob(".comic-upscale-*")) == []


def test_doctor_says_that_nothing_can_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from comic_upscale.models import weights

    monkeypatch.setattr(weights, "BUNDLED_FOLDERS", (tmp_path / "nowhere",))
    code, out, _ = invoke("doctor")
    assert code == 5
    assert "Nothing can be upscaled" in out
    assert "x weights" in out


@pytest.mark.parametrize(
    ("precision", "fault", "level", "told"),
    [
        (torch.int8, None, "ok", "int8 for comic-fast"),
        (torch.bfloat16, None, "ok", "bf16 for comic-fast"),
        (torch.float32, "there is no VNNI", "slow", "(8 bits: there is no VNNI)"),
        (torch.float32, None, "slow", "(neither is faster than float32 here)"),
    ],
)
def test_doctor_says_in_what_a_cpu_computes(
    monkeypatch: pytest.MonkeyPatch, precision: torch.dtype, fault: str | None, level: str, told: str
) -> None:
    monkeypatch.setattr(cpu_precision, "fastest_precision", lambda _: precision)
    monkeypatch.setattr(int8, "int8_fault", lambda _: fault)
    found = machine._cpu_precision()
    assert found.level == level
    assert told in f"{found.value} {found.advice}"


def test_few_cores_hold_up_a_gpu() -> None:
    assert machine._cores(2, gpu=True).level == "slow"
    assert machine._cores(16, gpu=True).level == "ok"


@pytest.mark.parametrize("windows", [False, True])
def test_doctor_misses_no_triton_on_windows(monkeypatch: pytest.MonkeyPatch, windows: bool) -> None:
    if windows:
        as_on_windows(monkeypatch, machine)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    topics = [finding.topic for finding in machine._precision("cuda")]
    assert ("triton" in topics) is not windows
