"""The commands under ``comic-upscale models``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from comic_upscale.commands.environment import weights_cache, weights_folders
from comic_upscale.commands.options import Given, takes
from comic_upscale.errors import WeightsError
from comic_upscale.settings.job import JobSettings
from comic_upscale.settings.options import pick
from comic_upscale.settings.paths import quoted

if TYPE_CHECKING:
    from comic_upscale.models.catalogue import Model

models = typer.Typer(no_args_is_help=True, add_completion=False)

WEIGHTS = pick(JobSettings, "weights_folders")

NamesArgument = Annotated[
    list[str] | None, typer.Argument(metavar="[NAME]...", help="Names of models. Default: all.")
]


def _named_folders(given: Given) -> tuple[Path, ...]:
    """Return the folder of --weights-dir, if given."""
    folders: tuple[Path, ...] = given.complete()["weights_folders"]
    return folders


def _search_path(given: Given) -> tuple[tuple[Path, ...], Path]:
    return weights_folders(*_named_folders(given)), weights_cache()


def _find_models(names: list[str] | None) -> list[Model]:
    from comic_upscale.models.catalogue import CATALOGUE, find_model

    return [find_model(name) for name in names] if names else list(CATALOGUE.values())


@models.command("list")
@takes(given=WEIGHTS)
def list_models(
    given: Given,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List every model: factor, purpose, size, licence, and whether it is on this machine."""
    from comic_upscale.models.weights import where

    folders, cache = _search_path(given)
    rows: list[dict[str, Any]] = []
    for model in _find_models(None):
        found = where(model, folders, cache)
        rows.append(
            {
                "name": model.name,
                "scale": model.native_scale,
                "purpose": model.purpose,
                "megabytes": round(sum(file.size for file in model.files) / 1e6, 1),
                "licence": model.licence,
                "bundled": model.weights.bundled,
                "present": found[0][1] is not None,
                "path": None if found[0][1] is None else str(found[0][1]),
            }
        )
    if as_json:
        typer.echo(json.dumps(rows))
        return
    from rich.table import Table
    from rich.text import Text

    from comic_upscale.console.streams import make_console

    table = Table(box=None, padding=(0, 2, 0, 0))
    for title in ("name", "factor", "MB", "licence", "installed"):
        table.add_column(title, no_wrap=True, justify="right" if title == "MB" else "left")
    for row in rows:
        installed = "no" if not row["present"] else "in the package" if row["bundled"] else "yes"
        table.add_row(row["name"], f"x{row['scale']}", f"{row['megabytes']}", row["licence"], installed)
    console = make_console()
    console.print(table)
    for row in rows:
        console.print(Text(f"\n{row['name']}\n  {row['purpose']}"))


@models.command()
@takes(given=WEIGHTS)
def fetch(given: Given, names: NamesArgument = None) -> None:
    """Download weights from the official releases, and check them.

    Weights that are already on this machine or part of the package are only checked.
    """
    from rich.progress import Progress

    from comic_upscale.console.streams import make_console
    from comic_upscale.models.weights import find_int8, resolve_weights

    named = _named_folders(given)
    folders, cache = (named, named[0]) if named else _search_path(given)
    for model in _find_models(names):
        with Progress(console=make_console(stderr=True), transient=True) as bar:
            task = bar.add_task(model.name, total=None)
            weights = resolve_weights(
                model.name,
                # A model with two files needs both when the denoise strength is below 1.
                denoise=0.5 if model.denoise_weights else None,
                folders=folders,
                cache=cache,
                on_progress=lambda name, done, total, bar=bar, task=task: bar.update(  # type: ignore[misc]
                    task, description=name, completed=done, total=total
                ),
            )
        for path in (weights.path, weights.denoise_path, find_int8(model)):
            if path is not None:
                typer.echo(f"{path}: ok")


