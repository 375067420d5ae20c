"""The result of pruning, as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from comic_upscale.console.printable import printable
from comic_upscale.console.text import megabytes

if TYPE_CHECKING:
    from comic_upscale.jobs.prune import PruneResult
    from comic_upscale.jobs.restore import TrashResult


def prune_lines(result: PruneResult) -> list[str]:
    """Return the files that were found, and a summary."""
    lines = []
    for file in result.files:
        if file.kept is None:
            verb = "removed" if result.removed else "would remove"
            why = (
                f"its source was {file.source}"
                if file.instead is None
                else f"an earlier output, now {file.instead}"
            )
            lines.append(f"{verb}: {file.output} ({megabytes(file.size)}; {why})")
        else:
            lines.append(f"kept: {file.output}: {file.kept}")
    going = result.to_remove
    if going:
        files = "1 file" if len(going) == 1 else f"{len(going):,} files"
        size = megabytes(sum(file.size for file in going))
        lines.append(
            f"{files} removed, {size}"
            if result.removed
            else f"{files}, {size}; nothing was removed: add --yes to remove"
        )
    elif not (result.files or result.answers):
        lines.append("nothing to prune: every output has its source")
    if result.answers:
        pages = "1 page" if result.answers == 1 else f"{result.answers:,} pages"
        verb = "removed" if result.removed else "would remove, with --yes"
        lines.append(
            f"{verb}: answers that were paid for, of {pages}, which no run needs any more "
            f"({megabytes(result.answer_bytes)})"
        )
    if result.unplanned:
        lines.append(
            f"{result.unplanned:,} more sources went away since the last run: run the job again first, which moves the "
            "outputs of renamed sources"
        )
    lines.append(f"output: {result.output}")
    return [printable(line) for line in lines]


def trash_lines(result: TrashResult) -> list[str]:
    """Return the originals in a trash, and a summary."""
    left = set(result.left)
    verb = "removed" if result.removed else "would remove"
    lines = [f"{verb}: {name} ({megabytes(size)})" for name, size in result.files if name not in left]
    lines += [
        f"kept: {name}: it cannot be removed: check the permissions of its folder" for name in result.left
    ]
    going = [size for name, size in result.files if name not in left]
    if not result.files:
        lines.append("the trash is empty")
    else:
        files = "1 original" if len(going) == 1 else f"{len(going):,} originals"
        rest = "" if result.removed else "; nothing was removed: add --yes to remove them for good"
        lines.append(f"{files}{' removed' if result.removed else ''}, {megabytes(sum(going))}{rest}")
    if result.copies:
        copies = "1 copy of an output" if result.copies == 1 else f"{result.copies:,} copies of outputs"
        verb = "removed" if result.removed else "would remove, with --yes"
        lines.append(f"{verb}: {copies} that the job kept ({megabytes(result.copy_bytes)})")
    lines.append(f"trash: {result.folder}")
    return [printable(line) for line in lines]
