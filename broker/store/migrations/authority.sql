-- Adds only. Frozen once released: a later version changes these in a script of its own.
ALTER TABLE commissioning_window ADD COLUMN time_zone TEXT;
ALTER TABLE commissioning_window ADD COLUMN opens_wall TEXT;
ALTER TABLE commissioning_window ADD COLUMN closes_wall TEXT;
ALTER TABLE commissioning_window ADD COLUMN daily_from TEXT;
ALTER TABLE commissioning_window ADD COLUMN daily_until TEXT;
ALTER TABLE commissioning_window ADD COLUMN extensions INTEGER DEFAULT 0 NOT NULL;
ALTER TABLE access_request ADD COLUMN extends_grant_id TEXT;
ALTER TABLE approval ADD COLUMN void_at BIGINT;
ALTER TABLE access_grant ADD COLUMN extends_grant_id TEXT
    CONSTRAINT fk_access_grant_extends_grant_id REFERENCES access_grant (id);
CREATE INDEX ix_access_grant_extends_grant_id ON access_grant (extends_grant_id);
ALTER TABLE access_session ADD COLUMN frozen_at BIGINT;
ALTER TABLE access_session ADD COLUMN frozen_by TEXT;
ALTER TABLE access_session ADD COLUMN held_until BIGINT;
ALTER TABLE certificate ADD COLUMN ca_fingerprint TEXT;
CREATE TABLE session_hold (
    id TEXT NOT NULL,
    session_id TEXT NOT NULL,
    owner_id TEXT NOT NULL,
    given_at BIGINT NOT NULL,
    until BIGINT NOT NULL,
    reason TEXT NOT NULL,
    CONSTRAINT pk_session_hold PRIMARY KEY (id),
    CONSTRAINT fk_session_hold_session_id FOREIGN KEY(session_id) REFERENCES access_session (id),
    CONSTRAINT fk_session_hold_owner_id FOREIGN KEY(owner_id) REFERENCES person (id)
);
CREATE INDEX ix_session_hold_session_id ON session_hold (session_id);
CREATE TABLE suspension (
    id TEXT NOT NULL,
    scope TEXT NOT NULL,
    subject TEXT NOT NULL,
    reason TEXT NOT NULL,
    suspended_by TEXT NOT NULL,
    suspended_at BIGINT NOT NULL,
    lifted_at BIGINT,
    lifted_by TEXT,
    CONSTRAINT pk_suspension PRIMARY KEY (id),
    CONSTRAINT fk_suspension_lifted_by FOREIGN KEY(lifted_by) REFERENCES person (id),
    CONSTRAINT ck_suspension_scope CHECK (scope IN ('grant', 'engineer', 'vendor', 'asset', 'window', 'site'))
);
CREATE INDEX ix_suspension_subject ON suspension (subject, lifted_at);
CREATE TABLE source_penalty (
    source TEXT NOT NULL,
    score INTEGER NOT NULL,
    until BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    CONSTRAINT pk_source_penalty PRIMARY KEY (source)
);
ALTER TABLE ledger_head ADD COLUMN latest_ms BIGINT DEFAULT 0 NOT NULL;
