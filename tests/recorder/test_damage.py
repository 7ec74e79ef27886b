"""E12, E13 and E17: whatever happened to a file, reading it names the place, invents nothing, changes nothing and ends."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recorder.events import encode_event_head, encode_leb
from recorder.format import (
    MAGIC,
    Code,
    Codec,
    Event,
    FormatError,
    Head,
    RecordType,
    Segment,
    decode_header,
    encode_header,
    encode_record,
    encode_segment,
)
from recorder.packing import Compressor
from recorder.reader import State, examine, header, read, seek
from recorder.records import find_end, open_stream
from recorder.verify import verify_stream
from recorder.writer import SEGMENT_MAX_US, SessionClock
from tests.recorder.makers import HandClock, a_header, a_writer

GOLDEN: Final = Path(__file__).parent / "golden" / "v1.wgr"
LINE: Final = encode_header(a_header())


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A closed stream of two segments, the second one with data too."""
    clock = HandClock()
    writer = a_writer(tmp_path_factory.mktemp("small"), clock=SessionClock(clock))
    writer.put(Code.OUT, b"one")
    writer.put_batch([(Code.ERR, b"two"), (Code.OUT, b"three")])
    clock.now_us += 2 * SEGMENT_MAX_US
    writer.put(Code.OUT, b"four")
    writer.close("done")
    return writer.path


def attested(path: Path) -> Head:
    found = examine(path)
    return Head(found.length, found.sha256)


def events_that_read(path: Path) -> list[Event]:
    got = []
    try:
        for event in read(path):
            got.append(event)  # noqa: PERF402  what came before the error counts
    except FormatError:
        pass
    return got


def test_e13_the_first_version_opens_for_ever() -> None:
    assert GOLDEN.read_bytes().startswith(b'WGR1 {"after":"","boot":"b00t","channel":1,"class":"screen","kind":"shell"')
    digest = hashlib.sha256()
    for event in read(GOLDEN):
        digest.update(b"%d %c %d " % (event.t_us, event.code, len(event.data)) + event.data)
    assert digest.hexdigest() == "eb989143dbe6e8939ad11c637a41c7e6c72f76f56242c44590ba5c426c37207b"
    found = examine(GOLDEN)
    assert (found.state, found.reason, found.events) == (State.CLOSED, "the engineer left", 22)
    assert found.index == ((178, 100), (571, 73001800), (714, 73002300))
    assert found.sha256 == "d2a6359d8d33b0256ab3307d072c6b890225201b0c10dc3aa12ff7199e9f8022"
    assert header(GOLDEN) == a_header()


def test_each_one_bit_flip_is_named_as_damage_or_known_by_the_head_in_the_ledger(small: Path, tmp_path: Path) -> None:
    """The chain covers every byte before END; of END, its reason and its times are known by the ledger's head alone."""
    whole, head, path = small.read_bytes(), attested(small), tmp_path / "flipped"
    with open_stream(small) as file:
        end = find_end(file)
    assert end is not None
    for bit in range(len(whole) * 8):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        found = examine(path)
        if bit // 8 < end[1]:
            assert found.state is State.DAMAGED, f"bit {bit}"
        assert (found.state is State.DAMAGED) == (found.problem is not None), f"bit {bit}"
        assert verify_stream(path, head).code == 4, f"bit {bit}"


def test_each_truncation_is_an_interrupted_stream_with_an_exact_prefix(small: Path, tmp_path: Path) -> None:
    whole, head, path = small.read_bytes(), attested(small), tmp_path / "cut"
    everything = list(read(small))
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        found = examine(path)
        assert found.state is State.INTERRUPTED, f"{length}: {found.problem}"
        assert found.length == length
        assert found.torn_sha256 == (
            hashlib.sha256(whole[length - found.torn_bytes : length]).hexdigest() if found.torn_bytes else ""
        )
        got = events_that_read(path)
        assert got == everything[: len(got)]
        assert found.events == len(got)
        assert verify_stream(path, head).code == 5


def test_a_crash_that_leaves_zeros_leaves_a_torn_tail(small: Path, tmp_path: Path) -> None:
    whole, path = small.read_bytes(), tmp_path / "zeros"
    with open_stream(small) as file:
        end = find_end(file)
    assert end is not None
    path.write_bytes(whole[: end[1]] + bytes(4096))
    found = examine(path)
    assert (found.state, found.torn_bytes) == (State.INTERRUPTED, 4096)
    assert list(read(path)) == list(read(small))


@pytest.mark.parametrize("tail", [b"x", bytes(1), bytes(4096), encode_record(RecordType.DATA, b"")])
def test_bytes_after_the_end_are_damage(small: Path, tmp_path: Path, tail: bytes) -> None:
    path = tmp_path / "longer"
    path.write_bytes(small.read_bytes() + tail)
    assert examine(path).state is State.DAMAGED
    assert "after the end" in (examine(path).problem or "")
    assert verify_stream(path, attested(small)).code == 4


def test_e12_examining_a_torn_file_changes_nothing_of_it(small: Path, tmp_path: Path) -> None:
    path = tmp_path / "torn"
    path.write_bytes(small.read_bytes()[:-30])
    os.chmod(path, 0o400)
    before, stat = path.read_bytes(), path.stat()
    found = examine(path)
    after = path.stat()
    assert path.read_bytes() == before
    assert (after.st_mtime_ns, after.st_size, after.st_mode) == (stat.st_mtime_ns, stat.st_size, stat.st_mode)
    assert (found.length, found.sha256) == (len(before), hashlib.sha256(before).hexdigest())
    assert 0 < found.torn_bytes < len(before)


