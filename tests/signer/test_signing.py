"""What the signer decides, and what it lets out. Laws 2 and 9; docs/rules.md CRT-1 to CRT-7."""

from __future__ import annotations

import math
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncssh
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from broker import desk, gate
from broker.domain.errors import BrokerError, Code
from broker.domain.grant import Grant
from broker.domain.ids import GrantId, SessionId
from broker.domain.isolation import Ladder
from broker.domain.session import EndReason
from broker.domain.window import Interval
from broker.openssh import parse_certificate_line, parse_public_key
from broker.settings import Settings
from broker.signer import signing
from broker.signer.keys import load_ca_key
from broker.signer.signing import Order, order_asset, order_gate, order_host, sign
from broker.store import grants, ledger, people
from broker.store.db import Tx
from tests.signer.makers import HOUR, NOON, SOURCE, Deployment, at, fresh_key, make_deployment

SECOND = timedelta(seconds=1)


def ask_gate(place: Deployment, tx: Tx, grant: Grant, *, source: str = SOURCE, key: str | None = None) -> Order:
    return order_gate(
        tx,
        place.settings,
        grant_id=grant.id,
        person_id=place.engineer.id,
        key_line=place.key_line if key is None else key,
        source=source,
        ladder=Ladder(),
    )


def ready(place: Deployment, tx: Tx) -> Grant:
    place.open_window(Interval(NOON - HOUR, NOON + 8 * HOUR), tx)
    return place.grant(tx)


def test_ssh_keygen_reads_exactly_what_the_grant_says(place: Deployment, tmp_path: Path) -> None:
    with place.db.begin() as tx:
        grant = ready(place, tx)
        order = ask_gate(place, tx, grant)
    line = sign(load_ca_key(place.home, "gate"), order)
    file = tmp_path / "key-cert.pub"
    file.write_text(line + "\n")
    shown = subprocess.run(
        ["ssh-keygen", "-L", "-f", file], capture_output=True, text=True, check=True, env={"TZ": "UTC"}, timeout=30
    ).stdout.splitlines()
    ca = parse_public_key(place.home.ca_key("gate").with_suffix(".pub").read_text()).fingerprint
    assert [one.strip() for one in shown[1:]] == [
        "Type: ssh-ed25519-cert-v01@openssh.com user certificate",
        f"Public key: ED25519-CERT {parse_public_key(place.key_line).fingerprint}",
        f"Signing CA: ED25519 {ca} (using ssh-ed25519)",
        f'Key ID: "wicketgate engineer.one {grant.id}"',
        f"Serial: {order.serial}",
        "Valid: from 2027-02-24T12:00:00 to 2027-02-24T13:00:00",
        "Principals:",
        "bms-01.kestrel",
        "engineer.one",
        "root+bms-01.kestrel",
        "Critical Options:",
        f"source-address {SOURCE}/32",
        "Extensions:",
        "permit-pty",
    ]


def test_an_asset_certificate_is_one_account_and_two_minutes(place: Deployment, tmp_path: Path) -> None:
    key = fresh_key()
    with place.db.begin() as tx:
        ready(place, tx)
        entered = place.enter(tx)
        order = order_asset(tx, place.settings, session_id=entered.session_id, key_line=key, ladder=Ladder())
    found = parse_certificate_line(sign(load_ca_key(place.home, "asset"), order))
    assert found.principals == ("service",)
    assert (found.valid_after, found.valid_before) == (NOON - timedelta(seconds=30), NOON + timedelta(seconds=120))
    assert (dict(found.critical_options), set(found.extensions)) == ({}, {"permit-pty"})
    assert found.key_id == f"wicketgate engineer.one {entered.admission.grant_id} {entered.session_id}"


def test_an_asset_certificate_carries_the_bastions_address_when_it_is_set(place: Deployment) -> None:
    with place.db.begin() as tx:
        ready(place, tx)
        chosen = Settings(bastion_address="2001:db8::9")
        order = order_asset(tx, chosen, session_id=place.enter(tx).session_id, key_line=fresh_key(), ladder=Ladder())
    found = parse_certificate_line(sign(load_ca_key(place.home, "asset"), order))
    assert dict(found.critical_options) == {"source-address": "2001:db8::9/128"}


