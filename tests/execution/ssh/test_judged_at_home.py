"""What a machine sends home is judged here: the format, the header before the pixels, and the pixels by the gate."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from comic_upscale.errors import PageError, RemoteError
from comic_upscale.execution import remote_run
from comic_upscale.execution.events import JobFinished
from comic_upscale.execution.output_check import check_file, compare
from comic_upscale.execution.remote import RemoteOptions
from comic_upscale.execution.remote_host import PollResult, RemotePageResult
from comic_upscale.jobs.run import run_job
from comic_upscale.ledger.queries import read_suspects
from comic_upscale.settings.job import JobSettings
from tests.execution.ssh.liar import peak_memory
from tests.execution.ssh.test_distrust import HostileWorkplace

MEGABYTE = 1 << 20
SIDE = 200


def drawing(mode: str = "RGB", seed: int = 0) -> Image.Image:
    """A page with paper, ink, a gradient and colour, that a network would leave as it is."""
    rows, columns = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32)
    page = np.full((SIDE, SIDE, 3), 255, np.float32)
    page[20:90, 20:180] = 128 + 100 * np.sin((rows + columns * (1 + seed)) / 23)[20:90, 20:180, np.newaxis]
    page[110:180, 20:90] = (180, 60, 40)
    page[110:180, 110:180] = 0
    image = Image.fromarray(page.round().astype(np.uint8))
    if mode == "RGBA":
        alpha = np.full((SIDE, SIDE), 255, np.uint8)
        alpha[:15] = 0
        image.putalpha(Image.fromarray(alpha))
        return image
    return image.convert(mode)


def as_file(image: Image.Image, format: str = "png", **options: object) -> bytes:
    data = io.BytesIO()
    image.save(data, format, **options)
    return data.getvalue()


def larger(image: Image.Image) -> Image.Image:
    return image.resize((image.width * 2, image.height * 2), Image.Resampling.BICUBIC)


class Returning(HostileWorkplace):
    """A machine that returns what a test makes of a page."""

    def __init__(self, make: Callable[[Image.Image], bytes], **lies: object) -> None:
        super().__init__(**lies)
        self._make = make

    def make(self, source: bytes) -> bytes:
        with Image.open(io.BytesIO(source)) as image:
            image.load()
            return self._make(image)


def run_with(machine: HostileWorkplace, tmp_path: Path, mode: str = "RGB", **more: object) -> JobFinished:
    weights = tmp_path / "any.safetensors"
    weights.write_bytes(b"weights")
    (tmp_path / "pages").mkdir()
    for number in range(3):
        drawing(mode, number).save(tmp_path / "pages" / f"{number}.png")
    settings = JobSettings(
        input=tmp_path / "pages", output=tmp_path / "out", model=str(weights), scale=2.0, workers=2, **more
    )  # type: ignore[arg-type]
    return run_job(settings, remote=[RemoteOptions(machine, poll=0.1)])


def png_that_says(width: int, height: int) -> bytes:
    """A PNG of some bytes that says it is so large."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(50_000_000), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def gif_that_says(width: int, height: int) -> bytes:
    """A GIF of some bytes that says it is so large, and whose decoder allocates all of it."""
    head = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    image = b"," + struct.pack("<HHHHB", 0, 0, width, height, 0)
    return head + image + b"\x02\x02\x44\x01\x00;"


WRONG: dict[str, Callable[[Image.Image], bytes]] = {
    "gif": lambda image: gif_that_says(20_000, 20_000),
    "gif of the right size": lambda image: as_file(larger(image).convert("P"), "gif"),
    "jpeg": lambda image: as_file(larger(image), "jpeg"),
    "a huge png": lambda image: png_that_says(20_000, 20_000),
    "the source": lambda image: as_file(image),
    "an animation": lambda image: as_file(
        larger(image), "png", save_all=True, append_images=[larger(image).rotate(180)] * 20, duration=10
    ),
    "a text": lambda image: b"<html>not found</html>",
}


@pytest.mark.parametrize("what", WRONG)
def test_only_a_page_of_the_right_kind_and_size_is_decoded(what: str, tmp_path: Path) -> None:
    machine = Returning(WRONG[what])
    before = peak_memory()
    finished = run_with(machine, tmp_path)
    assert (finished.done, finished.failed) == (0, 3)
    assert {kind for _, kind, _ in finished.failures} == {"remote"}
    assert "--retry-failed" in finished.failures[0][2]
    assert not list((tmp_path / "out").glob("*.png"))
    assert sorted(machine.forgotten) == sorted(machine.names)
    # 20,000 x 20,000 pixels are 1.2 GB.
    assert peak_memory() - before < 400 * MEGABYTE


def test_samples_without_end_in_a_tiff() -> None:
    import tifffile

    data = io.BytesIO()
    samples = np.zeros((40, 40, 300), np.uint8)
    tifffile.imwrite(data, samples, photometric="minisblack", compression="zlib", planarconfig="contig")
    import hashlib

    page = RemotePageResult(
        name="x", state="done", output_width=40, output_height=40, size=len(data.getvalue()),
        sha256=hashlib.sha256(data.getvalue()).hexdigest(),
    )  # fmt: skip
    with pytest.raises(PageError, match=r"no page|samples per pixel"):
        check_file(data.getvalue(), page, "tiff")


