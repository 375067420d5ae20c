"""Which model restores comic pages best, and at what cost: scores and seconds on validation pages, on the CPU.

Usage: python -m benchmarks.quality [--pages N] [--tracks x2-clean ...] [--model NAME|FILE ...] [--only-models]
                                    [--no-peers] [--seconds-only | --scores-only] [--threads N] [--json FILE]
                                    [--markdown FILE]

Originals are the CC BY-SA pages that no model of ours was trained on, cut to at most 640 x 960. They are
shrunk by 2 and by 2.5 (bicubic), clean and through JPEG 75, and enlarged again by every candidate. On each
page the candidates take turns, in an order that moves on from page to page, so that a machine that is busy
for a while is so for all of them. Scores are means over pages, on luma, borders included; seconds are wall
seconds of a candidate with its resampling; ratios are medians of the ratios page by page.

A peer takes part in every variant that suits a track: on clean pages those that leave noise alone, on JPEG
pages all of them; for 2.5 its x2 network enlarged by Lanczos, and its x3 network (where it has one) shrunk by
Lanczos. The variant with the best mean PSNR stands for the peer; the JSON has all of them.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from PIL import Image

from benchmarks.candidates import REFERENCE, Candidate, Upscale, gather, model_name
from benchmarks.machine import cores, facts, write_report
from benchmarks.validation import (
    CROP,
    REPOSITORY,
    TRACKS,
    USER_PAGE,
    AbsentError,
    open_original,
    open_user_pages,
    validation_pages,
)
from comic_upscale.errors import ComicUpscaleError
from comic_upscale.evaluation.flat import FlatGround, flat_ground
from comic_upscale.evaluation.metrics import Metrics, Scores
from comic_upscale.evaluation.picture import as_pixels
from comic_upscale.evaluation.shrunk import Track, shrink_original, spread

RESULT = REPOSITORY / "benchmarks" / "results" / "quality-cpu.json"
TIMED = "x2.5-clean"
"""The track that seconds are told from."""
USER_TRACK = Track("user page x2.5", 2.5, None)

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class PageResult:
    """What one candidate did with one page."""

    seconds: float
    scores: Scores | None = None
    flat: FlatGround | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one candidate did on one track: a result for each page, by name."""

    candidate: Candidate
    pages: dict[str, PageResult]

    @property
    def psnr(self) -> float | None:
        """Mean over the pages; None where nothing was scored."""
        scores = [page.scores.psnr for page in self.pages.values() if page.scores]
        return statistics.fmean(scores) if scores else None


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table, write what was asked for; return the exit code, 2 where something is absent."""
    options = _parse(arguments)
    try:
        report = measure(options)
    except (AbsentError, ComicUpscaleError) as error:
        print(error, file=sys.stderr)
        return 2
    table = as_markdown(report)
    print(table)
    if options.markdown:
        options.markdown.write_text(table, encoding="utf-8")
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = [track.name for track in TRACKS]
    parser.add_argument("--pages", type=int, help="a sample of this number of pages, spread evenly")
    parser.add_argument("--tracks", nargs="+", choices=names, default=names)
    parser.add_argument(
        "--model", "--models", dest="models", action="extend", nargs="+", default=[], metavar="NAME|FILE"
    )
    parser.add_argument("--only-models", action="store_true", help="nobody but the models that --model names")
    parser.add_argument("--peers", action=argparse.BooleanOptionalAction, default=True)
    only = parser.add_mutually_exclusive_group()
    only.add_argument(
        "--seconds-only", action="store_true", help=f"no scores; {TIMED} and the user's page alone"
    )
    only.add_argument("--scores-only", "--scores", action="store_true", help="leave the user's page out")
    parser.add_argument("--user-pages", type=int, default=3, help="pages of 512x768 to time")
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument("--json", type=Path, default=RESULT)
    parser.add_argument("--markdown", type=Path)
    return parser.parse_args(arguments)


def measure(options: argparse.Namespace) -> dict[str, object]:
    """Return the report; it is written after every track, so that a run cut short has left what it found.

    Raises:
        AbsentError: pages, peers or a library are not on this machine.
        WeightsError: a model is not there.
    """
    candidates = gather(options.models, peers=options.peers)
    if options.only_models:
        named = {model_name(model) for model in options.models}
        candidates = [candidate for candidate in candidates if candidate.name in named]
    every_page = validation_pages()
    pages = spread(every_page, options.pages)
    wanted = [TIMED] if options.seconds_only else options.tracks
    tracks: dict[str, object] = {}
    report: dict[str, object] = {
        **facts(options.threads),
        "pages": f"{len(pages)} of {len(every_page)} CC BY-SA pages, middle of at most {CROP[0]}x{CROP[1]}",
        "scores": "piq on BT.601 luma, borders included, means over pages; seconds are wall seconds on the CPU",
        "tracks": tracks,
    }
    for track in (track for track in TRACKS if track.name in wanted):
        originals = ((page.name, open_original(page)) for page in pages)
        inputs = ((name, shrink_original(original, track), original) for name, original in originals)
        outcomes = run_track(
            track, candidates, inputs, options.threads, scored=not options.seconds_only, tell=_tell
        )
        tracks[track.name] = summarise(outcomes)
        write_report(report, options.json)
    if not options.scores_only:
        cuts = open_user_pages(every_page, options.user_pages)
        inputs = ((str(number), cut, cut) for number, cut in enumerate(cuts, start=1))
        outcomes = run_track(USER_TRACK, candidates, inputs, options.threads, scored=False, tell=_tell)
        report["user_page"] = {
            "page": f"{USER_PAGE[0]}x{USER_PAGE[1]}, x2.5, {len(cuts)} pages",
            "candidates": summarise(outcomes),
        }
        write_report(report, options.json)
    return report


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def run_track(
    track: Track,
    candidates: Iterable[Candidate],
    inputs: Iterable[tuple[str, Image.Image, Image.Image]],
    threads: int,
    *,
    scored: bool,
    tell: Progress,
) -> list[Outcome]:
    """Let every candidate that fits the track do every page, in turns; all networks are let go of at the end.

    Args:
        track: its factor, and what fits it.
        candidates: who may take part.
        inputs: name, what a model gets, and its original for each page.
        threads: for torch and for ncnn alike.
        scored: False to time alone.
        tell: called with a line about each page.
    """
    outcomes = [Outcome(candidate, {}) for candidate in candidates if candidate.fits(track)]
    metrics = Metrics()
    with ExitStack() as stack:
        opened = [(outcome, stack.enter_context(outcome.candidate.open(threads))) for outcome in outcomes]
        for _, upscale in opened:
            # The first call of a network prepares it.
            upscale(Image.new("RGB", (64, 96), "gray"), track.factor)
        turns = deque(opened)
        for name, source, original in inputs:
            for outcome, upscale in turns:
                output, seconds = _timed(upscale, source, track.factor)
                outcome.pages[name] = (
                    PageResult(
                        seconds,
                        metrics.score(as_pixels(output), as_pixels(original)),
                        flat_ground(source, output),
                    )
                    if scored
                    else PageResult(seconds)
                )
            turns.rotate(-1)
            took = ", ".join(f"{each.candidate.label} {each.pages[name].seconds:.2f}" for each in outcomes)
            tell(f"{track.name} | {name} {source.width}x{source.height} | seconds: {took}")
    return outcomes


def _timed(upscale: Upscale, source: Image.Image, factor: float) -> tuple[Image.Image, float]:
    start = time.perf_counter()
    output = upscale(source, factor)
    return output, time.perf_counter() - start


def summarise(outcomes: Sequence[Outcome]) -> list[dict[str, object]]:
    """Return a row of figures for each outcome; ``best`` is True for one variant of each candidate."""
    reference = next((each for each in outcomes if each.candidate.name == REFERENCE), None)
    best = {id(outcome) for outcome in best_variants(outcomes)}
    return [
        {
            "candidate": outcome.candidate.name,
            "variant": outcome.candidate.variant,
            "best": id(outcome) in best,
            **_mean_scores(outcome),
            **_flat_shares(outcome),
            "seconds": _seconds(outcome, reference),
            "pages": {name: _page_row(page) for name, page in outcome.pages.items()},
        }
        for outcome in outcomes
    ]


def best_variants(outcomes: Sequence[Outcome]) -> Iterator[Outcome]:
    """Give for each candidate the variant with the best mean PSNR, and all variants where nothing was scored."""
    for name in dict.fromkeys(outcome.candidate.name for outcome in outcomes):
        variants = [outcome for outcome in outcomes if outcome.candidate.name == name]
        if all(outcome.psnr is None for outcome in variants):
            yield from variants
        else:
            yield max(variants, key=lambda outcome: outcome.psnr or 0.0)


def _mean_scores(outcome: Outcome) -> dict[str, float]:
    scored = [_known(page.scores) for page in outcome.pages.values() if page.scores]
    names = dict.fromkeys(name for row in scored for name in row)
    return {name: round(statistics.fmean(row[name] for row in scored if name in row), 4) for name in names}


def _known(scores: Scores) -> dict[str, float]:
    """The scores that could be measured."""
    return {name: value for name, value in asdict(scores).items() if value is not None}


def _flat_shares(outcome: Outcome) -> dict[str, float | None]:
    """Shares over the flat ground of all pages together; None where there is no such ground."""
    grounds = [asdict(page.flat) for page in outcome.pages.values() if page.flat]
    total = {name: sum(ground[name] for ground in grounds) for name in (grounds or [{}])[0]}
    return {
        f"flat_{color}_kept": round(total[f"{color}_kept"] / total[color], 6) if total[color] else None
        for color in ("white", "black")
        if total
    }


def _seconds(outcome: Outcome, reference: Outcome | None) -> dict[str, float | None]:
    seconds = [page.seconds for page in outcome.pages.values()]
    ratio = None
    if reference is not None:
        ratio = statistics.median(
            page.seconds / reference.pages[name].seconds for name, page in outcome.pages.items()
        )
    return {
        "median": round(statistics.median(seconds), 4),
        "mean": round(statistics.fmean(seconds), 4),
        "ratio": None if ratio is None else round(ratio, 3),
    }


def _page_row(page: PageResult) -> dict[str, float]:
    row: dict[str, float] = {"seconds": round(page.seconds, 4)}
    if page.scores:
        row |= {name: round(value, 4) for name, value in _known(page.scores).items()}
    if page.flat:
        row |= asdict(page.flat)
    return row


def as_markdown(report: dict) -> str:  # type: ignore[type-arg]
    """Return a table for each track and one for the user's page: the best variant of each candidate."""
    parts = []
    for name, rows in report["tracks"].items():
        parts += [f"### {name}", "", *_table(rows), ""]
    if "user_page" in report:
        parts += [f"### {report['user_page']['page']}", "", *_table(report["user_page"]["candidates"]), ""]
    parts.append(f"{report['pages']}; {report['scores']}. {report['hardware']}")
    return "\n".join(parts) + "\n"


