"""One line with the progress of long work: rows, rows per second, remaining time, and dollars so far where it has a price."""

import math
import sys
import time
from collections import deque
from typing import TextIO

from engine.log import is_json, json_line


class Progress:
    """Prints in place on a terminal, and a line every few seconds to a log file."""

    def __init__(
        self,
        name: str,
        total: int,
        stream: TextIO | None = None,
        every_seconds: float = 5.0,
        unit: str = "rows",
        run_id: str = "",
        has_price: bool = True,
    ):
        self._stream = stream or sys.stderr
        self._run_id, self._is_json = run_id, is_json()
        self._in_place = self._stream.isatty() and not self._is_json
        self._every_seconds = 0.5 if self._in_place else every_seconds
        self.name = name
        self._total = total
        self._unit = unit
        self._has_price = has_price
        self._recent: deque[tuple[float, int]] = deque([(time.monotonic(), 0)], maxlen=60)
        self._printed_at = 0.0
        self.rows = 0
        self.errors = 0
        self.usd = 0.0
        self.problem = ""
        """Current problem, shown at the end of the line."""

    @property
    def total(self) -> int:
        """Total number of rows."""
        return self._total

    @total.setter
    def total(self, rows: int) -> None:
        self._total = rows

    def add(self, rows: int, errors: int = 0, usd: float = 0.0) -> None:
        """Counts finished rows (errors separately) and the dollars of their busy time."""
        self.rows += rows
        self.errors += errors
        self.usd += usd
        self._recent.append((time.monotonic(), self.rows + self.errors))

    def show(self, force: bool = False) -> None:
        """Prints the line if it is due."""
        now = time.monotonic()
        if force or now - self._printed_at >= self._every_seconds:
            self._printed_at = now
            print(
                f"\r{self.line()}" if self._in_place else self.line(),
                end="" if self._in_place else "\n",
                file=self._stream,
                flush=True,
            )

    def close(self) -> None:
        """Prints the final line."""
        self.show(force=True)
        if self._in_place:
            print(file=self._stream, flush=True)

    def line(self) -> str:
        """The text of the line, or the same as JSON (`log.VARIABLE`)."""
        done = self.rows + self.errors
        (then, before), now = self._recent[0], time.monotonic()
        rate = (done - before) / max(now - then, 1e-9)
        if self._is_json:
            seconds_left = (self._total - done) / rate if rate > 0 else math.nan
            values = {"name": self.name, "done": done, "total": self._total, "errors": self.errors, "usd": self.usd}
            values |= {"per_second": rate, "seconds_left": None if math.isnan(seconds_left) else seconds_left}
            return json_line(self._run_id, **values, unit=self._unit, problem=self.problem)
        left = _clock((self._total - done) / rate) if rate > 0 else "--:--"
        failed = f"  {self.errors:,} errors" if self.errors else ""
        rate_shown = f"{rate:,.0f}" if self._unit == "rows" else f"{rate:.2g}"
        return (
            f"{self.name}  {done:,}/{self._total:,} {self._unit}  {rate_shown} {self._unit}/s  ETA {left}"
            f"{f'  ${self.usd:.4f} so far' if self._has_price else ''}{failed}{f'  ({self.problem})' if self.problem else ''}"
        )


def _clock(seconds: float) -> str:
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute:02}:{second:02}"
