"""What the gate sees: scores of pages that are right, faults planted at the seam for engines, and its own time.

Usage: python -m benchmarks.gate [--pages 60] [--planted 200] [--outputs FOLDER] [--kept] [--set] [--models NAME ...]
                                 [--json FILE]

* clean: pieces of real pages through every model at hand at several scales, judged as a run judges them, with borders
  as if they had been done in tiles (which makes the same bits with these networks on a CPU). The bounds are
  set (--set) from every other page, those of a model of which there are enough outputs from these alone; how many
  outputs are beyond them is counted over all and over the other pages.
* planted: outputs of the package's own model with one fault each, at two places. *At the engine*: what a run puts right
  afterwards (tone, solid white and black) counts as mended, where nothing that can be seen is left of the
  fault. *In what is written*: the gate is alone with it.
* --models: these of the package's models alone. With --set they get bounds of their own, and all other bounds stay.
* tiles without overlap: seams as a true fault makes them, by the engine itself.
* time: the gate's processor time beside that of reading a page, the network, finishing and writing.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.gate_faults import FAULTS, Scene
from benchmarks.gate_pages import (
    OWN,
    PLANS,
    Made,
    made,
    made_without_overlap,
    open_network,
    plan_for,
    tile_borders,
)
from benchmarks.machine import facts, write_report
from benchmarks.whole_run import REPOSITORY
from comic_upscale.engines.pages import finish, prepare, upscale_pages
from comic_upscale.engines.torch.engine import open_torch_engine
from comic_upscale.gate.scores import RawOutput, Scores, compare
from comic_upscale.gate.verdict import (
    Bounds,
    bounds_for,
    bounds_of_size,
    default_bounds,
    judge,
    measure_raw_output,
    reasons,
    thresholds,
)
from comic_upscale.imaging.decode import decode
from comic_upscale.imaging.encode import encode
from comic_upscale.imaging.pixels import Borders, Pixels, SampleArray
from comic_upscale.models.catalogue import CATALOGUE

RESULT = REPOSITORY / "benchmarks" / "results" / "gate-cpu.json"
GENERATIVE = REPOSITORY / "benchmarks" / "results" / "gate-generative-cpu.json"
BOUNDS = REPOSITORY / "comic_upscale" / "gate" / "thresholds.toml"
ANY = "any other model"
LEFT = 2.0
"""Levels, in the mean over any square of 32 pixels, below which nothing that can be seen is left of a fault."""
LOW_IS_BAD = ("psnr", "ssim", "contrast")
PLACES = ("at the engine", "in what is written")
MARGIN = 1.5
"""By how much a bound lies beyond the worst right page of those that it was set from."""
LEAST = {
    "worst_block": 8.0, "brightness": 0.5, "tint": 1.0, "shift": 0.1, "white_drift": 0.5, "black_drift": 0.5,
    "chroma": 3.0, "tile_shift": 0.1, "seam": 1.2, "tile_step": 1.0, "raw_tint": 1.5, "raw_tone": 1.0,
    "raw_white": 0.5, "raw_black": 0.5,
}  # fmt: skip
"""Levels and pixels of the source below which a bound is never set: nobody sees less."""
MOST = {"ssim": 0.95, "contrast": 0.9}
"""Above which a bound is never set: a network that is softer than those at hand makes no faulty pages."""
ENOUGH = 50
"""Outputs, among those that bounds are set from, for a model to have bounds of its own."""


@dataclass(frozen=True, slots=True)
class Judged:
    """An output that is right."""

    made: Made
    scores: Scores
    sets_bounds: bool
    """Whether its page is one of those that the bounds are set from."""


def main() -> None:
    """Measure, print, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pages", type=int, default=60)
    parser.add_argument("--planted", type=int, default=200)
    parser.add_argument("--outputs", type=Path, default=REPOSITORY / "build" / "gate")
    parser.add_argument("--kept", action="store_true", help="run no network: take what the folder has")
    parser.add_argument("--set", action="store_true", help="write new bounds into the package")
    parser.add_argument("--models", nargs="+", default=[], metavar="NAME", help="these models alone")
    parser.add_argument("--json", type=Path, default=RESULT)
    options = parser.parse_args()
    if options.models:
        measure_models(options)
        return
    kept = options.kept
    outputs = [each for plan in PLANS for each in made(plan, options.pages, options.outputs, kept_only=kept)]
    unlapped = made_without_overlap(options.pages, options.outputs, kept_only=kept)
    torch.set_num_threads(1)
    judged = judge_clean(outputs)
    if options.set:
        BOUNDS.write_text(bounds_text(judged), encoding="utf-8")
        thresholds.cache_clear()
    own = [each for each in outputs if each.model == OWN]
    report = {
        **facts(torch.get_num_threads()),
        "weights": {
            plan.model: found.identity[:12]
            for plan in PLANS
            if (found := open_network(plan.model)) is not None
        },
        "bounds": {ANY: asdict(default_bounds()), OWN: asdict(bounds_for(CATALOGUE[OWN].weights.sha256))},
        "clean": clean(judged),
        "planted": planted(own, options.planted),
        "tiles_without_overlap": without_overlap(unlapped),
        "time": timed(),
    }
    write_report(report, options.json)
    print(
        json.dumps(
            {key: report[key] for key in ("clean", "planted", "tiles_without_overlap", "time")}, indent=1
        )
    )


