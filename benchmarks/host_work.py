"""What one thread spends on a page beside the network: decoding and preparing it, finishing, judging, encoding it.

Usage: python -m benchmarks.host_work [--pages 12] [--rounds 1] [--json FILE] [--steps]

Processor time of the thread, not the clock: that a machine has other work to do does not change it. The pages
are those of ``whole_run.py``, 512 x 768 of real pages, brought to 2.5x by Lanczos. The results stand in
``comic_upscale/costs/rates.toml`` and in the formats' descriptors as the rate of a core that was not measured itself.

``--steps`` lists the milliseconds of each step of a page that is written as PNG, in place of the other report: for a
host that does everything, and beside a GPU that finishes pages. What the GPU would do is done before, and not counted.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from benchmarks.machine import facts, write_report
from benchmarks.whole_run import SCALE, cut_pages
from comic_upscale.engines.pages import prepare
from comic_upscale.engines.torch.finishing_proof import finish_on_host
from comic_upscale.execution.quality_gate import QualityGate
from comic_upscale.gate.measures import MeasurePlan
from comic_upscale.gate.scores import RawOutput
from comic_upscale.gate.texture import find_islands
from comic_upscale.gate.verdict import judge, measure_raw_output
from comic_upscale.imaging.codecs import FORMATS
from comic_upscale.imaging.decode import decode
from comic_upscale.imaging.encode import check_encoded, encode
from comic_upscale.imaging.faint_lines import restore_faint_lines
from comic_upscale.imaging.flat_areas import restore_solid
from comic_upscale.imaging.pixels import DeviceWork, Pixels
from comic_upscale.imaging.target_size import target_size
from comic_upscale.imaging.tone import restore_tone
from comic_upscale.settings.job import FormatName

Result = TypeVar("Result")


def main() -> None:
    """Measure, print, and write what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pages", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=1, help="a page counts by its quickest")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--steps", action="store_true", help="the steps of a page that is written as PNG")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        files = [path.read_bytes() for path in cut_pages(Path(folder) / "pages", options.pages)]
    what = {"pages": options.pages, "rounds": options.rounds, "page": "512x768 to 1280x1920"}
    found = measure_parts(files, options.rounds) if options.steps else measure(files, options.rounds)
    report = {**facts(1), **what, **found}
    print(json.dumps(report, indent=2))
    if options.json:
        write_report(report, options.json)


def encodings() -> dict[str, tuple[FormatName, int | None]]:
    """Every way in which a page can be written, with format and quality."""
    return {
        format.encoding(quality): (name, quality)
        for name, format in FORMATS.items()
        for quality in (format.default_quality, None)
    }


def measure(files: list[bytes], rounds: int = 1) -> dict[str, Any]:
    """Seconds and bytes for a megapixel of output (decoding: of input), the mean over the pages."""
    pages = [prepare(decode(data, max_pixels=10**9)) for data in files]
    larger = [enlarged(page) for page in pages]
    reading = [
        min(seconds(lambda data=data: prepare(decode(data, max_pixels=10**9))) for _ in range(rounds))
        for data in files
    ]
    inputs = sum(page.width * page.height for page in pages) / 1e6
    outputs = sum(page.width * page.height for page in larger) / 1e6
    gate = QualityGate()
    encoding: dict[str, dict[str, float]] = {}
    for name, (format, quality) in encodings().items():
        written: list[bytes] = []

        def work(
            source: Pixels, page: Pixels, format: FormatName = format, quality: int | None = quality
        ) -> None:
            page, _ = gate.finished(source, page)
            data = encode(page, format=format, quality=quality)
            hashlib.sha256(data)
            written.append(data)  # noqa: B023 - used within its own format alone

        def check(number: int, page: Pixels) -> None:
            check_encoded(written[number * rounds], (page.width, page.height))  # noqa: B023 - as above

        spent = [
            min(seconds(lambda source=source, page=page: work(source, page)) for _ in range(rounds))
            + min(seconds(lambda number=number, page=page: check(number, page)) for _ in range(rounds))
            / FORMATS[format].read_back_every
            for number, (source, page) in enumerate(zip(pages, larger, strict=True))
        ]
        encoding[name] = {
            "seconds_a_megapixel": round(sum(spent) / outputs, 4),
            "least": round(min(spent) / outputs * len(spent), 4),
            "most": round(max(spent) / outputs * len(spent), 4),
            "bytes_a_pixel": round(statistics.fmean(map(len, written)) * len(larger) / outputs / 1e6, 3),
        }
    done = [finished_on_device(source, page) for source, page in zip(pages, larger, strict=True)]
    beside = [
        min(seconds(lambda source=source, page=page: write_png(gate, source, page)) for _ in range(rounds))
        for source, page in zip(pages, done, strict=True)
    ]
    checking = sum(
        min(
            seconds(lambda data=data, page=page: check_encoded(data, (page.width, page.height)))
            for _ in range(rounds)
        )
        for data, page in ((encode(page, format="png"), page) for page in done)
    )
    beside_gpu = sum(beside) + checking / FORMATS["png"].read_back_every
    return {
        "decode_seconds_a_megapixel": round(sum(reading) / inputs, 4),
        "encode": encoding,
        "png_beside_a_gpu_seconds_a_megapixel": round(beside_gpu / outputs, 4),
        "finished_by_the_gpu": sum(page.device_work is not None for page in done),
    }


