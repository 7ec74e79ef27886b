"""What the product's words mean, for somebody who decides at six in the morning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from broker.domain.capability import Capability, CapabilityKind
from broker.domain.live import NEXT_STEP
from broker.domain.session import EndReason

_MEANING: Final[Mapping[CapabilityKind, str]] = {
    CapabilityKind.SHELL: "A terminal: everything the account on the asset may do, typed by hand.",
    CapabilityKind.EXEC: "Single commands, and with them scp and rsync: files can go both ways.",
    CapabilityKind.SFTP_READ: "Fetch files from the asset.",
    CapabilityKind.SFTP_WRITE: "Put files on the asset, and change or remove those there.",
    CapabilityKind.TCP: "A raw connection to port {port}; what goes over it is not understood here.",
}
_HIDDEN: Final = frozenset({"kind", "at_ms", "salt"})


def explain_capability(capability: Capability) -> str:
    """What a yes to it opens, in one sentence."""
    return _MEANING[capability.kind].format(port=capability.port)


def explain_end(reason: EndReason | None) -> str:
    """Why a session ended, and the next step where there is one."""
    if reason is None:
        return "still open"
    step = NEXT_STEP.get(reason)
    return reason.value if step is None else f"{reason.value}; {step}"


def explain_entry(body: Mapping[str, Any]) -> str:
    """The fields of a ledger entry in one line, as stored."""
    shown = []
    for name, value in sorted(body.items()):
        if name not in _HIDDEN and value is not None and value != "":
            text = ", ".join(_flat(one) for one in value) if isinstance(value, list) else _flat(value)
            shown.append(f"{name}={text}")
    return " · ".join(shown)


def _flat(value: object) -> str:
    if isinstance(value, dict):
        return "/".join(str(one) for one in value.values())
    return str(value)
