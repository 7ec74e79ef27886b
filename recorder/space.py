"""How much may still be recorded on a file system."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class FreeSpace:
    """What is left on the file system of a folder. fraction_free: 0.0 to 1.0."""

    bytes_free: int
    fraction_free: float


def free_space(folder: Path) -> FreeSpace:
    """How much an ordinary process may still write there. Raises OSError."""
    usage = shutil.disk_usage(folder)
    return FreeSpace(usage.free, usage.free / usage.total if usage.total else 0.0)
