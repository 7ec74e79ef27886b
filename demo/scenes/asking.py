"""From a stranger at the door to a certificate in the engineer's hand."""

from __future__ import annotations

import json
import re
import subprocess
from datetime import datetime, timedelta

from demo.deployment import make_key, write_ssh_config
from demo.doors import Browser, Client
from demo.kestrel import BMS_21, BMS_22, BMS_80, DESMOND, MARGUERITE, PASSWORD, PCS_01, SEOYEON, SIGNE, TAEKYUNG
from demo.stage import Stage, approve, expect, last_line


def strange_key(stage: Stage) -> str:
    home = stage.site.home.path
    make_key(home / "stranger" / "id_ed25519", "stranger")
    port = stage.site.ssh.rpartition(":")[2]
    config = write_ssh_config(home / "stranger", known_hosts=home / "known_hosts", port=port)
    done = Client(config, home / "askpass").run("gate", "whoami")
    expect(done.returncode == 255 and not done.stdout, "ssh ends with 255 and nothing is said", done.stdout)
    expect(b"Permission denied" in done.stderr, "permission is denied", done.stderr)
    return last_line(done.stderr)


def wrong_code(stage: Stage) -> str:
    client = stage.client(SEOYEON)
    done = client.run("gate", "whoami", code=stage.site.phones.wrong(SEOYEON.handle))
    expect(done.returncode == 255 and b"Permission denied" in done.stderr, "a wrong code is denied", done.stderr)
    stage.rest()
    stage.spent_code = stage.code(SEOYEON)
    done = client.run("gate", "whoami", code=stage.spent_code)
    text = done.stdout.decode().strip()
    expect(done.returncode == 0 and text.startswith(SEOYEON.handle), "the right one opens the console", done.stderr)
    return text


def spent_code(stage: Stage) -> str:
    expect(bool(stage.spent_code), "the code of the scene before was used")
    answer = Browser(stage.site.web).log_in(SEOYEON.handle, PASSWORD, stage.spent_code)
    expect(answer.status == 403 and "did not work" in answer.plain, "the web refuses the code", answer.plain)
    done = stage.client(SEOYEON).run("gate", "whoami", code=stage.spent_code)
    expect(done.returncode == 255 and not done.stdout, "ssh refuses it a second time", done.stdout)
    stage.rest()
    stage.rest()  # two failures in a row: two seconds
    return f"web: {answer.status}; ssh: {last_line(done.stderr)}"


def ask(stage: Stage) -> str:
    quarantined = f"request {BMS_80.login} --for 2h --reason 'look at it'"
    wanted = (
        f"request {BMS_21.login},{BMS_22.login} --for 2h --change CHG-1042 --needs shell,exec,sftp-read "
        "--reason 'rack 7 cell 4 drifts since the firmware of Tuesday' --json"
    )
    typed = "\n".join((quarantined, wanted, "exit", "")).encode()
    done = stage.client(SEOYEON).run("gate", code=stage.code(SEOYEON), options=["-T"], stdin=typed)
    refused = b"asset not released for access"
    expect(refused in done.stderr, "the quarantined asset is refused with its reason", done.stderr)
    found = re.search(rb"\{.*\}", done.stdout)
    expect(found is not None, "the other request stands", done.stdout + done.stderr)
    answer = json.loads(found[0]) if found else {}
    expect(answer.get("state") == "pending", "it is pending", answer)
    stage.request_id = answer["id"]
    return f"{BMS_80.name}: {refused.decode()}; {BMS_21.name} and {BMS_22.name}: {answer['state']}"


def approve_own(stage: Stage) -> str:
    words = ("request", BMS_22.login, "--for", "15s", "--reason", "one-look")
    stage.short_request_id = str(stage.console(TAEKYUNG, *words)["id"])
    browser = stage.browser(TAEKYUNG)
    page = browser.get(f"/requests/{stage.short_request_id}")
    expect(page.status == 200, "the engineer sees the request", page.plain)
    fields = [("token", page.token), ("version", "1"), ("asset", BMS_22.login), ("capability", "exec")]
    answer = browser.send(f"/requests/{stage.short_request_id}/approve", *fields)
    expect(answer.status == 404, "there is no such page for an engineer", f"{answer.plain} {answer.status}")
    state = stage.row(stage.short_request_id, "requests")["state"]
    expect(state == "pending", "the request still waits", state)
    kept = [row for row in stage.rows("ledger", "show") if row["kind"] == "approval.refused"]
    expect(bool(kept) and kept[-1]["request_id"] == stage.short_request_id, "the try is kept in the ledger", kept[-1:])
    return f"web: {answer.status}; ledger: {kept[-1]['reason']}"


