"""Making a home, looking it over, bringing it up to date: init, doctor, migrate."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path

import pytest

from tests.cli.damage import (
    Breaks,
    add,
    cut,
    damaged_database,
    drop,
    entry_from_tomorrow,
    mode,
    newer_schema,
    no_tables,
)
from tests.cli.deployment import POWERLESS, PROGRAM, Deployment, Template, run_here, run_program


def everything(folder: Path) -> dict[str, bytes | None]:
    """Every path under a folder with its bytes, None for folders."""
    return {str(path): None if path.is_dir() else path.read_bytes() for path in sorted(folder.rglob("*"))}


def test_only_the_owner_can_read_a_new_home(tmp_path: Path) -> None:
    assert run_here("--home", str(tmp_path / "home"), "init").status == 0
    for path in [tmp_path / "home", *(tmp_path / "home").rglob("*")]:
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path


def test_the_settings_of_a_new_home_are_commented_and_what_was_asked(tmp_path: Path) -> None:
    run_here("--home", str(tmp_path / "home"), "init", "--ssh", "[::1]:2200")
    lines = (tmp_path / "home/settings.toml").read_text().splitlines()
    assert [line for line in lines if line and not line.startswith("#")] == ['ssh_listen = "[::1]:2200"']
    assert '# web_listen = "127.0.0.1:8080"' in lines


@pytest.mark.parametrize(
    "name",
    ["settings.toml", "wicketgate.db", "keys/ca/gate", "keys/ca/asset.pub", "keys/seal/seal.key"],
)
def test_init_changes_nothing_where_any_part_of_a_home_is(tmp_path: Path, name: str) -> None:
    home = tmp_path / "home"
    (home / name).parent.mkdir(parents=True)
    (home / name).write_text("mine")
    before = everything(tmp_path)
    done = run_here("--home", str(home), "init")
    assert (done.status, done.err) == (1, f"wicketgate: {home / name} is already there; nothing was changed\n")
    assert everything(tmp_path) == before


def test_init_takes_no_database_that_is_somewhere_else_already(tmp_path: Path) -> None:
    other = tmp_path / "other.db"
    other.write_bytes(b"mine")
    done = run_here("--home", str(tmp_path / "home"), "init", "--database", f"sqlite:///{other}")
    assert (done.status, done.err) == (1, f"wicketgate: {other} is already there; nothing was changed\n")
    assert everything(tmp_path) == {str(other): b"mine"}


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        ("sqlite:////no/such/folder/x.db", "unable to open database file"),
        ("postgresql://127.0.0.1:1/none", "database: "),
        ("sqlite:///relative.db", "write the whole path"),
    ],
)
def test_an_init_that_fails_late_leaves_nothing_behind(tmp_path: Path, url: str, wanted: str) -> None:
    done = run_here("--home", str(tmp_path / "home"), "init", "--database", url)
    assert (done.status in (1, 75), done.err.count("\n"), wanted in done.err) == (True, 1, True), done
    assert everything(tmp_path) == {}


def test_init_where_nothing_may_be_written_says_so(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    done = run_program("--home", str(closed / "home"), "init", before=POWERLESS)
    assert (done.status, done.err) == (1, f"wicketgate: home {closed}/home: Permission denied; nothing was made\n")
    done = run_program("--home", str(closed), "init", before=POWERLESS)
    assert (done.status, done.err) == (1, f"wicketgate: home {closed}: Permission denied; nothing was made\n")
    assert everything(tmp_path) == {str(closed): None}


def test_of_two_inits_at_once_one_makes_the_home_and_the_other_takes_nothing_away(tmp_path: Path) -> None:
    home = tmp_path / "home"
    both = [
        subprocess.Popen([PROGRAM, "--home", home, "init"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(2)
    ]
    ends = [(process.communicate(timeout=60), process.returncode)[1] for process in both]
    assert sorted(ends) == [0, 1]
    assert run_here("--home", str(home), "doctor").status == 0


def test_migrate_makes_missing_tables_once_and_refuses_a_newer_schema(deployment: Deployment) -> None:
    no_tables(deployment)
    assert "the database has no tables" in deployment.run("site", "list").err
    assert deployment.run("migrate", "--json").json == {"id": "database", "state": "migrated"}
    assert deployment.run("migrate", "--json").json == {"id": "database", "state": "current"}
    assert deployment.run("site", "list", "--json").json == []
    newer_schema(deployment)
    before = deployment.rows()
    done = deployment.run("migrate")
    assert (done.status, "newer than this program" in done.err) == (75, True)
    assert deployment.rows() == before


def test_a_missing_database_is_never_made_anew_by_looking(deployment: Deployment) -> None:
    drop("wicketgate.db")(deployment)
    for words in (["site", "list"], ["migrate"], ["doctor"], ["verify", "--all"], ["serve", "--only", "recorder"]):
        done = deployment.run(*words)
        assert done.status in (1, 75)
        assert "wicketgate.db is missing; restore it from your backup" in done.out + done.err, words
    assert not (deployment.path / "wicketgate.db").exists()


# What is broken, and the finding that must be wrong.
FINDINGS: dict[str, tuple[Breaks, str]] = {
    "an unknown key": (add("poll_sec = 1"), "settings"),
    "no run folder": (drop("run"), "run folder"),
    "no recordings folder": (drop("recordings"), "recordings folder"),
    "an open gate CA key": (mode("keys/ca/gate", 0o640), "gate CA key"),
    "a missing asset CA key": (drop("keys/ca/asset"), "asset CA key"),
    "a damaged host CA key": (cut("keys/ca/host"), "host CA key"),
    "no gate CA, public": (drop("keys/ca/gate.pub"), "gate CA, public"),
    "a damaged host key": (cut("keys/host/ssh_host_ed25519_key"), "host key"),
    "an open seal key": (mode("keys/seal/seal.key", 0o646), "seal key"),
    "a damaged database": (damaged_database, "database"),
    "a newer schema": (newer_schema, "database"),
    "a late clock": (entry_from_tomorrow, "clock"),
    "a floor above the disk": (add("free_space_floor_bytes = 1000000000000000"), "disk"),
    "no certificate": (add('web_tls_certificate = "/no/cert"\nweb_tls_key = "/no/key"'), "web certificate"),
}


def test_doctor_finds_each_thing_that_is_wrong_and_exits_1(template: Template) -> None:
    for name, (breaks, wrong) in FINDINGS.items():
        deployment = Deployment(template)
        try:
            breaks(deployment)
            done = deployment.run("doctor", "--json")
            states = {row["id"]: row["state"] for row in done.json}
            assert (done.status, states[wrong], done.err) == (1, "wrong", ""), name
            plain = deployment.run("doctor")
            assert (plain.status, f"wrong  {wrong}: " in plain.out) == (1, True), name
        finally:
            deployment.remove()


def test_doctor_sees_a_changed_ledger_a_bare_asset_and_a_port_in_use(deployment: Deployment) -> None:
    address = ("asset", "add", "bare.plant", "--address", "10.0.0.1:22")
    assert deployment.run(*address).status == deployment.run("asset", "state", "bare.plant", "operational").status == 0
    with deployment.database() as db, db.begin() as tx:
        triggers = tx.conn.exec_driver_sql("SELECT name FROM sqlite_master WHERE type='trigger' AND tbl_name='ledger'")
        for (name,) in triggers.fetchall():
            tx.conn.exec_driver_sql(f'DROP TRIGGER "{name}"')
        tx.conn.exec_driver_sql("UPDATE ledger SET body = X'78' WHERE seq = 3")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        deployment.set(ssh_listen=f'"127.0.0.1:{taken.getsockname()[1]}"')
        done = deployment.run("doctor", "--json")
    found = {row["id"]: row["text"] for row in done.json if row["state"] == "wrong"}
    assert found.keys() == {"ssh port", "ledger", "asset host keys"}
    assert found["ledger"].startswith("entry 3: the entry's body was changed")
    assert "bare.plant" in found["asset host keys"]
    verified = deployment.run("ledger", "verify", "--json")
    assert (verified.status, verified.json) == (4, {"id": 3, "state": "broken"})


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://site:s3cr3t@127.0.0.1:1/w",
        "postgresql://site:s3%40cr3t@127.0.0.1:1/w",
        "postgresql://h:1/w?password=s3cr3t",
    ],
)
def test_doctor_shows_the_settings_in_effect_and_hides_secrets(deployment: Deployment, url: str) -> None:
    deployment.set(database=f'"{url}"', poll_s="0.5")
    for words in ([], ["--json"]):
        done = deployment.run("doctor", *words)
        assert done.status == 1
        assert "cr3t" not in done.out + done.err
        assert "***" in done.out
    shown = deployment.run("doctor", "--json").json[-1]["settings"]
    assert (shown["poll_s"], shown["sessions_per_grant_max"]) == (0.5, 4)
