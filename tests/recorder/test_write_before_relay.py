"""E1 and E3: nothing is relayed that is not recorded, whether the process is killed or the disk is full."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from recorder.format import Code
from recorder.reader import State, examine, read
from recorder.writer import GroupSync, RecordingFailed, StreamWriter, free_space
from tests.recorder.makers import a_header, a_writer
from tests.recorder.relay_child import FAILED_CLOSED

KILLS = 25
CONTROLS_MAX = 40
ROOT = Path(__file__).resolve().parents[2]


def relay(folder: Path, seed: int, how: str, file_max_bytes: int = 0) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.recorder.relay_child", str(folder), str(seed), how, str(file_max_bytes)],
        stdout=subprocess.PIPE,
        cwd=ROOT,
    )


def killed_after(folder: Path, seed: int, how: str) -> tuple[bytes, bytes]:
    """What came out of a relay until it was killed at some byte, and what its recording holds."""
    kill_at = random.Random(seed).randrange(1, 2_000_000)
    received = bytearray()
    with relay(folder, seed, how) as child:
        assert child.stdout is not None
        while len(received) < kill_at:
            received += os.read(child.stdout.fileno(), 65536)
        child.kill()
        received += child.stdout.read()
    return bytes(received), recorded(folder / "01.screen.wgr")


def recorded(path: Path) -> bytes:
    return b"".join(event.data for event in read(path))


def test_e1_what_was_relayed_before_a_kill_is_recorded(tmp_path: Path) -> None:
    for seed in range(KILLS):
        received, kept = killed_after(tmp_path / str(seed), seed, "recorded-first")
        assert kept.startswith(received), f"seed {seed}"
        assert examine(tmp_path / str(seed) / "01.screen.wgr").state is State.INTERRUPTED


def test_e1_a_relay_that_sends_first_fails_the_same_test(tmp_path: Path) -> None:
    for seed in range(CONTROLS_MAX):
        received, kept = killed_after(tmp_path / str(seed), seed, "relayed-first")
        if not kept.startswith(received):
            return
    pytest.fail("the experiment cannot tell a relay that sends first")


def test_e3_at_a_size_limit_everything_relayed_is_recorded_and_the_stream_stays_dead(tmp_path: Path) -> None:
    with relay(tmp_path, 1, "recorded-first", file_max_bytes=300_000) as child:
        received, _ = child.communicate(timeout=30)
    assert child.returncode == FAILED_CLOSED
    assert len(received) > 200_000
    kept = recorded(tmp_path / "01.screen.wgr")
    assert kept == received
    assert examine(tmp_path / "01.screen.wgr").state is State.INTERRUPTED


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = os.geteuid() == 0 and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], check=False, capture_output=True
    )
    if not mounted or mounted.returncode:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_e3_on_a_full_disk_everything_relayed_is_recorded_and_freeing_space_revives_nothing(tiny_disk: Path) -> None:
    ballast = tiny_disk / "ballast"
    ballast.write_bytes(bytes(200_000))
    writer = a_writer(tiny_disk / "rec")
    relayed = bytearray()
    chance = random.Random(3)

    def fill() -> None:
        while True:
            chunk = chance.randbytes(5000)
            writer.put(Code.OUT, chunk)
            relayed.extend(chunk)

    with pytest.raises(RecordingFailed, match=r"space|short write"):
        fill()
    ballast.unlink()
    assert free_space(tiny_disk).bytes_free > 100_000
    for _ in range(2):
        with pytest.raises(RecordingFailed):
            writer.put(Code.OUT, b"x")
    with pytest.raises(RecordingFailed):
        writer.put_batch([])
    assert writer.failed is not None
    assert recorded(writer.path) == relayed
    found = examine(writer.path)
    assert (found.length, found.sha256) == (writer.head().length, writer.head().sha256)


class LostPages(StreamWriter):
    """A stream whose disk takes bytes and then cannot keep them."""

    def sync(self) -> None:
        raise OSError(5, "Input/output error")


def test_e3_a_failed_fdatasync_is_final_for_its_stream_and_for_no_other(tmp_path: Path) -> None:
    failed: list[StreamWriter] = []
    told = threading.Event()

    def on_failure(writer: StreamWriter, error: RecordingFailed) -> None:
        assert writer.failed is error
        failed.append(writer)
        told.set()

    good = a_writer(tmp_path / "good")
    bad = LostPages(tmp_path / "bad", a_header(), clock=good._clock, wall_ms=lambda: 0)
    sync = GroupSync(on_failure)
    sync.register(good)
    sync.register(bad)
    sync.start()
    assert told.wait(10)
    sync.stop()
    assert failed == [bad]
    with pytest.raises(RecordingFailed, match="Input/output error"):
        bad.put(Code.OUT, b"x")
    good.put(Code.OUT, b"x")
    good.close("done")
    bad.abandon()


def is_dirty(writer: StreamWriter) -> bool:
    return writer.dirty_since_us is not None


def test_e2_what_was_written_is_durable_once_the_group_was_synced(tmp_path: Path) -> None:
    writer = a_writer(tmp_path)
    sync = GroupSync(lambda _writer, _error: None)
    sync.register(writer)
    writer.put(Code.OUT, b"x")
    assert is_dirty(writer)
    for _ in range(2):  # it can be started again
        sync.start()
        sync.stop()
        assert not is_dirty(writer)
        writer.put(Code.OUT, b"y")
    sync.unregister(writer)
    sync.unregister(writer)
    writer.abandon()


@pytest.mark.parametrize("planted", ["file", "symlink", "folder is a file"])
def test_e3_what_stands_in_the_way_is_never_written_to(tmp_path: Path, planted: str) -> None:
    folder, elsewhere = tmp_path / "rec", tmp_path / "elsewhere"
    if planted == "folder is a file":
        folder.write_bytes(b"")
    else:
        folder.mkdir()
        path = folder / "01.screen.wgr"
        path.write_bytes(b"older") if planted == "file" else path.symlink_to(elsewhere)
    with pytest.raises(RecordingFailed):
        a_writer(folder)
    assert not elsewhere.exists()
    if planted == "file":
        assert (folder / "01.screen.wgr").read_bytes() == b"older"


def test_e3_an_error_of_any_kind_in_a_put_is_final(tmp_path: Path) -> None:
    writer = a_writer(tmp_path)
    with pytest.raises(RecordingFailed):
        writer.put(Code.OUT, "not bytes")  # type: ignore[arg-type]
    with pytest.raises(RecordingFailed):
        writer.put(Code.OUT, b"bytes")


def test_the_files_are_for_their_owner_alone(tmp_path: Path) -> None:
    writer = a_writer(tmp_path / "2026" / "11" / "ses")
    assert writer.path.stat().st_mode & 0o777 == 0o600
    for folder in list(writer.path.parents)[:3]:
        assert folder.stat().st_mode & 0o777 == 0o700
    writer.abandon()
    writer.abandon()
    with pytest.raises(RecordingFailed):
        writer.put(Code.OUT, b"x")