def test_a_host_certificate_names_the_bastion_for_thirty_days(place: Deployment) -> None:
    key = fresh_key()
    named = Settings(ssh_names=("gate.kestrel.example", "gate"))
    with place.db.begin() as tx:
        order = order_host(tx, named, key_line=key, own_line=f"{key} bastion")
        with pytest.raises(BrokerError, match="not the bastion's host key"):
            order_host(tx, named, key_line=fresh_key(), own_line=key)
    found = parse_certificate_line(sign(load_ca_key(place.home, "host"), order))
    assert (found.type, found.principals) == ("host", ("gate.kestrel.example", "gate"))
    assert NOON + timedelta(days=30) == found.valid_before
    assert (dict(found.extensions), dict(found.critical_options)) == ({}, {})


def test_the_row_and_the_ledger_entry_are_kept_with_the_decision_before_anything_is_signed(place: Deployment) -> None:
    with place.db.begin() as tx:
        order = ask_gate(place, tx, ready(place, tx))
    with place.db.read() as tx:
        row = grants.load_certificate(tx, order.serial)
        entry = ledger.show(tx, last=1)[0]
    assert row is not None
    assert (row.key_id, row.principals, row.valid_before) == (order.key_id, order.principals, order.valid_before)
    assert (entry.kind, entry.body["serial"]) == ("certificate.issued", str(order.serial))
    assert entry.body["principals"] == list(order.principals)


@pytest.mark.parametrize(
    ("source", "kept"),
    [
        ("::ffff:192.0.2.7", "192.0.2.7/32"),
        ("2001:DB8:0::1", "2001:db8::1/128"),
        ("fe80::1%eth0", "fe80::1/128"),
    ],
)
def test_the_collectors_address_is_bound_in_its_one_normal_form(place: Deployment, source: str, kept: str) -> None:
    with place.db.begin() as tx:
        order = ask_gate(place, tx, ready(place, tx), source=source)
    found = parse_certificate_line(sign(load_ca_key(place.home, "gate"), order))
    assert dict(found.critical_options) == {"source-address": kept}


def test_a_site_may_turn_the_address_off_and_nothing_else_can(place: Deployment) -> None:
    with place.db.begin() as tx:
        grant = ready(place, tx)
        off = Settings(certificate_source_address=False)
        order = order_gate(
            tx,
            off,
            grant_id=grant.id,
            person_id=place.engineer.id,
            key_line=place.key_line,
            source="local",
            ladder=Ladder(),
        )
        assert order.source_address is None
        with pytest.raises(BrokerError, match="is no address"):
            ask_gate(place, tx, grant, source="local")


Wrong = Callable[[Deployment, Tx], object]


def _another_persons_grant(place: Deployment, tx: Tx) -> object:
    grant = ready(place, tx)
    return order_gate(
        tx,
        place.settings,
        grant_id=grant.id,
        person_id=place.stranger.id,
        key_line=place.stranger_key,
        source=SOURCE,
        ladder=Ladder(),
    )


def _gate_after(change: Callable[[Deployment, Tx, Grant], object]) -> Wrong:
    def ask(place: Deployment, tx: Tx) -> object:
        grant = ready(place, tx)
        change(place, tx, grant)
        return ask_gate(place, tx, grant)

    return ask


def _asset_after(change: Callable[[Deployment, Tx, SessionId, Grant], object]) -> Wrong:
    def ask(place: Deployment, tx: Tx) -> object:
        grant = ready(place, tx)
        session_id = place.enter(tx).session_id
        change(place, tx, session_id, grant)
        return order_asset(tx, place.settings, session_id=session_id, key_line=fresh_key(), ladder=Ladder())

    return ask


