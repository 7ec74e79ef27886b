"""Changing a CA's key in steps, each of which leaves a home that serves; what was cut off is finished by asking again.

1. NAME.next and NAME.next.pub are made; from here on the next key is accepted, and signs nothing.
2. NAME.old.pub gets the current key, so that it stays accepted.
3. The ledger gets its entry.
4. NAME.next takes the place of NAME: from here on the new key signs. 5. NAME.next.pub takes the place of NAME.pub.
"""

from __future__ import annotations

import os
from pathlib import Path

from broker.domain.errors import BrokerError, Code
from broker.openssh import PublicKey
from broker.settings import Home
from broker.signer.keys import make_key
from broker.signer.trusted import CaFiles, full_line


def prepare(home: Home, name: str) -> PublicKey:
    """Make the next key, unless there is one (1). Raises BrokerError(CONFLICT) when the private keys are not files of the home."""
    files = CaFiles(home, name)
    if (ready := files.following()) is not None:
        return ready
    if not files.private.exists():
        raise BrokerError(
            Code.CONFLICT,
            f"the {name} CA's private key is not in this home: make a new one where it is held, write its public half to "
            f"{files.next_public}, and run this again; a key in a credential also needs a restart of the signer then",
        )
    files.next_private.unlink(missing_ok=True)  # of a step that was cut off: its public half was never shown
    unfinished = files.folder / f"{name}.next.new"
    for left in (unfinished, unfinished.with_name(unfinished.name + ".pub")):
        left.unlink(missing_ok=True)
    make_key(unfinished, f"wicketgate {name} CA")
    _give(unfinished, like=files.private)
    _give(unfinished.with_name(unfinished.name + ".pub"), like=files.public)
    unfinished.rename(files.next_private)
    unfinished.with_name(unfinished.name + ".pub").rename(files.next_public)  # last: what is shown can sign
    _settle(files.folder)
    made = files.following()
    assert made is not None  # noqa: S101 - just put there
    return made


def keep_old(home: Home, name: str, gone: frozenset[str]) -> PublicKey:
    """Have the current key accepted further (2); gives it. gone: fingerprints of older ones that no longer are."""
    files = CaFiles(home, name)
    current = files.current()
    kept = {one.blob: one for one in [*files.older(), current] if one.fingerprint not in gone}
    fresh = files.old.with_name(files.old.name + ".new")
    with fresh.open("w", encoding="ascii") as file:
        file.write("".join(f"{full_line(one)}\n" for one in kept.values()))
        file.flush()
        os.fsync(file.fileno())
    _give(fresh, like=files.public)
    fresh.rename(files.old)
    _settle(files.folder)
    return current


def switch(home: Home, name: str) -> None:
    """Have the next key sign from now on (4, 5)."""
    files = CaFiles(home, name)
    if files.next_private.exists():
        files.next_private.rename(files.private)
        _settle(files.folder)
    files.next_public.rename(files.public)
    _settle(files.folder)


def _give(path: Path, *, like: Path) -> None:
    """Owner, group and mode as those of the file it stands beside: the signer's, where root rotates."""
    found = like.stat()
    if (found.st_uid, found.st_gid) != (os.geteuid(), os.getegid()):
        os.chown(path, found.st_uid, found.st_gid)
    path.chmod(found.st_mode & 0o777)


def _settle(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
