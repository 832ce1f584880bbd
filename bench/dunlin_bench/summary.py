"""Medians over the rounds, and ratios of two systems within one round."""

from __future__ import annotations

from statistics import median
from typing import Any

from .load import Row


class Summary:
    """The rows of a run, asked by their fields."""

    def __init__(self, rows: list[Row]) -> None:
        self.rows = rows

    def where(self, **wanted: object) -> list[Row]:
        """The rows that have all these values."""
        return [row for row in self.rows if all(row.get(key) == value for key, value in wanted.items())]

    def median(self, figure: str, **wanted: object) -> float | None:
        """The median of a figure over these rows."""
        values = [float(row[figure]) for row in self.where(**wanted) if figure in row]
        return median(values) if values else None

    def ratio(self, figure: str, system: str, peer: str, **wanted: object) -> float | None:
        """The median over the rounds of `system` ÷ `peer` in that round."""
        sides = [
            {row["round"]: float(row[figure]) for row in self.where(system=name, **wanted)} for name in (system, peer)
        ]
        ratios = [sides[0][number] / sides[1][number] for number in sides[0] if sides[1].get(number)]
        return median(ratios) if ratios else None

    def values(self, figure: str, **wanted: object) -> list[Any]:
        """The different values of a field, in the order of their first row."""
        return list(dict.fromkeys(row[figure] for row in self.where(**wanted) if figure in row))
