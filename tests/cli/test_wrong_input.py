"""Wrong input: one clear line on stderr, the exit code of the contract, nothing on stdout, not a row changed."""

from __future__ import annotations

import contextlib
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.cli.deployment import (
    ENGINEER,
    OWNER,
    PROGRAM,
    Deployment,
    Done,
    Template,
    leaves,
    public_key,
    run_here,
    run_program,
)

FAILED, WRONG_USAGE, NOT_FOUND, UNAVAILABLE = 1, 2, 3, 75
WINDOW = ("window", "open", "plant", "--vendor", "cellmaker")
ADD_ASSET = ("asset", "add", "new.plant", "--address", "10.0.0.1:22")
# Words, exit code, what the line must hold. $REQUEST, $WINDOW, $GRANT, $REC are the template's ids.
# fmt: off
WRONG: list[tuple[str, int, str]] = [
    ("nonsense", 2, "No such command 'nonsense'; see: wicketgate --help"),
    ("freeze ses-1", 75, "does not answer"),
    ("search text", 2, "No such command"),
    ("hold ses-1 --reason r", 2, "No such command"),
    ("isolate plant --reason r", 2, "Missing option"),
    ("isolate nowhere --level 3 --reason r", 3, "no site"),
    ("drill restore", 2, "No such command"),
    ("watch ses-1", 2, "No such command"),
    ("evidence ses-1 -o x.zip", 2, "No such command"),
    ("site", 2, "Missing command"),
    ("site add", 2, "Missing argument"),
    ("site add north", 2, "--timezone"),
    ("site list --nope", 2, "No such option"),
    ("site list extra", 2, "unexpected extra argument"),
    ("site add plant --timezone Europe/London", 1, "already"),
    ("site add North! --timezone Europe/London", 1, "site name"),
    ("site add north --timezone Mars/Base", 1, "IANA name"),
    ("site add north --timezone ../../etc/passwd", 1, "IANA name"),
    ("site add north --timezone Europe", 1, "IANA name"),
    ("zone add nowhere ot", 3, "no such site: 'nowhere'"),
    ("zone add plant UPPER", 1, "zone name"),
    ("zone list nowhere", 3, "no such site"),
    ("vendor add cellmaker", 1, "already"),
    ("vendor add x/y", 1, "vendor name"),
    ("vendor disable nobody", 3, "no such vendor"),
    ("asset add box --address 10.0.0.1:22", 1, "write ASSET.SITE"),
    ("asset add box.plant --address 10.0.0.1:22", 1, "already"),
    ("asset add new.nowhere --address 10.0.0.1:22", 3, "no such site"),
    ("asset add new.plant --address 10.0.0.1", 1, "write HOST:PORT"),
    ("asset add new.plant --address 10.0.0.1:0", 1, "between 1 and 65535"),
    ("asset add new.plant --address 10.0.0.1:99999", 1, "write HOST:PORT"),
    ("asset add new.plant --address a/b:22", 1, "write HOST:PORT"),
    ("asset add new.plant --address ::1:22", 1, "write HOST:PORT"),
    ("asset add new.plant --address :22", 1, "write HOST:PORT"),
    ("asset add new.plant --address 10.0.0.1:22 --account Root:", 1, "account"),
    ("asset add new.plant --address 10.0.0.1:22 --tcp 502,99999", 1, "numbers from 1 to 65535"),
    ("asset add new.plant --address 10.0.0.1:22 --zone nowhere", 3, "no such zone"),
    ("asset add new.plant --address 10.0.0.1:22 --class silly", 2, "--class"),
    ("asset add new.plant --address 10.0.0.1:22 --protocol telnet", 1, "leave out --protocol"),
    ("asset add new.plant --address 10.0.0.1:22 --auth password", 1, "leave out --protocol, --auth"),
    ("asset add new.plant --address 10.0.0.1:22 --host-key /no/such", 1, "cannot be read: No such file"),
    ("asset add new.plant --address 10.0.0.1:22 --host-key /etc/hostname", 1, "key"),
    ("asset show nothing.plant", 3, "no asset 'nothing.plant'; see: asset list"),
    ("asset state box.plant running", 2, "running"),
    ("asset state nothing.plant received", 3, "no asset"),
    ("asset pin nothing.plant --host-key $KEY", 3, "no asset"),
    ("person add engineer.one --name I --vendor cellmaker", 1, "already"),
    ("person add UP --name U --vendor cellmaker", 1, "handle 'UP'"),
    ("person add new --name N", 2, "either --vendor or --role"),
    ("person add new --name N --vendor cellmaker --role owner", 2, "either --vendor or --role"),
    ("person add new --name N --vendor cellmaker --site plant", 2, "--site says where"),
    ("person add new --name N --vendor nobody", 3, "no such vendor"),
    ("person add new --name N --role owner --site nowhere", 3, "no such site"),
    ("person add new --name N --role king", 2, "king"),
    ("person disable nobody", 3, "no such person"),
    ("invite nobody", 75, "start serve first"),
    ("enrol nobody", 3, "no such person"),
    ("enrol engineer.one --key /no/such.pub", 1, "cannot be read: No such file"),
    ("enrol engineer.one --key $PLAIN", 1, "key"),
    ("enrol engineer.one --password-stdin", 1, "no password came on stdin"),
    ("window open nowhere --vendor cellmaker --from 2027-02-24 --until 2027-02-25", 3, "no such site"),
    ("window open plant --vendor nobody --from 2027-02-24 --until 2027-02-25", 3, "no such vendor"),
    ("window open plant --vendor cellmaker --from tomorrow --until 2027-02-25", 1, "time 'tomorrow'"),
    ("window open plant --vendor cellmaker --from 2099-02-26 --until 2099-02-25", 1, "close after it opens"),
    ("window open plant --vendor cellmaker --from 2020-02-24 --until 2020-02-25", 1, "over already"),
    ("window open plant --vendor cellmaker --from 2099-01-01 --until 9999-12-31T23:59:59+00:00", 1, "out of range"),
    ("window open plant --vendor cellmaker --from 0001-01-01 --until 2099-01-01", 1, "out of range"),
    ("window open plant --vendor cellmaker --from 2099-01-01 --until 2099-02-01 --daily 22:00-06:00", 1, "over midnight"),
    ("window open plant --vendor cellmaker --from 2099-01-01 --until 2099-02-01 --daily 7-19", 1, "write 07:00-19:00"),
    ("person rights owner.one", 2, "--add or --remove"),
    ("person rights nobody --add owner@plant", 3, "no such person"),
    ("person rights owner.one --add king@plant", 1, "role 'king': one of owner"),
    ("person rights owner.one --add operator@nowhere", 3, "no such site"),
    ("person rights owner.one --remove owner", 1, "no such role"),
    ("person rights owner.one --remove owner@plant", 1, "disable the person instead"),
    ("person rights engineer.one --add owner@plant", 1, "belongs to a vendor"),
    ("window close win-none", 3, "no such window"),
    ("window extend win-none --until 2099-01-01 --reason r --as owner.one --totp 000000", 3, "no such window"),
    ("window extend $WINDOW --until soon --reason r --as owner.one --totp 000000", 1, "time 'soon'"),
    ("window extend $WINDOW --until 2099-01-01 --as owner.one --totp 000000", 2, "--reason"),
    ("requests --state odd", 2, "odd"),
    ("approve req-none --as owner.one --totp 000000", 3, "no request 'req-none'; see: requests"),
    ("approve $REQUEST --totp 000000", 2, "--as"),
    ("approve $REQUEST --as owner.one", 1, "give --totp CODE"),
    ("approve $REQUEST --as owner.one --until soon --totp 000000", 1, "time 'soon'"),
    ("approve $REQUEST --as owner.one --capabilities fly --totp 000000", 1, "fly"),
    ("deny req-none --as owner.one --reason r --totp 000000", 3, "no request"),
    ("deny $REQUEST --as owner.one --totp 000000", 2, "--reason"),
    ("revoke grt-none --reason r", 3, "no such grant|no grant"),
    ("revoke $GRANT", 2, "--reason"),
    ("sessions --live", 75, "does not answer"),
    ("kill ses-1 --reason r", 75, "does not answer"),
    ("kill ses-1", 2, "--reason"),
    ("recordings --asset nothing.plant", 3, "no asset"),
    ("recordings --person nobody", 3, "no such person"),
    ("recordings --since yesterday", 1, "time 'yesterday'"),
    ("replay ses-none", 3, "no recording 'ses-none'; see: recordings"),
    ("replay $REC --speed 0", 2, "--speed"),
    ("replay $REC --from now", 1, "duration 'now'"),
    ("replay $REC --idle 2y", 1, "duration '2y'"),
    ("replay $REC --channel 9", 3, "no such channel"),
    ("export $REC --format mp4 -o x", 2, "one of cast, cast3, text, raw"),
    ("export ses-none --format cast -o x", 3, "no recording"),
    ("export $REC --format cast", 2, "--output"),
    ("export $REC --format cast -o $PLAIN", 1, "is already there; nothing was changed"),
    ("export $REC --format cast -o /no/such/file", 1, "cannot be written: No such file"),
    ("verify", 2, "name recordings, or give --all"),
    ("verify --all $REC", 2, "name recordings, or give --all"),
    ("verify ses-none", 3, "no recording"),
    ("ledger", 2, "Missing command"),
    ("ledger show --last 0", 2, "--last"),
    ("ledger show --last many", 2, "--last"),
    ("ca show moon", 2, "moon"),
    ("ca show gate --known-hosts", 2, "only it vouches for hosts"),
    ("serve --only kitchen", 2, "kitchen"),
    ("init", 1, "is already there; nothing was changed"),
    ("init --ssh nowhere", 1, "ssh_listen: address 'nowhere': write HOST:PORT"),
    ("init --web 0.0.0.0:80", 1, "web_tls_certificate"),
    ("init --database mysql://h/n", 1, "already there|write sqlite"),
    ("demo --nope", 2, "No such option"),
]
# fmt: on


