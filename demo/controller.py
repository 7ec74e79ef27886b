"""What a simulated controller says: a small shell with a prompt, a few commands, exit codes, files and screens that move.

Nothing of it runs on this machine's own shell: every command is written out here.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import shlex
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

import asyncssh

from broker.clock import SystemClock
from demo.kestrel import Device

NOT_FOUND: Final = 127
INTERRUPTED: Final = 130
_BLOCK: Final = 65536
_CLOCK: Final = SystemClock()
Process = asyncssh.SSHServerProcess[str]
"""Texts are bytes as Latin-1, so that whatever is piped through comes out as it went in."""


@dataclass(frozen=True, slots=True)
class Console:
    """One session channel at a controller. files: what `ls` and sftp show; booted_us: for uptime."""

    device: Device
    files: Path
    booted_us: int
    process: Process

    def say(self, text: str) -> None:
        """Write text and a line's end."""
        self.process.stdout.write(text.encode().decode("latin-1") + "\n")

    @property
    def has_terminal(self) -> bool:
        return self.process.term_type is not None


Command = Callable[[Console, Sequence[str]], Awaitable[int]]


async def run(console: Console) -> None:
    """Serve one channel: the command it came with, or a prompt until it leaves."""
    process = console.process
    with contextlib.suppress(asyncssh.Error, OSError):  # the other side went away
        if process.command is not None:
            process.exit(await _line(console, process.command))
            return
        if console.has_terminal:
            console.say(f"{console.device.model}  {console.device.firmware}  serial {console.device.serial}")
            console.say("Type help for what this unit knows.")
        process.exit(await _prompt(console))


async def _prompt(console: Console) -> int:
    process, status = console.process, 0
    while True:
        if console.has_terminal:
            process.stdout.write(f"{console.device.name}:~$ ")
        try:
            line = await _typed(console)
        except (asyncssh.BreakReceived, asyncssh.SignalReceived):
            console.say("")
            continue
        words = line.split()
        if not line or words[:1] in (["exit"], ["logout"]):
            return int(words[1]) & 0xFF if len(words) == 2 and words[1].isdecimal() else status
        if words:
            status = await _line(console, line)


async def _typed(console: Console) -> str:
    """One line; the terminal's size may change while it is typed."""
    while True:
        with contextlib.suppress(asyncssh.TerminalSizeChanged):
            return await console.process.stdin.readline()


async def _line(console: Console, line: str) -> int:
    try:
        words = shlex.split(line)
    except ValueError as error:
        console.process.stderr.write(f"sh: {error}\n")
        return 2
    if not words:
        return 0
    command = COMMANDS.get(words[0])
    if command is None:
        console.process.stderr.write(f"sh: {words[0]}: not found\n")
        return NOT_FOUND
    try:
        return await command[0](console, words[1:])
    except (asyncssh.BreakReceived, asyncssh.SignalReceived):
        return INTERRUPTED


async def _help(console: Console, _words: Sequence[str]) -> int:
    for name, (_, meaning) in COMMANDS.items():
        console.say(f"  {name:<10} {meaning}")
    return 0


async def _show(console: Console, words: Sequence[str]) -> int:
    what = words[0] if words else ""
    if what == "cells":
        console.say(f"{console.device.name}  rack 7 of 12")
        console.say("cell    volts   degC   state")
        for number in range(1, 13):
            low = number == 4
            volts, warm = (3.214, 27.9) if low else (3.288 + number * 7 % 5 / 1000, 24.0 + number * 3 % 7 / 10)
            console.say(f"{number:>4}    {volts:.3f}   {warm:.1f}   {'DRIFT' if low else 'ok'}")
    elif what == "alarms":
        console.say("W-0417  rack 7 cell 4  voltage below its neighbours by 74 mV")
    elif what == "version":
        console.say(f"{console.device.model}  {console.device.firmware}  serial {console.device.serial}")
    else:
        console.process.stderr.write("usage: show cells|alarms|version\n")
        return 2
    return 0


async def _uptime(console: Console, _words: Sequence[str]) -> int:
    up_s = (_CLOCK.monotonic_us() - console.booted_us) // 1_000_000
    console.say(f"{_CLOCK.now():%H:%M:%S} up {up_s // 60} min {up_s % 60} s, load average: 0.07, 0.05, 0.01")
    return 0


