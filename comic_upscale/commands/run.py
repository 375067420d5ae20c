"""``comic-upscale run``: upscale the pages of a folder, an image or a volume."""

from __future__ import annotations

import logging
import os
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from comic_upscale.commands.environment import default_workers, state_folder, weights_cache, weights_folders
from comic_upscale.commands.models import WeightsDir
from comic_upscale.commands.remote import RemoteSession
from comic_upscale.errors import EXIT_CEILING

if TYPE_CHECKING:
    from comic_upscale.console.display import Display
    from comic_upscale.execution.events import Event, JobFinished
    from comic_upscale.execution.local.flow import StopRequest
    from comic_upscale.execution.remote import RemoteOptions
    from comic_upscale.planning.preview import PagePreview
    from comic_upscale.settings.job import JobSettings

EXIT_SOME_FAILED = 1


def _auto_or_number(text: str | int | None) -> int | None:
    """``auto`` is None; anything else must be a whole number."""
    if text is None or isinstance(text, int):
        return text
    if text.strip().lower() == "auto":
        return None
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is neither auto nor a whole number") from None


def _path(text: str | Path) -> Path:
    """An empty path is a shell variable that was not set, not the folder one happens to be in."""
    if not str(text):
        raise typer.BadParameter("the path is empty")
    return Path(text)


