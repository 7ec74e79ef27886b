-- The first tables. Frozen once released: a later version changes them in a script of its own.
-- {{bytes}} and {{seq}} are BLOB and INTEGER on SQLite, BYTEA and BIGINT on PostgreSQL. Instants are Unix microseconds, UTC.

CREATE TABLE ledger (
    seq {seq} NOT NULL,
    kind TEXT NOT NULL,
    body {bytes} NOT NULL,
    hash {bytes} NOT NULL,
    link {bytes} NOT NULL,
    CONSTRAINT pk_ledger PRIMARY KEY (seq)
);

CREATE TABLE ledger_head (
    one INTEGER NOT NULL,
    size BIGINT NOT NULL,
    link {bytes} NOT NULL,
    CONSTRAINT pk_ledger_head PRIMARY KEY (one),
    CONSTRAINT ck_ledger_head_one CHECK (one = 1)
);

CREATE TABLE request_transition (
    prior_state TEXT NOT NULL,
    step TEXT NOT NULL,
    state TEXT NOT NULL,
    CONSTRAINT pk_request_transition PRIMARY KEY (prior_state, step, state)
);

CREATE TABLE site (
    id TEXT NOT NULL,
    name TEXT NOT NULL,
    time_zone TEXT NOT NULL,
    CONSTRAINT pk_site PRIMARY KEY (id),
    CONSTRAINT uq_site_name UNIQUE (name)
);

CREATE TABLE vendor (
    id TEXT NOT NULL,
    name TEXT NOT NULL,
    disabled_at BIGINT,
    CONSTRAINT pk_vendor PRIMARY KEY (id),
    CONSTRAINT uq_vendor_name UNIQUE (name)
);

CREATE TABLE commissioning_window (
    id TEXT NOT NULL,
    site_id TEXT NOT NULL,
    vendor_id TEXT NOT NULL,
    opens BIGINT NOT NULL,
    closes BIGINT NOT NULL,
    pattern TEXT NOT NULL,
    phase TEXT NOT NULL,
    closed_at BIGINT,
    CONSTRAINT pk_commissioning_window PRIMARY KEY (id),
    CONSTRAINT ck_commissioning_window_opens_before_closes CHECK (opens < closes),
    CONSTRAINT fk_commissioning_window_site_id FOREIGN KEY(site_id) REFERENCES site (id),
    CONSTRAINT fk_commissioning_window_vendor_id FOREIGN KEY(vendor_id) REFERENCES vendor (id)
);
CREATE INDEX ix_commissioning_window_vendor_id ON commissioning_window (vendor_id, site_id);

CREATE TABLE person (
    id TEXT NOT NULL,
    handle TEXT NOT NULL,
    name TEXT NOT NULL,
    human TEXT NOT NULL,
    vendor_id TEXT,
    disabled_at BIGINT,
    CONSTRAINT pk_person PRIMARY KEY (id),
    CONSTRAINT uq_person_handle UNIQUE (handle),
    CONSTRAINT fk_person_vendor_id FOREIGN KEY(vendor_id) REFERENCES vendor (id)
);
CREATE INDEX ix_person_vendor_id ON person (vendor_id);

CREATE TABLE zone (
    id TEXT NOT NULL,
    site_id TEXT NOT NULL,
    name TEXT NOT NULL,
    CONSTRAINT pk_zone PRIMARY KEY (id),
    CONSTRAINT uq_zone_site_id UNIQUE (site_id, name),
    CONSTRAINT fk_zone_site_id FOREIGN KEY(site_id) REFERENCES site (id)
);

CREATE TABLE access_request (
    id TEXT NOT NULL,
    person_id TEXT NOT NULL,
    vendor_id TEXT NOT NULL,
    site_id TEXT NOT NULL,
    capabilities TEXT NOT NULL,
    opens BIGINT,
    length BIGINT NOT NULL,
    reason TEXT NOT NULL,
    change TEXT,
    submitted_at BIGINT NOT NULL,
    lapses_at BIGINT NOT NULL,
    state TEXT NOT NULL,
    prior_state TEXT,
    step TEXT,
    version INTEGER NOT NULL,
    decided_at BIGINT,
    decided_by TEXT,
    decision_reason TEXT,
    CONSTRAINT pk_access_request PRIMARY KEY (id),
    CONSTRAINT ck_access_request_length CHECK (length > 0),
    CONSTRAINT ck_access_request_state CHECK (state IN ('pending', 'approved', 'denied', 'withdrawn')),
    CONSTRAINT ck_access_request_stepped CHECK ((state = 'pending' AND prior_state IS NULL AND step IS NULL) OR (prior_state IS NOT NULL AND step IS NOT NULL)),
    CONSTRAINT fk_access_request_transition FOREIGN KEY(prior_state, step, state) REFERENCES request_transition (prior_state, step, state),
    CONSTRAINT fk_access_request_person_id FOREIGN KEY(person_id) REFERENCES person (id),
    CONSTRAINT fk_access_request_vendor_id FOREIGN KEY(vendor_id) REFERENCES vendor (id),
    CONSTRAINT fk_access_request_site_id FOREIGN KEY(site_id) REFERENCES site (id),
    CONSTRAINT fk_access_request_decided_by FOREIGN KEY(decided_by) REFERENCES person (id)
);
CREATE INDEX ix_access_request_person_id ON access_request (person_id);
CREATE INDEX ix_access_request_state ON access_request (state, site_id);

