"""The demo as a person meets it: on a terminal, with the commands pasted as they stand there."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import segno

from broker.clock import SystemClock
from demo.doors import Browser, Terminal
from demo.kestrel import BMS_21, BMS_22, DESMOND, LEADS, MARGUERITE, NADIA, PASSWORD, SEOYEON, TAEKYUNG
from demo.stage import approve
from tests.demo.processes import START_WITHIN_S, in_session, pid_of, plain

PROGRAM = Path(sys.executable).with_name("wicketgate")
LAST = "^C: end."
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(420)]


@pytest.fixture
def short() -> Iterator[Path]:
    """A temporary folder with a short name: a Unix socket's path may not be long."""
    with tempfile.TemporaryDirectory(prefix="d-") as folder:
        yield Path(folder)


@contextmanager
def a_demo(temporary: Path, *words: str) -> Iterator[Terminal]:
    """The demo on a terminal of its own, as soon as it has said everything."""
    environment = os.environ | {"TMPDIR": str(temporary), "TERM": "xterm-256color"}
    environment = {name: value for name, value in environment.items() if name not in ("COLUMNS", "LINES")}
    with Terminal([str(PROGRAM), "demo", *words], environment, SystemClock()) as terminal:
        terminal.wait_for(LAST, within_s=START_WITHIN_S)
        yield terminal


@pytest.fixture(scope="module")
def demo() -> Iterator[Terminal]:
    """One demo for the tests that leave it as a person would; ended with ^C, of which nothing may stay."""
    with tempfile.TemporaryDirectory(prefix="d-") as folder:
        with a_demo(Path(folder)) as terminal:
            yield terminal
            terminal.type("\x03")
            assert terminal.wait_end(within_s=60) == 0
            assert "Traceback" not in terminal.text
            assert in_session(terminal.process.pid) == {}
        assert os.listdir(folder) == []


def code_of(terminal: Terminal, handle: str) -> str:
    """A code as the demo shows it to whoever has no phone."""
    mark = len(terminal.text)
    terminal.type("\n")
    terminal.wait_for("investigator\r\n", after=mark)
    found = re.search(rf"^ +{re.escape(handle)} +(\d{{6}}) ", terminal.text[mark:], re.MULTILINE)
    assert found is not None, terminal.text[mark:]
    return found[1]


def web_in(page: str) -> str:
    """The pages' origin as printed."""
    found = re.search(r"http://127\.0\.0\.1:\d+", page)
    assert found is not None, page
    return found[0]


def commands_in(page: str) -> list[str]:
    """The commands to paste, each of them over two lines."""
    return re.findall(r"^ssh .*\\\n.*$", page, re.MULTILINE)


def paste(command: str, code: str | None = None) -> tuple[int, str]:
    """Run a command as pasted into a shell, typing the code when it is asked; gives status and text."""
    with Terminal(["sh", "-c", command], dict(os.environ), SystemClock()) as terminal:
        if code is not None:
            terminal.wait_for("Code:")
            terminal.type(f"{code}\n")
        status = terminal.wait_end(within_s=30)
        return status, plain(terminal.text)


def test_what_is_printed_works_word_for_word_from_the_question_to_the_replay(demo: Terminal) -> None:
    page = plain(demo.text)
    ask, collect, enter = commands_in(page)
    web = web_in(page)
    status, told = paste(ask, code_of(demo, SEOYEON.handle))
    assert status == 0, told
    request = re.search(r"(req-\w+) is pending", told)
    assert request is not None, told

    owner = Browser(web)
    assert owner.log_in(MARGUERITE.handle, PASSWORD, code_of(demo, MARGUERITE.handle)).status == 303
    first = owner.get("/").plain
    assert TAEKYUNG.name in first, "a request waits when the demo opens"
    assert BMS_22.login in first
    ticks = [("asset", BMS_21.login), ("capability", "shell"), ("capability", "exec")]
    assert approve(owner, request[1], *ticks).status == 303

    status, told = paste(collect, code_of(demo, SEOYEON.handle))
    assert status == 0, told
    with Terminal(["sh", "-c", enter], dict(os.environ), SystemClock()) as session:
        session.wait_for(f"{BMS_21.name}:~$ ")
        session.type("show cells\n")
        session.wait_for("DRIFT")
        session.type("exit\n")
        assert session.wait_end() == 0
        assert "authenticity of host" not in session.text

    investigator = Browser(web)
    assert investigator.log_in(NADIA.handle, PASSWORD, code_of(demo, NADIA.handle)).status == 303
    recording = re.search(r"/recordings/(ses-\w+)", investigator.get("/recordings").text)
    assert recording is not None
    assert "DRIFT" in investigator.get(f"/recordings/{recording[1]}/1.txt").text


