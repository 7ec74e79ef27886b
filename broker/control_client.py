"""Asking the running bastion over its control socket: works with web and database down.

One JSON line a question, one an answer; SO_PEERCRED is checked at the other end.
"""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

from broker.domain.errors import BrokerError, Code

TIMEOUT_S = 5.0


def ask(path: Path, question: dict[str, Any]) -> dict[str, Any]:
    """Ask once. Raises BrokerError: UNAVAILABLE when no bastion runs, or the code the bastion answered with."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as sock:
            sock.settimeout(TIMEOUT_S)
            sock.connect(str(path))
            sock.sendall(json.dumps(question).encode() + b"\n")
            with sock.makefile("rb") as file:
                answer = json.loads(file.readline(1 << 22))
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else "no answer"
        raise BrokerError(Code.UNAVAILABLE, f"the bastion does not answer at {path} ({why}); is it running?") from None
    if "error" in answer:
        raise BrokerError(Code(answer.get("code", "invalid")), str(answer["error"]))
    return dict(answer)
