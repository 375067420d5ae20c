"""Keep finished pages of a job whose rules or profile changed, if their own settings are the same as before.

Rules change the settings of some pages. So a changed rule makes only the pages again whose settings it changes. This
works for pages that are files of their own, and not inside a CBZ, which is written as a whole.
"""

from __future__ import annotations

from collections.abc import Mapping

from comic_upscale.engines import registry
from comic_upscale.imaging.target_size import skip_reason
from comic_upscale.ledger.changes import FinishedElsewhere
from comic_upscale.ledger.writer import Ledger
from comic_upscale.library.page_rules import Matches, OwnSettings, PageRules, PageTraits
from comic_upscale.planning.model_selection import job_fingerprint
from comic_upscale.planning.output_checks import PlannedPage
from comic_upscale.settings.job import JobSettings
from comic_upscale.storage.base import OutputStore, size_of


def adopt_unchanged(
    ledger: Ledger,
    job_id: int,
    todo: Mapping[str, PlannedPage],
    settings: JobSettings,
    model_identity: str,
    outputs: OutputStore,
) -> set[str]:
    """Take over the finished pages of other jobs over the same input whose own settings are those of this job.

    Args:
        ledger: the open ledger.
        job_id: of the job.
        todo: its pending pages, by source.
        settings: of the job.
        model_identity: of its model.
        outputs: store of the outputs.

    Returns:
        The sources of the pages that were taken over.
    """
    found = ledger.finished_elsewhere(job_id)
    if not found:
        return set()
    pages = _Pages(settings, model_identity)
    adopted = set()
    for page in found:
        planned = todo.get(page.source)
        if (
            planned is not None
            and page.source not in adopted
            and pages.is_unchanged(page)
            and size_of(outputs, planned.output) == page.owner.output_size
        ):
            ledger.adopt(planned.row_id, page.owner)
            adopted.add(page.source)
    return adopted


class _Pages:
    """The settings of pages under the rules of a job."""

    def __init__(self, settings: JobSettings, model_identity: str) -> None:
        self._settings = settings
        self._rules = PageRules(settings)
        self._identities = {(settings.model, settings.denoise): model_identity}
        self._fingerprints: dict[Matches, str] = {}

    def is_unchanged(self, page: FinishedElsewhere) -> bool:
        """Return whether this job would make a page as it was made."""
        own = OwnSettings.from_json(page.own_settings)
        if own is None or not self._is_acceptable(page):
            return False
        if own.neutral_paper != self._settings.neutral_paper:
            # The page may count as gray, or not, only because of that.
            return False
        if own.gray is None and self._rules.looks_at_pages:
            return False
        traits = PageTraits(source=page.source, size=page.size, gray=own.gray, jpeg_quality=own.jpeg_quality)
        return self._fingerprint(self._rules.matches(traits)) == own.fingerprint

    def _is_acceptable(self, page: FinishedElsewhere) -> bool:
        """Return whether this job would neither refuse nor skip a page, nor judge it first."""
        settings = self._settings
        if page.size[0] * page.size[1] > settings.max_pixels or skip_reason(page.size, settings) is not None:
            return False
        return page.is_judged or not settings.gate

    def _fingerprint(self, matches: Matches) -> str:
        if matches not in self._fingerprints:
            own = self._rules.settings_for(matches)
            network = (own.model, own.denoise)
            if network not in self._identities:
                self._identities[network] = registry.identify(own).digest
            self._fingerprints[matches] = job_fingerprint(own, self._identities[network])
        return self._fingerprints[matches]
