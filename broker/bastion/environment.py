"""What of an engineer's environment reaches an asset: LANG and LC_*, plain values, a few of them. Source: docs/rules.md CHN-5."""

from __future__ import annotations

import re
from typing import Final

import asyncssh

from broker.domain.ids import quoted

_NAME: Final = re.compile(rb"LANG|LC_[A-Z_]{1,24}")
_VALUE: Final = re.compile(rb"[A-Za-z0-9._@-]{1,64}")
VARIABLES_MAX: Final = 8
_SHOWN_MAX: Final = 4


def kept_environment(chan: asyncssh.SSHServerChannel[bytes]) -> dict[bytes, bytes]:
    """What an asset is given of what the client sent."""
    kept: dict[bytes, bytes] = {}
    for name, value in chan.get_environment_bytes().items():
        if _NAME.fullmatch(name) and _VALUE.fullmatch(value) and len(kept) < VARIABLES_MAX:
            kept[name] = value
    return kept


def dropped_environment(chan: asyncssh.SSHServerChannel[bytes]) -> str:
    """The names it is not given, for showing; empty when there are none."""
    dropped = sorted(chan.get_environment_bytes().keys() - kept_environment(chan).keys())
    shown = [quoted(name.decode("utf-8", "replace"), longest=32) for name in dropped[:_SHOWN_MAX]]
    return ", ".join(shown) + (f" and {len(dropped) - _SHOWN_MAX} more" if len(dropped) > _SHOWN_MAX else "")
