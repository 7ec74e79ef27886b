"""What waits, and a decision on it, over real HTTP."""

from __future__ import annotations

from tests.approval.running import OWNER, Running, token_in


def test_an_owner_logs_in_reads_and_approves(site: Running) -> None:
    asked = site.ask()
    owner = site.client(OWNER)
    assert asked.id in owner.get("/").text
    page = owner.get(f"/requests/{asked.id}").text
    fields = {
        "token": token_in(page),
        "version": "1",
        "asset": ["bms-01.kestrel"],
        "capability": ["shell", "exec"],
        "length": "",
    }
    done = owner.post(f"/requests/{asked.id}/approve", data=fields)
    assert (done.status_code, done.headers["location"]) == (303, f"/requests/{asked.id}")
    assert "approved" in owner.get(f"/requests/{asked.id}").text