def test_it_fits_eighty_columns_and_each_picture_is_its_secret(demo: Terminal) -> None:
    page = plain(demo.text)
    assert [line for line in page.splitlines() if len(line) > 80] == []
    welcome = page[page.index("Kestrel Flat runs") : page.index(LAST)]
    assert welcome.count("\n") <= 23, "all of it is on a screen of 24 lines"
    assert PASSWORD in welcome
    pictures = re.findall(r"((?:^[█▀▄ ]{41}\n)+)([a-z0-9.-]+) *\nsecret ([A-Z2-7]{32})", page, re.MULTILINE)
    assert [handle for _, handle, _ in pictures] == [figure.handle for figure in LEADS]
    for drawn, handle, secret in pictures:
        uri = f"otpauth://totp/kestrel:{handle}?secret={secret}&issuer=kestrel"
        wanted = [list(row) for row in segno.make(uri, error="l", micro=False).matrix_iter(border=2)]
        assert modules_of(drawn)[: len(wanted)] == wanted, "not the code of what stands below it"


def modules_of(drawn: str) -> list[list[int]]:
    """The modules of a picture drawn in half blocks: 1 is dark."""
    rows = []
    for line in drawn.splitlines():
        rows.append([int(block in " ▄") for block in line])
        rows.append([int(block in " ▀") for block in line])
    return rows


def test_a_code_that_was_used_is_not_shown_again(demo: Terminal) -> None:
    web = web_in(plain(demo.text))
    used = code_of(demo, DESMOND.handle)
    assert Browser(web).log_in(DESMOND.handle, PASSWORD, used).status == 303
    again = code_of(demo, DESMOND.handle)
    assert again != used
    assert Browser(web).log_in(DESMOND.handle, PASSWORD, again).status == 303


def test_a_demo_whose_broker_dies_says_so_in_one_line_and_its_named_home_stays(short: Path) -> None:
    home = short / "site"
    with a_demo(short, "--home", str(home)) as terminal:
        mark = len(terminal.text)
        os.kill(pid_of(terminal.process.pid, "broker"), signal.SIGKILL)
        assert terminal.wait_end(within_s=60) == 1
        lines = plain(terminal.text[mark:]).split("\n")
        assert [line for line in lines if line.strip()] == [
            "demo: wicketgate serve ended with status 1: the broker process ended by signal 9; everything was stopped"
        ]
        assert in_session(terminal.process.pid) == {}
    assert (home / "wicketgate.db").is_file()


def test_without_a_keyboard_it_runs_until_it_is_told_to_end(short: Path) -> None:
    with subprocess.Popen(
        [PROGRAM, "demo"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"TMPDIR": str(short)},
        start_new_session=True,
    ) as child:
        assert child.stdout is not None
        told = ""
        while LAST not in told:
            line = child.stdout.readline()
            assert line, told
            told += line
        web = web_in(told)
        assert Browser(web).get("/login").status == 200
        child.send_signal(signal.SIGTERM)
        rest, _ = child.communicate(timeout=60)
    assert child.returncode == 0
    assert "Traceback" not in told + rest
    assert "\x1b" not in told, "no colours where nobody sees them"
    assert in_session(child.pid) == {}
    assert list(short.iterdir()) == []
    with pytest.raises(ConnectionRefusedError):
        Browser(web).get("/login")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("taken", "is already there; name another, or remove it; nothing was changed"),
        ("no/parent", "No such file or directory"),
        ("with space", "without spaces"),
    ],
)
def test_a_home_that_cannot_be_is_refused_in_one_line(short: Path, name: str, said: str) -> None:
    (short / "taken").mkdir()
    (short / "taken" / "mine").write_text("kept")
    done = subprocess.run(
        [PROGRAM, "demo", "--home", short / name], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert [path.name for path in short.iterdir()] == ["taken"]
    assert (short / "taken" / "mine").read_text() == "kept"


def test_a_machine_without_ssh_is_told_what_to_install(short: Path) -> None:
    done = subprocess.run(
        [PROGRAM, "demo"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=os.environ | {"PATH": str(short), "TMPDIR": str(short)},
    )
    assert done.returncode == 1
    assert done.stderr == "demo: ssh is missing; install it with: sudo apt-get install openssh-client\n"
    assert list(short.iterdir()) == []
