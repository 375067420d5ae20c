"""The settings of single pages: which rules of a job match a page, and what they make of its settings."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from typing import TypeAlias

from comic_upscale.errors import PageError, SettingsError
from comic_upscale.imaging.filters import apply_filters, paper_filters, tone_filters
from comic_upscale.imaging.gray import is_gray
from comic_upscale.imaging.jpeg_quality import jpeg_quality
from comic_upscale.imaging.levels import Points
from comic_upscale.imaging.paper import has_no_colour_left
from comic_upscale.imaging.pixels import Pixels
from comic_upscale.library.selector import Patterns
from comic_upscale.settings.job import FormatName, JobSettings
from comic_upscale.settings.rules import Conditions

Matches: TypeAlias = tuple[int, ...]
"""The indices of the rules that match a page, ascending."""

Network: TypeAlias = tuple[str, float | None]
"""The model and the denoise strength of a page: what an engine is opened for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PageTraits:
    """What rules know of a page."""

    source: str
    """POSIX path relative to the input; inside a volume, that of the volume and of the page in it."""
    size: tuple[int, int]
    """(width, height), upright."""
    gray: bool | None
    """None if nobody looked: the page has three channels, and no rule asks."""
    jpeg_quality: int | None
    """1 to 100; None for a page that is no JPEG."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnSettings:
    """What the ledger keeps of the settings of a page, so that other rules need not make it again."""

    fingerprint: str
    """Of the settings of the page."""
    gray: bool | None
    """As in `PageTraits`."""
    jpeg_quality: int | None
    """As in `PageTraits`."""
    neutral_paper: bool
    """Whether the job made paper neutral before it looked whether the page is gray."""

    def as_json(self) -> str:
        """Return the text for the ledger."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str | None) -> OwnSettings | None:
        """Read the text of a ledger; None if it has none, or one of another version."""
        try:
            record = json.loads(text or "null")
            own = cls(**{each.name: record[each.name] for each in fields(cls)})
        except (ValueError, TypeError, KeyError):
            return None
        is_quality = own.jpeg_quality is None or type(own.jpeg_quality) is int
        return own if is_quality and isinstance(own.fingerprint, str) else None


class PageRules:
    """The rules of a job. It can be pickled.

    Args:
        settings: of the job; the models of its rules are resolved.

    Raises:
        SettingsError: a pattern cannot be used.
    """

    def __init__(self, settings: JobSettings) -> None:
        self._settings = settings
        self._patterns = [
            None if rule.when.path is None else Patterns(f"rule {number}: path", rule.when.path)
            for number, rule in enumerate(settings.rules, start=1)
        ]
        self._made: dict[Matches, JobSettings] = {}

    @cached_property
    def networks(self) -> tuple[Network, ...]:
        """Every network that a page may need, that of the job first."""
        found: dict[Network, None] = {(self._settings.model, self._settings.denoise): None}
        if any(rule.changes.keys() & {"model", "denoise"} for rule in self._settings.rules):
            found |= {(each.model, each.denoise): None for each in self._possible()}
        return tuple(found)

    @property
    def looks_at_pages(self) -> bool:
        """Whether a rule needs the pixels of a page to see whether the page is gray."""
        return any(rule.when.gray is not None for rule in self._settings.rules)

    def matches(self, traits: PageTraits) -> Matches:
        """Return which rules match a page."""
        return tuple(
            index for index, rule in enumerate(self._settings.rules) if self._meets(rule.when, index, traits)
        )

    def settings_for(self, matches: Matches) -> JobSettings:
        """Return the settings of the pages that these rules match. They have no rules."""
        if matches not in self._made:
            changes: dict[str, object] = {}
            for index in matches:
                rule = self._settings.rules[index].changes
                if "model" in rule:
                    # The strength of an earlier rule is that of its own model.
                    changes.pop("denoise", None)
                if "format" in rule:
                    changes.pop("quality", None)
                changes |= rule
            self._made[matches] = self._settings.changed_for_page(changes)
        return self._made[matches]

    @property
    def sets_formats(self) -> bool:
        """Whether a rule sets the format of outputs."""
        return any("format" in rule.changes for rule in self._settings.rules)

    def format_of(self, source: str) -> FormatName:
        """Return the format that the output of a page is asked for; rules set it by the path alone."""
        found = self._settings.format
        for index, rule in enumerate(self._settings.rules):
            patterns = self._patterns[index]
            if "format" in rule.changes and (patterns is None or patterns.match_file(source)):
                found = rule.changes["format"]
        return found

    def path_matches(self, source: str) -> Matches:
        """Return the rules whose patterns match a path. Two equal pages with different ones are not the same page."""
        return tuple(
            index
            for index, patterns in enumerate(self._patterns)
            if patterns is not None and patterns.match_file(source)
        )

    def _possible(self) -> Iterator[JobSettings]:
        """Yield the settings that pages may have, as far as their networks differ."""
        reachable: dict[Network, Matches] = {(self._settings.model, self._settings.denoise): ()}
        for index, rule in enumerate(self._settings.rules):
            if not rule.changes.keys() & {"model", "denoise"}:
                continue
            for earlier in list(reachable.values()):
                try:
                    each = self.settings_for((*earlier, index))
                except SettingsError:
                    continue
                reachable.setdefault((each.model, each.denoise), (*earlier, index))
        for matches in reachable.values():
            yield self.settings_for(matches)

    def _meets(self, when: Conditions, index: int, traits: PageTraits) -> bool:
        width, height = traits.size
        quality = -1 if traits.jpeg_quality is None else traits.jpeg_quality
        if when.gray is not None and when.gray != traits.gray:
            return False
        if not (_is_within(width, when.min_width, when.max_width)
                and _is_within(height, when.min_height, when.max_height)):  # fmt: skip
            return False
        asks_for_jpeg = when.min_jpeg_quality is not None or when.max_jpeg_quality is not None
        if asks_for_jpeg and not _is_within(quality, when.min_jpeg_quality or 1, when.max_jpeg_quality):
            return False
        patterns = self._patterns[index]
        return patterns is None or patterns.match_file(traits.source)