CREATE TABLE asset (
    id TEXT NOT NULL,
    site_id TEXT NOT NULL,
    zone_id TEXT,
    name TEXT NOT NULL,
    host TEXT NOT NULL,
    port INTEGER NOT NULL,
    protocol TEXT NOT NULL,
    accounts TEXT NOT NULL,
    auth TEXT NOT NULL,
    host_key TEXT,
    tcp_ports TEXT NOT NULL,
    asset_class TEXT NOT NULL,
    state TEXT NOT NULL,
    legacy BOOLEAN NOT NULL,
    secret {bytes},
    CONSTRAINT pk_asset PRIMARY KEY (id),
    CONSTRAINT ck_asset_port CHECK (port BETWEEN 1 AND 65535),
    CONSTRAINT uq_asset_site_id UNIQUE (site_id, name),
    CONSTRAINT ck_asset_protocol CHECK (protocol IN ('ssh', 'telnet', 'tcp')),
    CONSTRAINT ck_asset_auth CHECK (auth IN ('ca', 'password', 'key')),
    CONSTRAINT ck_asset_asset_class CHECK (asset_class IN ('routine', 'hazard')),
    CONSTRAINT ck_asset_state CHECK (state IN ('expected', 'received', 'quarantined', 'commissioned', 'operational')),
    CONSTRAINT fk_asset_site_id FOREIGN KEY(site_id) REFERENCES site (id),
    CONSTRAINT fk_asset_zone_id FOREIGN KEY(zone_id) REFERENCES zone (id)
);

CREATE TABLE invitation (
    id TEXT NOT NULL,
    person_id TEXT NOT NULL,
    code_sha256 {bytes} NOT NULL,
    made_by TEXT NOT NULL,
    made_at BIGINT NOT NULL,
    lapses_at BIGINT NOT NULL,
    used_at BIGINT,
    CONSTRAINT pk_invitation PRIMARY KEY (id),
    CONSTRAINT fk_invitation_person_id FOREIGN KEY(person_id) REFERENCES person (id),
    CONSTRAINT uq_invitation_code_sha256 UNIQUE (code_sha256)
);
CREATE INDEX ix_invitation_person_id ON invitation (person_id);

CREATE TABLE login_try (
    id TEXT NOT NULL,
    person_id TEXT,
    source TEXT NOT NULL,
    door TEXT NOT NULL,
    tried_at BIGINT NOT NULL,
    outcome TEXT NOT NULL,
    CONSTRAINT pk_login_try PRIMARY KEY (id),
    CONSTRAINT ck_login_try_outcome CHECK (outcome IN ('pending', 'failed', 'passed')),
    CONSTRAINT fk_login_try_person_id FOREIGN KEY(person_id) REFERENCES person (id)
);
CREATE INDEX ix_login_try_person_id ON login_try (person_id, tried_at);
CREATE INDEX ix_login_try_source ON login_try (source, tried_at);

CREATE TABLE person_key (
    id TEXT NOT NULL,
    person_id TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    line TEXT NOT NULL,
    added_at BIGINT NOT NULL,
    CONSTRAINT pk_person_key PRIMARY KEY (id),
    CONSTRAINT fk_person_key_person_id FOREIGN KEY(person_id) REFERENCES person (id),
    CONSTRAINT uq_person_key_fingerprint UNIQUE (fingerprint)
);
CREATE INDEX ix_person_key_person_id ON person_key (person_id);

CREATE TABLE person_password (
    person_id TEXT NOT NULL,
    hash TEXT NOT NULL,
    set_at BIGINT NOT NULL,
    CONSTRAINT pk_person_password PRIMARY KEY (person_id),
    CONSTRAINT fk_person_password_person_id FOREIGN KEY(person_id) REFERENCES person (id)
);

CREATE TABLE person_role (
    person_id TEXT NOT NULL,
    role TEXT NOT NULL,
    site_id TEXT,
    CONSTRAINT ck_person_role_role CHECK (role IN ('owner', 'operator', 'investigator', 'admin', 'auditor')),
    CONSTRAINT fk_person_role_person_id FOREIGN KEY(person_id) REFERENCES person (id),
    CONSTRAINT fk_person_role_site_id FOREIGN KEY(site_id) REFERENCES site (id)
);
CREATE INDEX ix_person_role_person_id ON person_role (person_id);

