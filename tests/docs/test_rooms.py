"""The tables of rooms in docs/ are those that the layer test holds."""

from __future__ import annotations

import re

from tests.conftest import REPOSITORY
from tests.test_layers import FLOORS, ONLY

DOCS = REPOSITORY / "docs"
FLOOR = re.compile(r"^\| (\d+) \| (.+) \|$", re.MULTILINE)
ROOM = re.compile(r"`(?:comic_upscale/)?(\w+)(?:/|\.py)`")


def test_the_table_of_floors_is_that_of_the_layer_test() -> None:
    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
    shown = {int(floor): set(ROOM.findall(rooms)) for floor, rooms in FLOOR.findall(text)}
    held = {number: set(rooms) for number, rooms in enumerate(FLOORS, 1) if rooms != ("__main__",)}
    assert shown == held


def test_the_table_of_rooms_has_every_room_from_top_to_bottom() -> None:
    text = (DOCS / "development.md").read_text(encoding="utf-8")
    table = text[text.index("## Rooms") : text.index("## House rules")]
    shown = [ROOM.findall(line)[0] for line in table.splitlines() if line.startswith("| `")]
    floor = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
    assert set(shown) == floor.keys() - {"__main__"}
    assert [floor[room] for room in shown] == sorted((floor[room] for room in shown), reverse=True)


def test_the_modules_that_alone_import_a_package_are_named() -> None:
    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
    assert f"onnxruntime is imported only in `{next(iter(ONLY['onnxruntime']))}`" in text
