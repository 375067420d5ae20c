"""A figure that is not known exactly: the least, the likely and the most that it may be."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Range:
    """Three figures in order, none below zero; an exact one has them all equal.

    Raises:
        ValueError: they are not in order, or not finite.
    """

    low: float
    likely: float
    high: float

    def __post_init__(self) -> None:
        """Check the order."""
        if not (0 <= self.low <= self.likely <= self.high and math.isfinite(self.high)):
            raise ValueError(f"not a range: {self.low}, {self.likely}, {self.high}")

    @classmethod
    def exactly(cls, value: float) -> Range:
        """A figure that is known."""
        return cls(value, value, value)

    @classmethod
    def around(cls, value: float, share: float) -> Range:
        """A figure that may be off by a share of it either way, such as 0.1; at most all of it downwards."""
        return cls(value * max(0.0, 1 - share), value, value * (1 + share))

    @classmethod
    def between(cls, low: float, high: float) -> Range:
        """A figure of which only the ends are known; the likely one is half way."""
        return cls(low, (low + high) / 2, high)

    def __add__(self, other: Range) -> Range:
        """The sum, end by end: both may be high at once."""
        return Range(self.low + other.low, self.likely + other.likely, self.high + other.high)

    def __mul__(self, other: Range | float) -> Range:
        """The product, end by end."""
        if isinstance(other, Range):
            return Range(self.low * other.low, self.likely * other.likely, self.high * other.high)
        return Range(self.low * other, self.likely * other, self.high * other)

    def at_least(self, other: Range) -> Range:
        """The larger of two, end by end: of two things done side by side the slower one counts."""
        return Range(max(self.low, other.low), max(self.likely, other.likely), max(self.high, other.high))

    def inverse(self) -> Range:
        """One over it; all three must be above zero."""
        return Range(1 / self.high, 1 / self.likely, 1 / self.low)

    def rounded(self, digits: int) -> Range:
        """The same with so many decimals."""
        return Range(round(self.low, digits), round(self.likely, digits), round(self.high, digits))


def total(parts: Iterable[Range]) -> Range:
    """The sum of all, end by end; zero for none."""
    result = Range.exactly(0.0)
    for part in parts:
        result = result + part
    return result


def product_of_independent(factors: Iterable[Range]) -> Range:
    """The product of factors above zero whose doubts have nothing to do with each other.

    That all are at their worst at once is then unlikely: the distances, as ratios, add up like the sides of a
    right triangle instead of one after the other.
    """
    likely, down, up = 1.0, 0.0, 0.0
    for factor in factors:
        likely *= factor.likely
        down += math.log(factor.likely / factor.low) ** 2
        up += math.log(factor.high / factor.likely) ** 2
    return Range(likely * math.exp(-math.sqrt(down)), likely, likely * math.exp(math.sqrt(up)))
