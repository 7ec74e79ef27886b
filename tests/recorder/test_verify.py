"""What each kind of stream is worth against the ledger: 0 intact, 4 contradicts, 5 incomplete."""

from __future__ import annotations

from pathlib import Path

from recorder.format import Code, Head
from recorder.reader import examine
from recorder.verify import verify_stream
from tests.recorder.makers import a_stream, a_writer


def test_a_closed_stream_with_its_head_is_intact(tmp_path: Path) -> None:
    writer = a_writer(tmp_path)
    writer.put(Code.OUT, b"x")
    head = writer.close("left\x1b[2J")
    verdict = verify_stream(writer.path, head)
    assert verdict.code == 0
    assert verdict.text.isprintable()


def test_an_interrupted_stream_is_incomplete_even_as_attested(tmp_path: Path) -> None:
    writer = a_writer(tmp_path)
    writer.put(Code.OUT, b"x")
    writer.abandon()
    verdict = verify_stream(writer.path, writer.head())
    assert (verdict.code, "interrupted" in verdict.text) == (5, True)


def test_without_a_head_nothing_is_proved(tmp_path: Path) -> None:
    assert verify_stream(a_stream(tmp_path, []), None).code == 5


def test_a_whole_new_chain_contradicts_the_head(tmp_path: Path) -> None:
    told = a_stream(tmp_path / "told", [(Code.OUT, b"reboot")])
    other = a_stream(tmp_path / "other", [(Code.OUT, b"uptime")])
    found = examine(told)
    verdict = verify_stream(other, Head(found.length, found.sha256))
    assert (verdict.code, "rewritten" in verdict.text) == (4, True)


def test_a_missing_stream_is_incomplete(tmp_path: Path) -> None:
    assert verify_stream(tmp_path / "gone", Head(1, "")).code == 5


def test_garbage_that_was_attested_as_such_is_incomplete_and_unattested_garbage_contradicts(tmp_path: Path) -> None:
    writer = a_writer(tmp_path)
    writer.put(Code.OUT, b"x")
    writer.abandon()
    with writer.path.open("ab") as file:
        file.write(b"\xff" * 64)
    found = examine(writer.path)
    assert verify_stream(writer.path, Head(found.length, found.sha256)).code == 5
    assert verify_stream(writer.path, writer.head()).code == 4
    assert verify_stream(writer.path, None).code == 4


def test_what_is_no_file_contradicts(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    assert verify_stream(tmp_path, None).code == 4
    assert verify_stream(tmp_path / "link", None).code == 5