@pytest.mark.parametrize("color", [255, 0, 128])
def test_flat_pages_are_suspect(color: int, tmp_path: Path) -> None:
    blank = Returning(lambda image: as_file(Image.new("RGB", (2 * SIDE, 2 * SIDE), (color,) * 3)))
    finished = run_with(blank, tmp_path)
    assert (finished.done, finished.suspects) == (3, 3)
    suspects = read_suspects(tmp_path / "out" / ".comic-upscale" / "ledger.sqlite3")
    assert all(page.scores["psnr"] < 20 for page in suspects)


def test_other_pages_are_suspect(tmp_path: Path) -> None:
    turned = Returning(lambda image: as_file(larger(image).rotate(180)))
    assert run_with(turned, tmp_path).suspects == 3


def test_strict_settings_refuse_them(tmp_path: Path) -> None:
    blank = Returning(lambda image: as_file(Image.new("RGB", (2 * SIDE, 2 * SIDE), "white")))
    finished = run_with(blank, tmp_path, strict=True)
    assert (finished.done, finished.failed) == (0, 3)
    assert {kind for _, kind, _ in finished.failures} == {"suspect"}
    assert sorted(blank.forgotten) == sorted(blank.names)


def test_without_the_gate_nothing_is_compared(tmp_path: Path) -> None:
    blank = Returning(lambda image: as_file(Image.new("RGB", (2 * SIDE, 2 * SIDE), "white")))
    finished = run_with(blank, tmp_path, gate=False)
    assert (finished.done, finished.suspects) == (3, 0)


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
def test_honest_pages_pass(mode: str, tmp_path: Path) -> None:
    finished = run_with(Returning(lambda image: as_file(larger(image))), tmp_path, mode)
    assert (finished.done, finished.suspects) == (3, 0)


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
@pytest.mark.parametrize(("format", "options"), [("jpeg", {"quality": 60}), ("webp", {"quality": 50})])
def test_lossy_pages_are_not_suspect_for_that(mode: str, format: str, options: dict[str, int]) -> None:
    source = drawing(mode)
    output = larger(source)
    if format == "jpeg" and mode == "RGBA":
        paper = Image.new("RGB", output.size, "white")
        paper.paste(output, mask=output.getchannel("A"))
        output = paper
    settings = JobSettings(input=Path("in"), output=Path("out"), model="any", scale=2.0)
    assert compare(as_file(source), as_file(output, format, **options), settings).suspect == ()
    blank = Image.new(output.mode, output.size, "white")
    assert compare(as_file(source), as_file(blank, format, **options), settings).suspect


def test_a_source_that_changed_since_is_not_compared(tmp_path: Path) -> None:
    class Slow(Returning):
        def poll(self) -> PollResult:
            for page in (tmp_path / "pages").iterdir():
                page.unlink()
            return super().poll()

    finished = run_with(Slow(lambda image: as_file(larger(image))), tmp_path)
    assert (finished.done, finished.suspects) == (3, 0)


def test_a_run_that_lives_and_finishes_nothing_is_stopped(tmp_path: Path) -> None:
    class Busy(HostileWorkplace):
        def poll(self) -> PollResult:
            return PollResult(True, None, ())

    weights = tmp_path / "any.safetensors"
    weights.write_bytes(b"weights")
    (tmp_path / "pages").mkdir()
    drawing().save(tmp_path / "pages" / "0.png")
    settings = JobSettings(input=tmp_path / "pages", output=tmp_path / "out", model=str(weights), scale=2.0)
    machine = Busy()
    with pytest.raises(
        RemoteError, match=r"finished no page for 1 seconds \(--page-timeout\)\. It was stopped"
    ):
        run_job(settings, remote=[RemoteOptions(machine, poll=0.1, page_timeout=1.0)])
    assert machine.stopped


def test_a_ceiling_holds_while_a_poll_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    monkeypatch.setattr(remote_run, "STOP_SECONDS", 5.0)

    class Hanging(HostileWorkplace):
        def __init__(self) -> None:
            super().__init__()
            self.broken = threading.Event()

        def poll(self) -> PollResult:
            self.broken.wait(120)
            raise RemoteError("the call was broken off")

        def abort(self) -> None:
            self.broken.set()

    machine = Hanging()
    finished = run_with(machine, tmp_path, price=3600.0, max_cost=5.0)
    assert (finished.state, finished.stopped_by, finished.done) == ("interrupted", "max-cost", 0)
    assert machine.stopped, "the remote run costs money too"
    assert finished.spent is not None
    assert finished.spent < 60


def test_a_run_that_cannot_be_stopped_is_told(tmp_path: Path) -> None:
    class Deaf(HostileWorkplace):
        def poll(self) -> PollResult:
            return PollResult(True, None, ())

        def stop(self) -> str:
            return "busy"

    finished = run_with(Deaf(), tmp_path, price=3600.0, max_cost=3.0)
    assert finished.stopped_by == "max-cost"
    assert "may still be active" in str(finished.reason)


@pytest.mark.parametrize(
    ("model", "denoise", "cleans"),
    [("comic-compact-x3", None, False), ("comic-fast", None, True), ("comic-fast", 0.5, True)],
)
def test_white_may_be_cleaner_only_with_a_network_that_cleans_it(
    tmp_path: Path, model: str, denoise: float | None, cleans: bool
) -> None:
    page = drawing("L")
    soiled = Image.fromarray(np.minimum(np.asarray(page), 250))
    settings = JobSettings(input=tmp_path, output=tmp_path / "out", model=model, denoise=denoise)
    found = compare(as_file(soiled), as_file(larger(page)), settings)
    assert bool(found.suspect) is not cleans
    assert found.scores