def measure_models(options: argparse.Namespace) -> None:
    """Measure single models: their bounds if asked for, what is beyond them, and the faults planted in their pages."""
    plans = [plan_for(name) for name in options.models]
    outputs = [
        each for plan in plans for each in made(plan, options.pages, options.outputs, kept_only=options.kept)
    ]
    torch.set_num_threads(1)
    judged = judge_clean(outputs)
    if options.set:
        BOUNDS.write_text(with_own_bounds(BOUNDS.read_text(encoding="utf-8"), judged), encoding="utf-8")
        thresholds.cache_clear()
    report = {
        **facts(torch.get_num_threads()),
        "bounds": {name: asdict(bounds_for(CATALOGUE[name].weights.sha256)) for name in options.models},
        "clean": clean(judged),
        "planted": planted(outputs, options.planted),
    }
    write_report(report, options.json)
    print(json.dumps({key: report[key] for key in ("clean", "planted")}, indent=1))


def with_own_bounds(text: str, judged: list[Judged]) -> str:
    """Return the file of bounds with the sections of the judged models added or replaced."""
    before, *sections = text.rstrip("\n").split("\n[measured.")
    known = dict[str, list[str]]()
    for section in sections:
        known.setdefault(section.partition("]")[0].removesuffix(".bounds"), []).append(section)
    seen = [each for each in judged if each.sets_bounds]
    for model in sorted({each.made.model for each in seen}):
        own = [each for each in seen if each.made.model == model]
        if len(own) < ENOUGH:
            raise SystemExit(f"{len(own)} outputs of {model} are too few for bounds of its own: more --pages")
        known[model] = [
            f'{model}]\nidentity = "{own[0].made.identity}"',
            "\n".join([f"{model}.bounds]", *bound_lines(own), ""]),
        ]
    parts = [part for model in sorted(known) for part in known[model]]
    return "\n[measured.".join([before, *parts]).rstrip("\n") + "\n"


def judge_clean(outputs: list[Made]) -> list[Judged]:
    """Score every output as a run would, finished, with borders."""
    names = sorted({each.file for each in outputs})
    judged = []
    for each in outputs:
        output = each.output()
        borders = tile_borders(each)
        raw = measure_raw_output(each.page.color, output, borders)
        scores = compare(each.page.color, finished(each, output).color, borders, raw)
        judged.append(Judged(each, scores, names.index(each.file) % 2 == 0))
    return judged


def finished(each: Made, output: SampleArray) -> Pixels:
    """Return an output as a run would write it."""
    return finish(replace(each.page, color=np.array(output)))


def bounds_text(judged: list[Judged]) -> str:
    """Return the file of bounds: beyond the worst right page of every other page by `MARGIN`."""
    seen = [each for each in judged if each.sets_bounds]
    counts = Counter(each.made.model for each in seen)
    lines = [
        "# The worst scores of a page that passes the gate. scores.py explains each score.",
        "# Written by `python -m benchmarks.gate --set`.",
        "[origin]",
        f'pages = "{len({each.made.file for each in seen})} of the real pages of the project, every other one"',
        f'outputs = "{", ".join(f"{count} of {model}" for model, count in sorted(counts.items()))}"',
        f'rule = "{MARGIN:g} times as far from perfect as the worst of these outputs; never nearer than can be seen"',
        'figures = "benchmarks/results/gate-cpu.json"',
        "",
        "# Bounds of all models together, for engines without their own.",
        "[bounds]",
        *bound_lines(seen),
        "",
        *generative_lines(),
        "# Bounds of single networks, identified by the hash of their weights.",
    ]
    parts = []
    for model, count in sorted(counts.items()):
        if count >= ENOUGH:
            own = [each for each in seen if each.made.model == model]
            part = [
                f"[measured.{model}]",
                f'identity = "{own[0].made.identity}"',
                f"[measured.{model}.bounds]",
            ]
            parts.append("\n".join([*part, *bound_lines(own)]))
    return "\n".join(lines) + "\n" + "\n\n".join(parts) + "\n"