WRONG: dict[str, tuple[Wrong, str]] = {
    "a grant that is not there": (
        lambda place, tx: order_gate(
            tx,
            place.settings,
            grant_id=GrantId("grt-00000000"),
            person_id=place.engineer.id,
            key_line=place.key_line,
            source=SOURCE,
            ladder=Ladder(),
        ),
        "no such grant",
    ),
    "another person's grant": (_another_persons_grant, "no such grant"),
    "another person's key": (
        lambda place, tx: ask_gate(place, tx, ready(place, tx), key=place.stranger_key),
        "not enrolled",
    ),
    "a key nobody enrolled": (lambda place, tx: ask_gate(place, tx, ready(place, tx), key=fresh_key()), "not enrolled"),
    "a key that was taken away": (
        _gate_after(
            lambda place, tx, _: people.remove_key(
                tx, place.engineer.id, parse_public_key(place.key_line).fingerprint, by="owner"
            )
        ),
        "not enrolled",
    ),
    "a clock behind the ledger": (
        lambda place, tx: ask_gate(place, at(tx, tx.now - timedelta(seconds=6)), ready(place, tx)),
        "the clock is behind the ledger",
    ),
    "a clock behind the ledger, for an asset": (
        _asset_after(
            lambda _, tx, ses, __: desk.kill(
                at(tx, tx.now + timedelta(seconds=6)), session_id=ses, by="local:root", reason="out", door="cli"
            )
        ),
        "the clock is behind the ledger",
    ),
    "a revoked grant": (
        _gate_after(lambda _, tx, grant: desk.revoke(tx, grant_id=grant.id, by="owner", reason="no more")),
        "the grant is revoked",
    ),
    "a grant handed back": (
        _gate_after(lambda place, tx, grant: desk.hand_back(tx, person_id=place.engineer.id, grant_id=grant.id)),
        "the grant is handed back",
    ),
    "a window closed early": (
        _gate_after(lambda _, tx, grant: desk.close_window(tx, window_id=grant.window_id, by="owner")),
        "window is closed",
    ),
    "a disabled engineer": (
        _gate_after(lambda place, tx, _: desk.disable_person(tx, handle=place.engineer.handle, by="owner")),
        "disabled",
    ),
    "a disabled vendor": (
        _gate_after(lambda place, tx, _: desk.disable_vendor(tx, name=place.vendor.name, by="owner")),
        "disabled",
    ),
    "a grant that opens later": (
        lambda place, tx: ask_gate(place, at(tx, NOON - SECOND), ready(place, tx)),
        "the grant is scheduled",
    ),
    "a grant that is over": (
        lambda place, tx: ask_gate(place, at(tx, NOON + 2 * HOUR), ready(place, tx)),
        "the grant is over",
    ),
    "no session": (
        lambda place, tx: order_asset(
            tx, place.settings, session_id=SessionId("ses-00000000"), key_line=fresh_key(), ladder=Ladder()
        ),
        "no such session",
    ),
    "a session that has ended": (
        _asset_after(lambda _, tx, session_id, __: _end(tx, session_id)),
        "the session is over",
    ),
    "a killed session": (
        _asset_after(lambda _, tx, ses, __: desk.kill(tx, session_id=ses, by="local:root", reason="out", door="cli")),
        "the session is over",
    ),
    "a session of a revoked grant": (
        _asset_after(lambda _, tx, __, grant: desk.revoke(tx, grant_id=grant.id, by="owner", reason="no more")),
        "the session is over",
    ),
    "a session of a disabled engineer": (
        _asset_after(lambda place, tx, _, __: desk.disable_person(tx, handle=place.engineer.handle, by="owner")),
        "disabled",
    ),
    "an asset leg with the engineer's own key": (
        lambda place, tx: (
            ready(place, tx),
            order_asset(
                tx, place.settings, session_id=place.enter(tx).session_id, key_line=place.key_line, ladder=Ladder()
            ),
        ),
        "fresh ed25519 key",
    ),
    "an asset leg with an RSA key": (
        lambda place, tx: (
            ready(place, tx),
            order_asset(
                tx, place.settings, session_id=place.enter(tx).session_id, key_line=_rsa_key(), ladder=Ladder()
            ),
        ),
        "fresh ed25519 key",
    ),
    "a key that is none": (lambda place, tx: ask_gate(place, tx, ready(place, tx), key="ssh-dss AAAA"), "ssh-dss"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_the_signer_refuses(place: Deployment, wrong: str) -> None:
    ask, said = WRONG[wrong]
    with pytest.raises(BrokerError, match=said), place.db.begin() as tx:
        ask(place, tx)
    with place.db.read() as tx:
        assert not ledger.show(tx, kind="certificate"), "what was refused leaves no certificate behind"


def _end(tx: Tx, session_id: SessionId) -> None:
    assert gate.leave(tx, session_id=session_id, reason=EndReason.DONE)


def _rsa_key() -> str:
    return str(asyncssh.generate_private_key("ssh-rsa", key_size=3072).export_public_key("openssh").decode().strip())


@pytest.mark.parametrize(
    "field", ["serial", "key_id", "principals", "valid_after", "valid_before", "source_address", "key_line", "purpose"]
)
def test_bytes_that_differ_from_the_decision_do_not_leave(
    place: Deployment, field: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A library that writes something else than it was told is found out, whichever field it gets wrong."""
    with place.db.begin() as tx:
        order = ask_gate(place, tx, ready(place, tx))
    other: dict[str, Any] = {
        "serial": order.serial ^ 1,
        "key_id": order.key_id + "x",
        "principals": (*order.principals, "root"),
        "valid_after": order.valid_after - SECOND,
        "valid_before": order.valid_before + SECOND,
        "source_address": None,
        "key_line": fresh_key(),
        "purpose": "host",
    }
    key = load_ca_key(place.home, "gate")
    changed = {field: other[field]} | ({"source_address": None} if field == "purpose" else {})
    elsewhere = parse_certificate_line(sign(key, replace(order, **changed)))
    monkeypatch.setattr(signing, "parse_certificate", lambda _: elsewhere)
    with pytest.raises(BrokerError, match="nothing was given out") as told:
        sign(key, order)
    assert told.value.code is Code.UNAVAILABLE


def test_another_signer_than_the_chosen_ca_does_not_leave(place: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    with place.db.begin() as tx:
        order = ask_gate(place, tx, ready(place, tx))
    elsewhere = parse_certificate_line(sign(load_ca_key(place.home, "asset"), order))
    monkeypatch.setattr(signing, "parse_certificate", lambda _: elsewhere)
    with pytest.raises(BrokerError, match="signer"):
        sign(load_ca_key(place.home, "gate"), order)


@pytest.fixture(scope="module")
def one_place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    made = make_deployment(tmp_path_factory.mktemp("property") / "home")
    yield made
    made.db.close()


class _Undo(Exception):
    pass


moments = st.timedeltas(min_value=timedelta(0), max_value=timedelta(hours=12))


@given(
    window_length=moments,
    begins=moments,
    length=st.timedeltas(min_value=timedelta(seconds=1), max_value=timedelta(hours=14)),
    later=moments,
    life_s=st.floats(min_value=0.001, max_value=28800),
    closed_after=st.none() | moments,
)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_certificate_lies_inside_its_grant_its_window_and_its_life_at_whatever_time_it_is_asked_for(
    one_place: Deployment,
    window_length: timedelta,
    begins: timedelta,
    length: timedelta,
    later: timedelta,
    life_s: float,
    closed_after: timedelta | None,
) -> None:
    place = one_place
    # The tolerance: a close may lie ahead here of what is asked after it.
    short_s = min(life_s, 3600)
    chosen = Settings(certificate_life_s=life_s, asset_certificate_life_s=short_s, clock_tolerance_s=86400)
    try:
        with place.db.begin() as tx:
            window = place.open_window(Interval(NOON, NOON + length + window_length + begins), tx)
            grant = place.grant(tx, opens=NOON + begins, length=length)
            closes = window.closes
            if closed_after is not None and NOON < NOON + closed_after < closes:
                closes = NOON + closed_after
                desk.close_window(at(tx, closes), window_id=window.id, by="owner")
            now = NOON + later
            begun = now.replace(microsecond=0)
            first = max(grant.interval.opens, begun)
            last = min(grant.interval.closes, closes, begun + timedelta(seconds=life_s))
            usable = grant.interval.opens <= now < min(grant.interval.closes, closes)
            usable = usable and math.ceil(first.timestamp()) < math.floor(last.timestamp())
            try:
                order = order_gate(
                    at(tx, now),
                    chosen,
                    grant_id=grant.id,
                    person_id=place.engineer.id,
                    key_line=place.key_line,
                    source=SOURCE,
                    ladder=Ladder(),
                )
            except BrokerError:
                assert not usable
                raise _Undo from None
            assert usable
            assert grant.interval.opens <= order.valid_after < order.valid_before <= grant.interval.closes
            assert order.valid_before <= closes
            assert order.valid_before - order.valid_after <= timedelta(seconds=life_s)
            assert order.valid_before <= now + timedelta(seconds=life_s)
            assert (order.valid_after.microsecond, order.valid_before.microsecond) == (0, 0)
            raise _Undo
    except _Undo:
        pass


@given(later=moments, life_s=st.floats(min_value=0.001, max_value=3600))
@settings(max_examples=60, deadline=None)
def test_an_asset_certificate_ends_before_its_session_grant_and_window(
    one_place: Deployment, later: timedelta, life_s: float
) -> None:
    place = one_place
    try:
        with place.db.begin() as tx:
            place.open_window(Interval(NOON, NOON + 3 * HOUR), tx)
            grant = place.grant(tx, length=timedelta(hours=2, microseconds=1))
            session_id = place.enter(tx).session_id
            now = NOON + later
            chosen = Settings(asset_certificate_life_s=life_s)
            try:
                order = order_asset(at(tx, now), chosen, session_id=session_id, key_line=fresh_key(), ladder=Ladder())
            except BrokerError:
                assert now + SECOND > grant.interval.closes
                raise _Undo from None
            assert order.valid_before <= min(grant.interval.closes, now + timedelta(seconds=life_s))
            assert now - timedelta(seconds=30) <= order.valid_after < order.valid_before
            raise _Undo
    except _Undo:
        pass
