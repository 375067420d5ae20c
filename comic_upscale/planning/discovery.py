"""Find the pages of a job."""

from __future__ import annotations

from dataclasses import replace

from comic_upscale.errors import InputError
from comic_upscale.imaging.formats import output_extension
from comic_upscale.library.discover import Discovery, discover
from comic_upscale.library.naming import Extension
from comic_upscale.library.page_rules import PageRules
from comic_upscale.library.selector import Selector
from comic_upscale.settings.job import JobSettings
from comic_upscale.settings.paths import default_ledger, path_text
from comic_upscale.settings.places import is_bucket
from comic_upscale.storage.base import SourceStore
from comic_upscale.storage.replaced_view import ReplacedSourceStore

_MOST_MISSED = 10


def find_pages(settings: JobSettings, store: SourceStore | None = None) -> Discovery:
    """Discover the pages of a job.

    Args:
        settings: settings of the job.
        store: the store of the input; None for a folder or file on this machine.

    Raises:
        InputError: the input does not exist, or contains no page. The message says what it contains.
    """
    discovery = discover(
        settings.input if store is None else store.root,
        extension=_extension(settings),
        exclude=[settings.output],
        rules=settings.volume_rules,
        archive_output=settings.archive_output,
        store=store,
        selector=Selector(settings.selection),
    )
    if not discovery.pages and not discovery.volumes:
        if settings.selection is not None and not settings.selection.is_everything:
            raise InputError(
                f"{path_text(settings.input)} holds no page or volume of the selection ({settings.selection}): check "
                "the paths and patterns"
            )
        if isinstance(store, ReplacedSourceStore) and store.pruned:
            raise InputError(
                f"every page and volume of {settings.input} was replaced by its output, and the originals were pruned: "
                "there is nothing to do"
            )
        passed_over = ", ".join(f"{count} {reason}" for reason, count in discovery.passed_over.items())
        raise InputError(
            f"{path_text(settings.input)} holds no image"
            + (f" (ignored: {passed_over})" if passed_over else "")
            + ": give a folder of PNG, JPEG, WebP or other images or of CBZ and other volumes, or one of these"
        )
    return replace(
        discovery,
        warnings=(*discovery.warnings, *_without_pages(settings, discovery), *_outputs_again(settings)),
    )


def _outputs_again(settings: JobSettings) -> list[str]:
    """Return a sentence if the input is an output folder, or a file in one. Those below the input are passed over."""
    if is_bucket(settings.input):
        return []
    folder = settings.input.parent if settings.input.is_file() else settings.input
    if folder == settings.output or not default_ledger(folder).is_file():
        return []
    return [
        f"{path_text(folder)} is the output folder of an earlier job: its outputs are upscaled once more."
    ]


def _extension(settings: JobSettings) -> Extension:
    """Return the extension of the outputs, by the sources of their pages if rules set formats."""
    rules = PageRules(settings)
    if not rules.sets_formats:
        return output_extension(settings.format)
    return lambda source: output_extension(rules.format_of(source))


def _without_pages(settings: JobSettings, discovery: Discovery) -> list[str]:
    """Return a sentence for each path of the selection where no page or volume was found."""
    if settings.selection is None or not settings.selection.paths:
        return []
    reached: set[str] = set()
    for source in (
        *(page.source for page in discovery.pages),
        *(volume.entry.source for volume in discovery.volumes),
        # They have a warning of their own.
        *(folder.rstrip("/") for folder in discovery.unread),
    ):
        while source and source not in reached:
            reached.add(source)
            source = source.rpartition("/")[0]
    missed = [path for path in settings.selection.paths if path.rstrip("/") not in reached]
    patterns = settings.selection.include or settings.selection.exclude
    why = ", or the patterns leave it out" if patterns else ""
    sentences = [
        f"{path} was named, but it is no page, volume or folder with pages{why}."
        for path in missed[:_MOST_MISSED]
    ]
    if more := len(missed) - len(sentences):
        sentences.append(f"{more:,} more of the named paths are no pages{why}.")
    return sentences
