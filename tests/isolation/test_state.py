"""The state file: whole or not at all, and what is not whole closes; the hook: the site's own, bounded."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker import hook, isolation
from broker.clock import SystemClock
from broker.domain.authority import IsolationHookRan, IsolationRaised, SeparationNoted
from broker.domain.errors import BrokerError, Code
from broker.domain.isolation import STEPS, Ladder, Level, Note, Rung, raised
from broker.isolation import UNTOLD_MAX, Kept
from broker.settings import Home, Settings, parse_settings
from broker.store import ledger
from tests.store.databases import Store

NOON = datetime(2027, 2, 24, 12, 0, tzinfo=UTC)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
instants = st.timedeltas(timedelta(0), timedelta(days=9000)).map(lambda later: NOON + later)
sites = st.sampled_from(["north", "south", "*"])
notes = st.builds(Note, done_by=texts, seen_by=texts, at=instants)
rungs = st.builds(
    Rung,
    level=st.sampled_from(list(Level)[1:]),
    by=texts,
    reason=texts,
    at=instants,
    notes=st.dictionaries(st.sampled_from(list(STEPS)), notes),
)
levels = st.integers(1, 5)
events = st.one_of(
    st.builds(IsolationRaised, site=sites, level=levels, by=texts, reason=texts, at=instants),
    st.builds(
        IsolationHookRan, site=sites, level=levels, exit=st.none() | st.integers(-9, 255), output=texts, at=instants
    ),
    st.builds(SeparationNoted, site=sites, step=texts, names=st.tuples(texts, texts), at=instants),
)
states = st.builds(
    Kept, st.builds(Ladder, st.dictionaries(sites, rungs, max_size=3)), st.lists(events, max_size=4).map(tuple)
)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home(tmp_path)
    isolation.write(made, Kept(Ladder()))
    return made


def at_level(level: Level, site: str = "*") -> Kept:
    return Kept(raised(Ladder(), site, Rung(level=level, by="local:test", reason="smoke", at=NOON)))


@given(states)
def test_what_is_written_is_what_is_read(kept: Kept) -> None:
    assert isolation.parse(isolation.render(kept), where="x") == kept


@given(states, st.data())
def test_bytes_that_were_cut_or_changed_never_open(kept: Kept, data: st.DataObject) -> None:
    whole = isolation.render(kept)
    at = data.draw(st.integers(0, len(whole) - 1))
    torn = whole[:at] + data.draw(
        st.sampled_from([b"", b"\0" * (len(whole) - at), bytes([whole[at] ^ 1]) + whole[at + 1 :]])
    )
    found = isolation.parse(torn, where="x")
    if found != kept:  # a last newline may be missing, a blank may be another blank
        assert found.ladder.damaged
        assert found.ladder.level("north") >= Level.CUT


@given(st.binary(max_size=200))
def test_strange_bytes_count_as_level_3_for_every_site(data: bytes) -> None:
    found = isolation.parse(data, where="x")
    assert found.ladder.level("any") == Level.CUT
    assert found.ladder.damaged == "x is damaged; it counts as level 3 for every site"


@pytest.mark.parametrize("wrong", ["missing", "folder", "too long", "level 9", "pipe"])
def test_a_state_that_cannot_be_read_closes_with_one_line(home: Home, wrong: str) -> None:
    path = home.isolation_path
    path.unlink()
    match wrong:
        case "folder":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case "too long":
            path.write_bytes(isolation.render(at_level(Level.ALERT)) + b" " * isolation.BYTES_MAX)
        case "level 9":
            body = json.loads(isolation.render(at_level(Level.ALERT)))["state"]
            body["rungs"]["*"]["level"] = 9
            digest = sha256(ledger.canonical(body)).hexdigest()
            path.write_text(json.dumps({"state": body, "sha256": digest}))
    found = isolation.load(home, Settings())
    assert found.level("north") == Level.CUT
    assert str(path) in found.damaged
    assert "\n" not in found.damaged


def test_a_write_that_fails_leaves_the_state_as_it_was(home: Home) -> None:
    isolation.write(home, at_level(Level.ALERT))
    home.isolation_path.with_name("taken").mkdir()
    home.isolation_path.with_name("link").symlink_to("taken")
    other = Home(home.path)
    other.isolation_path = home.isolation_path.with_name("taken")  # a folder stands where the file should go
    with pytest.raises(BrokerError) as refused:
        isolation.write(other, at_level(Level.CUT))
    assert refused.value.code is Code.UNAVAILABLE
    assert isolation.load(home, Settings()).level(None) == Level.ALERT
    assert [one.name for one in home.path.iterdir() if one.name.startswith(".")] == []


WRITER = """
import sys
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from broker import isolation
from broker.domain.isolation import Ladder, Level, Rung
from broker.isolation import Kept
from broker.settings import Home
home, at = Home(Path(sys.argv[1])), datetime(2027, 2, 24, tzinfo=UTC)
print("ready", flush=True)
while True:
    for level in (Level.CUT, Level.DEAF):
        isolation.write(home, Kept(Ladder({"*": Rung(level=level, by="x", reason="y" * 400, at=at)})))
