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

person = Table(
    "person",
    metadata,
    key(),
    text("handle", unique=True),
    text("name"),
    text("human"),
    of("vendor", null=True),
    instant("disabled_at", null=True),
    Index("ix_person_vendor_id", "vendor_id"),
)
person_role = Table(
    "person_role",
    metadata,
    of("person"),
    text("role"),
    of("site", null=True),  # null: every site
    Index("ix_person_role_person_id", "person_id"),
    one_of("role", "owner", "operator", "investigator", "admin", "auditor"),
)
person_key = Table(
    "person_key",
    metadata,
    key(),
    of("person"),
    text("fingerprint", unique=True),
    text("line"),
    instant("added_at"),
    Index("ix_person_key_person_id", "person_id"),
)
person_password = Table(
    "person_password",
    metadata,
    Column("person_id", Text, ForeignKey("person.id"), primary_key=True),
    text("hash"),
    instant("set_at"),
)
person_totp = Table(
    "person_totp",
    metadata,
    Column("person_id", Text, ForeignKey("person.id"), primary_key=True),
    Column("seed", LargeBinary, nullable=False),
    Column("last_step", BigInteger, nullable=False),
    instant("set_at"),
)
invitation = Table(
    "invitation",
    metadata,
    key(),
    of("person"),
    Column("code_sha256", LargeBinary, nullable=False, unique=True),
    text("made_by"),
    instant("made_at"),
    instant("lapses_at"),
    instant("used_at", null=True),
    Index("ix_invitation_person_id", "person_id"),
)
login_try = Table(
    "login_try",
    metadata,
    key(),
    of("person", null=True),
    text("source"),
    text("door"),
    instant("tried_at"),
    text("outcome"),
    one_of("outcome", "pending", "failed", "passed"),
    Index("ix_login_try_person_id", "person_id", "tried_at"),
    Index("ix_login_try_source", "source", "tried_at"),
)
web_session = Table(
    "web_session",
    metadata,
    Column("id_sha256", LargeBinary, primary_key=True),
    of("person"),
    text("csrf"),
    text("source"),
    instant("opened_at"),
    instant("seen_at"),
    instant("proof_at"),
    instant("ended_at", null=True),
    Index("ix_web_session_person_id", "person_id"),
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
    rising(),
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
    instant("ended_at", null=True),
    text("end_reason", null=True),
    CheckConstraint("(ended_at IS NULL) = (end_reason IS NULL)", name="ended"),
    Index("ix_access_session_grant_id", "grant_id"),
    Index("ix_access_session_asset_id", "asset_id", "opened_at"),
    Index("ix_access_session_opened_at", "opened_at"),
    Index("ix_access_session_ended_at", "ended_at"),
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
)