def run(
    ctx: typer.Context,
    input: Annotated[
        Path,
        typer.Option(
            "--input", "-i", metavar="PATH", parser=_path,
            help="A folder, with all its subfolders; one image; or one volume: CBZ, CBR, CB7, CBT, EPUB, PDF, or "
            "ZIP, RAR, 7z, tar.",
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="DIR", parser=_path,
            help="Folder for the upscaled pages; left out: beside the input, named after it and the scale.",
        ),
    ] = None,
    scale: Annotated[
        float | None,
        typer.Option(
            "--scale", "-s", show_default="2.5",
            help="Output size over input size, above 1 and up to 8. Or say it in pixels or in paper: one of the "
            "next five; each page then has a factor of its own, at most 16, and one that is larger is shrunk.",
        ),
    ] = None,
    width: Annotated[int | None, typer.Option(metavar="N", help="Every page so many pixels wide.")] = None,
    height: Annotated[int | None, typer.Option(metavar="N", help="Every page so many pixels high.")] = None,
    long_side: Annotated[
        int | None, typer.Option(metavar="N", help="The longer side of every page so many pixels.")
    ] = None,
    fit: Annotated[
        str | None, typer.Option(metavar="WxH", help="As large as fits within these pixels; pages keep their shape.")
    ] = None,
    print: Annotated[
        str | None,
        typer.Option(
            "--print", metavar="WxHmm",
            help="For a sheet of this size after trimming, such as 170x260mm or 6.69x10.24in. Pages keep their "
            "shape; --dry-run and the ledger say what is cut off or stays blank. A page that lies across is taken "
            "for a double page.",
        ),
    ] = None,
    dpi: Annotated[
        float | None,
        typer.Option(metavar="N", show_default="300", help="With --print: dots per inch, also written into the file."),
    ] = None,
    bleed: Annotated[
        str | None,
        typer.Option(
            metavar="LENGTH",
            help="With --print: let pages cover the sheet and so much beyond it on each side (3mm, 0.125in, 0mm); "
            "left out, they lie whole within the sheet.",
        ),
    ] = None,
    skip_larger_than: Annotated[
        str | None,
        typer.Option(
            metavar="WxH|N",
            help="Skip pages that do not fit within so many pixels, or whose long side is longer. They are recorded "
            "as skipped; --copy-others copies them as they are, and into the CBZ of a volume they always go so.",
        ),
    ] = None,
    model: Annotated[
        str,
        typer.Option(
            "--model", "-m", metavar="NAME|FILE",
            help="auto, a name from `comic-upscale models list`, or a .pth or .safetensors file. auto is "
            "RealESRGAN_x4plus_anime_6B on a GPU, where its weights are here or can be fetched, and else "
            "comic-compact-x3, which needs no download; a job keeps the model that it began with. For 2-2.5x a "
            "network of x3 or x4 is run whole and then shrunk, which keeps the finest lines; RealESRGAN_x2plus "
            "works at 2x, a quarter of RealESRGAN_x4plus's time, and above 2x enlarges the rest by resampling.",
        ),
    ] = "auto",
    denoise: Annotated[
        float | None,
        typer.Option(
            help="0 keeps grain, 1 smooths most; for realesr-general-x4v3.", metavar="0..1"
        ),
    ] = None,
    weights_dir: WeightsDir = None,
    workers: Annotated[
        int | None,
        typer.Option("--workers", "-w", help="Threads that decode and encode; left out: one for each core."),
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(
            parser=_auto_or_number, metavar="auto|N", help="Pages in one call of the network.",
            show_default="auto",
        ),
    ] = None,
    tile: Annotated[
        int | None,
        typer.Option(
            parser=_auto_or_number, metavar="auto|N", show_default="auto",
            help="Longest side, in input pixels, that goes through the network in one piece.",
        ),
    ] = None,
    device: Annotated[
        str,
        typer.Option(
            "--device", "-d", help="auto, cpu, cuda, cuda:1, xpu or mps; several with commas: cuda:0,cuda:1."
        ),
    ] = "auto",
    precision: Annotated[
        str, typer.Option(help="auto, fp32, fp16 or bf16. auto takes half precision where the device is fast at it.")
    ] = "auto",
    backend: Annotated[
        str,
        typer.Option(
            "--engine", "--backend", metavar="NAME",
            help="What upscales: torch; realesrgan, the official program; onnx, for an ONNX network; command, for a "
            "program of yours; or another that `comic-upscale engines list` shows.",
        ),
    ] = "torch",
    engine_option: Annotated[
        list[str] | None,
        typer.Option(
            "--engine-option", metavar="NAME=VALUE",
            help="An option of the engine's own, as `comic-upscale engines show NAME` lists them; may be repeated.",
        ),
    ] = None,
    engine_command: Annotated[
        str | None,
        typer.Option(
            metavar="COMMAND",
            help="With --engine command: the program and its arguments, such as 'tool -i {in} -o {out}'.",
        ),
    ] = None,
    format: Annotated[
        str,
        typer.Option(
            "--format", "-f",
            help="png, webp, jpeg, avif, jxl or tiff; auto: each page in the format of its own file.",
        ),
    ] = "png",
    quality: Annotated[
        int | None,
        typer.Option(
            help="1-100, for jpeg (left out: 95), avif (90), webp and jxl (left out: lossless).", metavar="N"
        ),
    ] = None,
    png_level: Annotated[
        int | None, typer.Option(metavar="0-9", help="How hard PNG is compressed; left out: fast.")
    ] = None,
    gray: Annotated[
        str | None,
        typer.Option(
            metavar="auto|keep|off", show_default="auto",
            help="auto: pages without colour are written with one channel; keep: only those that are stored so; "
            "off: none.",
        ),
    ] = None,
    icc: Annotated[
        str,
        typer.Option(
            metavar="keep|srgb", help="keep: pages keep their colour profile; srgb: they are converted to sRGB."
        ),
    ] = "keep",
    animated: Annotated[
        str,
        typer.Option(
            metavar="first|skip",
            help="Of an animation, or a TIFF of several pages, take the first, or skip it.",
        ),
    ] = "first",
    sidecars: Annotated[
        str,
        typer.Option(
            metavar="copy|skip",
            help="copy: files called like a page (.txt, .caption, .json, .xmp) go beside its output.",
        ),
    ] = "copy",
    copy_others: Annotated[
        bool,
        typer.Option(
            "--copy-others", help="Copy all other files, too, and the pages that --skip-larger-than leaves out."
        ),
    ] = False,
    archive_output: Annotated[
        str, typer.Option(help="What volumes become: cbz, or folder, a folder of pages each.", metavar="cbz|folder")
    ] = "cbz",
    keep_original_on_failure: Annotated[
        bool,
        typer.Option(
            "--keep-original-on-failure",
            help="Where a page of a volume failed, put the untouched one in, instead of leaving the volume waiting.",
        ),
    ] = False,
    pdf_dpi: Annotated[
        int | None,
        typer.Option(
            metavar="N", show_default="150",
            help="Dots an inch for pages of a PDF that are not simply one image; those that are stay as they are.",
        ),
    ] = None,
    max_members: Annotated[
        int | None, typer.Option(metavar="N", show_default="20,000", help="Refuse volumes of more files than this.")
    ] = None,
    max_unpacked: Annotated[
        str | None,
        typer.Option(metavar="BYTES", show_default="16G", help="Refuse volumes that unpack to more than this."),
    ] = None,
    max_ratio: Annotated[
        float | None,
        typer.Option(
            metavar="N", show_default="200", help="Refuse volumes that unpack to more than N times their own size."
        ),
    ] = None,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Replace files in the output folder that this tool did not write."),
    ] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try pages again that failed in an earlier run.")
    ] = False,
    gate: Annotated[
        bool,
        typer.Option(
            "--gate/--no-gate",
            help="Hold every page against its source; one that looks wrong is done again by the conservative path, and "
            "marked where that does not help (status --suspects).",
        ),
    ] = True,
    strict: Annotated[
        bool, typer.Option("--strict", help="A page that stays suspect has failed, and is not written.")
    ] = False,
    max_failures: Annotated[
        str | None,
        typer.Option(metavar="N|N%", help="Stop when more pages than this have failed in this run."),
    ] = None,
    max_pixels: Annotated[
        int | None, typer.Option(metavar="N", help="Refuse pages of more pixels than this.", show_default="89,478,485")
    ] = None,
    ledger: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Where to keep the ledger; left out: inside the output folder."),
    ] = None,
    price: Annotated[
        float | None,
        typer.Option(
            metavar="$/h",
            help="What an hour of this machine costs; the job remembers it, and `status` reckons with it.",
        ),
    ] = None,
    max_cost: Annotated[
        float | None,
        typer.Option(
            metavar="$", help="Stop before the job, its earlier runs included, costs more than this; needs a --price.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be done, and write nothing.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON event a line on standard output, nothing else.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Name every page, and log details.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say only what went wrong.")] = False,
) -> None:  # fmt: skip
    """Upscale every page of a folder, one image or one volume; what is done already is skipped."""
    from comic_upscale.settings.engines import parse_engine_options
    from comic_upscale.settings.job import (
        DEFAULT_MAX_MEMBERS,
        DEFAULT_MAX_PIXELS,
        DEFAULT_MAX_RATIO,
        DEFAULT_MAX_UNPACKED,
        DEFAULT_PDF_DPI,
        FailureLimit,
        JobSettings,
        parse_bytes,
    )
    from comic_upscale.settings.paths import default_output
    from comic_upscale.settings.sizes import Bounds, choose_size

    ctx.find_root().meta["json"] = as_json
    size = choose_size(
        scale=scale,
        width=width,
        height=height,
        long_side=long_side,
        fit=fit,
        paper=print,
        dpi=dpi,
        bleed=bleed,
    )
    settings = JobSettings(
        input=input,
        output=output or default_output(input, size),
        size=size,
        skip_larger_than=None if skip_larger_than is None else Bounds.parse(skip_larger_than),
        model=model,
        denoise=denoise,
        format=cast(Any, format),
        quality=quality,
        png_level=png_level,
        gray=cast(Any, gray),
        icc=cast(Any, icc),
        animated=cast(Any, animated),
        backend=backend,
        engine_options=parse_engine_options(
            [*(engine_option or ()), *(() if engine_command is None else (f"command={engine_command}",))]
        ),
        device=device,
        precision=precision,
        batch=batch,
        tile=tile,
        workers=default_workers() if workers is None else workers,
        max_pixels=DEFAULT_MAX_PIXELS if max_pixels is None else max_pixels,
        max_failures=None if max_failures is None else FailureLimit.parse(max_failures),
        sidecars=sidecars,
        copy_others=copy_others,
        archive_output=cast(Any, archive_output),
        keep_original_on_failure=keep_original_on_failure,
        pdf_dpi=DEFAULT_PDF_DPI if pdf_dpi is None else pdf_dpi,
        max_members=DEFAULT_MAX_MEMBERS if max_members is None else max_members,
        max_unpacked=(
            DEFAULT_MAX_UNPACKED if max_unpacked is None else parse_bytes(max_unpacked, "--max-unpacked")
        ),
        max_ratio=DEFAULT_MAX_RATIO if max_ratio is None else max_ratio,
        overwrite=overwrite,
        retry_failed=retry_failed,
        gate=gate,
        strict=strict,
        ledger=ledger,
        price=price,
        max_cost=max_cost,
        weights_folders=weights_folders(weights_dir),
        weights_cache=weights_cache(),
    )
    _set_up_logging(verbose)
    if dry_run:
        _show_plan(settings, as_json=as_json)
        return
    from comic_upscale.execution.local.flow import StopRequest

    stop = StopRequest()
    door = ctx.find_object(RemoteSession)
    with nullcontext() if door is None else door.open(ctx, stop) as elsewhere:
        code, finished = _run(
            settings, stop, elsewhere=elsewhere, as_json=as_json, verbose=verbose, quiet=quiet
        )
    raise typer.Exit(code if door is None else door.finish(code, finished))


