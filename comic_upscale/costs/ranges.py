"""A figure that is not known exactly: its lowest, likely and highest value."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Range:
    """Three figures in ascending order, none below zero. For an exact figure, all three are equal.

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
        """Return an exact figure."""
        return cls(value, value, value)

    @classmethod
    def around(cls, value: float, share: float) -> Range:
        """Return a figure with a relative error in both directions, such as 0.1. It never goes below zero."""
        return cls(value * max(0.0, 1 - share), value, value * (1 + share))

    @classmethod
    def between(cls, low: float, high: float) -> Range:
        """Return a figure with known limits. The likely value is halfway between them."""
        return cls(low, (low + high) / 2, high)

    def __add__(self, other: Range) -> Range:
        """Return the sum, lowest to lowest and highest to highest: both may be high at once."""
        return Range(self.low + other.low, self.likely + other.likely, self.high + other.high)

    def __mul__(self, other: Range | float) -> Range:
        """Return the product, lowest by lowest and highest by highest."""
        if isinstance(other, Range):
            return Range(self.low * other.low, self.likely * other.likely, self.high * other.high)
        return Range(self.low * other, self.likely * other, self.high * other)

    def at_least(self, other: Range) -> Range:
        """Return the larger of two, value by value: if two things run in parallel, the slower one counts."""
        return Range(max(self.low, other.low), max(self.likely, other.likely), max(self.high, other.high))

    def inverse(self) -> Range:
        """Return the reciprocal; all three values must be above zero."""
        return Range(1 / self.high, 1 / self.likely, 1 / self.low)

    def rounded(self, digits: int) -> Range:
        """Return the range rounded to this many decimals."""
        return Range(round(self.low, digits), round(self.likely, digits), round(self.high, digits))


def total(parts: Iterable[Range]) -> Range:
    """Return the sum of all, value by value; zero for none."""
    result = Range.exactly(0.0)
    for part in parts:
        result = result + part
    return result


def product_of_independent(factors: Iterable[Range]) -> Range:
    """Return the product of independent factors; zero if one of them is zero, as for a job without any work.

    It is unlikely that all are at their worst at once. So their relative errors, as ratios, are added in quadrature.
    """
    likely, down, up = 1.0, 0.0, 0.0
    for factor in factors:
        if factor.likely == 0:
            return Range.exactly(0.0)
        likely *= factor.likely
        down += math.log(factor.likely / factor.low) ** 2 if factor.low else math.inf
        up += math.log(factor.high / factor.likely) ** 2
    return Range(likely * math.exp(-math.sqrt(down)), likely, likely * math.exp(math.sqrt(up)))
