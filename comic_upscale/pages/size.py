"""The size that a page shall have."""

from __future__ import annotations


def target_size(width: int, height: int, scale: float) -> tuple[int, int]:
    """Return the size of a page after upscaling.

    Args:
        width: pixels, at least 1.
        height: pixels, at least 1.
        scale: the factor asked for, above 0.

    Returns:
        (width, height) in pixels: each side times ``scale``, rounded as ``round`` does (a half goes to
        the even neighbour), at least 1.
    """
    return max(1, round(width * scale)), max(1, round(height * scale))
