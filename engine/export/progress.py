"""One line with the progress of an export: rows, rows per second, remaining time."""

import sys
import time
from typing import TextIO


class ExportProgress:
    """Prints in place on a terminal, and a line every few seconds to a log file."""

    def __init__(self, total: int, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._in_place = self._stream.isatty()
        self._every_seconds = 0.5 if self._in_place else 10.0
        self._total = total
        self._started_at = self._printed_at = time.monotonic()
        self.rows = 0

    def add(self, rows: int) -> None:
        """Counts exported rows, and prints the line if it is due."""
        self.rows += rows
        now = time.monotonic()
        if now - self._printed_at >= self._every_seconds:
            self._printed_at = now
            self._print("" if self._in_place else "\n")

    def line(self) -> str:
        """`export: 12,800 of 41,600 rows, 5,200 rows/s, 6 s left`."""
        seconds = max(time.monotonic() - self._started_at, 1e-9)
        rate = self.rows / seconds
        left = (self._total - self.rows) / rate if rate else 0.0
        return f"export: {self.rows:,} of {self._total:,} rows, {rate:,.0f} rows/s, {left:,.0f} s left"

    def close(self) -> None:
        """Prints the final line."""
        self._print("\n")

    def _print(self, end: str) -> None:
        print(f"\r{self.line()}" if self._in_place else self.line(), end=end, file=self._stream, flush=True)