@dataclass(frozen=True, slots=True, eq=False)
class FilteredPage:
    """A page with its own settings, filtered for the network."""

    pixels: Pixels
    settings: JobSettings
    matches: Matches
    traits: PageTraits


def filter_page(
    page: Pixels, data: bytes, source: str, rules: PageRules, of_volume: Points | None = None
) -> FilteredPage:
    """Find the settings of a decoded page, and apply the filters that they ask for.

    Args:
        page: decoded with the settings of the job.
        data: its file.
        source: POSIX path relative to the input.
        rules: of the job.
        of_volume: the points of its volume, for levels per volume.

    Raises:
        SettingsError: two rules that match the page contradict each other.
    """
    base = rules.settings_for(())
    page = apply_filters(page, paper_filters(base))
    needs_gray = rules.looks_at_pages
    gray: bool | None = page.color.shape[2] == 1
    if not gray and base.gray_mode != "auto":
        # Pages keep their channels.
        gray = _looks_gray(page, base) if needs_gray else None
    traits = PageTraits(
        source=source,
        size=(page.width, page.height),
        gray=gray,
        jpeg_quality=jpeg_quality(data),
    )
    matches = rules.matches(traits)
    settings = rules.settings_for(matches)
    if settings.neutral_paper and not base.neutral_paper:
        page = apply_filters(page, paper_filters(settings))
    return FilteredPage(apply_filters(page, tone_filters(settings, of_volume)), settings, matches, traits)


def as_filtered(
    pixels: Pixels, data: bytes, source: str, rules: PageRules, of_volume: Points | None = None
) -> FilteredPage:
    """Return a decoded page with its own settings; see `filter_page`.

    Raises:
        PageError: the rules that match it contradict each other.
    """
    try:
        return filter_page(pixels, data, source, rules, of_volume)
    except SettingsError as error:
        raise PageError("rules", f"the rules for this page contradict each other: {error}") from None


def _looks_gray(page: Pixels, settings: JobSettings) -> bool:
    return is_gray(page.color, page.alpha) or (settings.neutral_paper and has_no_colour_left(page.color))


def _is_within(value: int, least: int | None, most: int | None) -> bool:
    return (least is None or value >= least) and (most is None or value <= most)


def path_marks(matches: Matches) -> str:
    """Return what stands in the name of a page on a machine without paths: a mark for each rule that its path matches.

    Args:
        matches: from `PageRules.path_matches`.
    """
    return "".join(f".p{index}" for index in matches)


def by_path_marks(settings: JobSettings) -> JobSettings:
    """Return settings whose rules match `path_marks` in the names of pages, in place of paths."""
    rules = tuple(
        rule if rule.when.path is None else replace(rule, when=replace(rule.when, path=(f"*.p{index}.*",)))
        for index, rule in enumerate(settings.rules)
    )
    return settings if rules == settings.rules else replace(settings, rules=rules)


def with_models(settings: JobSettings, names: dict[str, str]) -> JobSettings:
    """Return settings whose rules name other models.

    Args:
        settings: of a job.
        names: the new names by the old ones; a model without a new name keeps its own.
    """
    rules = tuple(
        rule.changed(model=names.get(model, model))
        if isinstance(model := rule.changes.get("model"), str)
        else rule
        for rule in settings.rules
    )
    return settings if rules == settings.rules else replace(settings, rules=rules)
