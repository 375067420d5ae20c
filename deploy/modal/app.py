"""comic-upscale on Modal: rented GPUs that are paid by the second, without a machine to set up.

Usage, in a clone of comic-upscale: pip install modal && modal setup
       modal run deploy/modal/app.py --input pages/ --output pages-x2.5/ --scale 2.5

Each page is one call. Pages whose outputs exist are left out, so the same command continues after a stop.
"""

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import modal

REPOSITORY = Path(__file__).resolve().parents[2]
WEIGHTS = "/weights"
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".avif", ".jxl", ".bmp")
OUTPUT_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".avif", ".jxl")

app = modal.App("comic-upscale")
image = (
    modal.Image.debian_slim(python_version="3.12")
    .apt_install("libarchive13")
    .add_local_dir(
        REPOSITORY, "/src", copy=True,
        ignore=[".git", ".venv", "**/__pycache__", "build", "dist", "benchmarks/results"],
    )
    .uv_pip_install("/src")
)  # fmt: skip
weights = modal.Volume.from_name("comic-upscale-weights", create_if_missing=True)


@app.cls(
    image=image,
    gpu=["L4", "A10", "T4"],
    volumes={WEIGHTS: weights},
    timeout=600,
    retries=2,
    # A GPU that waits is paid, too.
    scaledown_window=30,
    max_containers=int(os.environ.get("COMIC_UPSCALE_MODAL_CONTAINERS", "4")),
)
class Pages:
    """Upscales pages. A container loads the network once."""

    model: str = modal.parameter(default="auto")

    @modal.enter()
    def load(self) -> None:
        """Load the network; its weights stay in the volume."""
        from comic_upscale import Upscaler

        cache = Path(WEIGHTS) if Path(WEIGHTS).is_dir() else None
        self.upscaler = Upscaler(self.model, weights_cache=cache)

    @modal.exit()
    def unload(self) -> None:
        """Release the memory of the GPU."""
        self.upscaler.close()

    @modal.method()
    def page(self, data: bytes, scale: float = 2.5, suffix: str = ".png") -> bytes | str:
        """Return the file of an upscaled page, or why it cannot be upscaled.

        A page that is at fault raises nothing, because Modal would repeat the call, and bill it again.

        Args:
            data: the file of a page.
            scale: above 1, at most 8.
            suffix: of the output, which says its format.
        """
        from comic_upscale import upscale_image
        from comic_upscale.errors import PageError

        with tempfile.TemporaryDirectory() as folder:
            source, target = Path(folder) / "page", Path(folder) / f"output{suffix}"
            source.write_bytes(data)
            try:
                upscale_image(source, target, scale=scale, upscaler=self.upscaler)
            except PageError as error:
                return str(error)
            return target.read_bytes()


def upscale_folder(
    call: Callable[..., Iterator[Any]], source: Path, target: Path, *, scale: float, suffix: str
) -> list[str]:
    """Upscale the pages of a folder that have no output yet, and return why pages failed.

    Args:
        call: like ``Pages().page.map``.
        source: folder of the pages.
        target: folder of the outputs.
        scale: above 1, at most 8.
        suffix: of the outputs.
    """
    pages = [path for path in sorted(source.rglob("*")) if path.suffix.lower() in SUFFIXES]
    # With the old suffix inside, so that a.png and a.jpg have different outputs.
    places = {path: target / path.relative_to(source).with_name(path.name + suffix) for path in pages}
    todo = [path for path in pages if not places[path].exists()]
    failures: list[str] = []
    sent: list[Path] = []

    def read_pages() -> Iterator[bytes]:
        for path in todo:
            try:
                data = path.read_bytes()
            except OSError as error:
                failures.append(f"{path.relative_to(source)}: {error.strerror}")
                continue
            sent.append(path)
            yield data

    made = call(
        read_pages(),
        kwargs={"scale": scale, "suffix": suffix},
        order_outputs=True,
        return_exceptions=True,
    )
    for number, result in enumerate(made):
        path = sent[number]
        if not isinstance(result, bytes):
            failures.append(f"{path.relative_to(source)}: {result}")
            continue
        places[path].parent.mkdir(parents=True, exist_ok=True)
        part = places[path].with_name(f".{places[path].name}.part")
        part.write_bytes(result)
        part.replace(places[path])
    return failures


@app.local_entrypoint()
def main(input: str, output: str, scale: float = 2.5, model: str = "auto", suffix: str = ".png") -> None:
    """Upscale a folder of this machine."""
    if not Path(input).is_dir():
        raise SystemExit(f"error: there is no folder {input}")
    if not 1 < scale <= 8:
        raise SystemExit(f"error: --scale must be above 1 and at most 8, not {scale:g}")
    if suffix not in OUTPUT_SUFFIXES:
        raise SystemExit(f"error: --suffix must be one of {', '.join(OUTPUT_SUFFIXES)}, not {suffix}")
    failures = upscale_folder(
        Pages(model=model).page.map, Path(input), Path(output), scale=scale, suffix=suffix
    )
    for failure in failures:
        print(failure, file=sys.stderr)
    if failures:
        raise SystemExit(1)
