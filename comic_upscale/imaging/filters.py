"""Filters that change the pixels of a page before the network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from comic_upscale.imaging.levels import Points, apply_levels
from comic_upscale.imaging.paper import neutralise_paper
from comic_upscale.imaging.pixels import Pixels
from comic_upscale.settings.levels import Levels
from comic_upscale.settings.processing import ProcessingSettings


class PageFilter(Protocol):
    """Changes a page before the network. The quality gate compares the output with the changed page."""

    def apply(self, page: Pixels) -> Pixels:
        """Return the changed page, with a note that says what was changed; an unchanged page as it is."""
        ...


@dataclass(frozen=True, slots=True)
class NeutralPaper:
    """Makes yellowed paper neutral; see ``paper.py``."""

    gray: bool
    """Whether a page without another colour gets one channel."""

    def apply(self, page: Pixels) -> Pixels:
        """Return the page with neutral paper."""
        return neutralise_paper(page, gray=self.gray)


@dataclass(frozen=True, slots=True)
class PageLevels:
    """Sets the black and the white point of gray pages; see ``levels.py``."""

    levels: Levels
    of_volume: Points | None = None
    """Those of the volume of the page."""

    def apply(self, page: Pixels) -> Pixels:
        """Return the page with its levels."""
        return apply_levels(page, self.levels, self.of_volume)


def paper_filters(settings: ProcessingSettings) -> tuple[PageFilter, ...]:
    """Return the filters that decide whether a page counts as gray, in their order."""
    return (NeutralPaper(settings.gray_mode == "auto"),) if settings.neutral_paper else ()


def tone_filters(settings: ProcessingSettings, of_volume: Points | None = None) -> tuple[PageFilter, ...]:
    """Return the filters that come after those of `paper_filters`, in their order.

    Args:
        settings: of the page.
        of_volume: the points of its volume, for levels per volume.
    """
    return () if settings.levels is None else (PageLevels(settings.levels, of_volume),)


def apply_filters(page: Pixels, filters: tuple[PageFilter, ...]) -> Pixels:
    """Return a page after filters, in their order."""
    for each in filters:
        page = each.apply(page)
    return page
