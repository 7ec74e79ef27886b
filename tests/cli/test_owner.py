"""The owner's own code at the command line: given by a script, asked on the terminal, wrong, too often, by nobody."""

from __future__ import annotations

import fcntl
import os
import pty
import selectors
import subprocess
import termios
from collections.abc import Callable
from functools import partial

from broker.clock import SystemClock
from tests.cli.deployment import OWNER, PROGRAM, Deployment, Done, end, environment

CLOCK = SystemClock()


def approve(deployment: Deployment, code: str, owner: str = OWNER) -> Done:
    return deployment.run("approve", deployment.template.requests[0], "--as", owner, "--totp", code, "--json")


def on_a_terminal(deployment: Deployment, *words: str, typed: Callable[[], bytes]) -> tuple[bytes, Done]:
    """Run a command on a terminal of its own and type when it asks; gives what the terminal showed, and how it ended."""
    keyboard, screen = pty.openpty()
    process = subprocess.Popen(
        [PROGRAM, "--home", deployment.path, *words],
        stdin=screen,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=environment(),
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(screen)
    shown, asked, until = b"", False, CLOCK.monotonic_us() + 60_000_000
    try:
        with selectors.DefaultSelector() as ready:
            ready.register(keyboard, selectors.EVENT_READ)
            while CLOCK.monotonic_us() < until:
                if not ready.select(0.2):
                    continue
                try:
                    more = os.read(keyboard, 4096)
                except OSError:  # the other end is gone: EIO
                    break
                shown += more
                if not asked and shown.endswith(b": "):
                    asked = True
                    os.write(keyboard, typed())
        out, err = process.communicate(timeout=30)
        return shown, Done(process.returncode, out, err)
    finally:
        end(process)
        os.close(keyboard)


def test_the_code_is_asked_on_the_terminal_and_not_shown(deployment: Deployment) -> None:
    request, code = deployment.template.requests[0], deployment.code()
    words = ("deny", request, "--as", OWNER, "--reason", "not today", "--json")
    shown, done = on_a_terminal(deployment, *words, typed=lambda: code.encode() + b"\n")
    assert (done.status, done.err, shown.strip()) == (0, "", f"Code of {OWNER}:".encode())
    assert done.json == {"id": request, "state": "denied"}


def test_a_prompt_that_is_left_ends_in_one_line_and_changes_nothing(deployment: Deployment) -> None:
    before = deployment.rows()
    words = ("approve", deployment.template.requests[0], "--as", OWNER)
    for key in (b"\x04", b"\x03"):
        _, done = on_a_terminal(deployment, *words, typed=partial(bytes, key))
        assert (done.status, done.out, done.err.strip()) == (130, "", "wicketgate: stopped")
    assert deployment.rows() == before


def test_a_wrong_code_is_refused_kept_and_decides_nothing(deployment: Deployment) -> None:
    before = deployment.rows()
    done = approve(deployment, deployment.wrong_code())
    assert (done.status, done.out) == (1, "")
    assert done.err == "wicketgate: the code was not accepted; wait for the next one\n"
    after = deployment.rows()
    assert deployment.new_entries(before) == ["login.refused"]
    assert after["access_request"] == before["access_request"]


def test_a_code_is_spent_by_the_yes_it_gave(deployment: Deployment) -> None:
    code = deployment.code()
    assert approve(deployment, code).status == 0
    again = deployment.run("deny", deployment.template.requests[1], "--as", OWNER, "--totp", code, "--reason", "no")
    assert (again.status, again.err) == (1, "wicketgate: the code was not accepted; wait for the next one\n")


def test_wrong_codes_lock_the_owner_out_even_with_the_right_one(deployment: Deployment) -> None:
    wrong = deployment.wrong_code()
    said = [approve(deployment, wrong).err for _ in range(3)]
    assert said[0] == "wicketgate: the code was not accepted; wait for the next one\n"
    assert said[-1].startswith("wicketgate: too many tries; wait until ")
    before = deployment.rows()
    done = approve(deployment, deployment.code())
    assert (done.status, done.out, done.err.startswith("wicketgate: too many tries; wait until ")) == (1, "", True)
    assert deployment.rows()["access_request"] == before["access_request"]


def test_nobody_looks_like_a_wrong_code_and_costs_a_try_of_this_account(deployment: Deployment) -> None:
    before = deployment.rows()
    unknown = approve(deployment, "000000", owner="no.such.owner")
    assert unknown == Done(1, "", "wicketgate: the code was not accepted; wait for the next one\n")
    tries = next(name for name in before if "try" in name or "attempt" in name)
    assert len(deployment.rows()[tries]) == len(before[tries]) + 1
    deployment.set(tries_per_source="2")
    approve(deployment, "000000", owner="no.such.owner")
    locked = approve(deployment, deployment.code())
    assert locked.err.startswith("wicketgate: too many tries; wait until ")


def test_an_engineers_own_code_opens_no_owners_door(deployment: Deployment) -> None:
    done = approve(deployment, deployment.code("engineer.one"), owner="engineer.one")
    assert (done.status, done.out, done.err.count("\n")) == (1, "", 1)
    assert "accepted" not in done.err


def test_an_extension_of_a_window_is_an_owners_with_a_reason_counted_and_shown(deployment: Deployment) -> None:
    opened = ("--from", "2099-03-27 09:00", "--until", "2099-03-27 17:00", "--daily", "09:00-17:00")
    made = deployment.run("window", "open", "plant", "--vendor", "cellmaker", *opened, "--json").json["id"]
    extend = ("window", "extend", made, "--until", "2099-03-30 17:00", "--as", OWNER, "--reason", "rain")
    before = deployment.rows()
    done = deployment.run(*extend, "--totp", deployment.code(), "--json")
    assert (done.status, done.err) == (0, ""), done
    assert done.json == {"id": made, "state": "extended"}
    assert deployment.new_entries(before) == ["window.extended"]
    [shown] = [one for one in deployment.run("window", "list", "--json").json if one["id"] == made]
    # Nine to five on both sides of the night in which the clocks are set forward.
    assert (shown["opens"], shown["closes"]) == ("2099-03-27T09:00:00+00:00", "2099-03-30T17:00:00+01:00")
    assert (shown["daily"], shown["extensions"], shown["time_zone"]) == ("09:00-17:00", 1, "Europe/London")
    [row] = [one for one in deployment.rows()["commissioning_window"] if made in one]
    assert {"2099-03-27T09:00:00", "2099-03-30T17:00:00", "09:00", "17:00"} <= set(row)
