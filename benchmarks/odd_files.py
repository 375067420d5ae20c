"""What becomes of every odd file: run each through the whole of comic-upscale, and list what came out.

::

    python benchmarks/odd_files.py PAGES... [--model NAME] [--format auto] [--output FILE]

Each file, an image or a volume, is a run of its own in a process of its own, whose largest memory is listed with it.
Without --model a small random network stands for a real one, and the table tells of reading and writing alone: its
pages are not looked at before they are written, since all would be suspect.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import tempfile
import time
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any


def main() -> None:
    """Run every file and print a line for each."""
    parser = argparse.ArgumentParser(description="List what becomes of odd files.")
    parser.add_argument("pages", nargs="+", type=Path, help="images and volumes, or folders of them")
    parser.add_argument("--model", help="name of a model, or a file of weights")
    parser.add_argument("--format", default="png")
    parser.add_argument("--scale", type=float, default=2.0)
    parser.add_argument("--output", type=Path, help="where to write the table as JSON")
    asked = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        model = asked.model or made_weights(Path(folder))
        for path in files(asked.pages):
            row = in_a_process(path, model, asked.format, asked.scale, gate=bool(asked.model))
            rows.append({**row, "model": asked.model})
            print(line(rows[-1]), flush=True)
            if asked.output:
                text = json.dumps(rows, indent=1, ensure_ascii=False)
                asked.output.write_text(text + "\n", encoding="utf-8")
    print(summary(rows))


def files(paths: list[Path]) -> list[Path]:
    """Return the files of the folders, and the files themselves."""
    return [file for path in paths for file in (sorted(path.iterdir()) if path.is_dir() else [path])]


def made_weights(folder: Path) -> str:
    """Write a compact network of x2 with few random weights, and return where."""
    import torch
    from safetensors.torch import save_file
    from spandrel.architectures.Compact import Compact

    torch.manual_seed(1)
    state = Compact(num_feat=8, num_conv=1, upscale=2).state_dict()
    path = folder / "tiny-x2.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
    return str(path)


def in_a_process(path: Path, model: str, format: str, scale: float, *, gate: bool) -> dict[str, Any]:
    """Run one image in a process of its own; a crash of it is a row of the table."""
    # A fork, so that torch is imported once for all: its memory counts in each.
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)

    def work() -> None:
        sender.send(run_one(path, model, format=format, scale=scale, gate=gate))

    process = context.Process(target=work)
    process.start()
    sender.close()
    try:
        row: dict[str, Any] = receiver.recv()
    except EOFError:
        process.join()
        row = {"file": path.name, "crashed": process.exitcode}
    process.join()
    return row


def run_one(path: Path, model: str, *, format: str, scale: float, gate: bool) -> dict[str, Any]:
    """Upscale one image into a folder that is thrown away, and describe what stands there."""
    from comic_upscale import JobSettings, run_job
    from comic_upscale.errors import ComicUpscaleError
    from comic_upscale.execution.events import Event
    from comic_upscale.ledger.records import PageDone, PageFailed, VolumeDone

    events: list[Event] = []
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "pages"
        place.mkdir()
        (place / path.name).write_bytes(path.read_bytes())
        output = Path(folder) / "out"
        settings = JobSettings(
            input=place, output=output, scale=scale, model=model, device="cpu", workers=1,
            gate=gate,
            format=format,  # type: ignore[arg-type]
        )  # fmt: skip
        start = time.perf_counter()
        row: dict[str, Any] = {"file": path.name}
        try:
            run_job(settings, on_event=events.append)
        except ComicUpscaleError as error:
            row |= {"failed": type(error).__name__, "reason": str(error).replace(folder, "")}
        seconds = time.perf_counter() - start
        # Now: to read the output again below takes more than to make it.
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        row["seconds"] = round(seconds, 2)
        volumes = [event for event in events if isinstance(event, VolumeDone)]
        for event in events:
            if isinstance(event, PageFailed):
                row |= {"failed": event.kind, "reason": event.reason.replace(folder, "")}
            elif isinstance(event, PageDone) and (output / event.output).is_file():
                row |= {"source": f"{event.width}x{event.height}", "notes": list(event.notes)}
                row |= describe(output / event.output)
        for volume in volumes:
            row |= describe_volume(output / volume.output) | {"notes": list(volume.notes)}
        stray = [found.name for found in Path(folder).iterdir() if found.name not in ("pages", "out")]
        stray += [found.name for found in place.iterdir() if found.name != path.name]
        row |= {"outside": stray, "peak_mb": peak}
        return row


def describe(path: Path) -> dict[str, Any]:
    """Say what an output is, as comic-upscale reads it again."""
    from comic_upscale.imaging.color import profile_space
    from comic_upscale.imaging.decode import decode

    data = path.read_bytes()
    page = decode(data, max_pixels=1 << 30)
    kept = page.metadata
    return {
        "output": path.name,
        "bytes": len(data),
        "size": f"{page.width}x{page.height}",
        "mode": ("L" if page.color.shape[2] == 1 else "RGB") + "A" * (page.alpha is not None),
        "bits": page.bits,
        "profile": profile_space(page.icc_profile) if page.icc_profile else None,
        "dpi": None if kept.dpi is None else [round(value, 1) for value in kept.dpi],
        "exif": len(kept.exif or b""),
        "xmp": len(kept.xmp or b""),
    }


def describe_volume(path: Path) -> dict[str, Any]:
    """Say what the CBZ of a volume holds."""
    from comic_upscale.imaging.decode import decode
    from comic_upscale.imaging.formats import IMAGE_EXTENSIONS, extension_of

    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        pages = [name for name in names if extension_of(name) in IMAGE_EXTENSIONS]
        # Every page is read again, and one that cannot be ends the process: a crash in the table.
        sizes = [
            (page.width, page.height)
            for name in pages
            if (page := decode(archive.read(name), max_pixels=1 << 30))
        ]
    return {
        "output": path.name,
        "bytes": path.stat().st_size,
        "pages": len(sizes),
        "others": len(names) - len(pages),
    }


def line(row: dict[str, Any]) -> str:
    """One row as text."""
    name = f"{row['file'][:44]:44}"
    if "crashed" in row:
        return f"{name} CRASHED {row['crashed']}"
    memory = f"{row['peak_mb']:5} MB"
    if "failed" in row:
        return f"{name} {memory} {row['failed']}: {row['reason'][:90]}"
    if "pages" in row:
        return f"{name} {memory} {row['pages']} pages, {row['others']} others {'; '.join(row['notes'])}"
    words = [f"{row['mode']:4} {row['bits']:2} bits {row['size']:>11}"]
    words += [f"{name} {row[name]}" for name in ("profile", "dpi", "exif", "xmp") if row.get(name)]
    return f"{name} {memory} {' '.join(words)} {'; '.join(row['notes'])}"


def summary(rows: list[dict[str, Any]]) -> str:
    """Count what became of all."""
    kinds = Counter(
        "crashed" if "crashed" in row else f"failed as {row['failed']}" if "failed" in row else "done"
        for row in rows
    )
    outside = sum(bool(row.get("outside")) for row in rows)
    counts = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    return f"{len(rows)} files: {counts}; {outside} wrote outside the output folder"


if __name__ == "__main__":
    main()
