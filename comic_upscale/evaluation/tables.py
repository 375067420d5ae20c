"""The results of an evaluation as rows, CSV, JSON, a chart and a sheet."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from comic_upscale.evaluation.metrics import Scores
from comic_upscale.evaluation.pairs import Comparison
from comic_upscale.evaluation.sheet import as_png, under
from comic_upscale.evaluation.svg import COLORS, axis, lay_out, x_of, y_of
from comic_upscale.evaluation.trial import Standing, Trial
from comic_upscale.evaluation.verdict import judge

SCORES = tuple(field.name for field in dataclasses.fields(Scores))
DIGITS = {"psnr": 2, "ssim": 4, "ms_ssim": 4, "gmsd": 4, "shift": 2, "lpips": 4, "seconds_a_page": 2}
"""Meaningful decimals of each score."""

TITLES = {
    "psnr": "PSNR dB",
    "ssim": "SSIM",
    "ms_ssim": "MS-SSIM",
    "gmsd": "GMSD",
    "shift": "shift",
    "lpips": "LPIPS",
    "white_kept": "white",
    "black_kept": "black",
    "seconds_a_page": "s a page",
}


def comparison_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """Return one row per pair: its name, and its scores or why there are none."""
    return [
        {
            "name": pair.name,
            **{name: None if pair.scores is None else getattr(pair.scores, name) for name in SCORES},
            "error": pair.reason,
            "notes": "; ".join(pair.notes) or None,
        }
        for pair in comparison.pairs
    ]


def missing_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """Return one row for each image without a clear partner; columns as in `comparison_rows`."""
    reasons = (
        ("no candidate has this name", comparison.only_reference),
        ("no original has this name", comparison.only_candidate),
        ("several images have this name", comparison.ambiguous),
    )
    return [
        {"name": name, **dict.fromkeys(SCORES), "error": reason, "notes": None}
        for reason, names in reasons
        for name in names
    ]


def comparison_means(comparison: Comparison) -> dict[str, float | None]:
    """Return the mean of each score over the pairs that have it."""
    rows = comparison_rows(comparison)
    return {name: _mean([row[name] for row in rows]) for name in SCORES}


def comparison_json(comparison: Comparison) -> str:
    """Return a complete comparison as JSON."""
    return _as_json(
        {
            "pairs": comparison_rows(comparison),
            "means": comparison_means(comparison),
            "scored": len(comparison.scored),
            "failed": len(comparison.failed),
            "only_reference": comparison.only_reference,
            "only_candidate": comparison.only_candidate,
            "ambiguous": comparison.ambiguous,
        }
    )


def trial_rows(trial: Trial) -> list[dict[str, Any]]:
    """Return one row per model and track, and one over all tracks: means over pages, and seconds per page."""
    tracks = [*trial.tracks, None] if len(trial.tracks) > 1 else [*trial.tracks]
    return [_standing_row(trial, standing, track) for track in tracks for standing in trial.standings]


def _standing_row(trial: Trial, standing: Standing, track: str | None) -> dict[str, Any]:
    return {
        "model": standing.name,
        "track": track or "all",
        **{name: standing.mean(name, track) for name in SCORES},
        "white_kept": standing.kept("white", track),
        "black_kept": standing.kept("black", track),
        "seconds_a_page": standing.seconds(trial.page_pixels),
    }


def turn_rows(trial: Trial) -> list[dict[str, Any]]:
    """Return one row per turn, for further analysis."""
    return [
        {
            "model": standing.name,
            "track": turn.track,
            "page": turn.page,
            **dataclasses.asdict(turn.scores),
            "seconds": turn.seconds,
            "input_pixels": turn.pixels,
        }
        for standing in trial.standings
        for turn in standing.turns
    ]


def trial_json(trial: Trial) -> str:
    """Return a complete trial as JSON, with its recommendation."""
    return _as_json(
        {
            "scale": trial.scale,
            "pages": trial.pages,
            "left_out": trial.left_out,
            "page_pixels": round(trial.page_pixels),
            "models": trial_rows(trial),
            "turns": turn_rows(trial),
            "verdict": dataclasses.asdict(judge(trial)),
        }
    )


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows with equal columns as CSV. Unknown values are empty."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows([{key: _shorten(value) for key, value in row.items()} for row in rows])
    return buffer.getvalue()


def trial_chart(trial: Trial) -> str:
    """Return a chart of fidelity (SSIM, mean over all tracks) against seconds per page, a point per model, as SVG."""
    points = [
        (standing.name, standing.seconds(trial.page_pixels), standing.mean("ssim") or 0.0)
        for standing in trial.standings
    ]
    horizontal = axis(0, max(seconds for _, seconds, _ in points))
    vertical = axis(min(ssim for *_, ssim in points), max(ssim for *_, ssim in points))
    drawn = []
    for number, (name, seconds, ssim) in enumerate(points):
        x, y = x_of(horizontal, seconds), y_of(vertical, ssim)
        right = horizontal.part(seconds) < 0.6
        place = f'x="{x + 9:.1f}"' if right else f'x="{x - 9:.1f}" text-anchor="end"'
        drawn.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{COLORS[number % len(COLORS)]}"/>'
            f'<text {place} y="{y + 4:.1f}">{_escape(name)}</text>'
        )
    return lay_out(
        horizontal,
        vertical,
        drawn,
        title="Fidelity against time: SSIM and seconds a page of each model",
        x_label="seconds a page",
        y_label="SSIM",
    )


def trial_sheet(trial: Trial) -> bytes:
    """Return crops of some pages, the original and the output of each model, at 200 %, as PNG."""
    return as_png(under(f"x{trial.scale:g}, {trial.tracks[-1]}: the original first, at 200 %", trial.rows))


def shown(name: str, value: float | None) -> str:
    """Return a score as text; a dash if it was not measured."""
    return "-" if value is None else f"{value:.{DIGITS.get(name, 4)}f}"


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def _shorten(value: Any) -> Any:
    return round(value, 6) if isinstance(value, float) else value


def _as_json(value: Any) -> str:
    def plain(item: Any) -> Any:
        if isinstance(item, dict):
            return {key: plain(each) for key, each in item.items()}
        if isinstance(item, (list, tuple)):
            return [plain(each) for each in item]
        return _shorten(item)

    return json.dumps(plain(value), ensure_ascii=False, indent=2) + "\n"


def _escape(text: str) -> str:
    from html import escape

    return escape(text, quote=True)