@models.command()
@takes(given=WEIGHTS)
def verify(given: Given, names: NamesArgument = None) -> None:
    """Check the weights on this machine against the official hashes."""
    from comic_upscale.models.weights import REINSTALL
    from comic_upscale.models.weights import verify as check

    folders, cache = _search_path(given)
    invalid, remedies = [], set()
    for model in _find_models(names):
        for result in check(model, folders, cache):
            typer.echo(f"{result.path or result.file.name}: {result.state}")
            bundled = result.file.bundled
            # A model that can be downloaded may be missing, unless the user named it.
            if result.state == "wrong hash" or (result.state == "missing" and (names or bundled)):
                invalid.append(str(result.path or result.file.name))
                remedies.add(
                    REINSTALL if bundled else "Delete the wrong files and run `comic-upscale models fetch`"
                )
    if invalid:
        raise WeightsError(
            f"missing, or not as published: {', '.join(invalid)}. {'. '.join(sorted(remedies))}"
        )


@models.command()
@takes(given=WEIGHTS)
def path(
    given: Given,
    name: Annotated[str | None, typer.Argument(help="Name of a model. Default: print the folders.")] = None,
) -> None:
    """Print where the weights of a model are, or without a name the folders that are searched, in order."""
    from comic_upscale.models.weights import REINSTALL, where

    folders, cache = _search_path(given)
    if name is None:
        for folder in (*folders, cache):
            typer.echo(str(folder.absolute()))
        return
    (model,) = _find_models([name])
    for file, found in where(model, folders, cache):
        if found is None:
            remedy = f"Download it with `comic-upscale models fetch {model.name}`"
            raise WeightsError(f"{file.name} is not on this machine. {REINSTALL if file.bundled else remedy}")
        typer.echo(str(found))


@models.command()
def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Weights of your own: .pth or .safetensors.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print only JSON.")] = False,
) -> None:
    """Load weights of your own as a network, tensors alone, and print what they are."""
    import json

    from comic_upscale.models.network import load_network
    from comic_upscale.models.weights import ResolvedWeights, sha256_of

    if not file.is_file():
        raise WeightsError(
            f"{file} does not exist or is not a file: give the path of a .pth or .safetensors file"
        )
    digest = sha256_of(file)
    network = load_network(ResolvedWeights(model_name=file.name, path=file, sha256=digest), None)
    if as_json:
        found = {"architecture": network.architecture, "native_scale": network.native_scale, "sha256": digest}
        typer.echo(json.dumps(found))
        return
    colors = "RGB" if network.input_channels == 3 else "gray"
    typer.echo(f"{file}: {network.architecture}, {network.native_scale}x, {colors}, SHA-256 {digest}")


@models.command()
@takes(given=WEIGHTS)
def export(
    given: Given,
    model: Annotated[str, typer.Argument(metavar="NAME|FILE", help="A model, or weights of your own.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE.onnx", help="Default: NAME.onnx in the current folder."),
    ] = None,
) -> None:
    """Write a network as ONNX, for --engine onnx on GPUs that PyTorch does not reach, and compare both."""
    from importlib.util import find_spec

    from comic_upscale.models.network import load_network
    from comic_upscale.models.weights import resolve_weights

    missing = [package for package in ("onnx", "onnxruntime") if find_spec(package) is None]
    if missing:
        raise WeightsError(
            f"models export needs {', '.join(missing)}: pip install 'comic-upscale[onnx]' onnx"
        )
    folders, cache = _search_path(given)
    weights = resolve_weights(model, denoise=None, folders=folders, cache=cache)
    path = output or Path(f"{Path(weights.model_name).stem}.onnx")
    if path.suffix.lower() != ".onnx":
        raise WeightsError(f"{path} must end in .onnx: choose another --output")
    from comic_upscale.engines.torch.onnx_export import export_onnx
    from comic_upscale.storage.atomic import write_whole

    content, psnr = export_onnx(load_network(weights, None))
    write_whole(content, path)
    typer.echo(f"{path}: {len(content) / 1e6:.1f} MB, {psnr:.0f} dB to PyTorch")
    typer.echo(f"use it with: comic-upscale run --engine onnx --model {quoted(str(path))} --input PAGES")
