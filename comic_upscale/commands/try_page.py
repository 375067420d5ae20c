"""The command ``comic-upscale try``."""

from __future__ import annotations

import re
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from comic_upscale.commands.environment import weights_cache, weights_folders
from comic_upscale.commands.evaluate import ONE_DEVICE, model_names, open_metrics, progress
from comic_upscale.commands.options import Given, takes
from comic_upscale.errors import InputError, SettingsError
from comic_upscale.settings.job import JobSettings
from comic_upscale.settings.options import pick
from comic_upscale.settings.paths import path_text

if TYPE_CHECKING:
    from comic_upscale.evaluation.page_trial import PageTrial
    from comic_upscale.library.page import Page


@takes(given=pick(JobSettings, "device", "weights_folders", "max_pixels", help={"device": ONE_DEVICE}))
def try_page(
    source: Annotated[
        str,
        typer.Argument(
            metavar="PAGE", show_default=False,
            help="An image, or a page of a volume or folder: 'book.cbz#3' is the third page of book.cbz.",
        ),
    ],
    *,
    page: Annotated[
        int | None,
        typer.Option("--page", min=1, metavar="N", help="The page of a volume or folder. Default: the first."),
    ] = None,
    scale: Annotated[float, typer.Option("--scale", "-s", help="The factor, above 1 and at most 8.")] = 2.5,
    models: Annotated[
        str,
        typer.Option(
            "--models", "-m", metavar="NAME|FILE,...", help="Models, separated by commas. Lanczos is always shown, too."
        ),
    ] = "comic-fast,comic-best",
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE.png", help="The picture. Default: PAGE-models.png in the current folder."
        ),
    ] = None,
    given: Given,
) -> None:  # fmt: skip
    """Show a page as several models upscale it, in one picture, and recommend one of them."""
    from comic_upscale.evaluation.page_trial import try_page as run
    from comic_upscale.evaluation.pairs import Pictures
    from comic_upscale.evaluation.sheet import as_png
    from comic_upscale.evaluation.trial import network_candidate
    from comic_upscale.models.catalogue import in_family
    from comic_upscale.storage.atomic import write_whole

    path, number = _split(source, page)
    values = given.complete()
    folders, cache = weights_folders(*values["weights_folders"]), weights_cache()
    names = model_names(models)
    with closing(Pictures(path, max_pixels=values["max_pixels"])) as pictures:
        chosen = _choose(pictures.pages, path, number)
        target = _check_target(output, chosen)
        candidates = [
            network_candidate(in_family(name, scale), device=values["device"], folders=folders, cache=cache)
            for name in names
        ]
        with progress() as on_step:
            tried = run(
                pictures, chosen, candidates, open_metrics(values["device"]), scale=scale, on_step=on_step
            )
    write_whole(as_png(tried.picture), target)
    _print(tried, target)


def _split(text: str, page: int | None) -> tuple[Path, int | None]:
    """Return the path and the number of the page. A file whose own name ends in #3 is meant itself."""
    path = Path(text)
    match = re.fullmatch(r"(?s)(.+)#(\d+)", text)
    if match is None or path.exists():
        return path, page
    if page is not None:
        raise SettingsError(f"{text} names a page already: leave out --page")
    return Path(match[1]), int(match[2])


def _choose(pages: tuple[Page, ...], path: Path, number: int | None) -> Page:
    number = 1 if number is None else number
    if not 1 <= number <= len(pages):
        raise InputError(
            f"{path_text(path)} has {len(pages):,} pages: choose a --page from 1 to {len(pages)}"
        )
    return pages[number - 1]


def _check_target(output: Path | None, page: Page) -> Path:
    """Return the file for the picture. Without --output, no existing file is replaced."""
    if output is None:
        stem = path_text(Path(page.source.rpartition("/")[2])).rpartition(".")[0] or "page"
        output, number = Path(f"{stem}-models.png"), 2
        while output.exists():
            output, number = Path(f"{stem}-models_{number}.png"), number + 1
        return output
    if output.suffix.lower() != ".png":
        raise SettingsError(f"--output must end in .png, not {path_text(output)!r}")
    if output.exists() and page.path.exists() and output.samefile(page.path):
        raise SettingsError("--output is the page itself: choose another file")
    return output


def _print(tried: PageTrial, target: Path) -> None:
    from comic_upscale.console.printable import printable

    if tried.trial is not None and tried.verdict is not None:
        for standing in tried.trial.standings:
            ssim, seconds = standing.mean("ssim"), standing.seconds(tried.trial.page_pixels)
            typer.echo(printable(f"{standing.name}: SSIM {ssim:.4f}, about {seconds:.2g} s for this page"))
        typer.echo(printable(f"recommended: {tried.verdict.recommended}"))
        typer.echo(printable(f"  {tried.verdict.why}"))
        typer.echo("  One page says little: comic-upscale evaluate --input FOLDER measures more of them")
    else:
        typer.echo(printable(f"no recommendation: {tried.reason}"))
    typer.echo(printable(f"picture: {path_text(target)}"))
