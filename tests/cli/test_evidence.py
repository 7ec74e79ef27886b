"""`verify`, `replay` and `export` on recordings that are whole, damaged, cut, missing, still open."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from recorder.verify import verify_stream
from tests.cli.deployment import POWERLESS, PROGRAM, Deployment, Done


def stream(deployment: Deployment, recording: str, name: str = "01.screen") -> Path:
    return next(deployment.home.recordings.rglob(f"{recording}/{name}.wgr"))


def verify(deployment: Deployment, *words: str) -> tuple[int, dict[str, str]]:
    done = deployment.run("verify", *words, "--json")
    assert done.err == ""
    return done.status, {row["id"].rpartition("/")[2]: row["state"] for row in done.json}


def test_an_untouched_recording_is_intact(deployment: Deployment) -> None:
    status, states = verify(deployment, deployment.template.recording)
    assert (status, states) == (0, {"01.screen": "intact, closed: done", "01.typed": "intact, closed: done"})


def test_a_changed_byte_contradicts_the_ledger(deployment: Deployment) -> None:
    path = stream(deployment, deployment.template.recording)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    status, states = verify(deployment, deployment.template.recording)
    assert (status, states["01.typed"]) == (4, "intact, closed: done")
    assert "not the bytes that the ledger attests" in states["01.screen"]
    assert verify(deployment, "--all")[0] == 4  # a contradiction outweighs the session that is still open


@pytest.mark.parametrize(("kept", "code"), [(None, 5), (-1, 4), (-40, 4)])
def test_what_is_gone_is_incomplete_and_what_reads_wrong_contradicts(
    deployment: Deployment, kept: int | None, code: int
) -> None:
    path = stream(deployment, deployment.template.recording)
    data = path.read_bytes()
    path.unlink()
    if kept is not None:
        path.write_bytes(data[:kept])
    status, states = verify(deployment, deployment.template.recording)
    assert states["01.screen"] != "intact, closed: done"
    assert status in (4, 5)
    assert (kept is None) == (states["01.screen"] == "missing")
    assert kept is not None or status == code


def test_a_stream_cut_between_two_records_is_incomplete(deployment: Deployment) -> None:
    path = stream(deployment, deployment.template.recording)
    whole = path.read_bytes()
    for length in range(len(whole) - 1, 0, -1):
        path.write_bytes(whole[:length])
        if verify_stream(path, None).code == 5:
            break
    status, states = verify(deployment, deployment.template.recording)
    assert (status, states["01.screen"]) == (5, f"cut: {len(whole) - length} of {len(whole)} bytes are gone")


def test_a_session_that_is_not_over_is_incomplete(deployment: Deployment) -> None:
    status, states = verify(deployment, deployment.template.still_open)
    assert status == 5
    assert all("no head in the ledger" in state for state in states.values())
    assert verify(deployment, "--all")[0] == 5


def test_a_row_taken_away_is_seen_by_the_ledger(deployment: Deployment) -> None:
    with deployment.database() as db, db.begin() as tx:
        tx.conn.exec_driver_sql("DELETE FROM stream WHERE session_id = ?", (deployment.template.recording,))
        tx.conn.exec_driver_sql("DELETE FROM stream WHERE session_id = ?", (deployment.template.still_open,))
    status, states = verify(deployment, deployment.template.recording)
    assert (status, set(states.values())) == (4, {"in the ledger, but not in the database"})
    assert verify(deployment, deployment.template.still_open)[0] == 5


def one_line(done: Done, status: int, wanted: str) -> None:
    assert (done.status, done.out, done.err.count("\n"), wanted in done.err) == (status, "", 1, True), done


def test_a_damaged_recording_is_not_played_or_exported_as_if_it_were_whole(
    deployment: Deployment, tmp_path: Path
) -> None:
    recording, out = deployment.template.recording, tmp_path / "out"
    path = stream(deployment, recording)
    path.write_bytes(b"\0" * 200)
    played = deployment.run("replay", recording)
    assert (played.status, played.err.count("\n"), f"see: verify {recording}" in played.err) == (4, 1, True)
    one_line(deployment.run("export", recording, "--format", "text", "-o", str(out)), 4, "is damaged")
    path.unlink()
    assert deployment.run("replay", recording).status == 5
    one_line(deployment.run("export", recording, "--format", "cast", "-o", str(out)), 5, "is missing")
    assert list(tmp_path.iterdir()) == []


def test_a_recording_that_may_not_be_read_is_one_line(deployment: Deployment, tmp_path: Path) -> None:
    recording = deployment.template.recording
    stream(deployment, recording).chmod(0)
    export = ("export", recording, "--format", "raw", "-o", str(tmp_path / "out"))
    one_line(deployment.program(*export, before=POWERLESS), 1, "Permission denied")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_line(deployment: Deployment) -> None:
    with Path("/dev/full").open("wb") as full:
        command: list[str | Path] = [PROGRAM, "--home", deployment.path, "ledger", "show"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (1, b"wicketgate: output: No space left on device\n")