"""


def test_kill_9_while_it_is_written_leaves_a_readable_state(home: Home) -> None:
    isolation.write(home, at_level(Level.CUT))
    for after_s in (0.003, 0.01, 0.03):
        with subprocess.Popen([sys.executable, "-c", WRITER, home.path], stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == b"ready\n"
            with selectors.DefaultSelector() as idle:
                idle.select(after_s)
            child.send_signal(signal.SIGKILL)
        found = isolation.load(home, Settings())
        assert not found.damaged
        assert found.level(None) >= Level.CUT


def test_the_switch_is_its_files_mere_presence(home: Home, tmp_path: Path) -> None:
    switch = tmp_path / "pulled"
    chosen = Settings(isolation_switch_file=str(switch), isolation_switch_level=4)
    assert isolation.load(home, chosen).level("north") == Level.NORMAL
    switch.symlink_to("nowhere")
    assert isolation.load(home, chosen).level("north") == Level.DEAF


@pytest.mark.parametrize(
    ("key", "value"),
    [("isolation_switch_file", "run/x"), ("isolation_switch_level", 0), ("isolation_switch_level", 6)],
)
def test_a_switch_that_could_not_be_found_is_refused(key: str, value: object) -> None:
    with pytest.raises(BrokerError):
        parse_settings({key: value}, where="settings.toml")


def test_two_writers_lose_nothing_of_each_other(home: Home) -> None:
    script = WRITER.replace("while True:", "for _ in ():") + (
        "from broker.domain.isolation import raised\n"
        "for number in range(30):\n"
        "    rung = Rung(level=Level.ALERT, by='x', reason='y', at=at)\n"
        "    isolation.change(home, None, lambda kept: Kept(raised(kept.ladder, f'{sys.argv[2]}{number}', rung)))\n"
    )
    writers = [subprocess.Popen([sys.executable, "-c", script, home.path, name]) for name in ("a", "b")]
    assert [one.wait(60) for one in writers] == [0, 0]
    assert len(isolation.load(home, Settings()).rungs) == 60


def test_law_5_what_happened_is_told_to_the_ledger_once(store: Store) -> None:
    kept = Kept(Ladder())
    for minute in range(3):
        event = IsolationRaised(site="*", level=3, by="x", reason="y", at=NOON.replace(minute=minute))
        kept = kept.with_event(kept.ladder, event)
    for _ in range(2):  # a crash between the ledger and the file makes it be told again
        with store.db.begin() as tx:
            isolation.tell_ledger(tx, kept.untold)
    with store.db.read() as tx:
        assert len(ledger.show(tx, kind="isolation.raised")) == 3
    assert isolation.without(kept, kept.untold).untold == ()


@settings(max_examples=10)
@given(st.integers(0, 3 * UNTOLD_MAX))
def test_the_state_stays_small_however_long_nobody_can_be_told(count: int) -> None:
    kept = Kept(Ladder())
    for _ in range(count):
        ran = IsolationHookRan(site="*", level=4, exit=0, output="x" * hook.OUTPUT_MAX_BYTES, at=NOON)
        kept = kept.with_event(kept.ladder, ran)
    assert len(isolation.render(kept)) <= isolation.BYTES_MAX


def a_hook(home: Home, text: str, mode: int = 0o755) -> Path:
    home.isolation_hook.write_text(f"#!/bin/sh\n{text}\n")
    home.isolation_hook.chmod(mode)
    return home.isolation_hook


def run(home: Home, site: str = "north", level: Level = Level.DEAF) -> list[hook.Run]:
    return hook.run_hooks(home, site, level, SystemClock())


def test_a_hook_is_told_site_and_level_and_little_else(home: Home) -> None:
    a_hook(home, 'echo "$@"; env | cut -d= -f1 | sort | tr "\\n" " "; exit 7')
    (found,) = run(home)
    assert found.exit == 7
    assert found.output.split() == ["north", "4", "LANG", "PATH", "PWD"]


def test_a_hook_that_hangs_is_ended_with_all_it_started(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hook, "LIMIT_S", 0.4)
    a_hook(home, "sleep 60 & echo $!; trap '' TERM; wait; sleep 60")
    (found,) = run(home)
    assert found.exit is None
    assert "ended after" in found.output
    state = Path(f"/proc/{int(found.output.split()[0])}/stat")
    assert not state.exists() or state.read_text().rsplit(")", 1)[1].split()[0] == "Z"


def test_what_a_hook_leaves_behind_is_not_waited_for(home: Home) -> None:
    a_hook(home, "sleep 60 & echo done")
    began = SystemClock().monotonic_us()
    assert run(home) == [hook.Run(0, "done")]
    assert SystemClock().monotonic_us() - began < 5_000_000


def test_what_a_hook_says_is_cut_and_printable(home: Home) -> None:
    a_hook(home, "head -c 1000000 /dev/zero; printf '\\033[2J'")
    (found,) = run(home)
    assert found.exit == 0
    assert set(found.output) <= {"?"}
    assert len(found.output) == hook.OUTPUT_MAX_BYTES


@pytest.mark.parametrize(
    ("mode", "told"), [(0o644, "no executable"), (0o757, "others may write"), (0o775, "others may write")]
)
def test_a_hook_that_somebody_else_could_have_written_is_not_run(home: Home, mode: int, told: str) -> None:
    marker = home.path / "ran"
    a_hook(home, f"touch {marker}", mode)
    if os.getuid() == 0 and mode == 0o644:
        pytest.skip("root needs only one x bit") if os.access(home.isolation_hook, os.X_OK) else None
    (found,) = run(home)
    assert found.exit is None
    assert told in found.output
    assert not marker.exists()


def test_a_folder_of_hooks_has_one_for_each_site(home: Home) -> None:
    home.isolation_hook.mkdir()
    for site in ("north", "south"):
        (home.isolation_hook / site).write_text('#!/bin/sh\necho "$0 $@"\n')
        (home.isolation_hook / site).chmod(0o755)
    assert [one.output.split()[-2:] for one in run(home)] == [["north", "4"]]
    assert [one.output.split()[-2:] for one in run(home, "*", Level.SEPARATED)] == [["north", "5"], ["south", "5"]]
    assert run(home, "elsewhere") == []
