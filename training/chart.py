"""Draw how training went: ``python -m training.chart LOG CHART``, from a run's log to an SVG or PNG."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def main(
    log: Annotated[Path, typer.Argument(help="The log.jsonl of a training run.")],
    chart: Annotated[Path, typer.Argument(help="The file to write; its suffix says what it is.")],
) -> None:
    """Draw validation PSNR over steps, a line for each track."""
    import matplotlib as mpl

    mpl.use("agg")
    # Without the salt and the date, the same log would give other bytes each time.
    mpl.rcParams["svg.hashsalt"] = "comic-upscale"
    from matplotlib import pyplot as plt

    lines = [json.loads(line) for line in log.read_text("utf-8").splitlines()]
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for track in lines[-1]["psnr"]:
        axes.plot([line["step"] for line in lines], [line["psnr"][track] for line in lines], label=track)
    axes.set_xlabel("step")
    axes.set_ylabel("PSNR of luma in dB")
    axes.set_title("Pages never trained on, a crop from the middle of each")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(chart, metadata={"Date": None} if chart.suffix == ".svg" else None)


if __name__ == "__main__":
    typer.run(main)
