"""The levels of volumes: the black and the white point that all gray pages of a volume get.

Some pages of a volume are measured before its first page is processed. The ledger keeps the points, so all pages of a
volume get the same ones, however often the run is interrupted, and whatever is added to the volume later.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cached_property

from comic_upscale.execution.base import as_page_error, run_in
from comic_upscale.imaging.filters import apply_filters, paper_filters
from comic_upscale.imaging.levels import PageShades, find_shades, points_of_volume
from comic_upscale.imaging.shape import decode_page
from comic_upscale.jobs.context import JobContext
from comic_upscale.library.page import Page
from comic_upscale.library.source_reader import Source

MEASURED_PAGES = 16
"""Pages of a volume that are read and decoded once more, evenly spaced in it."""

Points = tuple[int, int] | None


class VolumeLevels:
    """Finds the levels of volumes, each once. Used on the thread of the event loop.

    Args:
        context: of the run.
    """

    def __init__(self, context: JobContext) -> None:
        self._context = context
        self._found: dict[str, asyncio.Task[Points]] = {}
        self._recorded: Mapping[str, Points] | None = None

    async def of(self, name: str, page: Source) -> Points:
        """Return the points of the volume of a page; None if it needs none, or if no page wants them.

        Args:
            name: the source of the page.
            page: where it is.

        Raises:
            InputError: the input is gone.
        """
        if not self._context.settings.looks_at_volumes:
            return None
        volume = volume_of(name, page)
        if volume not in self._found:
            self._found[volume] = asyncio.create_task(self._find(volume))
        # Shielded, since other pages wait for the same points.
        return await asyncio.shield(self._found[volume])

    async def _find(self, volume: str) -> Points:
        context = self._context
        if self._recorded is None:
            self._recorded = await context.on_ledger(context.ledger.levels, context.job_id)
        if volume in self._recorded:
            return self._recorded[volume]
        pages = _spread(self._pages.get(volume, ()), MEASURED_PAGES)
        shades, read = await run_in(context.files, self._measure, pages)
        if not read:
            # The run is to end, or no page can be read now: the next run measures.
            return None
        points = points_of_volume(shades)
        found = None if points is None else (points.black, points.white)
        await context.on_ledger(context.ledger.record_levels, context.job_id, volume, found)
        return found

    def _measure(self, pages: Sequence[Page]) -> tuple[list[PageShades], int]:
        """Return what pages tell about their volume, and how many could be read; none if the run is to end.

        A page that cannot be read fails later, with its reason.

        Raises:
            InputError: the input is gone.
        """
        shades: list[PageShades] = []
        read = 0
        for page in pages:
            if self._context.stop.requested:
                return [], 0
            try:
                found = self._shades_of(page)
            except Exception as error:
                # Every page of the volume waits for its points, so one odd page must not decide about all of them.
                as_page_error(error, page.source)
                continue
            read += 1
            if found is not None:
                shades.append(found)
        return shades, read

    def _shades_of(self, page: Page) -> PageShades | None:
        settings = self._context.settings
        decoded = decode_page(self._context.sources.read_now(page), settings)
        return find_shades(apply_filters(decoded, paper_filters(settings)))

    @cached_property
    def _pages(self) -> Mapping[str, list[Page]]:
        pages: defaultdict[str, list[Page]] = defaultdict(list)
        for page in self._context.discovery.pages:
            pages[volume_of(page.source, page)].append(page)
        return pages


def volume_of(name: str, page: Source) -> str:
    """Return the volume of a page: the source of its archive, or of the folder that holds it.

    Args:
        name: the source of the page.
        page: where it is.
    """
    return name.rpartition("/")[0] if page.member is None else page.member.volume


def _spread(pages: Sequence[Page], most: int) -> list[Page]:
    """Return some of the pages of a volume, evenly spaced."""
    count = min(most, len(pages))
    return [pages[(2 * number + 1) * len(pages) // (2 * count)] for number in range(count)]
