"""What stands afterwards: recordings and ledger, held against each other, and against a byte that was changed."""

from __future__ import annotations

from pathlib import Path

from demo.kestrel import NADIA
from demo.stage import Stage, expect, last_line

CONTRADICTS = 4


def look(stage: Stage) -> str:
    expect(bool(stage.terminal_recording), "a terminal session was recorded")
    investigator = stage.browser(NADIA)
    page = investigator.get(f"/recordings/{stage.terminal_recording}")
    expect(page.status == 200, "the investigator sees the recording", page.plain)
    text = investigator.get(f"/recordings/{stage.terminal_recording}/1.txt")
    expect(text.status == 200 and "DRIFT" in text.text, "what was on the screen is there", text.text)
    sessions = {row["session_id"] for row in stage.rows("ledger", "show") if row["kind"] == "recording.viewed"}
    expect(stage.terminal_recording in sessions, "the look itself is in the ledger", sessions)
    return "replayed in the browser; the look is a ledger entry of its own"


def verify(stage: Stage) -> str:
    recordings = stage.rows("recordings")
    done = stage.site.cli("verify", "--all", "--json")
    expect(done.returncode == 0, "everything verifies", done.stdout + done.stderr)
    expect(len(recordings) >= 4, "the sessions were recorded", recordings)
    return f"{len(recordings)} recordings, every byte read, all intact"


def flip(stage: Stage) -> str:
    path = _stream(stage)
    whole = path.read_bytes()
    at = len(whole) // 2
    try:
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        done = stage.site.cli("verify", stage.terminal_recording)
    finally:
        path.write_bytes(whole)
    expect(done.returncode == CONTRADICTS, "verify ends with 4", f"{done.returncode} {done.stdout}")
    found = next((line for line in done.stdout.splitlines()[1:] if "intact" not in line), "")
    expect(bool(found), "it says where", done.stdout)
    again = stage.site.cli("verify", stage.terminal_recording)
    expect(again.returncode == 0, "with the byte put back it verifies again", again.stdout)
    return f"byte {at} of {path.name}: {' '.join(found.split()[1:])}"


def _stream(stage: Stage) -> Path:
    """The file of what was on the screen in the terminal session."""
    expect(bool(stage.terminal_recording), "a terminal session was recorded")
    found = list(stage.site.home.recordings.glob(f"*/*/*/{stage.terminal_recording}/*"))
    expect(bool(found), "its files are there")
    return max(found, key=lambda path: path.stat().st_size)


def ledger(stage: Stage) -> str:
    done = stage.cli("ledger", "verify")
    kinds = {row["kind"] for row in stage.rows("ledger", "show", "--last", "1000")}
    wanted = {"request.submitted", "grant.made", "approval.refused", "recording.viewed", "certificate.issued"}
    expect(wanted <= kinds, "it tells the story", wanted - kinds)
    return last_line(done.stdout)[:60]