def complaints_about(done: Done, status: int, wanted: str) -> list[str]:
    """Whatever is not as it should be: that exit code, one line on stderr that holds what is wanted, nothing else anywhere."""
    rules = {
        f"the status should be {status}": done.status == status,
        "stdout is not empty": done.out == "",
        "not one line": re.fullmatch(r"wicketgate: [^\n]+\n", done.err) is not None,
        "a bug": "incident" not in done.err,
        f"not said: {wanted}": any(one in done.err for one in wanted.split("|")),
    }
    return [complaint for complaint, kept in rules.items() if not kept]


def said(done: Done, status: int, wanted: str) -> None:
    """It ended with that code and one line that holds what is wanted."""
    assert complaints_about(done, status, wanted) == [], done


def test_wrong_input_is_one_line_the_right_code_and_changes_nothing(shared: Deployment, tmp_path: Path) -> None:
    ids = shared.template
    (tmp_path / "key.pub").write_text(public_key() + "\n")
    (tmp_path / "plain.txt").write_text("no key at all\n")
    told = {
        "$REQUEST": ids.requests[0],
        "$WINDOW": ids.window,
        "$GRANT": ids.grant,
        "$REC": ids.recording,
        "$KEY": str(tmp_path / "key.pub"),
        "$PLAIN": str(tmp_path / "plain.txt"),
    }
    before = shared.rows()
    files = sorted(shared.path.rglob("*"))
    with contextlib.chdir(tmp_path):
        wrong = {}
        for line, status, wanted in WRONG:
            done = shared.run(*(told.get(word, word) for word in line.split()))
            complaints = [
                *complaints_about(done, status, wanted),
                *(["rows changed"] if shared.rows() != before else []),
            ]
            if complaints:
                wrong[line] = (complaints, done)
        assert wrong == {}
    assert sorted(shared.path.rglob("*")) == files
    assert sorted(path.name for path in tmp_path.iterdir()) == ["key.pub", "plain.txt"]


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (("deny", "$REQUEST", "--as", OWNER, "--reason", " "), "reason is missing"),
        (("revoke", "$GRANT", "--reason", ""), "reason is missing"),
        (("revoke", "$GRANT", "--reason", "\x1b[2J"), "control characters"),
        (("revoke", "$GRANT", "--reason", "r" * 3000), "reason is too long"),
        (("person", "add", "new", "--name", "\n", "--vendor", "cellmaker"), "name is missing"),
        ((*WINDOW, "--from", "2099-03-29 01:30", "--until", "2099-04-01"), "the clocks go from 01:00 to 02:00"),
        ((*WINDOW, "--from", "2099-10-25 01:30", "--until", "2099-11-01"), "write the offset: +01:00 or +00:00"),
        (
            (
                "window",
                "extend",
                "$WINDOW",
                "--until",
                "2099-03-29T01:00",
                "--reason",
                "r",
                "--as",
                OWNER,
                "--totp",
                "0",
            ),
            "does not exist",
        ),
        (("approve", "$REQUEST", "--until", "2099-10-25 01:59:59", "--as", OWNER, "--totp", "0"), "exists twice"),
        ((*ADD_ASSET[:-1], "1" * 5000 + ":" + "2" * 5000), "write HOST:PORT"),
        ((*ADD_ASSET, "--tcp", "3" * 5000), "numbers from 1 to 65535"),
        (("asset", "show", "\x1b[2J\x07"), "no asset '\\x1b[2J\\x07'"),
    ],
)
def test_hostile_words_are_refused_and_shown_escaped(shared: Deployment, words: tuple[str, ...], wanted: str) -> None:
    before = shared.rows()
    told = {"$REQUEST": shared.template.requests[0], "$GRANT": shared.template.grant, "$WINDOW": shared.template.window}
    given = [told.get(word, word) for word in words]
    done = shared.run(*given, *(["--totp", shared.code()] if words[0] == "deny" else []))
    assert done.status in (FAILED, NOT_FOUND)
    assert done.out == ""
    assert done.err.count("\n") == 1
    assert done.err[:-1].isprintable()
    assert wanted in done.err
    if words[0] != "deny":  # the owner's code is spent, and that is kept
        assert shared.rows() == before


