"""The tables of people: who they are, what they prove themselves with, and what came of it."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, ForeignKey, Index, Integer, LargeBinary, Table, Text

from broker.store.columns import instant, key, metadata, of, one_of, text

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
source_penalty = Table(
    "source_penalty",
    metadata,
    Column("source", Text, primary_key=True),  # an IPv4 address, or the first 64 bits of an IPv6 one
    Column("score", Integer, nullable=False),
    instant("until"),
    instant("updated_at"),
)
