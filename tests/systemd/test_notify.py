"""What the real processes tell systemd: ready, alive from the event loop, stopping; and the socket it hands them."""

from __future__ import annotations

import asyncio
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker import notify

PROGRAM = Path(sys.executable).with_name("wicketgate")
WATCHDOG_US = 400_000


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="wg-"))  # short: a Unix socket's path may not be long
    command: list[str | Path] = [PROGRAM, "--home", folder / "home", "init", "--ssh", "127.0.0.1:0"]
    subprocess.run([*command, "--web", "127.0.0.1:0"], check=True, capture_output=True, timeout=60)
    yield folder / "home"
    shutil.rmtree(folder)


@pytest.fixture
def systemd(home: Path) -> Iterator[socket.socket]:
    """The socket on which systemd would listen, at home.parent/notify."""
    path = home.parent / "notify"
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(path))
        sock.settimeout(60)
        yield sock


def start(home: Path, *words: str, handed: socket.socket | None = None) -> subprocess.Popen[str]:
    """The program as systemd starts it. handed: the listening socket that it finds as its descriptor 3."""
    told = {"NOTIFY_SOCKET": str(home.parent / "notify"), "WATCHDOG_USEC": str(WATCHDOG_US)}
    script = 'exec "$@"' if handed is None else 'exec env LISTEN_PID=$$ LISTEN_FDS=1 "$@" 3<&0 </dev/null'
    return subprocess.Popen(
        ["sh", "-c", script, "sh", PROGRAM, "--home", home, "serve", *words],
        stdin=subprocess.DEVNULL if handed is None else handed.fileno(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **told},
    )


def stop(process: subprocess.Popen[str]) -> None:
    """Kill it, if a test that failed has left it running."""
    if process.poll() is None:
        process.kill()
        process.communicate(timeout=60)


def heard(systemd: socket.socket, wanted: str) -> list[str]:
    """What was said until that word came, it included."""
    said: list[str] = []
    while not said or said[-1] != wanted:
        said.append(systemd.recv(256).decode())
        assert len(said) < 1000
    return said


@pytest.mark.parametrize(
    "words", [("--only", "signer"), ("--only", "broker"), ("--only", "approval"), ()], ids=" ".join
)
def test_a_process_says_ready_once_then_that_it_lives_then_that_it_stops(
    home: Path, systemd: socket.socket, words: tuple[str, ...]
) -> None:
    process = start(home, *words)
    try:
        before = heard(systemd, "READY=1")
        assert set(before) <= {"WATCHDOG=1", "READY=1"}
        assert process.stdout is not None
        assert process.stdout.readline().startswith("ready ")
        assert [systemd.recv(256) for _ in range(3)] == [b"WATCHDOG=1"] * 3
        process.send_signal(signal.SIGTERM)
        assert heard(systemd, "STOPPING=1").count("READY=1") == 0
        _, err = process.communicate(timeout=60)
        assert (process.returncode, "Traceback" in err) == (0, False), err
    finally:
        stop(process)


async def test_a_blocked_event_loop_is_not_said_to_live(home: Path, systemd: socket.socket) -> None:
    systemd.setblocking(False)
    told = {"NOTIFY_SOCKET": str(home.parent / "notify"), "WATCHDOG_USEC": "40000"}
    pinging = asyncio.create_task(notify.keep_watchdog(told))
    loop = asyncio.get_running_loop()
    try:
        for _ in range(2):
            assert await asyncio.wait_for(loop.sock_recv(systemd, 256), 10) == b"WATCHDOG=1"
        with selectors.DefaultSelector() as blocked:  # nothing else of this loop runs meanwhile
            blocked.register(systemd, selectors.EVENT_READ)
            assert blocked.select(0.3) == []
        assert await asyncio.wait_for(loop.sock_recv(systemd, 256), 10) == b"WATCHDOG=1"
    finally:
        pinging.cancel()


def test_nobody_listening_and_nonsense_are_no_fault() -> None:
    assert not notify.notify("READY=1", {})
    assert not notify.notify("READY=1", {"NOTIFY_SOCKET": "/no/such/socket"})
    assert not notify.notify("READY=1", {"NOTIFY_SOCKET": "relative"})
    for usec in ("", "0", "-5", "soon", "٤"):
        assert notify.watchdog_s({"WATCHDOG_USEC": usec}) is None
    assert notify.watchdog_s({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}) is None
    assert notify.watchdog_s({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}) == 15.0


def test_an_abstract_notify_socket_is_reached() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind("\0wicketgate-test-" + str(os.getpid()))
        sock.settimeout(10)
        assert notify.notify("READY=1", {"NOTIFY_SOCKET": f"@wicketgate-test-{os.getpid()}"})
        assert sock.recv(64) == b"READY=1"


def test_the_broker_takes_the_socket_that_systemd_hands_over(home: Path, systemd: socket.socket) -> None:
    with socket.create_server(("127.0.0.1", 0)) as handed:
        port = handed.getsockname()[1]
        settings = home / "settings.toml"
        kept = settings.read_text()
        # The address in settings.toml is this very one, which nobody can bind a second time.
        settings.write_text(kept.replace('ssh_listen = "127.0.0.1:0"', f'ssh_listen = "127.0.0.1:{port}"'))
        process = start(home, "--only", "broker", handed=handed)
        try:
            heard(systemd, "READY=1")
            assert process.stdout is not None
            assert process.stdout.readline() == f"ready broker=127.0.0.1:{port}\n"
            with socket.create_connection(("127.0.0.1", port), 10) as caller:
                assert caller.recv(8) == b"SSH-2.0-"
            process.send_signal(signal.SIGTERM)
            _, err = process.communicate(timeout=60)
            assert process.returncode == 0, err
        finally:
            settings.write_text(kept)
            stop(process)
