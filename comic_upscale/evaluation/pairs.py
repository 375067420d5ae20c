"""Compare two folders: every image of one with its original in the other, paired by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from comic_upscale.errors import InputError, PageError
from comic_upscale.evaluation.metrics import Metrics, Scores
from comic_upscale.imaging.decode import decode
from comic_upscale.imaging.pixels import Pixels
from comic_upscale.library.discover import Discovery, discover
from comic_upscale.library.page import Page
from comic_upscale.library.sorting import natural_key
from comic_upscale.library.volume_reader import VolumeCache
from comic_upscale.settings.job import VolumeRules

OnPair = Callable[[int, int], None]
"""Called with the number of pairs compared, and the total."""

_DEEP = "samples of more than 8 bits: compared at 8 bits"


@dataclass(frozen=True, slots=True)
class Pair:
    """Two images with the same name."""

    name: str
    """The path inside both folders, with the suffix only if several images have the same name without it."""
    reference: Page
    candidate: Page


@dataclass(frozen=True, slots=True)
class Compared:
    """The result of a pair: scores, or why there are none."""

    name: str
    scores: Scores | None
    kind: str | None = None
    """Of the failure."""
    reason: str | None = None
    notes: tuple[str, ...] = ()
    """Notes on the decoding, such as bits beyond eight that were dropped."""


@dataclass(slots=True)
class Comparison:
    """The comparison of two folders."""

    pairs: list[Compared] = field(default_factory=list)
    only_reference: list[str] = field(default_factory=list)
    """Originals without a candidate."""
    only_candidate: list[str] = field(default_factory=list)
    """Candidates without an original."""
    ambiguous: list[str] = field(default_factory=list)
    """Names of several images whose partners are not clear, so they are not compared."""

    @property
    def scored(self) -> list[Compared]:
        """The pairs that have scores."""
        return [pair for pair in self.pairs if pair.scores is not None]

    @property
    def failed(self) -> list[Compared]:
        """The pairs that could not be compared."""
        return [pair for pair in self.pairs if pair.scores is None]

    @property
    def is_whole(self) -> bool:
        """Whether every image has a partner, compared or not."""
        return not (self.only_reference or self.only_candidate or self.ambiguous)


class Pictures:
    """The images of a folder, a file or a volume, by name.

    Args:
        root: the folder, file or volume.
        max_pixels: the largest width x height to decode.

    Raises:
        InputError: there is no image.
    """

    def __init__(self, root: Path, *, max_pixels: int) -> None:
        self._max_pixels = max_pixels
        rules = VolumeRules(max_pixels=max_pixels)
        found: Discovery = discover(root, extension="png", rules=rules)
        self.pages = found.pages
        if not self.pages:
            raise InputError(
                f"{root} contains no image: give a folder of images or volumes, or a single image or volume"
            )
        self._volumes = VolumeCache(found.volumes, rules)

    def open(self, page: Page) -> Pixels:
        """Decode an image.

        Raises:
            PageError: the image cannot be read or decoded.
        """
        if page.member is not None:
            data = self._volumes.read(page.member.volume, page.member.index)
        else:
            try:
                data = page.path.read_bytes()
            except OSError as error:
                raise PageError(
                    "unreadable", f"The file cannot be read: {error.strerror or error}"
                ) from error
        return decode(data, max_pixels=self._max_pixels)

    def close(self) -> None:
        """Close the volumes."""
        self._volumes.close()

    def by_name(self) -> dict[str, list[Page]]:
        """Return the images by their names without suffixes.

        ``v01.cbz/012.png`` and ``v01.cbr/012.jpg`` have the same name, as a volume and its output have.
        """
        groups: dict[str, list[Page]] = {}
        for page in self.pages:
            groups.setdefault(_name(page), []).append(page)
        return groups


def _name(page: Page) -> str:
    """Return the source without the suffixes of the image and of its volume."""
    if page.member is None:
        return _without_suffix(page.source)
    inside = page.source.removeprefix(f"{page.member.volume}/")
    return f"{_without_suffix(page.member.volume)}/{_without_suffix(inside)}"


def _without_suffix(path: str) -> str:
    folder, slash, name = path.rpartition("/")
    stem, dot, _ = name.rpartition(".")
    return f"{folder}{slash}{stem if dot and stem else name}"


def compare_folders(
    references: Pictures, candidates: Pictures, metrics: Metrics, on_pair: OnPair | None = None
) -> Comparison:
    """Score every candidate against the reference with its name. Only one pair is in memory at a time.

    A pair that cannot be compared (different sizes, a damaged file) is listed with a reason.

    Args:
        references: the originals.
        candidates: the images to score.
        metrics: computes the scores.
        on_pair: called for each pair.

    Raises:
        InputError: the two have no name in common.
    """
    pairs, comparison = _pair_up(references.by_name(), candidates.by_name())
    if not pairs:
        raise InputError(
            "no image of the reference has the same name as a candidate (suffixes may differ), so nothing can be "
            f"compared: the reference has {_some(references)}, the candidates have {_some(candidates)}"
        )
    for number, compared in enumerate(_compare_pairs(iter(pairs), references, candidates, metrics), 1):
        comparison.pairs.append(compared)
        if on_pair is not None:
            on_pair(number, len(pairs))
    return comparison


def _pair_up(ours: dict[str, list[Page]], theirs: dict[str, list[Page]]) -> tuple[list[Pair], Comparison]:
    """Find the partners: by the name without suffix if that is clear, otherwise by the whole name.

    Returns:
        The pairs, in the order of their names, and a comparison that lists the others.
    """
    pairs: list[Pair] = []
    rest = Comparison()
    for name in sorted({*ours, *theirs}, key=natural_key):
        originals, pictures = ours.get(name, []), theirs.get(name, [])
        if len(originals) == len(pictures) == 1:
            pairs.append(Pair(name, originals[0], pictures[0]))
            continue
        exact = {page.source: page for page in pictures}
        same = [Pair(page.source, page, exact[page.source]) for page in originals if page.source in exact]
        pairs += same
        taken = {pair.name for pair in same}
        left = [page.source for page in originals if page.source not in taken]
        also_left = [page.source for page in pictures if page.source not in taken]
        if left and also_left:
            rest.ambiguous.append(name)
        else:
            rest.only_reference += [name] if len(originals) == 1 and left else left
            rest.only_candidate += [name] if len(pictures) == 1 and also_left else also_left
    return pairs, rest


def _compare_pairs(
    pairs: Iterator[Pair], references: Pictures, candidates: Pictures, metrics: Metrics
) -> Iterator[Compared]:
    for pair in pairs:
        try:
            original, picture = references.open(pair.reference), candidates.open(pair.candidate)
            deep = (_DEEP,) if max(original.bits, picture.bits) > 8 else ()
            notes = tuple(dict.fromkeys((*original.notes, *picture.notes, *deep)))
            yield Compared(pair.name, metrics.score(picture, original), notes=notes)
        except PageError as error:
            yield Compared(pair.name, None, error.kind, error.reason)


def _some(pictures: Pictures) -> str:
    return ", ".join(sorted(pictures.by_name(), key=natural_key)[:3])
