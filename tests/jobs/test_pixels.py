"""What the settings of pixels do to a whole run: formats kept, animations skipped, 16 bits from file to file."""

from __future__ import annotations

import sqlite3
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from comic_upscale.execution.events import Event, JobFinished
from comic_upscale.imaging.decode import decode
from comic_upscale.imaging.encode import encode
from comic_upscale.imaging.pixels import Metadata, Pixels
from comic_upscale.jobs.run import run_job
from comic_upscale.ledger.records import PageSkipped
from comic_upscale.planning.preview import preview
from comic_upscale.settings.job import JobSettings
from tests.fakes import NearestEngine


def run(settings: JobSettings, events: list[Event] | None = None) -> JobFinished:
    seen = [] if events is None else events
    return run_job(settings, open_engines=lambda *_: [NearestEngine()], on_event=seen.append)


def settings(folder: Path, weights: Path, **changes: object) -> JobSettings:
    values = {
        "input": folder / "in",
        "output": folder / "out",
        "scale": 2.0,
        "model": str(weights),
        "workers": 2,
    }
    return JobSettings(**{**values, **changes})  # type: ignore[arg-type]


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    return folder


def picture(seed: int, kind: type[np.uint8 | np.uint16] = np.uint8) -> np.ndarray:
    random = np.random.default_rng(seed)
    return random.integers(0, np.iinfo(kind).max, (12, 10, 3), kind, endpoint=True)


def test_auto_keeps_the_format_of_each_page(tmp_path: Path, inbox: Path, tiny_weights: Path) -> None:
    for name in ("a.jpg", "b.jpeg", "c.webp", "d.png", "e.gif", "f.tif", "g.avif", "c.png"):
        Image.fromarray(picture(len(name))).save(inbox / name)
    (inbox / "h.jxl").write_bytes(encode(Pixels(picture(9)), format="jxl"))
    Image.fromarray(picture(3)).save(inbox / "exact.webp", lossless=True)
    finished = run(settings(tmp_path, tiny_weights, format="auto"))
    assert (finished.done, finished.failed) == (10, 0)
    out = {path.name: path for path in (tmp_path / "out").iterdir() if path.is_file()}
    assert sorted(out) == [
        "a.jpg", "b.jpeg", "c.png", "c.webp", "d.png", "e.png", "exact.webp", "f.tif", "g.avif", "h.jxl",
    ]  # fmt: skip
    kinds = {name: decode(path.read_bytes(), max_pixels=10**6) for name, path in out.items()}
    assert all((page.width, page.height) == (20, 24) for page in kinds.values())
    assert kinds["exact.webp"].lossless
    assert not kinds["c.webp"].lossless
    assert (kinds["exact.webp"].color == picture(3).repeat(2, axis=0).repeat(2, axis=1)).all()
    assert run(settings(tmp_path, tiny_weights, format="auto")).done_now == 0


def test_an_animation_is_skipped_and_no_failure(tmp_path: Path, inbox: Path, tiny_weights: Path) -> None:
    frames = [Image.fromarray(picture(seed)) for seed in (1, 2)]
    frames[0].save(inbox / "moves.gif", save_all=True, append_images=frames[1:])
    frames[0].save(inbox / "stands.png")
    events: list[Event] = []
    asked = settings(tmp_path, tiny_weights, animated="skip")
    finished = run(asked, events)
    assert (finished.state, finished.done, finished.failed, finished.skipped) == ("finished", 1, 0, 1)
    (skipped,) = [event for event in events if isinstance(event, PageSkipped)]
    assert "--animated first" in skipped.reason
    again = run(asked)
    assert (again.done_now, again.skipped) == (0, 1)
    assert preview(asked).counts == {"skip": 1, "done": 1}
    assert run(settings(tmp_path, tiny_weights)).done == 2


def test_pages_of_volumes_keep_their_formats_and_animations(
    tmp_path: Path, inbox: Path, tiny_weights: Path
) -> None:
    frames = [Image.fromarray(picture(seed)) for seed in (1, 2)]
    frames[0].save(tmp_path / "moves.gif", save_all=True, append_images=frames[1:])
    frames[0].save(tmp_path / "still.jpeg")
    frames[0].save(tmp_path / "exact.webp", lossless=True)
    with zipfile.ZipFile(inbox / "v.cbz", "w") as archive:
        for name in ("exact.webp", "moves.gif", "still.jpeg"):
            archive.write(tmp_path / name, name)
    finished = run(settings(tmp_path, tiny_weights, format="auto", animated="skip"))
    assert (finished.done, finished.skipped, finished.volumes_done) == (2, 1, 1)
    with zipfile.ZipFile(tmp_path / "out" / "v.cbz") as archive:
        assert archive.namelist() == ["exact.webp", "moves.gif", "still.jpeg"]
        assert archive.read("moves.gif") == (tmp_path / "moves.gif").read_bytes()
        page = decode(archive.read("exact.webp"), max_pixels=10**6)
        assert (page.color == picture(1).repeat(2, axis=0).repeat(2, axis=1)).all()
    assert run(settings(tmp_path, tiny_weights, format="auto", animated="skip")).done_now == 0