def test_a_password_that_is_no_text_is_refused(shared: Deployment) -> None:
    said(shared.run("enrol", ENGINEER, "--password-stdin", stdin=b"\xff\xfe\n"), FAILED, "not UTF-8 text")
    said(shared.run("enrol", ENGINEER, "--password-stdin", stdin=b"short\n"), FAILED, "12 to 256 characters")


def test_the_real_program_ends_as_its_main_does(shared: Deployment) -> None:
    for line, status, wanted in (WRONG[0], WRONG[9], WRONG[18], WRONG[23]):
        said(shared.program(*line.split()), status, wanted)


def test_a_home_that_is_none_is_named_with_its_remedy(tmp_path: Path) -> None:
    for words in (["site", "list"], ["doctor", "--json"], ["migrate"], ["ca", "show", "gate"]):
        done = run_here("--home", str(tmp_path / "none"), *words)
        assert done.status in (FAILED, NOT_FOUND)
        assert f"no {tmp_path}/none/settings.toml; make a home with: wicketgate init" in done.out + done.err
    said(run_here("--home", "", "site", "list"), WRONG_USAGE, "--home is empty")
    assert list(tmp_path.iterdir()) == []


def test_the_home_may_be_named_in_the_environment(shared: Deployment) -> None:
    done = run_program("site", "list", "--json", WICKETGATE_HOME=str(shared.path))
    assert (done.status, [row["id"] for row in done.json]) == (0, ["plant"])