_COLUMNS = (
    ("PSNR dB", "psnr", "{:.2f}"),
    ("SSIM", "ssim", "{:.4f}"),
    ("GMSD (less is better)", "gmsd", "{:.4f}"),
    ("flat white kept", "flat_white_kept", "{:.2%}"),
    ("flat black kept", "flat_black_kept", "{:.2%}"),
    ("s/page median", "median", "{:.2f}"),
    ("s/page mean", "mean", "{:.2f}"),
    (f"time / {REFERENCE}", "ratio", "{:.2f}"),
)


def _table(rows: Sequence[dict]) -> list[str]:  # type: ignore[type-arg]
    shown = [{**row, **row["seconds"]} for row in rows if row["best"]]
    columns = [column for column in _COLUMNS if any(column[1] in row for row in shown)]
    lines = [
        "| candidate | " + " | ".join(title for title, _, _ in columns) + " |",
        "|---" + "|---:" * len(columns) + "|",
    ]
    for row in shown:
        label = f"{row['candidate']} ({row['variant']})" if row["variant"] else row["candidate"]
        values = ("" if row.get(key) is None else form.format(row[key]) for _, key, form in columns)
        lines.append(f"| {label} | " + " | ".join(values) + " |")
    return lines


if __name__ == "__main__":
    sys.exit(main())