def generative_lines() -> list[str]:
    """Return the part of the file of bounds about engines that draw, which `benchmarks.gate_generative` measured."""
    found = json.loads(GENERATIVE.read_text(encoding="utf-8"))
    return [
        "# Bounds by `EngineInfo.fidelity`. Changes that an engine that draws may make were made by rule, at their",
        f"# strongest, on {found['pieces']} pieces of real pages: benchmarks/results/{GENERATIVE.name}.",
        "[bounds_of_fidelity.generative]",
        *[f"{name} = {float(value)}" for name, value in found["bounds"].items()],
        "",
    ]


def bound_lines(seen: list[Judged]) -> list[str]:
    """Return a line for each bound that these outputs give."""
    bounds = {}
    for score in fields(Bounds):
        values = [getattr(each.scores, score.name) for each in seen]
        if score.name == "psnr":
            bounds[score.name] = round(min(values) - 20 * np.log10(MARGIN), 1)
        elif score.name == "contrast_levels":
            bounds[score.name] = 2.0
        elif score.name in LOW_IS_BAD:
            bounds[score.name] = round(min(MOST[score.name], 1 - MARGIN * (1 - min(values))), 3)
        else:
            bounds[score.name] = round(max(LEAST[score.name], MARGIN * max(values)), 2)
    return [f"{name} = {float(value)}" for name, value in bounds.items()]


def clean(judged: list[Judged]) -> dict[str, object]:
    """Count the false alarms, and give the distributions."""
    alarms = {each.made.label: why for each in judged if (why := reasons(each.scores, bounds_of(each.made)))}
    unseen = [each for each in judged if not each.sets_bounds]
    models = sorted({each.made.model for each in judged})
    return {
        "outputs": len(judged),
        "pages": len({each.made.file for each in judged}),
        "false_alarms": len(alarms),
        "share": round(len(alarms) / len(judged), 4),
        "on_pages_that_set_no_bounds": {
            "outputs": len(unseen),
            "false_alarms": sum(each.made.label in alarms for each in unseen),
        },
        "which": {label: list(why) for label, why in alarms.items()},
        "distributions": {
            model: {
                "outputs": sum(each.made.model == model for each in judged),
                **spread([each.scores for each in judged if each.made.model == model]),
            }
            for model in models
        },
    }


def bounds_of(each: Made) -> Bounds:
    """Return the bounds that a run holds an output to."""
    return bounds_of_size(bounds_for(each.identity), each.page.height, each.page.width)


def spread(scores: list[Scores]) -> dict[str, list[float]]:
    """Least, 1st, 50th and 99th percentile, and most of each score."""
    return {
        name: [
            round(float(value), 4)
            for value in np.percentile([getattr(score, name) for score in scores], (0, 1, 50, 99, 100))
        ]
        for name in Scores.__slots__
    }


def planted(outputs: list[Made], count: int) -> dict[str, dict[str, object]]:
    """Plant each fault in this number of outputs, where it is possible, at both positions."""
    chance = np.random.default_rng(7)
    order = [outputs[index] for index in chance.permutation(len(outputs))]
    tallies = {name: {place: Counter[str]() for place in PLACES} for name in FAULTS}
    missed: dict[str, list[str]] = {name: [] for name in FAULTS}
    for index, each in enumerate(order):
        other = another(order, index)
        if other is None:
            continue
        output, borders = each.output(), tile_borders(each)
        right_raw = measure_raw_output(each.page.color, output, borders)
        right = finished(each, output)
        scale = output.shape[0] / each.page.height
        for name, plant in FAULTS.items():
            if tallies[name][PLACES[0]].total() >= count:
                continue
            at_engine = plant(Scene(output, other, borders, scale, chance))
            written = plant(Scene(right.color, other, borders, scale, chance))
            if at_engine is None or written is None:
                continue
            # What an engine hands over is changed in place as it is finished.
            raw = (measure_raw_output(each.page.color, at_engine, borders), right_raw)
            pages = (finished(each, at_engine), replace(right, color=written))
            for place, before, page in zip(PLACES, raw, pages, strict=True):
                outcome = what_becomes(each, right, page, borders, before)
                tallies[name][place][outcome] += 1
                missed[name] += [f"{each.label}, {place}"] if outcome == "missed" else []
    return {
        name: {
            **{place: told(counts) for place, counts in tally.items()},
            "missed": sorted(missed[name])[:12],
        }
        for name, tally in tallies.items()
    }


