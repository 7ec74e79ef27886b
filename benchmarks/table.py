"""What the table says: medians, the ratio to `ssh -J`, its spread over the rounds, and whether a bar is met. PURE."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

JUMP: Final = "ssh -J"
SCRIPT: Final = "sshd, ForceCommand ssh under script"
GATE: Final = "wicketgate, recording"
WAYS: Final = (JUMP, SCRIPT, GATE)


class Of(Enum):
    """What a bar is held against."""

    RATIO = "x"
    VALUE = ""


@dataclass(frozen=True, slots=True)
class Bar:
    """A promise: at most (or, at_least, not less than) limit, as a ratio to `ssh -J` or as wicketgate's own value."""

    limit: float
    at_least: bool = False
    of: Of = Of.RATIO

    def holds(self, value: float) -> bool:
        """False for NaN too: what was not measured is not met."""
        return value >= self.limit if self.at_least else value <= self.limit

    def __str__(self) -> str:
        return f"{'>=' if self.at_least else '<='} {self.limit:g}{' ' + self.of.value if self.of.value else ''}"


@dataclass(frozen=True, slots=True)
class Row:
    """One thing measured. samples: by way, a value for each round, the ways taken in turn within a round."""

    name: str
    unit: str
    samples: Mapping[str, Sequence[float]]
    bar: Bar | None = None

    def value(self, way: str) -> float | None:
        """The median over the rounds, None for a way that cannot do it."""
        return statistics.median(self.samples[way]) if self.samples.get(way) else None

    @property
    def ratio(self) -> float | None:
        """wicketgate's median over that of `ssh -J`."""
        ours, theirs = self.value(GATE), self.value(JUMP)
        return None if ours is None or not theirs else ours / theirs

    @property
    def spread(self) -> tuple[float, float] | None:
        """The lowest and the highest ratio of a single round."""
        pairs = zip(self.samples.get(GATE, ()), self.samples.get(JUMP, ()), strict=False)
        ratios = [ours / theirs for ours, theirs in pairs if theirs]
        return (min(ratios), max(ratios)) if ratios else None

    @property
    def missed(self) -> bool:
        """True when there is a bar and what was measured does not meet it."""
        if self.bar is None:
            return False
        measured = self.ratio if self.bar.of is Of.RATIO else self.value(GATE)
        return measured is None or not self.bar.holds(measured)


def p99(values: Sequence[float]) -> float:
    """The value that one in a hundred exceeds."""
    return sorted(values)[min(len(values) - 1, int(len(values) * 0.99))]


def markdown(rows: Sequence[Row]) -> list[str]:
    """The rows as the lines of a Markdown table."""
    lines = [f"| what | {' | '.join(WAYS)} | ratio to ssh -J | of single rounds | bar | |", "| --- " * 8 + "|"]
    for row in rows:
        shown = [_value(row.value(way), row.unit) for way in WAYS]
        ratio = "-" if row.ratio is None else f"{row.ratio:.2f} x"
        spread = "-" if row.spread is None else f"{row.spread[0]:.2f} to {row.spread[1]:.2f}"
        bar = "" if row.bar is None else str(row.bar) if row.bar.of is Of.RATIO else f"{row.bar} {row.unit}"
        verdict = "" if row.bar is None else "MISSED" if row.missed else "holds"
        lines.append(f"| {row.name} | {' | '.join(shown)} | {ratio} | {spread} | {bar} | {verdict} |")
    return lines


def _value(value: float | None, unit: str) -> str:
    return "-" if value is None else f"{value:.{0 if value >= 100 else 1}f} {unit}"
