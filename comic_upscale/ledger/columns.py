"""Columns of finished pages, each defined once: as a field of the record that fills it.

::

    moire: float | None = column("real", "m015_moire")

The migration that adds the column to older ledgers, and the statement that fills it, follow from the field. It imports
no library.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from functools import cache
from typing import Any, Literal, cast

_KEY = "column"


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the table ``pages`` that was added after the first version of the ledger."""

    name: str
    """The name of its field."""
    kind: Literal["text", "integer", "real"]
    """Its type in SQL. Older rows have NULL."""
    migration: str
    """Recorded in every ledger that has the column, so it never changes. Migrations run in the order of their names."""


def column(kind: Literal["text", "integer", "real"], migration: str) -> Any:
    """Return the field of a record that is a column of its own; None, and NULL, unless it is given.

    Args:
        kind: its type in SQL.
        migration: the name of its migration: ``m``, the next number of three digits, and a word.
    """
    return field(default=None, metadata={_KEY: (kind, migration)})


def _columns_of(record: type[Any]) -> tuple[Column, ...]:
    return tuple(Column(each.name, *each.metadata[_KEY]) for each in fields(record) if _KEY in each.metadata)


# The types of `cache` take a class for something that cannot be hashed. The ledger asks for every page.
columns_of = cast(Callable[[type[Any]], tuple[Column, ...]], cache(_columns_of))
"""Return the columns that a record defines, in the order of its fields."""