CREATE TABLE person_totp (
    person_id TEXT NOT NULL,
    seed {bytes} NOT NULL,
    last_step BIGINT NOT NULL,
    set_at BIGINT NOT NULL,
    CONSTRAINT pk_person_totp PRIMARY KEY (person_id),
    CONSTRAINT fk_person_totp_person_id FOREIGN KEY(person_id) REFERENCES person (id)
);

CREATE TABLE web_session (
    id_sha256 {bytes} NOT NULL,
    person_id TEXT NOT NULL,
    csrf TEXT NOT NULL,
    source TEXT NOT NULL,
    opened_at BIGINT NOT NULL,
    seen_at BIGINT NOT NULL,
    proof_at BIGINT NOT NULL,
    ended_at BIGINT,
    CONSTRAINT pk_web_session PRIMARY KEY (id_sha256),
    CONSTRAINT fk_web_session_person_id FOREIGN KEY(person_id) REFERENCES person (id)
);
CREATE INDEX ix_web_session_person_id ON web_session (person_id);

CREATE TABLE access_grant (
    id TEXT NOT NULL,
    request_id TEXT NOT NULL,
    person_id TEXT NOT NULL,
    vendor_id TEXT NOT NULL,
    site_id TEXT NOT NULL,
    window_id TEXT NOT NULL,
    capabilities TEXT NOT NULL,
    opens BIGINT NOT NULL,
    closes BIGINT NOT NULL,
    granted_at BIGINT NOT NULL,
    revoked_at BIGINT,
    suspended_at BIGINT,
    handed_back_at BIGINT,
    ended_by TEXT,
    end_reason TEXT,
    CONSTRAINT pk_access_grant PRIMARY KEY (id),
    CONSTRAINT ck_access_grant_opens_before_closes CHECK (opens < closes),
    CONSTRAINT uq_access_grant_request_id UNIQUE (request_id),
    CONSTRAINT fk_access_grant_request_id FOREIGN KEY(request_id) REFERENCES access_request (id),
    CONSTRAINT fk_access_grant_person_id FOREIGN KEY(person_id) REFERENCES person (id),
    CONSTRAINT fk_access_grant_vendor_id FOREIGN KEY(vendor_id) REFERENCES vendor (id),
    CONSTRAINT fk_access_grant_site_id FOREIGN KEY(site_id) REFERENCES site (id),
    CONSTRAINT fk_access_grant_window_id FOREIGN KEY(window_id) REFERENCES commissioning_window (id)
);
CREATE INDEX ix_access_grant_person_id ON access_grant (person_id, closes);
CREATE INDEX ix_access_grant_site_id ON access_grant (site_id, closes);

CREATE TABLE access_request_asset (
    request_id TEXT NOT NULL,
    position INTEGER NOT NULL,
    asset_id TEXT NOT NULL,
    CONSTRAINT pk_access_request_asset PRIMARY KEY (request_id, position),
    CONSTRAINT uq_access_request_asset_request_id UNIQUE (request_id, asset_id),
    CONSTRAINT fk_access_request_asset_request_id FOREIGN KEY(request_id) REFERENCES access_request (id),
    CONSTRAINT fk_access_request_asset_asset_id FOREIGN KEY(asset_id) REFERENCES asset (id)
);

CREATE TABLE approval (
    id TEXT NOT NULL,
    request_id TEXT NOT NULL,
    owner_id TEXT NOT NULL,
    given_at BIGINT NOT NULL,
    door TEXT NOT NULL,
    capabilities TEXT NOT NULL,
    opens BIGINT NOT NULL,
    closes BIGINT NOT NULL,
    complete BOOLEAN NOT NULL,
    CONSTRAINT pk_approval PRIMARY KEY (id),
    CONSTRAINT uq_approval_request_id UNIQUE (request_id, owner_id),
    CONSTRAINT ck_approval_opens_before_closes CHECK (opens < closes),
    CONSTRAINT fk_approval_request_id FOREIGN KEY(request_id) REFERENCES access_request (id),
    CONSTRAINT fk_approval_owner_id FOREIGN KEY(owner_id) REFERENCES person (id)
);

CREATE TABLE access_grant_asset (
    grant_id TEXT NOT NULL,
    asset_id TEXT NOT NULL,
    CONSTRAINT pk_access_grant_asset PRIMARY KEY (grant_id, asset_id),
    CONSTRAINT fk_access_grant_asset_grant_id FOREIGN KEY(grant_id) REFERENCES access_grant (id),
    CONSTRAINT fk_access_grant_asset_asset_id FOREIGN KEY(asset_id) REFERENCES asset (id)
);
CREATE INDEX ix_access_grant_asset_asset_id ON access_grant_asset (asset_id);

