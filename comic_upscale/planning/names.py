"""Output names of pages and volumes that are new to a job."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import PurePosixPath

from comic_upscale.ledger.records import PageRow
from comic_upscale.library.books.names import stem_of_volume
from comic_upscale.library.naming import free_name
from comic_upscale.library.page import Page
from comic_upscale.library.sorting import fold
from comic_upscale.library.volume_placing import LOOSE_PAGES


class OutputNames:
    """Gives each new page and volume an output that nothing else of the job has. Recorded names never change.

    Args:
        rows: of the job; their outputs are taken.
        earlier: (source, output) of other jobs over the same folders, the latest last. A page keeps such a name, so
            that it finds its file again.
        gives_up: says whether a row whose source is gone gives up its output. It is asked only where a new page wants
            this name.
        storable_name: gives the name that the output store can hold in place of another; usually the same.
    """

    def __init__(
        self,
        rows: Iterable[PageRow],
        earlier: Sequence[tuple[str, str]],
        gives_up: Callable[[PageRow], bool] = lambda _: False,
        storable_name: Callable[[str], str] = str,
    ) -> None:
        self._holders = {fold(row.output): row for row in rows}
        self._gives_up = gives_up
        self._storable_name = storable_name
        self._taken = set(self._holders)
        self._earlier = {(source, _kind(output)): output for source, output in earlier}
        self._avoid = self._taken | {fold(output) for output in self._earlier.values()}
        self.replaced: dict[str, PageRow] = {}
        """Rows that gave up their outputs, by the source of the new page."""
        self.renamed: list[tuple[str, str]] = []
        """Names that the store cannot hold, and the names in their place."""

    def with_output(self, page: Page) -> Page:
        """Return the page or volume with its output, which is taken from now on."""
        wanted = self._storable_name(page.output)
        if wanted != page.output:
            self.renamed.append((page.output, wanted))
            page = replace(page, output=wanted)
        earlier = self._earlier.get((page.source, _kind(page.output)))
        if earlier is not None and fold(earlier) in self._taken:
            earlier = None
        if earlier is None:
            self._ask_holder(page)
        free = earlier or free_name(*stem_of_volume(wanted), self._avoid)
        self._taken.add(fold(free))
        self._avoid.add(fold(free))
        return replace(page, output=free)

    def _ask_holder(self, page: Page) -> None:
        wanted = fold(page.output)
        holder = self._holders.get(wanted)
        if holder is not None and self._gives_up(holder):
            del self._holders[wanted]
            self._taken.discard(wanted)
            self._avoid.discard(wanted)
            self.replaced[page.source] = holder


def describe_safe_names(renamed: Sequence[tuple[str, str]]) -> str:
    """Return one sentence about outputs whose names the store cannot hold.

    Args:
        renamed: as in `OutputNames`; at least one.
    """
    name, safe = renamed[0]
    return (
        f'the output disk does not allow : ? * " < > | \\ in names: {len(renamed):,} outputs get safe names, '
        f"such as {safe} for {name}"
    )


def _kind(output: str) -> tuple[bool, str]:
    """Return what an earlier name must share with a new one: whether it is a waiting place, and its suffix."""
    # The waiting place of a page in a volume is never the name of an output file, and vice versa.
    return output.startswith(f"{LOOSE_PAGES}/"), PurePosixPath(output).suffix