def _run(
    settings: JobSettings,
    stop: StopRequest,
    *,
    elsewhere: RemoteOptions | None,
    as_json: bool,
    verbose: bool,
    quiet: bool,
) -> tuple[int, JobFinished]:
    """Run a job under the eyes of a display, and return the exit code and how it ended."""
    from comic_upscale.jobs.run import run_job
    from comic_upscale.ledger.recent import remember_ledger

    display = _choose_display(stop, as_json=as_json, verbose=verbose, quiet=quiet)

    remembered = muted = False

    def on_event(event: Event) -> None:
        nonlocal remembered, muted
        if not remembered and settings.ledger_path.is_file():
            remember_ledger(state_folder(), settings.ledger_path)
            remembered = True
        if muted:
            return
        try:
            display(event)
        except OSError as error:
            # A terminal that went away must not make pages fail: the run ends as by a signal.
            muted = True
            stop.request(f"the terminal cannot be written to: {error.strerror or error}")

    try:
        with _stopping_on_signals(stop, display) as received:
            finished = run_job(settings, on_event=on_event, stop=stop, elsewhere=elsewhere)
    finally:
        display.close()
    return _exit_code(finished, received), finished


def _exit_code(finished: JobFinished, received: list[int]) -> int:
    if finished.state == "interrupted":
        if received:
            return 128 + received[0]
        return EXIT_SOME_FAILED if finished.stopped_by is None else EXIT_CEILING
    return EXIT_SOME_FAILED if finished.failed else 0


