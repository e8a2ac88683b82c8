"""Means and standard deviations over seeds, computed in one place for all tables and figures."""

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

Row: TypeAlias = dict[str, Any]


def mean_and_sd(values: Iterable[float]) -> tuple[float | None, float | None]:
    """Mean, and standard deviation of the sample (n - 1); None where there are no values, or fewer than two."""
    values = list(values)
    return (
        statistics.fmean(values) if values else None,
        statistics.stdev(values) if len(values) > 1 else None,
    )


def standard_error(values: Sequence[float]) -> float:
    """Standard error of the mean; 0 for fewer than two values."""
    sd = mean_and_sd(values)[1]
    return 0.0 if sd is None else sd / len(values) ** 0.5


def with_sd(values: Sequence[float], digits: int, sign: str = "") -> str:
    """`+1.25 ± 0.10`: the mean with `sign` as in a format, and the standard deviation if there is one. Needs a value."""
    mean, sd = mean_and_sd(values)
    assert mean is not None
    return f"{mean:{sign}.{digits}f}" + ("" if sd is None else f" ± {sd:.{digits}f}")


def is_number(value: Any) -> bool:
    """Whether the value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def group_rows(rows: Iterable[Row], by: Sequence[str]) -> dict[tuple[Any, ...], list[Row]]:
    """Values of the columns `by` → the rows that have them, in order of appearance; a missing value counts as None."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row.get(name) for name in by), []).append(row)
    return groups


def average(rows: Iterable[Row], by: Sequence[str], has_sd: Callable[[str], bool]) -> list[Row]:
    """One row for each value of the columns `by`: the mean over seeds of every number, and how many `seeds`.

    Columns for which `has_sd` is true also get `…_sd`. Values that are None or not finite are left out of the mean.
    """
    averaged = []
    for setting, members in group_rows(rows, by).items():
        result: Row = dict(zip(by, setting, strict=True)) | {"seeds": len(members)}
        for column in columns_of(members):
            if column in (*by, "seed"):
                continue
            mean, sd = mean_and_sd(row[column] for row in members if is_number(row.get(column)))
            result[column] = mean
            if has_sd(column):
                result[f"{column}_sd"] = sd
        averaged.append(result)
    return averaged


def columns_of(rows: Sequence[Row]) -> list[str]:
    """All columns of the rows, in order of appearance, without the spread columns `…_sd` that belong to another."""
    names = dict.fromkeys(name for row in rows for name in row)
    return [name for name in names if not (name.endswith("_sd") and name.removesuffix("_sd") in names)]
