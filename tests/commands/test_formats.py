"""Every format of the registry, and ``auto``, through ``cost``, ``run --dry-run``, ``run`` and ``export``."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import comic_upscale
from comic_upscale.cli import app
from comic_upscale.imaging import formats
from comic_upscale.imaging.codecs import FORMATS, find_assumed
from comic_upscale.imaging.decode import decode
from comic_upscale.imaging.encode import encode
from comic_upscale.imaging.formats import find_format, is_lossless
from comic_upscale.imaging.pixels import Pixels
from tests.conftest import draw

SIZE, LARGER = (24, 32), (60, 80)

OWN = {
    "alpha.png": "png",
    "deep.png": "png",
    "drawn.bmp": "png",
    "exact.jxl": "jxl",
    "exact.webp": "webp",
    "gray.png": "png",
    "light.avif": "avif",
    "lossy.webp": "webp-lossy",
    "photo.jpeg": "jpeg",
    "photo.jpg": "jpeg",
    "scan.tif": "tiff",
    "scan2.tiff": "tiff",
}
"""The pages, and how each is written where it keeps its format."""

RUNS = [
    (name, quality)
    for name, format in FORMATS.items()
    for quality in ((None,) if format.lossless == "always" else (None, 80))
] + [("auto", None), ("auto", 80)]


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("STATE", "CACHE", "DATA", "CONFIG"):
        monkeypatch.setenv(f"XDG_{name}_HOME", str(tmp_path / name.lower()))
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.delenv("COMIC_UPSCALE_WEIGHTS", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def pages(tmp_path: Path) -> Path:
    """A page of every format that is written, one that is only read, gray, 16 bits, and transparency."""
    folder = tmp_path / "pages"
    for number, name in enumerate(
        ("drawn.bmp", "light.avif", "lossy.webp", "photo.jpeg", "photo.jpg", "scan.tif")
    ):
        draw(folder / name, number)
    draw(folder / "scan2.tiff", 20)
    draw(folder / "gray.png", 21, mode="L")
    draw(folder / "alpha.png", 22, mode="RGBA")
    random = np.random.default_rng(23)
    deep = Pixels(random.integers(0, 65536, (SIZE[1], SIZE[0], 3), np.uint16))
    flat = Pixels(random.integers(0, 256, (SIZE[1], SIZE[0], 3), np.uint8))
    (folder / "deep.png").write_bytes(encode(deep, format="png"))
    (folder / "exact.jxl").write_bytes(encode(flat, format="jxl"))
    (folder / "exact.webp").write_bytes(encode(flat, format="webp"))
    assert {path.name for path in folder.iterdir()} == set(OWN)
    return folder


def invoke(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def told(*arguments: object) -> Any:
    code, out, err = invoke(*arguments, "--json")
    assert (code, err) == (0, "")
    return json.loads(out)


def expected_encodings(format: str, quality: int | None) -> dict[str, str]:
    if format == "auto":
        return OWN
    return dict.fromkeys(
        OWN, next(each for name, each in FORMATS.items() if name == format).encoding(quality)
    )


@pytest.mark.parametrize(("format", "quality"), RUNS)
def test_what_is_quoted_is_planned_done_and_exported(
    pages: Path, tiny_weights: Path, format: str, quality: int | None
) -> None:
    asked = ["--input", pages, "--format", format, *(() if quality is None else ("--quality", quality))]
    encodings = expected_encodings(format, quality)
    before = sorted(pages.parent.rglob("*"))

    plan = told("run", *asked, "--model", tiny_weights, "--dry-run")
    assert plan["counts"] == {"do": len(OWN)}
    planned = {page["source"]: page for page in plan["pages"]}
    assert {name: page["encoding"] for name, page in planned.items()} == encodings
    for page in planned.values():
        assumed = find_assumed(page["encoding"])
        assert assumed is not None
        each = assumed.bytes_per_pixel(gray=page["color"] == "gray")
        assert page["estimated_bytes"] == round(LARGER[0] * LARGER[1] * each)
    assert planned["gray.png"]["color"] == "gray"
    lines = invoke("run", *asked, "--model", tiny_weights, "--dry-run")[1]
    assert re.search(r"do +24x32 -> 60x80 .* gray\.png", lines)

    quoted = told("cost", *asked, "--gpu", "T4")
    work = quoted["work"]
    assert (work["pages"], work["output_pixels"]) == (len(OWN), len(OWN) * LARGER[0] * LARGER[1])
    assert work["download_bytes"]["likely"] == pytest.approx(plan["estimated_bytes"])
    seconds = [assumed.seconds.likely for name in encodings.values() if (assumed := find_assumed(name))]
    assert work["encode_seconds"]["likely"] == pytest.approx(sum(seconds) / len(OWN), rel=1e-4)
    assert work["format"] == ("auto" if format == "auto" else encodings["gray.png"])
    for quote in quoted["quotes"]:
        assert quote["dollars"]["likely"] > 0
        assert quote["parts"]["compute"]["seconds"]["likely"] > 0
    code, out, err = invoke("cost", *asked, "--gpu", "T4")
    assert (code, err) == (0, "")
    assert out.startswith(f"{len(OWN)} pages: ")
    assert "\ndollars" in out
    assert sorted(pages.parent.rglob("*")) == before, "nothing is written so far"

    code, out, err = invoke("run", *asked, "--model", tiny_weights, "--device", "cpu", "--output", "out")
    assert code == 0, err
    outputs = {path.name for path in Path("out").iterdir() if path.suffix[1:] in formats.IMAGE_EXTENSIONS}
    assert outputs == {page["output"] for page in planned.values()}
    for name, page in planned.items():
        check_output(Path("out") / page["output"], name, encodings[name], format)

    code, out, _ = invoke("export", "--job", "out", "--format", "jsonl")
    assert code == 0
    rows = {row["source"]: row for row in map(json.loads, out.splitlines())}
    assert set(rows) == set(OWN)
    for name, row in rows.items():
        data = (Path("out") / planned[name]["output"]).read_bytes()
        assert (row["file"], row["bytes"]) == (planned[name]["output"], len(data))
        assert row["sha256"] == hashlib.sha256(data).hexdigest()
        assert (row["width"], row["height"]) == LARGER
    plan = told("run", *asked, "--model", tiny_weights, "--output", "out", "--dry-run")
    assert plan["counts"] == {"done": len(OWN)}
    assert {page["encoding"] for page in plan["pages"]} == {None}


def check_output(path: Path, source: str, encoding: str, asked: str) -> None:
    data = path.read_bytes()
    format = find_format(data)
    assert format is not None
    assert encoding.removesuffix("-lossy") == format.name
    if asked == "auto":
        assert path.name == source.replace(".bmp", ".png"), "a page that keeps its format keeps its name"
    else:
        assert path.suffix == f".{format.extension}"
    if format.has_lossless_samples is not None:
        assert is_lossless(data) is not encoding.endswith("-lossy")
    page = decode(data, max_pixels=100_000, gray="auto")
    assert (page.width, page.height) == LARGER
    assert (page.color.shape[2] == 1) is (source == "gray.png")
    assert (page.alpha is not None) is (source == "alpha.png" and format.alpha)
    assert page.bits == (16 if source == "deep.png" and 16 in format.bits else 8)


@pytest.mark.parametrize(("format", "quality"), RUNS)
def test_pages_that_need_not_be_there_are_quoted(format: str, quality: int | None) -> None:
    asked = ["--pages", 10, "--format", format, *(() if quality is None else ("--quality", quality))]
    encoding = expected_encodings("png" if format == "auto" else format, quality)["gray.png"]
    assumed = find_assumed(encoding)
    assert assumed is not None
    work = told("cost", *asked)["work"]
    assert work["format"] == encoding
    assert work["download_bytes"]["likely"] == pytest.approx(10 * 1280 * 1920 * assumed.color_bytes)
    code, out, err = invoke("cost", *asked)
    assert (code, err) == (0, "")
    assert out.startswith("10 pages: ")


@pytest.mark.parametrize(
    "name", [name for name, format in FORMATS.items() if format.longest_side < 2**17], ids=str
)
def test_a_page_that_a_format_cannot_hold_is_told_by_the_dry_run_and_by_the_run(
    tmp_path: Path, tiny_weights: Path, name: str
) -> None:
    format = next(each for each in FORMATS.values() if each.name == name)
    folder = tmp_path / "strips"
    folder.mkdir()
    Image.new("L", (2, format.longest_side // 2 + 1), 200).save(folder / "long.png")
    draw(folder / "usual.png", 1)
    asked = ("--input", folder, "--output", "out", "--scale", 2, "--model", tiny_weights, "--format", name)
    plan = told("run", *asked, "--dry-run")
    assert plan["counts"] == {"refuse": 1, "do": 1}
    (long, usual) = plan["pages"]
    assert (long["action"], long["estimated_bytes"], usual["action"]) == ("refuse", None, "do")
    assert long["target_size"] == [4, 2 * (format.longest_side // 2 + 1)]
    assert f"{format.title} holds at most {format.longest_side} pixels a side" in long["note"]
    assert "1 refuse" in invoke("run", *asked, "--dry-run")[1]
    assert told("cost", *asked[:6], "--format", name, "--gpu", "T4")["work"]["pages"] == 1

    code, out, _ = invoke("run", *asked, "--device", "cpu", "--json")
    assert code == 1
    (failure,) = (event for event in map(json.loads, out.splitlines()) if event["event"] == "page_failed")
    assert (failure["source"], failure["kind"]) == ("long.png", "too-large-for-format")
    assert failure["reason"] == long["note"]
    assert [path.name for path in Path("out").glob(f"*.{format.extension}")] == [f"usual.{format.extension}"]
    # Once it has failed, the dry run says just that.
    assert told("run", *asked, "--dry-run")["counts"] == {"failed": 1, "done": 1}


def test_a_strip_goes_into_the_next_format(tmp_path: Path) -> None:
    folder = tmp_path / "strips"
    folder.mkdir()
    Image.new("L", (2, 40_000), 200).save(folder / "a.jpg")
    for format, action in (
        ("jpeg", "refuse"),
        ("auto", "refuse"),
        ("png", "do"),
        ("jxl", "do"),
        ("tiff", "do"),
    ):
        plan = told("run", "--input", folder, "--scale", 2, "--format", format, "--dry-run")
        assert plan["counts"] == {action: 1}


PACKAGE = Path(comic_upscale.__file__).parent

BMP = '''
"""BMP, by Pillow."""

from comic_upscale.costs.ranges import Range
from comic_upscale.imaging.codecs.base import Assumed, EncodeOptions, OutputFormat
from comic_upscale.imaging.codecs.pillow import save, to_image
from comic_upscale.imaging.pixels import Pixels


def encode_bmp(pixels: Pixels, options: EncodeOptions) -> bytes:
    return save(to_image(pixels.color, None), "BMP")


FORMAT = OutputFormat(
    name="bmp", title="BMP", recognised_as="BMP", extension="bmp", kept_extensions=("dib",), lossless="always",
    longest_side=2**15, alpha=False, encode=encode_bmp,
    assumed_lossless=Assumed(gray_bytes=1.0, color_bytes=3.0, seconds=Range(0.01, 0.02, 0.03), source="none"),
)
'''


@pytest.fixture
def with_bmp(tmp_path: Path) -> Path:
    """A copy of the package with a format more: its name in the settings, and its module among the formats."""
    package = tmp_path / "with bmp" / "comic_upscale"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    settings = package / "settings" / "processing.py"
    text = settings.read_text(encoding="utf-8")
    assert text.count('Literal["auto", "png", ') == 1
    settings.write_text(
        text.replace('Literal["auto", "png", ', 'Literal["auto", "bmp", "png", '), encoding="utf-8"
    )
    (package / "imaging" / "codecs" / "bmp.py").write_text(BMP, encoding="utf-8")
    return package.parent


def test_a_format_is_added_by_its_name_and_its_module_alone(
    pages: Path, tiny_weights: Path, with_bmp: Path
) -> None:
    def told_by_copy(*arguments: object) -> Any:
        command = [sys.executable, "-m", "comic_upscale", *map(str, arguments), "--json"]
        ended = subprocess.run(command, cwd=with_bmp, capture_output=True, text=True, check=True)
        return json.loads(ended.stdout.splitlines()[-1])

    asked = ("--input", pages, "--model", tiny_weights, "--device", "cpu")
    plan = told_by_copy("run", *asked, "--format", "bmp", "--dry-run")
    assert {page["output"].rpartition(".")[2] for page in plan["pages"]} == {"bmp"}
    assert plan["estimated_bytes"] == 60 * 80 * (11 * 3 + 1)
    work = told_by_copy("cost", "--input", pages, "--format", "bmp", "--gpu", "T4")["work"]
    assert (work["format"], work["encode_seconds"]["likely"]) == ("bmp", 0.02)
    out = pages.parent / "out"
    finished = told_by_copy("run", *asked, "--format", "bmp", "--output", out)
    assert (finished["done"], finished["failed"]) == (len(OWN), 0)
    written = sorted(out.glob("*.bmp"))
    assert len(written) == len(OWN)
    for path in written:
        assert decode(path.read_bytes(), max_pixels=100_000).color.shape[:2] == (80, 60)
    # A page of its own format keeps it by now.
    plan = told_by_copy("run", *asked, "--format", "auto", "--dry-run")
    assert {page["source"]: page["output"] for page in plan["pages"]}["drawn.bmp"] == "drawn.bmp"