def _choose_display(stop: StopRequest, *, as_json: bool, verbose: bool, quiet: bool) -> Display:
    from comic_upscale.console import display as terminal

    def nobody_reads() -> None:
        stop.request("nobody reads the output any more")

    if as_json:
        return terminal.JsonDisplay(nobody_reads)
    if quiet or sys.stdout is None:
        return terminal.QuietDisplay()
    if sys.stdout.isatty():
        return terminal.LiveDisplay(verbose=verbose)
    return terminal.LogDisplay(nobody_reads, verbose=verbose)


@contextmanager
def _stopping_on_signals(stop: StopRequest, display: Display) -> Iterator[list[int]]:
    """While inside: the first Ctrl-C or SIGTERM stops gracefully, the second ends the process at once."""
    received: list[int] = []

    def handle(number: int, _frame: object) -> None:
        received.append(number)
        if len(received) > 1:
            display.close()
            # Imported only where a program of the user's was run.
            program = sys.modules.get("comic_upscale.engines.program")
            if program is not None:
                program.kill_running()
            os._exit(128 + number)
        stop.request(signal.Signals(number).name)

    names = ("SIGINT", "SIGTERM", "SIGHUP")
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    # nohup works by having SIGHUP ignored: leave it so.
    before = {
        number: signal.getsignal(number)
        for number in numbers
        if signal.getsignal(number) is not signal.SIG_IGN
    }
    for number in before:
        signal.signal(number, handle)
    try:
        yield received
    finally:
        # After a signal the process is about to end: a second one must still end it with its own code.
        if not received:
            for number, handler in before.items():
                signal.signal(number, handler)


def _show_plan(settings: JobSettings, *, as_json: bool) -> None:
    from comic_upscale.console.text import plan_header, plan_line, plan_summary, preview_as_json
    from comic_upscale.planning.preview import preview

    if as_json:
        typer.echo(preview_as_json(preview(settings)))
        return
    begun = False

    def on_page(page: PagePreview) -> None:
        nonlocal begun
        if not begun:
            typer.echo(plan_header())
            begun = True
        typer.echo(plan_line(page))

    for line in plan_summary(preview(settings, on_page)):
        typer.echo(line)


def _set_up_logging(verbose: bool) -> None:
    # What Pillow thinks of a strange file is said page by page, by our own decoder.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    logging.getLogger("PIL").addHandler(logging.NullHandler())
    # Tells at every start what an old libarchive lacks, none of which is used.
    logging.getLogger("libarchive").setLevel(logging.ERROR)
    logging.basicConfig(
        level=logging.INFO if verbose else logging.CRITICAL,
        format="%(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
