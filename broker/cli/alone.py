"""One process of a kind for a home. The lock is on a file that the kind alone works with: no lock file can be left behind."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from broker.cli.checks import EVERYTHING, Part
from broker.cli.ending import Refused
from broker.settings import Home

_PARTS: Final[Mapping[Part, str]] = {Part.SIGNER: "a signer", Part.BROKER: "a broker", Part.APPROVAL: "an approval"}


def hold(home: Home, only: Part | None) -> int | None:
    """Be the one `serve` of this home, or the one process of this kind, until we end; gives the descriptor that holds it.

    None for a file that cannot be opened: what is wrong with it is for the checks to say. Raises Refused when another runs.
    """
    if only is not None:
        return lock(_file_of(home, only), f"{_PARTS[only]} process of this home runs already")
    held = lock(home.settings_path, f"another serve runs on {home.path} already")
    for part in sorted(EVERYTHING):  # systemd may run them one by one
        found = lock(_file_of(home, part), f"{_PARTS[part]} process of this home runs already")
        if found is not None:
            os.close(found)
    return held


def _file_of(home: Home, part: Part) -> Path:
    # The folder of all keys: a CA key may be held elsewhere, and a rotation puts another file in its place.
    files = {Part.SIGNER: home.keys, Part.BROKER: home.host_key, Part.APPROVAL: home.seal_key}
    return files[part]


def lock(path: Path, taken: str) -> int | None:
    """Lock a file or folder until the descriptor given is closed, or we end. Raises Refused, saying taken, when another has it."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise Refused(f"{taken}; stop it first") from None
    except OSError:  # a file system without locks is no reason to stay down
        os.close(fd)
        return None
    return fd