async def _hostname(console: Console, _words: Sequence[str]) -> int:
    console.say(console.device.name)
    return 0


async def _whoami(console: Console, _words: Sequence[str]) -> int:
    console.say(str(console.process.get_extra_info("username")))
    return 0


async def _stty(console: Console, words: Sequence[str]) -> int:
    if list(words) != ["size"] or not console.has_terminal:
        console.process.stderr.write("stty: only size, and only on a terminal\n")
        return 1
    width, height, *_ = console.process.term_size
    console.say(f"{height} {width}")
    return 0


async def _top(console: Console, _words: Sequence[str]) -> int:
    """Draw once a second until q or ^C; without a terminal, once."""
    if not console.has_terminal:
        _draw(console, 0)
        return 0
    channel = cast(asyncssh.SSHLineEditorChannel, console.process.channel)
    channel.set_echo(False)
    channel.set_line_mode(False)
    try:
        for turn in range(86_400):
            console.process.stdout.write("\x1b[H\x1b[2J")
            _draw(console, turn)
            with contextlib.suppress(TimeoutError, asyncssh.TerminalSizeChanged):
                async with asyncio.timeout(1):
                    if (await console.process.stdin.read(1)) in ("", "q", "\x03"):
                        break
    finally:
        channel.set_line_mode(True)
        channel.set_echo(True)
    return 0


def _draw(console: Console, turn: int) -> None:
    console.say(f"top - {_CLOCK.now():%H:%M:%S}  {console.device.name}  tasks: 5")
    console.say("  PID  %CPU  COMMAND")
    for number, name in enumerate(("cellscan", "balancer", "canbridge", "modbusd", "watchdogd")):
        console.say(f"{210 + number * 7:>5}  {(turn * 3 + number * 5) % 17 / 2:>4.1f}  {name}")


async def _candump(console: Console, _words: Sequence[str]) -> int:
    """Frames of the rack bus, ten a second, until ^C."""
    for number in range(864_000):
        payload = hashlib.sha256(number.to_bytes(4, "big")).hexdigest()[:16].upper()
        console.say(f"can0  {0x180 + number % 12:03X}  [8]  {payload}")
        await console.process.stdout.drain()
        if not console.has_terminal:
            await asyncio.sleep(0.1)
            continue
        with contextlib.suppress(TimeoutError, asyncssh.TerminalSizeChanged):
            async with asyncio.timeout(0.1):
                await console.process.stdin.readline()  # ^C arrives as an exception
    return 0


async def _ls(console: Console, _words: Sequence[str]) -> int:
    for path in sorted(console.files.iterdir()):
        console.say(path.name)
    return 0


async def _cat(console: Console, words: Sequence[str]) -> int:
    """The named file of the unit, or what is piped in."""
    process = console.process
    if not words:
        while text := await process.stdin.read(_BLOCK):
            process.stdout.write(text)
            await process.stdout.drain()
        return 0
    if words[0] not in {path.name for path in console.files.iterdir()}:
        process.stderr.write(f"cat: {words[0]}: No such file or directory\n")
        return 1
    process.stdout.write((console.files / words[0]).read_bytes().decode("latin-1"))
    return 0


async def _sha256sum(console: Console, _words: Sequence[str]) -> int:
    found = hashlib.sha256()
    while text := await console.process.stdin.read(_BLOCK):
        found.update(text.encode("latin-1"))
    console.say(f"{found.hexdigest()}  -")
    return 0


async def _exit(_console: Console, words: Sequence[str]) -> int:
    return int(words[0]) & 0xFF if words and words[0].isdecimal() else 0


COMMANDS: Final[Mapping[str, tuple[Command, str]]] = {
    "help": (_help, "this list"),
    "show": (_show, "show cells, show alarms, show version"),
    "top": (_top, "what runs on this unit; q ends it"),
    "candump": (_candump, "frames of the rack bus, until ^C"),
    "uptime": (_uptime, "since when this unit is up"),
    "hostname": (_hostname, "the unit's name"),
    "whoami": (_whoami, "the account you are in"),
    "stty": (_stty, "stty size: the terminal's rows and columns"),
    "ls": (_ls, "the unit's files"),
    "cat": (_cat, "a file, or what is piped in"),
    "sha256sum": (_sha256sum, "the digest of what is piped in"),
    "exit": (_exit, "leave, with a status if given"),
}
