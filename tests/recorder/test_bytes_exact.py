"""E4 and E6: what is read is what was put, in the one order in which it was put."""

from __future__ import annotations

import tempfile
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recorder.folder import merged, recording_folder, streams
from recorder.format import Code, Codec, Event, FormatError, Head, RecordType, StreamClass, decode_segment
from recorder.index import INDEX_MAX, SegmentIndex
from recorder.reader import State, examine, header, read, seek, segments
from recorder.records import Records, open_stream, read_header
from recorder.writer import SEGMENT_MAX_BYTES, SEGMENT_MAX_US, SessionClock, StreamWriter
from tests.recorder.makers import SECOND_US, WALL_MS, HandClock, a_header, a_stream, a_writer

items = st.tuples(st.sampled_from(Code), st.binary(max_size=300))
batches = st.lists(st.lists(items, max_size=5), max_size=20)


def codecs_of(path: Path) -> list[Codec]:
    with open_stream(path) as file:
        _, line = read_header(file)
        return [
            decode_segment(record.body, offset=record.offset).codec
            for record in Records(file, line)
            if record.kind == RecordType.SEG
        ]


@given(turns=batches, pauses=st.lists(st.integers(0, 2 * SEGMENT_MAX_US), min_size=20, max_size=20))
@settings(max_examples=60, deadline=None)
def test_e4_what_is_read_is_what_was_put(turns: list[list[tuple[Code, bytes]]], pauses: list[int]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        clock = HandClock()
        writer = a_writer(Path(folder), clock=SessionClock(clock))
        for turn, pause_us in zip(turns, pauses, strict=False):
            clock.now_us += pause_us
            writer.put_batch(turn)
            if pause_us % 2:
                writer.tick()
        head = writer.close("done")
        got = list(read(writer.path))
        assert [(event.code, event.data) for event in got] == [item for turn in turns for item in turn]
        found = examine(writer.path)
        assert (found.state, found.reason, found.problem) == (State.CLOSED, "done", None)
        assert Head(found.length, found.sha256) == head
        assert (found.events, found.bytes) == (len(got), sum(len(event.data) for event in got))


def test_e4_ten_megabytes_in_one_event_come_back_in_pieces_and_whole(tmp_path: Path) -> None:
    data = bytes(range(256)) * 40960
    path = a_stream(tmp_path, [(Code.OUT, data)])
    assert b"".join(event.data for event in read(path)) == data


def test_e4_a_hundred_thousand_tiny_events_of_one_turn_read_back(tmp_path: Path) -> None:
    writer = a_writer(tmp_path)
    writer.put_batch([(Code.OUT, b"x")] * 100_000)
    writer.close("done")
    assert sum(len(event.data) for event in read(writer.path)) == 100_000
    assert examine(writer.path).state is State.CLOSED


@given(
    looks=st.lists(st.integers(-(2 * 3600 * SECOND_US), 2 * 3600 * SECOND_US), min_size=1, max_size=40),
    order=st.lists(st.integers(0, 2), max_size=40),
)
@settings(max_examples=60, deadline=None)
def test_e6_times_rise_over_all_streams_whatever_the_clock_does(looks: list[int], order: list[int]) -> None:
    turned = iter(looks * 200)
    clock = SessionClock(lambda: next(turned))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        writers = [a_writer(folder, klass, clock=clock) for klass in (StreamClass.SCREEN, StreamClass.TYPED)]
        writers.append(a_writer(folder, channel=2, clock=clock))
        for number, which in enumerate(order):
            writers[which].put(Code.OUT, b"%d" % number)
        for writer in writers:
            writer.close("done")
        together = list(merged(streams(folder)))
        times = [event.t_us for _, event in together]
        assert times == sorted(set(times))
        assert [event.data for _, event in together] == [b"%d" % number for number in range(len(order))]
        assert [one.stream for one, _ in together] == [("01.screen", "01.typed", "02.screen")[which] for which in order]


def test_a_stream_in_bulk_is_kept_plain_and_compressed_again_when_it_slows_down(tmp_path: Path) -> None:
    clock = HandClock()
    writer = a_writer(tmp_path, clock=SessionClock(clock))
    block = bytes(64 * 1024)
    for _ in range(9):  # two segments and the beginning of a third, at once
        writer.put(Code.OUT, block)
    clock.now_us += 2 * SECOND_US
    for _ in range(5):
        writer.put(Code.OUT, block)
    writer.close("done")
    assert codecs_of(writer.path) == [Codec.ZSTD, Codec.PLAIN, Codec.PLAIN, Codec.ZSTD]


def test_a_segment_holds_no_more_than_its_size_however_well_it_compresses(tmp_path: Path) -> None:
    clock = HandClock(step_us=2 * SECOND_US)
    writer = a_writer(tmp_path, clock=SessionClock(clock))
    for _ in range(100):
        writer.put(Code.OUT, bytes(32 * 1024))
    writer.close("done")
    assert len(examine(writer.path).index) >= 100 * 32 * 1024 // SEGMENT_MAX_BYTES - 1
    assert writer.path.stat().st_size < SEGMENT_MAX_BYTES


def test_the_segment_of_an_idle_stream_is_closed_once(tmp_path: Path) -> None:
    clock = HandClock()
    writer = a_writer(tmp_path, clock=SessionClock(clock))
    writer.put(Code.OUT, b"x")
    lengths = []
    for _ in range(3):
        clock.now_us += SEGMENT_MAX_US + SECOND_US
        writer.tick()
        lengths.append(writer.head().length)
    assert len(set(lengths)) == 1
    writer.close("done")
    writer.tick()
    assert len(examine(writer.path).index) == 2


@pytest.mark.parametrize("closed", [True, False])
def test_seeking_gives_exactly_the_events_from_then_on(tmp_path: Path, closed: bool) -> None:
    clock = HandClock()
    writer = a_writer(tmp_path, clock=SessionClock(clock))
    for number in range(300):
        clock.now_us += SECOND_US
        writer.put(Code.OUT, b"%d" % number)
    writer.close("done") if closed else writer.abandon()
    everything = list(read(writer.path))
    assert len(segments(writer.path)) == 6
    for t_us in (0, 1, everything[0].t_us, everything[77].t_us, everything[77].t_us + 1, everything[-1].t_us + 1):
        assert list(seek(writer.path, t_us)) == [event for event in everything if event.t_us >= t_us]


@given(count=st.integers(0, 3 * INDEX_MAX))
@settings(max_examples=20, deadline=None)
def test_the_index_stays_small_and_evenly_spread(count: int) -> None:
    index = SegmentIndex()
    for number in range(count):
        index.add(number, number)
    kept = [offset for offset, _ in index.entries]
    assert len(kept) <= INDEX_MAX
    assert kept[:1] == [0][:count]
    assert len({later - earlier for earlier, later in pairwise(kept)}) <= 1
    assert index.count == count


def test_closing_twice_gives_the_same_head_and_a_long_reason_is_cut(tmp_path: Path) -> None:
    writer = a_writer(tmp_path)
    assert writer.close("é" * 5000) == writer.close("other")
    assert examine(writer.path).reason == "é" * 500


def test_a_writer_refuses_a_header_that_it_would_not_keep(tmp_path: Path) -> None:
    with pytest.raises(FormatError):
        StreamWriter(tmp_path, a_header(seal="wgr1"), clock=SessionClock(HandClock()), wall_ms=lambda: 0)
    assert not list(tmp_path.iterdir())


def test_a_recording_is_a_folder_by_the_day_and_holds_only_true_files(tmp_path: Path) -> None:
    folder = recording_folder(tmp_path, "ses-7k2m", WALL_MS)
    assert folder == tmp_path / "2026" / "09" / "21" / "ses-7k2m"
    assert streams(folder) == []
    path = a_stream(folder, [(Code.OUT, b"x")])
    (folder / "02.screen.wgr").symlink_to(path)
    (folder / "03.screen.wgr").mkdir()
    (folder / "note.txt").write_text("")
    assert streams(folder) == [path]
    assert header(path) == a_header()
    assert [event for _, event in merged([path])] == [Event(next(read(path)).t_us, Code.OUT, b"x")]
