"""Recordings: who sees that they are there, who replays, and that no byte leaves before the ledger says so."""

from __future__ import annotations

import json

from broker.domain.session import ChannelKind, EndReason
from broker.store import ledger
from tests.approval.running import AUDITOR, INVESTIGATOR, OWNER, Running
from tests.approval.test_deciding import words_of
from tests.approval.visiting import Visit


def a_visit(site: Running) -> Visit:
    site.grant()
    visit = Visit(site)
    visit.shows(b"$ ")
    visit.types(b"secret\r")
    visit.wait(1.5)
    visit.shows(b"rack 3 is \x1b[31mhot\x1b[0m\r\n")
    return visit


def looks(site: Running) -> list[tuple[str, str, str]]:
    with site.db.read() as tx:
        rows = [row for row in ledger.show(tx, last=10_000) if row.kind == "recording.viewed"]
    return [(str(row.body["by"]), str(row.body["how"]), str(row.body["session_id"])) for row in rows]


def test_the_replay_is_what_the_recorder_kept(site: Running) -> None:
    visit = a_visit(site)
    visit.ends()
    answer = site.client(INVESTIGATOR).get(f"/recordings/{visit.id}/1.cast")
    assert answer.status_code == 200
    head, *events = [json.loads(line) for line in answer.text.splitlines()]
    assert (head["version"], head["width"], head["height"]) == (2, 80, 24)
    shown = "".join(data for _, kind, data in events if kind == "o")
    assert shown == "$ rack 3 is \x1b[31mhot\x1b[0m\r\n"
    assert "secret" not in answer.text  # what was typed stays apart
    assert next(at for at, kind, data in events if "hot" in data) >= 1.5


def test_the_text_is_an_attachment_under_a_made_up_name(site: Running) -> None:
    visit = a_visit(site)
    visit.ends()
    answer = site.client(INVESTIGATOR).get(f"/recordings/{visit.id}/1.txt")
    assert answer.headers["content-disposition"] == 'attachment; filename="recording-01.txt"'
    assert "rack 3 is hot" in answer.text
    assert "secret" not in answer.text


def test_every_look_is_in_the_ledger_before_its_first_byte(site: Running) -> None:
    visit = a_visit(site)
    visit.ends()
    investigator = site.client(INVESTIGATOR)
    investigator.get(f"/recordings/{visit.id}")
    assert looks(site) == []  # the page alone shows nothing of it
    with investigator.stream("GET", f"/recordings/{visit.id}/1.cast") as answer:
        assert answer.status_code == 200
        assert looks(site) == [(INVESTIGATOR, "replay", visit.id)]
        answer.read()
    investigator.get(f"/recordings/{visit.id}/1.txt")
    assert looks(site)[1:] == [(INVESTIGATOR, "text", visit.id)]


def test_when_the_ledger_cannot_be_written_nothing_is_shown(site: Running) -> None:
    visit = a_visit(site)
    visit.ends()
    investigator = site.client(INVESTIGATOR)
    with site.db.begin() as tx:
        tx.conn.exec_driver_sql("ALTER TABLE ledger RENAME TO elsewhere")
    for part in ("1.cast", "1.txt"):
        answer = investigator.get(f"/recordings/{visit.id}/{part}")
        assert answer.status_code == 503
        assert "rack 3" not in answer.text


def test_who_may_not_replay_sees_that_it_is_there_and_leaves_no_entry(site: Running) -> None:
    visit = a_visit(site)
    visit.ends()
    for who in (OWNER, AUDITOR):
        client = site.client(who)
        page = client.get(f"/recordings/{visit.id}")
        assert "Replaying it takes the role of an investigator" in page.text
        assert "<script" not in page.text
        assert "wasm" not in page.headers["content-security-policy"]
        assert client.get(f"/recordings/{visit.id}/1.cast").status_code == 404
    assert looks(site) == []


def test_a_recording_that_is_still_being_written_can_be_replayed_so_far(site: Running) -> None:
    visit = a_visit(site)
    answer = site.client(INVESTIGATOR).get(f"/recordings/{visit.id}/1.cast")
    assert "rack 3 is" in answer.text
    visit.ends()


def test_a_damaged_recording_ends_early_and_never_fails(site: Running) -> None:
    visit = a_visit(site)
    visit.ends()
    file = next(site.home.recordings.rglob("01.screen.wgr"))
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0xFF
    file.write_bytes(data)
    answer = site.client(INVESTIGATOR).get(f"/recordings/{visit.id}/1.cast")
    assert answer.status_code == 200
    assert answer.text.startswith('{"version": 2')
    file.unlink()
    assert site.client(INVESTIGATOR).get(f"/recordings/{visit.id}/1.cast").status_code == 404


def test_a_path_that_leads_out_of_the_recordings_is_not_followed(site: Running) -> None:
    visit = a_visit(site)
    visit.ends()
    file = next(site.home.recordings.rglob("01.screen.wgr"))
    file.unlink()
    file.symlink_to(site.home.seal_key)
    assert site.client(INVESTIGATOR).get(f"/recordings/{visit.id}/1.cast").status_code == 404


def test_a_command_is_shown_as_text(site: Running) -> None:
    site.grant()
    visit = Visit(site, kind=ChannelKind.EXEC, command="scp -t /tmp/<b>x</b>")
    visit.ends()
    page = site.client(INVESTIGATOR).get(f"/recordings/{visit.id}").text
    assert "scp -t /tmp/&lt;b&gt;x&lt;/b&gt;" in page


def test_the_list_says_why_each_ended(site: Running) -> None:
    first = a_visit(site)
    first.ends(EndReason.TIME_UP)
    words = words_of(site.client(INVESTIGATOR).get("/recordings").text)
    assert f"{first.id} closed engineer.one bms-01.kestrel" in words
    assert "time is up" in words


def test_a_reader_that_goes_away_stops_the_writer(site: Running) -> None:
    """Many readers that read one block and hang up: each later one is still served."""
    visit = a_visit(site)
    for _ in range(64):
        visit.shows(bytes(range(32, 127)) * 600)
    visit.ends()
    investigator = site.client(INVESTIGATOR)
    for _ in range(10):  # more than there are threads for it
        with investigator.stream("GET", f"/recordings/{visit.id}/1.cast") as answer:
            next(answer.iter_bytes(100))
    whole = investigator.get(f"/recordings/{visit.id}/1.cast")
    assert len(whole.text) > 64 * 600 * 95
