"""``cost`` and ``--dry-run`` with other engines than networks of the catalogue: billed calls, and slow pages."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from tests.commands.test_costs import own_folders
from tests.commands.test_run import invoke, pages
from tests.conftest import draw
from tests.engines.test_command import QUICK_ENGINE, command

__all__ = ["own_folders", "pages"]

IMAGEN = ("--engine", "imagen", "--engine-option", "project=mine", "--engine-option", "price_per_image=0.06")


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """A page that takes one call at 2x, and one that takes three."""
    folder = tmp_path / "scans"
    folder.mkdir()
    for name, size in (("a.png", (1240, 1754)), ("b.png", (2480, 3508))):
        Image.new("1", size, 1).save(folder / name)
    return folder


def test_the_calls_of_a_service_are_counted_and_priced(scans: Path) -> None:
    code, out, err = invoke("cost", scans, "--scale", 2, *IMAGEN)
    assert (code, err) == (0, "")
    assert "4 calls of the service: about $0.24" in out and "The time of a call is not known." in out
    out = invoke("run", "--input", scans, "--scale", 2, *IMAGEN, "--dry-run")[1]
    assert "4 calls of the service: about $0.24" in out
    plan = json.loads(invoke("run", "--input", scans, "--scale", 2, *IMAGEN, "--dry-run", "--json")[1])
    assert plan["calls"] == {"count": 4, "dollars": 0.24}
    # A page that is large enough needs no call.
    plan = json.loads(invoke("run", "--input", scans, "--width", 1240, *IMAGEN, "--dry-run", "--json")[1])
    assert plan["calls"] == {"count": 0, "dollars": 0.0}


def test_imagined_pages_are_priced_and_compared_with_a_budget() -> None:
    asked = ("cost", "--pages", 10, "--page-size", "2480x3508", "--scale", 4, *IMAGEN, "--json")
    code, out, _ = invoke(*asked, "--budget", 5.39)
    found = json.loads(out)
    assert (code, found["calls"], found["quotes"], found["over_budget"]) == (
        1, {"count": 90, "dollars": 5.4}, [], True,
    )  # fmt: skip
    assert invoke(*asked, "--budget", 5.4)[0] == 0


@pytest.mark.parametrize(
    ("option", "words"), [(("--pilot", 1), "would cost money"), (("--gpu", "H100"), "cannot be quoted")]
)
def test_what_a_service_cannot_answer_is_refused(scans: Path, option: tuple[object, ...], words: str) -> None:
    code, _, err = invoke("cost", scans, *IMAGEN, *option)
    assert code == 2 and words in err


def test_the_time_of_a_slow_engine_is_that_of_earlier_runs_with_the_same_options(
    pages: Path, tmp_path: Path
) -> None:
    more = tmp_path / "more"
    for number in range(4):
        draw(more / f"{number}.png", 20 + number)
    unknown = "time: not known before the first pages"
    assert unknown in invoke("run", "--input", more, *QUICK_ENGINE, "--dry-run")[1]
    assert "is not known yet" in invoke("cost", more, *QUICK_ENGINE)[1]
    assert invoke("run", "--input", pages, *QUICK_ENGINE)[0] == 0
    out = invoke("run", "--input", more, *QUICK_ENGINE, "--dry-run")[1]
    assert "time: about " in out and "measured on" in out and "3 pages" in out
    assert json.loads(invoke("run", "--input", more, *QUICK_ENGINE, "--dry-run", "--json")[1])["seconds"]
    quotes = json.loads(invoke("cost", more, *QUICK_ENGINE, "--json")[1])["quotes"]
    assert [(quote["seller"], quote["basis"]) for quote in quotes] == [("", "measured")]
    # Another program, or another size, may take another time.
    other = ("--engine", "command", "--engine-command", command("blur"))
    assert unknown in invoke("run", "--input", more, *other, "--dry-run")[1]
    assert unknown in invoke("run", "--input", more, *QUICK_ENGINE, "--scale", 3, "--dry-run")[1]
