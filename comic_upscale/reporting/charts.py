"""The charts of a report: the rate, and the stages, over the working time."""

from __future__ import annotations

from comic_upscale.evaluation.svg import BOTTOM, COLORS, HEIGHT, TOP, Axis, axis, lay_out, x_of, y_of
from comic_upscale.reporting.timeline import STAGES, Bin, Timeline

_BASE = HEIGHT - BOTTOM

_UNITS = ((3600.0, "h"), (60.0, "min"), (1.0, "s"))


def rate_chart(timeline: Timeline) -> str | None:
    """Return a chart of pages per second over the working time, as SVG; None if too few pages have a time."""
    if not timeline.bins:
        return None
    # The rate of a slow machine is easier to read as pages per minute than as 0.003 per second.
    per, unit = (1.0, "second") if (timeline.rate or 0) >= 1 else (60.0, "minute")
    if (timeline.rate or 0) * 60 < 1:
        per, unit = 3600.0, "hour"
    horizontal, label = _time_axis(timeline)
    vertical = axis(0, max(each.rate for each in timeline.bins) * per)
    line = _path(horizontal, vertical, [(each, each.rate * per) for each in timeline.bins])
    end = x_of(horizontal, timeline.bins[-1].start + timeline.bins[-1].seconds)
    drawn = [
        f'<path d="{line} L{end:.1f} {_BASE} L{x_of(horizontal, 0):.1f} {_BASE} Z"'
        f' fill="{COLORS[0]}" fill-opacity=".18"/>',
        f'<path d="{line}" fill="none" stroke="{COLORS[0]}" stroke-width="2"/>',
        *_starts(timeline, horizontal),
    ]
    return lay_out(
        horizontal,
        vertical,
        drawn,
        title=f"Pages a {unit} over the working time",
        x_label=label,
        y_label=f"pages a {unit}",
        x_texts=_texts(horizontal),
    )


def stage_chart(timeline: Timeline) -> str | None:
    """Return a stacked chart of the mean seconds per page in each stage, as SVG; None if nothing was timed."""
    most = max((sum(each.stages) for each in timeline.bins), default=0.0)
    if most <= 0:
        return None
    horizontal, label = _time_axis(timeline)
    vertical = axis(0, most)
    drawn = []
    for number in reversed(range(len(STAGES))):
        heights = [(each, sum(each.stages[: number + 1])) for each in timeline.bins]
        line = _path(horizontal, vertical, heights)
        end = x_of(horizontal, timeline.bins[-1].start + timeline.bins[-1].seconds)
        drawn.append(
            f'<path d="{line} L{end:.1f} {_BASE} L{x_of(horizontal, 0):.1f} {_BASE} Z"'
            f' fill="{COLORS[number]}"><title>{STAGES[number]}</title></path>'
        )
    return lay_out(
        horizontal,
        vertical,
        [*drawn, *_starts(timeline, horizontal)],
        title="Mean seconds a page in each stage over the working time",
        x_label=label,
        y_label="seconds a page",
        x_texts=_texts(horizontal),
    )


def _time_axis(timeline: Timeline) -> tuple[Axis, str]:
    seconds, unit = next(
        ((seconds, unit) for seconds, unit in _UNITS if timeline.seconds >= 2 * seconds), _UNITS[-1]
    )
    rounded = axis(0, timeline.seconds / seconds)
    high = timeline.seconds
    ticks = tuple(tick * seconds for tick in rounded.ticks if tick * seconds <= high)
    return Axis(0.0, high, ticks), f"working time, {unit}"


def _texts(horizontal: Axis) -> list[str]:
    """Return the numbers at the ticks, in the unit of the axis."""
    seconds = next((seconds for seconds, _ in _UNITS if horizontal.high >= 2 * seconds), 1.0)
    return [f"{tick / seconds:g}" for tick in horizontal.ticks]


def _path(horizontal: Axis, vertical: Axis, values: list[tuple[Bin, float]]) -> str:
    """Return a stepped path: each piece of time has one value."""
    parts: list[str] = []
    for each, value in values:
        left, right = x_of(horizontal, each.start), x_of(horizontal, each.start + each.seconds)
        y = y_of(vertical, value)
        parts.append(f"{'L' if parts else 'M'}{left:.1f} {y:.1f} L{right:.1f} {y:.1f}")
    return " ".join(parts)


def _starts(timeline: Timeline, horizontal: Axis) -> list[str]:
    return [
        f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{_BASE}"><title>a run begins</title></line>'
        for start in timeline.starts
        for x in [x_of(horizontal, start)]
    ]
