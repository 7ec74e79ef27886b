"""Exports: asciicast that any player takes, text that any terminal bears, bytes that are the bytes."""

from __future__ import annotations

import io
import json
import tempfile
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recorder import export
from recorder.format import Code, FormatError, StreamClass
from recorder.reader import read
from recorder.screen import AvtScreen
from recorder.screen_text import screen_text
from recorder.writer import SessionClock
from tests.recorder.makers import SECOND_US, WALL_MS, HandClock, a_stream, a_writer, size_event


def cast_lines(paths: Path | list[Path], version: int = 2) -> list[Any]:
    out = io.BytesIO()
    export.cast(paths, out, version=version)
    text = out.getvalue().decode("ascii")
    assert text.endswith("\n")
    return [json.loads(line, parse_float=Decimal) for line in text.splitlines()]


@given(chunks=st.lists(st.one_of(st.binary(max_size=30), st.text(max_size=10).map(str.encode)), max_size=20))
@settings(max_examples=60, deadline=None)
def test_a_cast_carries_every_character_and_every_time(chunks: list[bytes]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = a_stream(Path(folder), [(Code.OUT, chunk) for chunk in chunks])
        times = {Decimal(event.t_us) / SECOND_US for event in read(path)}
        for version in (2, 3):
            _, *events = cast_lines(path, version)
            assert "".join(str(text) for _, _, text in events) == b"".join(chunks).decode("utf-8", "replace")
            at = Decimal(0)
            for told, kind, _ in events:
                assert isinstance(told, Decimal)
                at = at + told if version == 3 else told
                assert kind == "o"
                assert at in times


def test_a_cast_of_a_channel_begins_with_its_size_and_keeps_its_order(tmp_path: Path) -> None:
    clock = SessionClock(HandClock())
    screen, typed = a_writer(tmp_path, clock=clock), a_writer(tmp_path, StreamClass.TYPED, clock=clock)
    screen.put(Code.MARK, b'{"opened":1}')
    screen.put(*size_event(120, 40))
    typed.put(Code.IN, b"ls\r")
    screen.put(Code.OUT, b"a\xc3")
    screen.put(Code.ERR, b"oops")
    screen.put(Code.OUT, b"\xa9 \xe2\x80\xa8")
    screen.put(*size_event(100, 30))
    screen.put(Code.EXIT, b'{"exit status":"3"}')
    screen.put(Code.EXIT, b'{"exit signal":"HUP"}')
    screen.put(Code.OUT, b"\xc3")
    for writer in (screen, typed):
        writer.close("done")
    head, *events = cast_lines([screen.path, typed.path])
    assert head == {"version": 2, "width": 120, "height": 40, "timestamp": WALL_MS // 1000}
    assert [event[1:] for event in events] == [
        ["m", '{"opened":1}'], ["r", "120x40"], ["i", "ls\r"], ["o", "a"], ["o", "oops"], ["o", "\u00e9 \u2028"], ["r", "100x30"],
        ["m", '{"exit status":"3"}'], ["m", '{"exit signal":"HUP"}'], ["o", "\ufffd"],
    ]  # fmt: skip
    head, *events = cast_lines([screen.path, typed.path], 3)
    assert head == {"version": 3, "term": {"cols": 120, "rows": 40}, "timestamp": WALL_MS // 1000}
    assert [event[1:] for event in events][7] == ["x", "3"]


@pytest.mark.parametrize(
    "payload", [b'"],[1,"i","x"]\n', b"\x1b]0;x\x07", b"\xed\xa0\x80", b"\\u0041", "\u2028\u2029".encode()]
)
def test_nothing_recorded_breaks_out_of_its_json_string(tmp_path: Path, payload: bytes) -> None:
    path = a_stream(tmp_path, [(Code.MARK, payload), (Code.OUT, payload), (Code.EXIT, payload)])
    for version in (2, 3):
        assert len(cast_lines(path, version)) == 4


def test_there_is_no_asciicast_version_4(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="2 and 3"):
        export.cast(tmp_path, io.BytesIO(), version=4)


def test_raw_bytes_are_the_bytes_of_one_direction(tmp_path: Path) -> None:
    items = [
        (Code.TO_ASSET, b"\0up"),
        (Code.FROM_ASSET, b"\xffdown"),
        (Code.OUT, b"o"),
        (Code.ERR, b"e"),
        (Code.IN, b"i"),
    ]
    path = a_stream(tmp_path, items)
    for code, wanted in ((None, b"\xffdownoe"), (Code.TO_ASSET, b"\0up"), (Code.IN, b"i")):
        out = io.BytesIO()
        export.raw(path, out, code)
        assert out.getvalue() == wanted


def test_text_tells_each_line_that_could_be_read_once(tmp_path: Path) -> None:
    path = a_stream(
        tmp_path,
        [(Code.OUT, b"line %d \x1b[31mred\x1b[0m\r\n" % number) for number in range(200)]
        + [(Code.OUT, b"\x1b[?1049h\x1b[Hin the editor\x1b[?1049l"), (Code.OUT, "bad \u202eend".encode())],
    )
    out = io.BytesIO()
    export.text(path, out)
    lines = out.getvalue().decode().splitlines()
    assert [line for line in lines if line.startswith("line")] == [f"line {number} red" for number in range(200)]
    assert lines[-1] == "bad \ufffdend"
    assert all(line.isprintable() for line in lines)


def test_text_sees_a_full_screen_program_once_a_second_and_tells_a_line_again_after_a_minute(tmp_path: Path) -> None:
    clock = HandClock()
    writer = a_writer(tmp_path, clock=SessionClock(clock))
    for number in range(90):
        clock.now_us += SECOND_US
        writer.put(Code.OUT, b"\x1b[?1049h\x1b[2J\x1b[Hvolts %d\x1b[2;1Hamps %d" % (number, number // 89))
    writer.close("done")
    told = [line for _, line in screen_text(read(writer.path), AvtScreen(80, 24))]
    assert [line for line in told if line.startswith("volts")] == [f"volts {number}" for number in range(90)]
    assert [line for line in told if line.startswith("amps")] == ["amps 0", "amps 1"]


def test_damage_ends_an_export_with_what_came_before_it(tmp_path: Path) -> None:
    writer = a_writer(tmp_path)
    writer.put(Code.OUT, b"before")
    writer.abandon()
    with writer.path.open("ab") as file:
        file.write(b"\xff" * 8)
    for exporting in (export.cast, export.text, export.raw):
        out = io.BytesIO()
        with pytest.raises(FormatError):
            exporting(writer.path, out)
        if exporting is not export.text:
            assert b"before" in out.getvalue()
