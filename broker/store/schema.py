"""The tables, as the newest migration leaves them; a test holds the two equal."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
)

from broker.store.columns import SEQ, Length, instant, key, metadata, of, one_of, rising, text
from broker.store.schema_people import invitation as invitation
from broker.store.schema_people import login_try as login_try
from broker.store.schema_people import person as person
from broker.store.schema_people import person_key as person_key
from broker.store.schema_people import person_password as person_password
from broker.store.schema_people import person_role as person_role
from broker.store.schema_people import person_totp as person_totp
from broker.store.schema_people import source_penalty as source_penalty
from broker.store.schema_people import web_session as web_session

site = Table("site", metadata, key(), text("name", unique=True), text("time_zone"))
zone = Table("zone", metadata, key(), of("site"), text("name"), UniqueConstraint("site_id", "name"))
vendor = Table("vendor", metadata, key(), text("name", unique=True), instant("disabled_at", null=True))
asset = Table(
    "asset",
    metadata,
    key(),
    of("site"),
    of("zone", null=True),
    text("name"),
    text("host"),
    Column("port", Integer, nullable=False),
    CheckConstraint("port BETWEEN 1 AND 65535", name="port"),
    text("protocol"),
    text("accounts"),  # comma-separated: an account name holds no comma, and the order is the default's
    text("auth"),
    text("host_key", null=True),
    text("tcp_ports"),
    text("asset_class"),
    text("state"),
    Column("legacy", Boolean, nullable=False),
    Column("secret", LargeBinary, nullable=True),
    UniqueConstraint("site_id", "name"),
    one_of("protocol", "ssh", "telnet", "tcp"),
    one_of("auth", "ca", "password", "key"),
    one_of("asset_class", "routine", "hazard"),
    one_of("state", "expected", "received", "quarantined", "commissioned", "operational"),
)

commissioning_window = Table(
    "commissioning_window",
    metadata,
    key(),
    of("site"),
    of("vendor"),
    instant("opens"),
    instant("closes"),
    text("pattern"),
    text("phase"),
    instant("closed_at", null=True),
    # As they were entered, in the zone they were entered in; null in rows older than these columns.
    text("time_zone", null=True),
    text("opens_wall", null=True),
    text("closes_wall", null=True),
    text("daily_from", null=True),
    text("daily_until", null=True),
    Column("extensions", Integer, nullable=False, server_default="0"),
    rising(),
    Index("ix_commissioning_window_vendor_id", "vendor_id", "site_id"),
)

request_transition = Table(
    "request_transition",
    metadata,
    text("prior_state"),
    text("step"),
    text("state"),
    PrimaryKeyConstraint("prior_state", "step", "state"),
)
access_request = Table(
    "access_request",
    metadata,
    key(),
    of("person"),
    of("vendor"),
    of("site"),
    text("capabilities"),
    instant("opens", null=True),
    Column("length", Length, nullable=False),
    CheckConstraint("length > 0", name="length"),
    text("reason"),
    text("change", null=True),
    instant("submitted_at"),
    instant("lapses_at"),
    text("state"),
    text("prior_state", null=True),
    text("step", null=True),
    Column("version", Integer, nullable=False),
    instant("decided_at", null=True),
    of("person", "decided_by", null=True),
    text("decision_reason", null=True),
    text("extends_grant_id", null=True),  # no foreign key: the grant points to its request already
    one_of("state", "pending", "approved", "denied", "withdrawn"),
    # MATCH SIMPLE skips the key while a part is null: so only a fresh, pending row may have nulls, and it has all of them.
    CheckConstraint(
        "(state = 'pending' AND prior_state IS NULL AND step IS NULL) OR (prior_state IS NOT NULL AND step IS NOT NULL)",
        name="stepped",
    ),
    ForeignKeyConstraint(
        ["prior_state", "step", "state"],
        ["request_transition.prior_state", "request_transition.step", "request_transition.state"],
        name="fk_access_request_transition",
    ),
    Index("ix_access_request_person_id", "person_id"),
    Index("ix_access_request_state", "state", "site_id"),
)
access_request_asset = Table(
    "access_request_asset",
    metadata,
    Column("request_id", Text, ForeignKey("access_request.id"), primary_key=True),
    Column("position", Integer, primary_key=True),
    of("asset"),
    UniqueConstraint("request_id", "asset_id"),
)
approval = Table(
    "approval",
    metadata,
    key(),
    of("access_request", "request_id"),
    of("person", "owner_id"),
    instant("given_at"),
    text("door"),
    text("capabilities"),
    instant("opens"),
    instant("closes"),
    Column("complete", Boolean, nullable=False),
    instant("void_at", null=True),
    UniqueConstraint("request_id", "owner_id"),
    rising(),
)
approval_asset = Table(
    "approval_asset",
    metadata,
    Column("approval_id", Text, ForeignKey("approval.id"), primary_key=True),
    Column("asset_id", Text, ForeignKey("asset.id"), primary_key=True),
)

access_grant = Table(
    "access_grant",
    metadata,
    key(),
    Column("request_id", Text, ForeignKey("access_request.id"), nullable=False, unique=True),
    of("person"),
    of("vendor"),
    of("site"),
    of("commissioning_window", "window_id"),
    text("capabilities"),
    instant("opens"),
    instant("closes"),
    instant("granted_at"),
    instant("revoked_at", null=True),
    instant("suspended_at", null=True),
    instant("handed_back_at", null=True),
    text("ended_by", null=True),
    text("end_reason", null=True),
    of("access_grant", "extends_grant_id", null=True),
    rising(),
    Index("ix_access_grant_extends_grant_id", "extends_grant_id"),
    Index("ix_access_grant_person_id", "person_id", "closes"),
    Index("ix_access_grant_site_id", "site_id", "closes"),
)
access_grant_asset = Table(
    "access_grant_asset",
    metadata,
    Column("grant_id", Text, ForeignKey("access_grant.id"), primary_key=True),
    Column("asset_id", Text, ForeignKey("asset.id"), primary_key=True),
    Index("ix_access_grant_asset_asset_id", "asset_id"),
)

access_session = Table(
    "access_session",
    metadata,
    key(),
    of("access_grant", "grant_id"),
    of("person"),
    of("asset"),
    text("account"),
    text("source"),
    text("factors"),
    text("key_fingerprint"),
    Column("certificate_serial", BigInteger, nullable=True),
    text("node"),
    instant("opened_at"),
    instant("until"),
    instant("longest_until"),
    instant("killed_at", null=True),
    instant("frozen_at", null=True),
    text("frozen_by", null=True),
    instant("held_until", null=True),
    instant("ended_at", null=True),
    text("end_reason", null=True),
    CheckConstraint("(ended_at IS NULL) = (end_reason IS NULL)", name="ended"),
    Index("ix_access_session_grant_id", "grant_id"),
    Index("ix_access_session_asset_id", "asset_id", "opened_at"),
    Index("ix_access_session_opened_at", "opened_at"),
    Index("ix_access_session_ended_at", "ended_at"),
)
session_hold = Table(
    "session_hold",
    metadata,
    key(),
    of("access_session", "session_id"),
    of("person", "owner_id"),
    instant("given_at"),
    instant("until"),
    text("reason"),
    Index("ix_session_hold_session_id", "session_id"),
)
suspension = Table(
    "suspension",
    metadata,
    key(),
    text("scope"),
    text("subject"),  # the id of the grant, person, vendor, asset, window or site
    text("reason"),
    text("suspended_by"),
    instant("suspended_at"),
    instant("lifted_at", null=True),
    of("person", "lifted_by", null=True),
    one_of("scope", "grant", "engineer", "vendor", "asset", "window", "site"),
    Index("ix_suspension_subject", "subject", "lifted_at"),
)
certificate = Table(
    "certificate",
    metadata,
    Column("serial", BigInteger, primary_key=True, autoincrement=False),
    text("purpose"),
    of("access_grant", "grant_id", null=True),
    of("access_session", "session_id", null=True),
    text("key_fingerprint"),
    text("key_id"),
    text("principals"),
    instant("valid_after"),
    instant("valid_before"),
    text("source_address", null=True),
    instant("issued_at"),
    text("ca_fingerprint", null=True),
    one_of("purpose", "gate", "asset", "host"),
    rising("valid_after", "valid_before"),
    Index("ix_certificate_grant_id", "grant_id"),
)
channel = Table(
    "channel",
    metadata,
    Column("session_id", Text, ForeignKey("access_session.id"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    text("kind"),
    text("command", null=True),
    instant("opened_at"),
    instant("closed_at", null=True),
    text("state"),
    text("exit", null=True),
    one_of("kind", "shell", "exec", "sftp", "tcp"),
    one_of("state", "open", "closed", "interrupted", "damaged"),
)
stream = Table(
    "stream",
    metadata,
    Column("session_id", Text, ForeignKey("access_session.id"), primary_key=True),
    Column("name", Text, primary_key=True),
    Column("channel", Integer, nullable=False),
    text("stream_class"),
    text("path", unique=True),
    text("state"),
    Column("length", BigInteger, nullable=True),
    text("sha256", null=True),
    instant("opened_at"),
    instant("closed_at", null=True),
    Column("duration_us", BigInteger, nullable=True),
    one_of("state", "open", "closed", "interrupted", "damaged"),
    ForeignKeyConstraint(["session_id", "channel"], ["channel.session_id", "channel.number"], name="fk_stream_channel"),
)

ledger = Table(
    "ledger",
    metadata,
    Column("seq", SEQ, primary_key=True, autoincrement=False),
    text("kind"),
    Column("body", LargeBinary, nullable=False),
    Column("hash", LargeBinary, nullable=False),
    Column("link", LargeBinary, nullable=False),
)
ledger_head = Table(
    "ledger_head",
    metadata,
    Column("one", Integer, primary_key=True, autoincrement=False),
    CheckConstraint("one = 1", name="one"),
    Column("size", BigInteger, nullable=False),
    Column("link", LargeBinary, nullable=False),
    Column(
        "latest_ms", BigInteger, nullable=False, server_default="0"
    ),  # highest instant of any entry since it is kept; TIM-2
)