def told(counts: Counter[str]) -> dict[str, object]:
    """Return counts with their sum and the share that is no miss."""
    total = sum(counts.values())
    good = counts["caught"] + counts["mended"]
    return {
        "planted": total,
        **{what: counts[what] for what in ("caught", "mended", "missed")},
        "caught_or_mended": round(good / max(1, total), 3),
        "caught_of_those_left": round(counts["caught"] / max(1, total - counts["mended"]), 3),
    }


def another(outputs: list[Made], index: int) -> SampleArray | None:
    """Return an output of the same shape, of another page."""
    each = outputs[index]
    for candidate in (*outputs[index + 1 :], *outputs[:index]):
        if candidate.file != each.file and candidate.shape == each.shape:
            return candidate.output()
    return None


def what_becomes(each: Made, right: Pixels, page: Pixels, borders: Borders, raw: RawOutput) -> str:
    """Tell whether the gate catches a page, or, where it does not, whether the fault is gone."""
    bounds = bounds_for(each.identity)
    if judge(each.page.color, page.color, borders, raw=raw, bounds=bounds).is_suspect:
        return "caught"
    return "mended" if largest_change(right.color, page.color) < LEFT else "missed"


def largest_change(one: SampleArray, other: SampleArray) -> float:
    """Return how far two pages are apart in the worst square of 32 pixels, levels in the mean."""
    apart = np.abs(one.astype(np.int16) - other).max(axis=2).astype(np.float32)
    down, right = (np.arange(0, length, 32) for length in apart.shape)
    sums = np.add.reduceat(np.add.reduceat(apart, down, axis=0), right, axis=1)
    counts = np.outer(np.diff(down, append=apart.shape[0]), np.diff(right, append=apart.shape[1]))
    return float((sums / counts).max())


def without_overlap(outputs: list[tuple[Made, SampleArray, Borders]]) -> dict[str, object]:
    """Count what is seen of seams that the engine itself made, its tiles lacking their overlap."""
    counts: Counter[str] = Counter()
    for each, output, borders in outputs:
        right = finished(each, each.output())
        raw = measure_raw_output(each.page.color, output, borders)
        counts[what_becomes(each, right, finished(each, output), borders, raw)] += 1
    return told(counts)


def timed() -> dict[str, float]:
    """Milliseconds of processor time for a page of 512x768 at 2.5x, the best of three, and the gate's share."""
    found = open_network(OWN)
    assert found is not None
    engine = open_torch_engine(found, "cpu")
    data = (REPOSITORY / "examples" / "pages" / "001.png").read_bytes()
    page = prepare(Pixels(decode(data, max_pixels=10**9).color[:768, :512].copy()))
    target = (round(page.width * 2.5), round(page.height * 2.5))
    result = upscale_pages(engine, [page], target)[0]
    assert isinstance(result, Pixels)
    done = finish(replace(result, color=result.color.copy()))

    def best(work: Callable[[], object]) -> float:
        times = []
        for _ in range(3):
            start = time.process_time()
            work()
            times.append(time.process_time() - start)
        return round(1000 * min(times), 1)

    steps = {
        "read": best(lambda: prepare(decode(data, max_pixels=10**9))),
        "network": best(lambda: upscale_pages(engine, [page], target)),
        "finish": best(lambda: finish(replace(result, color=result.color.copy()))),
        "gate": best(lambda: judge(page.color, done.color, raw=measure_raw_output(page.color, result.color))),
        "write": best(lambda: encode(done, format="png")),
    }
    return {
        **{f"{name}_ms": milliseconds for name, milliseconds in steps.items()},
        "gate_share_of_a_page": round(steps["gate"] / sum(steps.values()), 4),
        "gate_share_without_the_network": round(steps["gate"] / (sum(steps.values()) - steps["network"]), 4),
    }


if __name__ == "__main__":
    main()
