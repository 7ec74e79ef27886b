"""An engineer asks for more time while working, and what an owner's yes to that does. Reached through `broker.desk`."""

from __future__ import annotations

from datetime import timedelta

from broker.domain.authority import GrantExtended
from broker.domain.grant import Grant, GrantState
from broker.domain.ids import PersonId
from broker.domain.policy import Reason, Refusal, ReviewReason
from broker.domain.request import AccessRequest, Asked
from broker.store import grants, inventory, ledger
from broker.store.db import Tx

_STANDING = frozenset({GrantState.SCHEDULED, GrantState.OPEN})


def asked_of(
    tx: Tx, *, person_id: PersonId, grant_id: str, length: timedelta, reason: str
) -> tuple[Asked, Grant] | Refusal:
    """More time for a grant, in the words of a request that begins where the grant ends; to anybody else it is not there.

    An extension is a new approval, never silent (law 2): the same assets and capabilities, judged anew by the same law.
    """
    grant = grants.load(tx, grant_id)
    if grant is None or grant.person_id != person_id:
        return Refusal(Reason.NO_GRANT)
    if (state := grant.state(tx.now)) not in _STANDING:
        return Refusal(Reason.OVER, f"it is {state.value}; ask again with: request")
    asked = Asked(
        assets=tuple(asset.login for asset in inventory.assets(tx, ids=grant.terms.assets)),
        length=length,
        reason=reason,
        capabilities=grant.terms.capabilities,
        opens=grant.interval.closes,
    )
    return asked, grant


def refuse_ended(tx: Tx, request: AccessRequest | None) -> Refusal | None:
    """Why an extension cannot be granted any more: an act has ended the grant it was asked for."""
    grant = None if request is None or request.extends is None else grants.load(tx, request.extends)
    if grant is None or grant.state(tx.now) in (*_STANDING, GrantState.OVER):
        return None
    return Refusal(ReviewReason.GRANT_ENDED, f"{grant.id} is {grant.state(tx.now).value}; deny this one")


def tell(tx: Tx, grant: Grant) -> None:
    """The ledger's entry by which live sessions learn that they go on."""
    if grant.extends is not None:
        entry = GrantExtended(grant_id=grant.id, extends=grant.extends, closes=grant.interval.closes)
        ledger.append(tx, entry)
