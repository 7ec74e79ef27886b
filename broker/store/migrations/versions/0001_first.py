"""The first tables, the request's transitions as rows, and the append-only ledger."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from alembic import op

revision = "0001"
down_revision = None

TABLES: Final = Path(__file__).parent.parent / "first.sql"
TYPES: Final = {
    "sqlite": {"bytes": "BLOB", "seq": "INTEGER"},
    "postgresql": {"bytes": "BYTEA", "seq": "BIGINT"},
}
TRANSITIONS: Final = (
    ("pending", "approve", "approved"),
    ("pending", "deny", "denied"),
    ("pending", "withdraw", "withdrawn"),
)
# A hash chain shows an edit afterwards; these stop the careless one before. INSERT OR REPLACE would delete unseen.
SQLITE_GUARDS: Final = (
    """CREATE TRIGGER ledger_kept_from_update BEFORE UPDATE ON ledger
    BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END""",
    """CREATE TRIGGER ledger_kept_from_delete BEFORE DELETE ON ledger
    BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END""",
    """CREATE TRIGGER ledger_kept_from_replace BEFORE INSERT ON ledger
    WHEN EXISTS (SELECT 1 FROM ledger WHERE seq = NEW.seq)
    BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END""",
    """CREATE TRIGGER ledger_head_only_grows BEFORE UPDATE ON ledger_head WHEN NEW.size IS NOT OLD.size + 1
    BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END""",
    """CREATE TRIGGER ledger_head_kept BEFORE DELETE ON ledger_head
    BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END""",
    """CREATE TRIGGER ledger_head_kept_from_replace BEFORE INSERT ON ledger_head
    WHEN EXISTS (SELECT 1 FROM ledger_head)
    BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END""",
    """CREATE TRIGGER access_request_born_pending BEFORE INSERT ON access_request WHEN NEW.state IS NOT 'pending'
    BEGIN SELECT RAISE(ABORT, 'a request is born pending'); END""",
    """CREATE TRIGGER access_request_steps BEFORE UPDATE ON access_request
    WHEN NEW.state IS NOT OLD.state AND NEW.prior_state IS NOT OLD.state
    BEGIN SELECT RAISE(ABORT, 'a step starts from the stored state'); END""",
)
POSTGRESQL_GUARDS: Final = (
    """CREATE FUNCTION ledger_is_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN RAISE EXCEPTION 'the ledger is append-only' USING ERRCODE = 'integrity_constraint_violation'; END $$""",
    """CREATE TRIGGER ledger_kept BEFORE UPDATE OR DELETE ON ledger
    FOR EACH ROW EXECUTE FUNCTION ledger_is_append_only()""",
    """CREATE TRIGGER ledger_kept_whole BEFORE TRUNCATE ON ledger
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_is_append_only()""",
    """CREATE TRIGGER ledger_head_only_grows BEFORE UPDATE ON ledger_head
    FOR EACH ROW WHEN (NEW.size <> OLD.size + 1) EXECUTE FUNCTION ledger_is_append_only()""",
    """CREATE TRIGGER ledger_head_kept BEFORE DELETE ON ledger_head
    FOR EACH ROW EXECUTE FUNCTION ledger_is_append_only()""",
    """CREATE TRIGGER ledger_head_kept_whole BEFORE TRUNCATE ON ledger_head
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_is_append_only()""",
    """CREATE FUNCTION a_request_is_born_pending() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN RAISE EXCEPTION 'a request is born pending' USING ERRCODE = 'integrity_constraint_violation'; END $$""",
    """CREATE TRIGGER access_request_born_pending BEFORE INSERT ON access_request
    FOR EACH ROW WHEN (NEW.state <> 'pending') EXECUTE FUNCTION a_request_is_born_pending()""",
    """CREATE FUNCTION a_step_starts_from_the_stored_state() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN RAISE EXCEPTION 'a step starts from the stored state' USING ERRCODE = 'integrity_constraint_violation'; END $$""",
    """CREATE TRIGGER access_request_steps BEFORE UPDATE ON access_request
    FOR EACH ROW WHEN (NEW.state IS DISTINCT FROM OLD.state AND NEW.prior_state IS DISTINCT FROM OLD.state)
    EXECUTE FUNCTION a_step_starts_from_the_stored_state()""",
)


def upgrade() -> None:
    conn = op.get_bind()
    name = conn.dialect.name
    for statement in TABLES.read_text(encoding="utf-8").format(**TYPES[name]).split(";\n"):
        if statement.strip():
            conn.exec_driver_sql(statement)
    for guard in SQLITE_GUARDS if name == "sqlite" else POSTGRESQL_GUARDS:
        conn.exec_driver_sql(guard)
    for prior, step, state in TRANSITIONS:
        conn.exec_driver_sql(f"INSERT INTO request_transition VALUES ('{prior}', '{step}', '{state}')")  # noqa: S608 - literals
    zeros = "x'" + "00" * 32 + "'" if name == "sqlite" else "decode(repeat('00', 32), 'hex')"
    conn.exec_driver_sql(f"INSERT INTO ledger_head VALUES (1, 0, {zeros})")  # noqa: S608 - literals
