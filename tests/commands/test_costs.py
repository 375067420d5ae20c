"""``cost``, ``bench``, ``--price`` and ``--max-cost`` as a user meets them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands.test_run import invoke, pages
from tests.conftest import LONG, draw

__all__ = ["pages"]


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("STATE", "CACHE", "DATA", "CONFIG"):
        monkeypatch.setenv(f"XDG_{name}_HOME", str(tmp_path / name.lower()))
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("COMIC_UPSCALE_WEIGHTS", raising=False)
    monkeypatch.chdir(tmp_path)


def unwrapped(out: str) -> str:
    """The text without its line breaks: where a line breaks hangs on the length of the processor's name."""
    return " ".join(out.split())


def test_a_quote_says_time_dollars_split_range_and_sources(pages: Path) -> None:
    code, out, err = invoke("cost", "--input", pages, "--gpu", "NVIDIA GeForce RTX 4090")
    assert (code, err) == (0, "")
    assert out.startswith("3 pages: ")
    assert "RTX 4090, RunPod community, $0.34 per hour: comic-best-x3" in out
    for word in (
        "start-up",
        "upload",
        "compute",
        "download",
        "storage",
        "total",
        "from .. to",
        "time",
        "dollars",
    ):
        assert word in out
    for source in ("computed from 150.72/s", "price page of runpod.io, seen 2026-11-20", "assumed"):
        assert source in out
    assert max(map(len, out.splitlines())) <= 80
    assert not (pages.parent / "pages-x2.5").exists()


def test_few_pixels_are_told_with_digits_that_say_something(pages: Path) -> None:
    out = invoke("cost", "--input", pages)[1]
    match = re.match(r"3 pages: (\S+) megapixels in, (\S+) out\nupload (\S+) kB", out)
    assert match is not None, out
    assert 0 < float(match[1]) < float(match[2]) < 1
    assert float(match[3]) > 0
    assert invoke("cost", "--pages", 10000)[1].startswith("10,000 pages: 3,932 megapixels in, 24,576 out")


def test_a_job_that_is_done_has_no_cost(pages: Path) -> None:
    draw(pages.parent / "one" / "0.png", 0)
    one = ("--input", pages.parent / "one", "--model", "comic-compact-x3")
    assert invoke("run", *one, "--device", "cpu")[0] == 0
    code, out, _ = invoke("cost", *one, "--budget", "0.15")
    assert (code, out) == (0, "nothing to upscale: 1 page done, skipped or refused (--dry-run lists them)\n")
    code, out, _ = invoke("cost", *one, "--budget", "0.15", "--json")
    assert (code, json.loads(out)["work"]["pages"]) == (0, 0)


def test_every_listed_gpu_fits_the_screen(pages: Path) -> None:
    code, out, _ = invoke("cost", "--pages", 10000)
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80
    for card in ("T4", "RTX 3090", "A10", "A100", "H100"):
        assert f"\n{card}  " in out
    assert len(out.splitlines()) < 25
    # One row for each GPU, the cheapest first; the first of them is recommended.
    rows = [line for line in out.splitlines()[4:] if re.match(r"\S.*\d:\d\d", line) and ": $" not in line]
    assert len(rows) == len({row[:20] for row in rows})
    cheapest = next(row for row in rows if "this machine" not in row)[:20].strip()
    assert f"recommended: {cheapest} at " in out
    assert "connection:  100 Mbit/s, assumed: set yours with --link-mbps" in out
    code, whole, _ = invoke("cost", "--pages", 10000, "-v")
    assert code == 0
    assert max(map(len, whole.splitlines())) <= 80
    for card in ("T4", "RTX 3090", "A10", "A100", "H100"):
        assert f"\n{card}, " in whole
    out = invoke("cost", "--pages", 10000, "--budget", "0.5")[1]
    assert "over the budget of $0.50: " in out


@pytest.mark.parametrize(
    ("said", "meant"), [("4090", "RTX 4090"), ("nvidia rtx 4090", "RTX 4090"), ("h100", "H100")]
)
def test_a_part_of_a_name_is_enough(said: str, meant: str) -> None:
    assert f"\n{meant}, " in invoke("cost", "--pages", 10, "--gpu", said)[1]


def test_a_part_that_several_gpus_have_is_none() -> None:
    code, _, err = invoke("cost", "--pages", 10, "--gpu", "RTX")
    assert (code, "there is no GPU 'RTX'" in err) == (2, True)


def test_over_the_budget_is_exit_code_1(pages: Path) -> None:
    asked = ("cost", "--pages", 10000, "--gpu", "T4")
    assert invoke(*asked, "--budget", 100)[0] == 0
    code, out, _ = invoke(*asked, "--budget", 0.15)
    assert code == 1
    assert "over the budget of $0.15" in out
    code, out, _ = invoke(*asked, "--budget", 0.15, "--json")
    assert (code, json.loads(out)["over_budget"]) == (1, True)


