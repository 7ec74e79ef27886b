"""A command on an asset through the bastion, as stock ssh sees it."""

from __future__ import annotations

from tests.e2e.site import BOX, Plant


def test_output_errors_and_exit_status_come_apart_and_whole(shared: Plant) -> None:
    done = shared.ssh(BOX, "cat; echo wrong >&2; exit 37", stdin=bytes(range(256)) * 64)
    assert (done.returncode, done.stdout) == (37, bytes(range(256)) * 64)
    first, _, rest = done.stderr.partition(b"\n")
    assert first.startswith(b"wicketgate: box.plant as ")
    assert rest == b"wrong\n"