def finished_on_device(source: Pixels, page: Pixels) -> Pixels:
    """Return a page as it comes from a GPU that finishes pages; raw if the GPU would leave it to the host."""
    measures = MeasurePlan.of(source.color.shape, page.color.shape, looks_for_texture=False)
    if source.faint is not None or measures is None:
        return page
    color, work = finish_on_host(replace(page, color=page.color.copy()), measures)
    return replace(page, color=color, device_work=work, tone=None, paper=None, solid=None)


def write_png(gate: QualityGate, source: Pixels, page: Pixels) -> None:
    """Judge and encode a page, as a worker does."""
    page, _ = gate.finished(source, page)
    rows = None if page.device_work is None else page.device_work.png_rows
    hashlib.sha256(encode(page, format="png", png_rows=rows))


def measure_parts(files: list[bytes], rounds: int = 1) -> dict[str, Any]:
    """Return the milliseconds of each step, the mean and the median over the pages; each by its quickest round."""
    report = {}
    for name, on_device in (("milliseconds_a_page", False), ("milliseconds_a_page_beside_a_gpu", True)):
        spent: dict[str, list[float]] = {}
        for data in files:
            found = [parts_of_page(data, on_device=on_device) for _ in range(rounds)]
            for step in found[0]:
                spent.setdefault(step, []).append(1000 * min(each[step] for each in found))
            spent.setdefault("sum", []).append(1000 * min(sum(each.values()) for each in found))
        report[name] = {
            step: {"mean": round(statistics.fmean(each), 2), "median": round(statistics.median(each), 2)}
            for step, each in spent.items()
        }
    return report


def parts_of_page(data: bytes, *, on_device: bool = False) -> dict[str, float]:
    """Return the seconds of each step of one page, in the order of a run.

    Args:
        data: the file of the page.
        on_device: whether a device finishes the page.
    """
    spent: dict[str, float] = {}

    def timed(step: str, work: Callable[[], Result]) -> Result:
        start = time.thread_time()
        result = work()
        spent[step] = time.thread_time() - start
        return result

    decoded = timed("decode", lambda: decode(data, max_pixels=10**9))
    source = timed("prepare", lambda: prepare(decoded))
    page = enlarged(source)
    measures = MeasurePlan.of(source.color.shape, page.color.shape, looks_for_texture=True)
    work: DeviceWork | None = None
    if on_device and source.faint is None and measures is not None:
        color, work = finish_on_host(page, measures)
        assert work.raw_small is not None
        raw = RawOutput(work.raw_small)
        page = replace(page, color=color)
    else:
        raw = timed("gate: raw output", lambda: measure_raw_output(source.color, page.color))
        page = timed("correct faint lines", lambda: restore_faint_lines(page))
        page = timed("correct tone", lambda: restore_tone(page))
        page = timed("correct solid areas", lambda: restore_solid(page))
    timed("gate: finished page", lambda: judge(source.color, page.color, raw=raw, device_work=work))
    bends = None if work is None else work.bends
    timed("gate: invented texture", lambda: find_islands(source.color, page.color, bends))
    rows = None if work is None else work.png_rows
    written = timed("encode", lambda: encode(page, format="png", png_rows=rows))
    timed("check", lambda: check_encoded(written, (page.width, page.height)))
    # A run checks only every Nth file.
    spent["check"] /= FORMATS["png"].read_back_every
    timed("hash", lambda: hashlib.sha256(written))
    return spent


def seconds(work: Callable[[], object]) -> float:
    """Processor time that this thread spends on something."""
    start = time.thread_time()
    work()
    return time.thread_time() - start


def enlarged(page: Pixels) -> Pixels:
    """The page at its target size, by Lanczos."""
    size = target_size(page.width, page.height, SCALE)
    image = Image.fromarray(page.color.squeeze())
    samples = np.asarray(image.resize(size, Image.Resampling.LANCZOS))
    return replace(page, color=samples.reshape(size[1], size[0], -1).copy())


if __name__ == "__main__":
    main()
