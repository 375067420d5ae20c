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
    ("errors", "version"),
    ("sizes",),
    ("settings",),
    ("costs",),
    ("pages",),
    ("models", "gate"),
    ("upscaling",),
    ("evaluation",),
    ("jobs",),
    ("remote",),
    ("environment", "wording"),
    ("wording_costs",),
    ("reporting",),
    ("terminal",),
    ("cli_models",),
    ("cli_export", "cli_cost", "cli_bench", "cli_remote", "cli_watchdog", "cli_report", "cli_evaluate"),
    ("cli",),
    ("__main__",),
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}

# Rooms that must answer without these heavy packages being there at all.
NEVER = {
    "pages": {"torch", "spandrel"},
    "gate": {"torch", "spandrel"},
    "costs": {"torch", "spandrel", "PIL"},
    "settings": {"torch"},
    "errors": {"torch", "numpy"},
}
# Only the floors from here up may talk to the user.
TALKING = {
    "terminal",
    "cli",
    "cli_models",
    "cli_export",
    "cli_cost",
    "cli_bench",
    "cli_remote",
    "cli_watchdog",
    "cli_report",
    "cli_evaluate",
    "environment",
    "__main__",
}

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
            assert other == room or FLOOR[other] < FLOOR[room], f"{room} must not import {name}"
        assert name.split(".")[0] not in NEVER.get(room, set()), f"{room} must not import {name}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_the_core_does_not_print_exit_or_read_the_environment(path: Path) -> None:
    if room_of(path) in TALKING:
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
