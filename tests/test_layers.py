"""The architecture, held: a floor imports only lower ones, and the core stays out of the user's sight."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import comic_upscale

PACKAGE = Path(comic_upscale.__file__).parent

# From the ground up; modules of one floor may import each other only within a room.
FLOORS = (
    ("errors", "processes", "retries", "version"),
    ("settings",),
    ("client", "costs", "sizes", "storage"),
    ("models", "provisioning"),
    ("imaging",),
    ("gate", "library"),
    ("engines", "ledger"),
    ("evaluation", "planning"),
    ("execution",),
    ("jobs",),
    ("estimates", "hooks", "watching"),
    ("console",),
    ("reporting",),
    ("server",),
    ("worker",),
    ("commands",),
    ("cli",),
    ("start",),
    ("__main__",),
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}

# Packages that a room must do without. What a room may not import at all is not imported lazily either.
HEAVY = {"torch", "spandrel"}
WEB = {"pydantic", "fastapi", "starlette"}
OPENS = {"PIL", "numpy", "imagecodecs", "libarchive", "pi_heif", "pypdfium2", "tifffile", "zipfile"}
"""Packages that open images and archives. The server takes these from strangers, and only stores them."""
NEVER = {
    "errors": HEAVY | WEB | {"numpy"},
    "settings": HEAVY | WEB | {"numpy"},
    "costs": HEAVY | WEB | {"PIL"},
    "imaging": HEAVY | WEB,
    "library": HEAVY | WEB,
    "storage": HEAVY | WEB,
    "gate": HEAVY | WEB,
    "ledger": HEAVY | WEB,
    "provisioning": HEAVY | WEB | OPENS,
    "planning": HEAVY | WEB,
    "watching": HEAVY | WEB | {"numpy", "PIL"},
    "hooks": HEAVY | WEB | {"numpy", "PIL"},
    "client": HEAVY | WEB | OPENS | {"sqlalchemy"},
    "console": HEAVY | WEB,
    "server": HEAVY | OPENS,
}
# Packages that one place alone may import: a room, or a module.
ONLY = {
    "fastapi": {"server"},
    "starlette": {"server"},
    "uvicorn": {"server"},
    "sqlalchemy": {"server", "worker", "commands"},
    "httpx2": {"client"},
    "boto3": {"provisioning/aws.py"},
    "botocore": {"provisioning/aws.py"},
    "ray": {"execution/ray/pool.py"},
    "typer": {"commands", "cli"},
    "diffusers": {"engines/diffusion/embeddings.py", "engines/diffusion/loading.py"},
    "google": {"engines/imagen/client.py"},
    "onnxruntime": {"engines/onnx_network.py"},
    "spandrel": {"models/architectures.py"},
    "triton": {"engines/torch/kernels.py"},
}
# Modules of a heavy room that must do without: the seam for engines, and the engines that need no torch.
LIGHT = {
    "engines/base.py", "engines/diffusion/factory.py", "engines/diffusion/folder.py", "engines/diffusion/lettering.py",
    "engines/diffusion/memory.py", "engines/catalogue.py", "engines/command.py", "engines/feathering.py",
    "engines/host_resample.py",
    "engines/imagen/client.py", "engines/imagen/engine.py", "engines/imagen/factory.py",
    "engines/imagen/tiles.py", "engines/lanczos.py",
    "engines/limits.py", "engines/onnx.py", "engines/onnx_file.py", "engines/onnx_network.py",
    "engines/options.py", "engines/pages.py",
    "engines/reach.py", "engines/telemetry.py", "engines/tiling.py",
}  # fmt: skip
# Only these may talk to the user, and read the environment. The last one sets variables for libraries.
TALKING = {"commands", "console/display.py", "cli", "start", "__main__", "engines/telemetry.py"}

MODULES = sorted(path for path in PACKAGE.rglob("*.py"))


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute, so that they can be read"
            yield str(node.module)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_floor_imports_only_lower_ones(path: Path) -> None:
    room = room_of(path)
    if room == "__init__":
        return  # the public names, which come from several floors
    for name in imports(ast.parse(path.read_text(encoding="utf-8"))):
        if name.startswith("comic_upscale."):
            other = name.split(".")[1]
            lower = other == room or FLOOR[other] < FLOOR[room]
            assert lower, f"{room} must not import {name}"
        package = name.split(".")[0]
        assert package not in NEVER.get(room, set()), f"{room} must not import {name}"
        place = path.relative_to(PACKAGE).as_posix()
        assert {room, place} & ONLY.get(package, {room}), f"{place} must not import {name}"
        if place in LIGHT:
            assert package not in HEAVY and "engines.torch" not in name, f"{place} must not import {name}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_the_core_does_not_print_exit_or_read_the_environment(path: Path) -> None:
    if TALKING & {room_of(path), path.relative_to(PACKAGE).as_posix()}:
        return
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Name):
            assert node.id not in {"print", "exit", "quit", "SystemExit"}
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            assert (node.value.id, node.attr) not in {
                ("os", "environ"),
                ("os", "getenv"),
                ("sys", "exit"),
                ("os", "_exit"),
                ("sys", "stdout"),
                ("sys", "stderr"),
            }


def test_the_layer_test_reads_every_module() -> None:
    rooms = {room_of(path) for path in MODULES} - {"__init__"}
    assert rooms == set(FLOOR)
    assert {path.relative_to(PACKAGE).as_posix() for path in MODULES} >= LIGHT