def test_a_price_of_ones_own_and_a_list_of_ones_own(tmp_path: Path) -> None:
    asked = ("cost", "--pages", 2000, "--gpu", "RTX 4090", "--json")
    quotes = json.loads(invoke(*asked, "--price", 0.2)[1])["quotes"]
    assert {quote["seller"] for quote in quotes} == {"as vast", "as RunPod community"}
    assert all(quote["hour"] == {"low": 0.2, "likely": 0.2, "high": 0.2} for quote in quotes)
    out = invoke("cost", "--pages", 2000, "--gpu", "RTX 4090", "--price", 0.2)[1]
    assert max(map(len, out.splitlines())) <= 80
    assert "your --price; traffic and storage of RunPod community" in unwrapped(out)
    own = tmp_path / "config" / "comic-upscale" / "prices.toml"
    own.parent.mkdir(parents=True)
    own.write_text(
        '[[offer]]\ncard = "RTX 4090"\nseller = "mine"\nhour = 0.1\ndate = 2026-11-21\n', encoding="utf-8"
    )
    (quote,) = json.loads(invoke(*asked)[1])["quotes"]
    assert (quote["seller"], quote["hour"]["likely"]) == ("mine", 0.1)


def test_a_pilot_quotes_this_machine(pages: Path, tiny_weights: Path) -> None:
    code, out, err = invoke(
        "cost", "--input", pages, "--model", tiny_weights, "--device", "cpu", "--pilot", 2, "--price", 0.2
    )
    assert code == 0, err
    assert "this machine, $0.20 per hour: tiny-x4.safetensors" in out
    assert "pilot of 2 pages" in unwrapped(out)
    assert not (pages.parent / "pages-x2.5").exists()


def test_a_quote_imports_no_torch(pages: Path) -> None:
    program = (
        "import sys; from comic_upscale.cli import app\n"
        f"try: app(['cost', '--input', {str(pages)!r}])\n"
        "except SystemExit: pass\n"
        "print('imported:', [name for name in ('torch', 'requests') if name in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout
    assert "3 pages: " in out
    assert out.strip().endswith("imported: []")


@pytest.mark.parametrize(
    "arguments",
    [
        (), ("--input", "pages", "--pages", 5), ("--pages", 0), ("--pages", 5, "--pilot", 3),
        ("--pages", 5, "--gpu", "RTX 9999"), ("--pages", 5, "--width", 0), ("--pages", 5, "--price", -1),
        ("--pages", 5, "--link-mbps", 0), ("--pages", 5, "--workers", 0), ("--pages", 5, "--prices", "none.toml"),
        ("--pages", 5, "--page-size", "large"), ("--pages", 5, "--price", "inf"), ("--pages", 5, "--budget", "nan"),
            ("--pages", 5, "--link-mbps", "inf"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_in_one_line(pages: Path, arguments: tuple[object, ...]) -> None:
    code, _, err = invoke("cost", *arguments)
    assert code == 2
    assert err.startswith("error: ")


@pytest.mark.skipif(not LONG, reason="a second bench takes seconds: set COMIC_UPSCALE_TEST_LONG=1")
def test_bench_prints_its_result_even_if_it_cannot_be_saved(
    tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "file"))
    asked = ("--model", tiny_weights, "--device", "cpu", "--scale", 1.1, "--workers", 2, "--seconds", 0.1)
    code, out, err = invoke("bench", *asked)
    assert code == 7
    assert "whole run" in out
    assert "cannot be written" in err


def test_bench_prints_a_table_and_keeps_the_rate_for_cost(tiny_weights: Path, tmp_path: Path) -> None:
    asked = ("--model", tiny_weights, "--device", "cpu", "--scale", 1.1, "--workers", 2, "--seconds", 0.1)
    code, out, _ = invoke("bench", *asked)
    assert code == 0
    for word in (
        "network alone",
        "whole run",
        "decode",
        "upscale",
        "encode",
        "place",
        "peak memory",
        "saved in",
    ):
        assert word in out
    # The first line is the machine's own name, the last one a path.
    assert max(map(len, out.splitlines()[1:-1])) <= 80
    (kept,) = (tmp_path / "data" / "comic-upscale" / "rates").glob("*.json")
    values = json.loads(kept.read_text(encoding="utf-8"))
    assert (values["model"], len(values["model_sha256"])) == ("tiny-x4.safetensors", 64)
    assert {"comic-upscale", "torch"} <= set(values["versions"])
    out = invoke("cost", "--pages", 100, "--model", tiny_weights)[1]
    assert "this machine: tiny-x4.safetensors" in unwrapped(out)
    assert ", bench of " in unwrapped(out)


def test_a_ceiling_is_exit_code_8_and_status_tells_what_was_spent(pages: Path, tiny_weights: Path) -> None:
    run = ("run", "--input", pages, "--model", tiny_weights, "--device", "cpu", "--price", 3600)
    code, out, _ = invoke(*run, "--max-cost", 0.5)
    assert code == 8
    assert "stopped early (--max-cost $0.5" in out
    assert "higher --max-cost to continue" in out
    code, out, _ = invoke(*run, "--max-cost", 1000)
    assert code == 0
    assert "spent: $" in out
    out = invoke("status")[1]
    assert "spent: $" in out
    assert "at $3,600.00 per hour" in out
    told = json.loads(invoke("status", "--json")[1])
    assert (told["price"], told["to_come"]) == (3600.0, 0.0)
    assert told["spent"] > 0


def test_a_ceiling_needs_a_price(pages: Path, tiny_weights: Path) -> None:
    code, _, err = invoke("run", "--input", pages, "--model", tiny_weights, "--max-cost", 1)
    assert code == 2
    assert "--price" in err