def test_a_gray_page_saved_in_colour_becomes_one_channel(
    tmp_path: Path, inbox: Path, tiny_weights: Path
) -> None:
    shades = picture(1)[:, :, :1].repeat(3, axis=2)
    Image.fromarray(shades).save(inbox / "gray.png")
    modes = {}
    for gray in ("auto", "keep"):
        run(settings(tmp_path, tiny_weights, gray=gray))
        with Image.open(tmp_path / "out" / "gray.png") as image:
            modes[gray] = image.mode
    assert modes == {"auto": "L", "keep": "RGB"}


def of_an_earlier_version(ledger: Path) -> None:
    """Take out of a ledger what came with the choice of gray."""
    connection = sqlite3.connect(ledger)
    connection.execute("alter table jobs drop column early_gray")
    connection.execute("delete from _sqlite_migrations where name = 'm005_early_gray'")
    connection.commit()
    connection.close()


@pytest.mark.parametrize("model", ["named", "auto"])
def test_a_job_of_an_earlier_version_goes_on_as_it_began(
    tmp_path: Path, inbox: Path, tiny_weights: Path, model: str
) -> None:
    made: dict[str, object] = {"model": "auto", "device": "cpu"} if model == "auto" else {}
    for name in ("a.png", "b.png"):
        Image.fromarray(picture(1)[:, :, :1].repeat(3, axis=2)).save(inbox / name)
    # What earlier versions did with every page; their settings had no word for it.
    began = settings(tmp_path, tiny_weights, gray="keep", **made)
    run(began)
    of_an_earlier_version(began.ledger_path)
    (tmp_path / "out" / "b.png").unlink()
    asked = settings(tmp_path, tiny_weights, **made)
    assert preview(asked).counts == {"done": 1, "do": 1}
    for done_now in (1, 0):
        assert run(asked).done_now == done_now
    with Image.open(tmp_path / "out" / "b.png") as image:
        assert image.mode == "RGB"
    # Requested explicitly, it is a different job.
    assert run(settings(tmp_path, tiny_weights, gray="auto", **made)).done_now == 2


def test_a_dry_run_knows_the_pages_of_an_output_folder_that_was_moved(
    tmp_path: Path, inbox: Path, tiny_weights: Path
) -> None:
    Image.fromarray(picture(1)).save(inbox / "a.png")
    run(settings(tmp_path, tiny_weights))
    (tmp_path / "out").rename(tmp_path / "elsewhere")
    moved = settings(tmp_path, tiny_weights, output=tmp_path / "elsewhere")
    assert preview(moved).counts == {"done": 1}
    assert run(moved).done_now == 0


def test_sixteen_bits_and_what_belongs_to_a_page_go_from_file_to_file(
    tmp_path: Path, inbox: Path, tiny_weights: Path
) -> None:
    xmp = b"<x:xmpmeta/>"
    source = Pixels(picture(1, np.uint16), metadata=Metadata(None, xmp, (300.0, 300.0)))
    (inbox / "deep.png").write_bytes(encode(source, format="png"))
    run(settings(tmp_path, tiny_weights))
    page = decode((tmp_path / "out" / "deep.png").read_bytes(), max_pixels=10**6)
    assert (page.color == source.color.repeat(2, axis=0).repeat(2, axis=1)).all()
    assert page.metadata.xmp == xmp
    assert page.metadata.dpi == pytest.approx((300, 300), rel=0.001)


def test_a_run_says_that_prompts_were_lost(tmp_path: Path, inbox: Path, tiny_weights: Path) -> None:
    text = PngInfo()
    text.add_text("parameters", "a cat, inked")
    for name in ("a.png", "b.png"):
        Image.fromarray(picture(1)[:, :, 0]).save(inbox / name, pnginfo=text)
    assert run(settings(tmp_path, tiny_weights)).warnings == ()
    lost = run(settings(tmp_path, tiny_weights, format="webp", output=tmp_path / "webp"))
    assert lost.warnings == (
        "2 pages have lost the texts of the PNG, such as the prompt: --format png keeps them",
    )