def segment(codec: Codec = Codec.PLAIN, *, t_us: int = 0, index: int = 0, before: bytes = LINE) -> bytes:
    return encode_segment(Segment(index, codec, t_us, 0, hashlib.sha256(before).digest()))


def data(body: bytes) -> bytes:
    return encode_record(RecordType.DATA, body)


def event(payload: bytes = b"x", dt_us: int = 1) -> bytes:
    return encode_event_head(Code.OUT, dt_us, len(payload)) + payload


BOMB: Final = Compressor().flush(bytes(64 << 20))
HOSTILE: Final = {
    "data before a segment": data(event()),
    "no such record type": segment() + (1 << 8 | 77).to_bytes(4, "little") + b"x",
    "record beyond the limit": segment() + data(bytes((1 << 20) + 1)),
    "bomb": segment(Codec.ZSTD) + data(BOMB),
    "not zstd": segment(Codec.ZSTD) + data(b"garbage"),
    "segment beyond the limit": segment() + data(event(bytes(700_000))) * 4,
    "no such code": segment() + data(b"Q\x01\x01x"),
    "event longer than its record": segment() + data(b"o\x01\x7fx"),
    "endless number": segment() + data(b"o" + b"\x80" * 100),
    "time 2^56": segment() + data(event(dt_us=1 << 55)) * 2,
    "time of a segment 2^56": segment(t_us=1 << 56),
    "time that stands": segment() + data(event(dt_us=0)),
    "time that runs back": segment(t_us=9) + segment(t_us=8, index=1, before=LINE + segment(t_us=9)),
    "end that is no JSON": segment() + encode_record(RecordType.END, b"[" * 100_000),
    "end with infinity": segment() + encode_record(RecordType.END, b'{"bytes":Infinity}'),
    "codec unknown": encode_record(RecordType.SEG, segment()[4:8] + b"\x09" + segment()[9:]),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_e17_what_no_writer_makes_is_named_and_ends_the_reading(tmp_path: Path, name: str) -> None:
    path = tmp_path / "hostile"
    path.write_bytes(LINE + HOSTILE[name])
    found = examine(path)
    assert found.state is State.DAMAGED
    assert found.problem
    if not name.startswith("end"):
        with pytest.raises(FormatError, match="byte"):
            list(read(path))


@pytest.mark.parametrize(
    "line",
    [
        LINE.replace(b'"v":1', b'"v":2'),
        LINE.replace(b'"v":1', b'"v":1.0'),
        LINE.replace(b'"v":1', b'"v":true'),
        LINE.replace(b"gate-1", b"\\ud800"),
        LINE.replace(b'"channel":1', b'"channel":-1'),
        LINE.replace(b'"channel":1', b'"channel":2'),
        LINE.replace(b'{"after"', b'{ "after"'),
        LINE.replace(b'"after":""', b'"after":"","who":"x"'),
        LINE.replace(b"01.screen", b"../01.screen"),
        LINE.replace(b"none", b"wgr1"),
        MAGIC + b"[" * 5000 + b"\n",
        b"GIF89a\n",
        b"x" * 100_000,
    ],
)
def test_a_header_that_is_not_ours_is_refused(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "other"
    path.write_bytes(line + segment())
    assert examine(path).state is State.DAMAGED
    with pytest.raises(FormatError):
        list(read(path))


def test_a_record_of_a_kind_to_come_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "newer"
    later = (3 << 8 | 200).to_bytes(4, "little") + b"new"
    path.write_bytes(LINE + segment() + later + data(event()))
    assert examine(path).state is State.INTERRUPTED
    assert [one.data for one in read(path)] == [b"x"]


@given(line=st.binary(max_size=200))
@settings(deadline=None)
def test_a_header_line_is_read_or_refused(line: bytes) -> None:
    for candidate in (line, MAGIC + line + b"\n"):
        with pytest.raises(FormatError):
            decode_header(candidate)


@given(body=st.binary(max_size=400), codec=st.sampled_from(Codec))
@settings(max_examples=200, deadline=None)
def test_arbitrary_bytes_in_a_segment_are_read_or_refused(
    body: bytes, codec: Codec, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("any") / "any"
    for tail in (body, data(body)):
        path.write_bytes(LINE + segment(codec) + tail)
        assert (examine(path).state is State.DAMAGED) == (examine(path).problem is not None)
        events_that_read(path)


def test_an_index_that_points_elsewhere_is_refused(small: Path, tmp_path: Path) -> None:
    path = tmp_path / "elsewhere"
    path.write_bytes(small.read_bytes().replace(b'"index":[[178,', b'"index":[[177,'))
    with pytest.raises(FormatError):
        list(seek(path, 1_000))
    assert examine(path).state is State.DAMAGED


def test_only_files_are_opened(tmp_path: Path, small: Path) -> None:
    fifo, link = tmp_path / "fifo", tmp_path / "link"
    os.mkfifo(fifo)
    link.symlink_to(small)
    with pytest.raises(FormatError, match="not a file"):
        examine(fifo)
    with pytest.raises(FormatError, match="not a file"):
        examine(tmp_path)
    with pytest.raises(OSError, match="symbolic links"):
        examine(link)


def test_leb_numbers_survive_the_round_trip() -> None:
    assert encode_leb(0) == b"\0"
    assert encode_leb((1 << 56) - 1) == b"\xff" * 7 + b"\x7f"
