"""Estimates before anything is sent: the arithmetic of ``comic-upscale cost``, and the history of this server.

Blocks for moments, so routes call it on a thread.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from comic_upscale.costs.workload import Workload
from comic_upscale.server import trials
from comic_upscale.server.database.schema import jobs
from comic_upscale.server.estimates import last_completed, of_model
from comic_upscale.server.services import Quoting
from comic_upscale.settings.processing import AUTO_MODEL, ProcessingSettings

_RECENT = 20


def pixels_per_second(connection: Connection, model: str) -> float | None:
    """Return the output pixels a second of recent jobs of this server; None if there is none.

    Args:
        connection: of the database.
        model: only jobs with it; ``auto`` for jobs with any.
    """
    wanted = [jobs.c.id.in_(last_completed()), jobs.c.seconds > 0, jobs.c.pixels > 0]
    # A trial opens several models for one page.
    wanted.append(jobs.c.params[trials.MODELS].as_string().is_(None))
    if model != AUTO_MODEL:
        wanted.append(of_model(model))
    recent = (
        sa.select(jobs.c.seconds, jobs.c.pixels)
        .where(*wanted)
        .order_by(jobs.c.updated_at.desc())
        .limit(_RECENT)
        .subquery()
    )
    seconds, pixels = connection.execute(
        sa.select(sa.func.sum(recent.c.seconds), sa.func.sum(recent.c.pixels))
    ).one()
    return float(pixels) / float(seconds) if seconds and pixels else None


def count_work(pages: Sequence[Mapping[str, Any]], processing: ProcessingSettings) -> Workload:
    """Count the work of imagined pages.

    Args:
        pages: ``count``, ``width``, ``height`` and ``bytes`` of each size.
        processing: of the job.

    Raises:
        SettingsError: a page would have to grow too much.
    """
    from comic_upscale.estimates.assumed import AssumedPages, assume_pages

    return assume_pages(
        [
            AssumedPages(
                count=page["count"], width=page["width"], height=page["height"], source_bytes=page["bytes"]
            )
            for page in pages
        ],
        processing,
    )


def quote(
    work: Workload,
    processing: ProcessingSettings,
    *,
    gpus: Sequence[str],
    price: float | None,
    link_mbps: float | None,
    quoting: Quoting | None,
) -> list[dict[str, Any]]:
    """Return the quotes of machines for some work, as JSON: this machine first if it was measured, then by cost.

    Args:
        work: the work.
        processing: of the job; its model must be known to the catalogue, or be ``auto``.
        gpus: GPUs to quote; empty for every GPU with a price.
        price: dollars an hour, in place of the listed prices.
        link_mbps: speed of the connection, 10^6 bits a second.
        quoting: prices and measurements of this machine.

    Raises:
        SettingsError: a GPU is unknown or has no price.
        WeightsError: the model is unknown.
    """
    from comic_upscale.costs.prices import listed_offers
    from comic_upscale.estimates.history import load_measurements
    from comic_upscale.estimates.quotes import Question, quotes_for

    question = Question(
        model=processing.model,
        gpus=tuple(gpus),
        price=price,
        link_mbps=link_mbps,
        denoise=processing.denoise,
        precision=processing.precision,
        offers=tuple(listed_offers(quoting.prices if quoting else None)),
        measurements=tuple(load_measurements(quoting.rates_folder)) if quoting else (),
    )
    return [dataclasses.asdict(each) for each in quotes_for(work, question)]