def narrow(stage: Stage) -> str:
    expect(bool(stage.request_id), "a request waits")
    owner = stage.browser(MARGUERITE)
    expect(stage.request_id in owner.get("/").text, "it is on the owner's first page")
    page = owner.get(f"/requests/{stage.request_id}")
    for fact in (SEOYEON.name, BMS_21.login, BMS_22.login, "CHG-1042", "cell 4 drifts"):
        expect(fact in page.plain, f"the page says {fact}", page.plain)
    ticks = [("asset", BMS_21.login), ("capability", "shell"), ("capability", "exec")]
    wider = approve(owner, stage.request_id, *ticks, ("length", "9h"))
    refused = wider.status == 422 and "Wider than what was asked" in wider.plain
    expect(refused, "nine hours are more than the two asked for", f"{wider.plain} {wider.status}")
    answer = approve(owner, stage.request_id, *ticks, ("length", "1h"))
    expect(answer.status == 303, "the narrowed yes is taken", answer.plain)
    given = [row for row in stage.rows("grants") if row["request"] == stage.request_id]
    expect(len(given) == 1 and given[0]["assets"] == [BMS_21.login], "one asset is granted", given)
    expect(given[0]["capabilities"] == "exec,shell", "files are not granted", given)
    closes = datetime.fromisoformat(given[0]["closes"])
    expect(closes <= stage.now() + timedelta(hours=1), "it ends within the hour", closes)
    stage.grant_id = given[0]["id"]
    return f"asked: 2 assets, 2 h, sftp too; granted: {BMS_21.name}, 1 h, {given[0]['capabilities']}"


def collect(stage: Stage) -> str:
    stage.collect(SEOYEON)
    path = stage.site.certificate(SEOYEON.handle)
    told = subprocess.run(["ssh-keygen", "-L", "-f", path], check=True, capture_output=True, text=True, timeout=20)
    listed = told.stdout.partition("Principals:")[2].partition("Critical Options:")[0].split()
    expect(sorted(listed) == sorted([BMS_21.login, SEOYEON.handle]), "the principals are the grant's", listed)
    options = told.stdout.partition("Critical Options:")[2]
    expect("source-address 127.0.0.1" in options, "it is bound to the collector's address", options)
    expect("forwarding" not in options, "it forwards nothing", options)
    valid = re.search(r"Valid: from (\S+) to (\S+)", told.stdout)
    return f"{', '.join(listed)}; valid {valid[1][11:]} to {valid[2][11:]}" if valid else ""


def two_owners(stage: Stage) -> str:
    words = ("request", PCS_01.login, "--for", "2h", "--reason", "grid-code-test")
    request_id = str(stage.console(SIGNE, *words)["id"])
    owner = stage.browser(MARGUERITE)
    ticks = [("asset", PCS_01.login), ("capability", "shell"), ("capability", "exec")]
    first = approve(owner, request_id, *ticks)
    expect(first.status == 303, "the first yes is taken", first.plain)
    expect(stage.row(request_id, "requests")["state"] == "pending", "one yes opens nothing")
    again = approve(owner, request_id, *ticks)
    expect(again.status == 403, "the same owner is not a second one", f"{again.plain} {again.status}")
    code = stage.code(DESMOND)
    done = stage.site.cli("approve", request_id, "--as", DESMOND.handle, "--totp", code, "--json")
    expect(done.returncode == 0 and json.loads(done.stdout)["state"] == "approved", "the second yes opens", done.stderr)
    return f"{PCS_01.name}: 1st yes pending, same owner {again.status}, 2nd owner approved"
