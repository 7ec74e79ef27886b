"""At the assets: what goes through, what does not, and how it ends."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from datetime import datetime

from demo.doors import Terminal
from demo.kestrel import BMS_21, BMS_22, MARGUERITE, MIRAE, SEOYEON, TAEKYUNG
from demo.stage import Stage, approve, expect, last_line

END_WITHIN_S = 1.0


def run_exec(stage: Stage) -> str:
    client = stage.client(SEOYEON)
    sent = secrets.token_bytes(1 << 20)
    done = client.run(BMS_21.login, "cat", stdin=sent)
    expect(done.returncode == 0 and done.stdout == sent, "a mebibyte comes back as it went", last_line(done.stderr))
    done = client.run(BMS_21.login, "sha256sum", stdin=sent)
    expect(done.stdout == f"{hashlib.sha256(sent).hexdigest()}  -\n".encode(), "the asset saw the same", done.stdout)
    told = done.stderr.decode()
    expect("this session is recorded" in told, "the engineer is told of the recording, on stderr", told)
    done = client.run(BMS_21.login, "exit 3")
    expect(done.returncode == 3, "the exit status comes through", done.returncode)
    return "1 MiB there and back, the same digest at both ends, exit status 3"


def use_terminal(stage: Stage) -> str:
    with stage.terminal(SEOYEON, BMS_21.login) as screen:
        prompt = f"{BMS_21.name}:~$ "
        screen.wait_for(prompt)
        stage.terminal_recording = stage.live(SEOYEON)["id"]
        screen.type(f"{stage.terminal_command}\n")
        screen.wait_for("DRIFT")
        screen.resize(100, 30)
        stage.wait_until(lambda: _size(screen) == "30 100", "the asset knows the new size")
        screen.type("exit 4\n")
        status = screen.wait_end()
    expect(status == 4, "the shell's exit status comes through", status)
    return "typed, resized to 100x30, left with status 4"


def _size(screen: Terminal) -> str:
    """What the asset holds for the terminal's size: ssh tells of a change on its own time, beside what is typed."""
    mark = len(screen.text)
    screen.type("stty size\n")
    screen.wait_for(f"{BMS_21.name}:~$ ", after=mark)
    found = re.search(r"\d+ \d+", screen.text[mark:])
    return found[0] if found else ""


def not_granted(stage: Stage) -> str:
    files = stage.client(SEOYEON).run(BMS_21.login, "sftp", options=["-s"])
    expect(b"capability not granted" in files.stderr, "files are refused with the reason", files.stderr)
    other = stage.client(SEOYEON).run(BMS_22.login, "hostname")
    expect(other.returncode == 255 and not other.stdout, "the certificate opens no other asset", other.stdout)
    colleague = stage.client(MIRAE).run(BMS_21.login, "hostname", code=stage.code(MIRAE))
    expect(b"no grant for this asset" in colleague.stderr, "a colleague has no grant", colleague.stderr)
    expect(not colleague.stdout, "nothing comes from the asset", colleague.stdout)
    return "sftp: capability not granted; colleague: no grant for this asset"


def kill(stage: Stage) -> str:
    owner = stage.browser(MARGUERITE)
    with stage.terminal(SEOYEON, BMS_21.login) as screen:
        screen.wait_for(f"{BMS_21.name}:~$ ")
        screen.type("top\n")
        screen.wait_for("watchdogd")
        session_id = stage.live(SEOYEON)["id"]
        page = owner.get(f"/sessions/{session_id}")
        expect(SEOYEON.name in page.plain and BMS_21.login in page.plain, "the owner sees who is where", page.plain)
        pressed = stage.site.clock.monotonic_us()
        answer = owner.send(f"/sessions/{session_id}/kill", ("token", page.token), ("reason", "wrong rack"))
        expect(answer.status == 303, "the kill is taken", answer.plain)
        screen.wait_for("wicketgate: killed", within_s=5)
        took_s = (screen.last_at - pressed) / 1e6
        screen.wait_end()
    expect(took_s <= END_WITHIN_S, "it ends within a second", f"{took_s:.2f} s")
    again = stage.client(SEOYEON).run(BMS_21.login, "hostname")
    expect(again.returncode != 0 and b"grant suspended" in again.stderr, "there is no way back in", again.stderr)
    return f"ended {took_s:.2f} s after the click; coming back: grant suspended"


def run_out(stage: Stage) -> str:
    expect(bool(stage.short_request_id), "a short request waits")
    owner = stage.browser(MARGUERITE)
    ticks = [("asset", BMS_22.login), ("capability", "shell"), ("capability", "exec")]
    answer = approve(owner, stage.short_request_id, *ticks)
    expect(answer.status == 303, "the owner agrees", answer.plain)
    stage.collect(TAEKYUNG)
    with stage.terminal(TAEKYUNG, BMS_22.login, "candump") as screen:
        screen.wait_for("can0")
        until = datetime.fromisoformat(stage.live(TAEKYUNG)["until"])
        ends_us = stage.site.clock.monotonic_us() + int((until - stage.now()).total_seconds() * 1e6)
        screen.wait_for("time is up", within_s=30)
        late_s = (screen.last_at - ends_us) / 1e6
        screen.wait_end()
        line = last_line(screen.text.partition("Connection to")[0])
    expect(-0.1 <= late_s <= END_WITHIN_S, "it ends at its end, within a second", f"{late_s:.2f} s after it")
    again = stage.client(TAEKYUNG).run(BMS_22.login, "hostname")
    expect(again.returncode == 255 and not again.stdout, "the certificate is over with it", again.stdout)
    return f"{late_s:.2f} s after its end: {line}"


def replay(stage: Stage) -> str:
    recording = stage.terminal_recording
    expect(bool(recording), "a terminal session was recorded")
    stage.wait_until(lambda: not stage.all_live(), "all sessions have ended")
    out = stage.site.home.path / "exported"
    out.mkdir(exist_ok=True)
    for form in ("text", "cast"):
        stage.cli("export", recording, "--format", form, "-o", str(out / f"terminal.{form}"))
    text = (out / "terminal.text").read_text(encoding="utf-8")
    for seen in (stage.terminal_command, "3.214", "DRIFT", "30 100"):
        expect(seen in text, f"the text says {seen}", text)
    head, *lines = (out / "terminal.cast").read_text(encoding="utf-8").splitlines()
    expect(json.loads(head)["version"] == 2 and len(lines) > 2, "the cast is an asciicast", head)
    played = stage.cli("replay", recording, "--speed", "1000").stdout
    expect("DRIFT" in played, "the replay shows it", played)
    return f"{recording}: {len(text.splitlines())} lines of text, {len(lines)} frames, replayed"