CREATE TABLE access_session (
    id TEXT NOT NULL,
    grant_id TEXT NOT NULL,
    person_id TEXT NOT NULL,
    asset_id TEXT NOT NULL,
    account TEXT NOT NULL,
    source TEXT NOT NULL,
    factors TEXT NOT NULL,
    key_fingerprint TEXT NOT NULL,
    certificate_serial BIGINT,
    node TEXT NOT NULL,
    opened_at BIGINT NOT NULL,
    until BIGINT NOT NULL,
    longest_until BIGINT NOT NULL,
    killed_at BIGINT,
    ended_at BIGINT,
    end_reason TEXT,
    CONSTRAINT pk_access_session PRIMARY KEY (id),
    CONSTRAINT ck_access_session_ended CHECK ((ended_at IS NULL) = (end_reason IS NULL)),
    CONSTRAINT fk_access_session_grant_id FOREIGN KEY(grant_id) REFERENCES access_grant (id),
    CONSTRAINT fk_access_session_person_id FOREIGN KEY(person_id) REFERENCES person (id),
    CONSTRAINT fk_access_session_asset_id FOREIGN KEY(asset_id) REFERENCES asset (id)
);
CREATE INDEX ix_access_session_asset_id ON access_session (asset_id, opened_at);
CREATE INDEX ix_access_session_ended_at ON access_session (ended_at);
CREATE INDEX ix_access_session_grant_id ON access_session (grant_id);
CREATE INDEX ix_access_session_opened_at ON access_session (opened_at);

CREATE TABLE approval_asset (
    approval_id TEXT NOT NULL,
    asset_id TEXT NOT NULL,
    CONSTRAINT pk_approval_asset PRIMARY KEY (approval_id, asset_id),
    CONSTRAINT fk_approval_asset_approval_id FOREIGN KEY(approval_id) REFERENCES approval (id),
    CONSTRAINT fk_approval_asset_asset_id FOREIGN KEY(asset_id) REFERENCES asset (id)
);

CREATE TABLE certificate (
    serial BIGINT NOT NULL,
    purpose TEXT NOT NULL,
    grant_id TEXT,
    session_id TEXT,
    key_fingerprint TEXT NOT NULL,
    key_id TEXT NOT NULL,
    principals TEXT NOT NULL,
    valid_after BIGINT NOT NULL,
    valid_before BIGINT NOT NULL,
    source_address TEXT,
    issued_at BIGINT NOT NULL,
    CONSTRAINT pk_certificate PRIMARY KEY (serial),
    CONSTRAINT ck_certificate_purpose CHECK (purpose IN ('gate', 'asset', 'host')),
    CONSTRAINT ck_certificate_valid_after_before_valid_before CHECK (valid_after < valid_before),
    CONSTRAINT fk_certificate_grant_id FOREIGN KEY(grant_id) REFERENCES access_grant (id),
    CONSTRAINT fk_certificate_session_id FOREIGN KEY(session_id) REFERENCES access_session (id)
);
CREATE INDEX ix_certificate_grant_id ON certificate (grant_id);

CREATE TABLE channel (
    session_id TEXT NOT NULL,
    number INTEGER NOT NULL,
    kind TEXT NOT NULL,
    command TEXT,
    opened_at BIGINT NOT NULL,
    closed_at BIGINT,
    state TEXT NOT NULL,
    exit TEXT,
    CONSTRAINT pk_channel PRIMARY KEY (session_id, number),
    CONSTRAINT ck_channel_kind CHECK (kind IN ('shell', 'exec', 'sftp', 'tcp')),
    CONSTRAINT ck_channel_state CHECK (state IN ('open', 'closed', 'interrupted', 'damaged')),
    CONSTRAINT fk_channel_session_id FOREIGN KEY(session_id) REFERENCES access_session (id)
);

CREATE TABLE stream (
    session_id TEXT NOT NULL,
    name TEXT NOT NULL,
    channel INTEGER NOT NULL,
    stream_class TEXT NOT NULL,
    path TEXT NOT NULL,
    state TEXT NOT NULL,
    length BIGINT,
    sha256 TEXT,
    opened_at BIGINT NOT NULL,
    closed_at BIGINT,
    duration_us BIGINT,
    CONSTRAINT pk_stream PRIMARY KEY (session_id, name),
    CONSTRAINT ck_stream_state CHECK (state IN ('open', 'closed', 'interrupted', 'damaged')),
    CONSTRAINT fk_stream_channel FOREIGN KEY(session_id, channel) REFERENCES channel (session_id, number),
    CONSTRAINT fk_stream_session_id FOREIGN KEY(session_id) REFERENCES access_session (id),
    CONSTRAINT uq_stream_path UNIQUE (path)
);
