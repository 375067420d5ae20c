"""What the benchmarks stand on, or a skip."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from benchmarks.validation import ValidationPage, validation_pages


@pytest.fixture
def pages(comics_dir: Path) -> list[ValidationPage]:
    """The validation pages."""
    return validation_pages()


@pytest.fixture(scope="session")
def drawing() -> Image.Image:
    """A drawing of 160 x 240: lines and a filled shape on white."""
    image = Image.new("RGB", (160, 240), "white")
    draw = ImageDraw.Draw(image)
    draw.rectangle((90, 150, 160, 240), fill="black")
    draw.ellipse((20, 30, 90, 110), outline="black", fill=(200, 60, 40), width=4)
    draw.line((5, 230, 80, 130), fill="black", width=3)
    return image


@pytest.fixture
def small_set(tmp_path: Path, drawing: Image.Image, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of shared pages in small: one page that is CC BY-SA, and one that is not."""
    folder = tmp_path / "comics"
    (folder / "dev").mkdir(parents=True)
    rows = []
    for name, licence in (("drawing.png", "CC BY-SA 4.0"), ("other.png", "CC BY 4.0")):
        drawing.save(folder / "dev" / name)
        rows.append({"file": name, "kind": "drawing", "licence": licence, "attribution": "nobody"})
    (folder / "dev.json").write_text(json.dumps(rows), encoding="utf-8")
    monkeypatch.setenv("COMIC_UPSCALE_COMICS", str(folder))
    return folder
