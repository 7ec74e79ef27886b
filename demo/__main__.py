"""`wicketgate demo`: Kestrel Flat on loopback, to try by hand or to see played (--story)."""

from __future__ import annotations

import argparse
import contextlib
import os
import selectors
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from broker.domain.errors import BrokerError
from demo.deployment import Deployment, Trouble, hear, leave_waiting, running
from demo.showing import codes, pictures, welcome


def main(words: Sequence[str]) -> int:
    """Run the demo until ^C, or the story to its end; gives the exit status."""
    parser = argparse.ArgumentParser(prog="wicketgate demo", description="Kestrel Flat on loopback.")
    parser.add_argument("--home", metavar="DIR", type=Path, help="a folder that is not there yet; it stays")
    parser.add_argument("--story", action="store_true", help="play the whole story unattended")
    parser.add_argument("--keep", action="store_true", help="keep the home afterwards")
    asked = parser.parse_args(words)
    hear()
    try:
        print("Kestrel Flat: making the site ...", flush=True)
        with running(asked.home, keep=asked.keep) as deployment:
            status = _play(deployment) if asked.story else _stay(deployment)
            if asked.home is not None or asked.keep:
                print(f"the home stays: {deployment.home.path}", flush=True)
    except KeyboardInterrupt:  # while it was still being made
        print("\nstopped", flush=True)
        return 130 if asked.story else 0
    except (Trouble, BrokerError, OSError, RuntimeError) as error:
        line = " ".join((getattr(error, "detail", "") or str(error)).split())
        print(f"demo: {line}", file=sys.stderr, flush=True)
        return 1
    return status


def _play(deployment: Deployment) -> int:
    from demo.story import play

    try:
        return play(deployment)
    except KeyboardInterrupt:
        print("\nstory: stopped", flush=True)
        return 130


def _stay(deployment: Deployment) -> int:
    """Say what there is to try, then answer Enter with codes until ^C. Raises Trouble when the program ends by itself."""
    leave_waiting(deployment)
    size = shutil.get_terminal_size()
    print(pictures(deployment.phones, columns=size.columns, coloured=sys.stdout.isatty()), end="\n\n")
    print(welcome(deployment), flush=True)
    try:
        with selectors.DefaultSelector() as waiting:
            ended = os.pidfd_open(deployment.serve.pid)
            waiting.register(ended, selectors.EVENT_READ)
            _listen_to_keyboard(waiting)
            while True:
                for key, _ in waiting.select():
                    if key.fd == ended:
                        deployment.serve.wait()
                        raise Trouble(deployment.died())
                    if os.read(key.fd, 4096):
                        print(codes(deployment.phones), flush=True)
                    else:
                        waiting.unregister(key.fd)  # nobody types here; ^C and SIGTERM still end it
    except KeyboardInterrupt:
        print("\nending; sessions are told ...", flush=True)
    return 0


def _listen_to_keyboard(waiting: selectors.BaseSelector) -> None:
    with contextlib.suppress(OSError, ValueError):  # stdin is a file or closed: nobody types
        waiting.register(sys.stdin.fileno(), selectors.EVENT_READ)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