def test_a_reader_that_goes_away_is_no_traceback(shared: Deployment) -> None:
    command: list[str | Path] = [PROGRAM, "--home", shared.path, "ledger", "show"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdout.close()
        assert (child.stderr.read(), child.wait(60)) == (b"", FAILED)


# What people and scripts put where something else belongs.
VALUES = st.one_of(
    st.sampled_from(
        (
            "plant box.plant cellmaker owner pending gate cast text 000000 2027-02-24 2h 90s -1 0 1e999 99999999999999999999 "
            f"{ENGINEER} {OWNER} - -- --json -h ../../x %s {{0}} \x1b[2J \udcff ß \U0001f600 {'a' * 300} 10.0.0.1:22 * ,"
        ).split(" ")
    ),
    st.just(""),
    st.just(" "),
    st.text(st.characters(blacklist_characters="\0"), max_size=12),
)
LEAVES = [
    (words, command) for words, command in sorted(leaves(), key=lambda one: one[0]) if words[0] not in ("serve", "demo")
]


@st.composite
def command_lines(draw: st.DrawFn) -> list[str]:
    """A real command with hostile values, most often for all it needs, so that it gets past its first check."""
    words, command = draw(st.sampled_from(LEAVES))
    line = list(words)
    for parameter in command.params:
        if not draw(st.integers(0, 9)) < (9 if parameter.required else 3):
            continue
        if parameter.param_type_name == "option":
            line.append(parameter.opts[0])
        if not getattr(parameter, "is_flag", False):
            line.append(draw(VALUES))
    return line + draw(st.lists(VALUES, max_size=1))


@pytest.fixture(scope="module")
def scratch(template: Template, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    made = Deployment(template)
    folder = tmp_path_factory.mktemp("scratch")
    with contextlib.chdir(folder):
        yield made
    made.remove()


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(line=command_lines())
def test_no_words_at_all_lead_to_a_traceback_or_an_unknown_code(scratch: Deployment, line: list[str]) -> None:
    done = scratch.run(*line)
    assert done.status in (0, 1, 2, 3, 4, 5, 75), done
    assert "Traceback" not in done.err
    assert "incident" not in done.err, done
    assert done.err.replace("\n", "").isprintable()
    if done.status not in (0, 4, 5) and line[0] != "doctor":
        assert done.err.count("\n") == 1
