"""A finished job with something of everything: files and a volume, failures, a spoilt output, hostile names."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from comic_upscale.jobs.run import run_job
from comic_upscale.reporting.report import Report, make_report, write_report
from comic_upscale.settings.job import JobSettings
from tests.archives import make_zip
from tests.fakes import NearestEngine

SPOILT = "page04.png"


def page(number: int, size: tuple[int, int] = (60, 90)) -> Image.Image:
    """A drawn page unlike any other."""
    image = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(image)
    draw.ellipse((5 + number, 10, size[0] - 8, 50), fill=(200, 20 * (number % 10), 60), outline="black")
    draw.line((0, size[1] - number, size[0], size[1] // 2), fill="black", width=2)
    draw.text((4, size[1] - 16), f"{number}", fill="black")
    return image


def as_bytes(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="session")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder. 14 pages done, 4 of them in a volume, 2 failed; one output turned black since."""
    root = tmp_path_factory.mktemp("job")
    folder = root / "in"
    folder.mkdir()
    (root / "any.pth").write_bytes(b"weights")
    for number in range(8):
        page(number).save(folder / f"page{number:02}.png")
    page(8, (700, 1000)).save(folder / "large.png")
    clear = page(9)
    clear.putalpha(Image.linear_gradient("L").resize(clear.size))
    clear.save(folder / "<img src=x onerror=alert(1)>.png")
    (folder / "broken <b>.png").write_bytes(b"\x89PNG\r\n\x1a\n nothing more")
    (folder / "empty.png").write_bytes(b"")
    make_zip(folder / "v01.cbz", {f"p{number}.png": as_bytes(page(20 + number)) for number in range(4)})
    settings = JobSettings(
        input=folder, output=root / "out", model=str(root / "any.pth"), workers=1, gate=False
    )
    # Without scores, which know nothing of what becomes of an output later on.
    run_job(settings, open_engines=lambda *_: [NearestEngine()])
    Image.new("RGB", (150, 225)).save(settings.output / SPOILT)
    return settings.output


@pytest.fixture(scope="session")
def ledger(job: Path) -> Path:
    return job / ".comic-upscale" / "ledger.sqlite3"


@pytest.fixture(scope="session")
def report(ledger: Path) -> Report:
    return make_report(ledger, show=5, workers=1)


@pytest.fixture(scope="session")
def html(report: Report, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(report, path)
    return path
