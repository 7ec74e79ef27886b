"""Settings: what is written is what is read, and a slip in a security setting never passes as its default."""

from __future__ import annotations

import tomllib
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.domain.errors import BrokerError, Code
from broker.settings import Home, Settings, find_home, load_settings, parse_address, parse_settings, settings_text


def test_the_file_that_init_writes_says_every_key_with_its_meaning_and_default() -> None:
    lines = settings_text({}).splitlines()
    values = tomllib.loads("\n".join(line.removeprefix("# ") for line in lines if " = " in line))
    assert values.keys() == Settings.model_fields.keys()
    assert parse_settings(values, where="test") == parse_settings({}, where="test")
    assert tomllib.loads("\n".join(lines)) == {}
    assert all(field.description for field in Settings.model_fields.values())


@given(st.text(st.characters(codec="utf-8"), max_size=60))
def test_any_text_that_is_written_is_read_back(text: str) -> None:
    assert tomllib.loads(settings_text({"site_banner": text})) == {"site_banner": text}


@pytest.mark.parametrize(
    ("key", "value", "wanted"),
    [
        ("poll_sec", 1, "unknown key 'poll_sec'; remove it or correct its name"),
        ("certificate_life_s", 28801, "less than or equal to 28800"),  # CRT: never longer than 8 h
        ("asset_certificate_life_s", 3601, "less than or equal to 3600"),
        ("certificate_life_s", 0, "greater than 0"),
        ("poll_s", True, "valid number"),
        ("poll_s", "1", "valid number"),
        ("poll_s", float("nan"), "poll_s"),
        ("poll_s", float("inf"), "less than or equal"),
        ("warn_before_s", [60, -1], "warn_before_s.1: "),
        ("tries_per_person", 0, "greater than or equal to 1"),
        ("tries_per_person", 2.5, "valid integer"),
        ("certificate_source_address", "no", "valid boolean"),
        ("free_space_floor_fraction", 0.95, "less than or equal to 0.9"),
        ("ssh_listen", "2222", "ssh_listen: address '2222': write HOST:PORT"),
        ("ssh_listen", 2222, "valid string"),
        ("ssh_names", ["a b"], "'a b' is no host name"),
        ("web_listen", "0.0.0.0:443", "outside loopback needs web_tls_certificate"),
        ("web_listen", "127.0.0.1.example:8080", "outside loopback needs web_tls_certificate"),
        ("web_tls_key", "/key", "go together"),
        ("web_origin", "gate.example", "write https://HOST"),
        ("web_origin", "https://gate.example/pages", "without a path"),
        ("web_origin", "https://gate.example:none", "write https://HOST"),
        ("web_origin", "javascript://gate", "write https://HOST"),
        ("web_proxy", "10.0.0.0/8", "write one IP address"),
        ("web_proxy", "localhost", "write one IP address"),
        ("web_proxy", "127.0.0.1, 10.0.0.1", "write one IP address"),
        ("bastion_address", "gate.example", "does not appear to be an IPv4 or IPv6 address"),
        ("database", "sqlite:///site.db", "the whole path"),
        ("database", "postgresql://site:p@ss@host/w", "%40"),
        ("totp_issuer", "a:b", "without a colon"),
        ("totp_issuer", "", "at least 1 character"),
    ],
)
def test_a_bad_value_is_refused_with_its_key_and_file(key: str, value: Any, wanted: str) -> None:
    with pytest.raises(BrokerError) as told:
        parse_settings({key: value}, where="settings.toml")
    assert told.value.code is Code.INVALID
    assert told.value.detail.startswith("settings.toml: ")
    assert wanted in told.value.detail
    assert "\n" not in told.value.detail


@pytest.mark.parametrize(
    "origin", ["https://gate.example", "https://gate.example:8443", "http://[::1]:8080", "https://[::1]", ""]
)
def test_an_origin_is_a_scheme_and_a_host(origin: str) -> None:
    assert parse_settings({"web_origin": origin}, where="test").web_origin == origin


@pytest.mark.parametrize(
    ("written", "read"),
    [("", ""), ("127.0.0.1", "127.0.0.1"), ("::ffff:127.0.0.1", "127.0.0.1"), ("2001:DB8:0::1", "2001:db8::1")],
)
def test_the_proxy_is_read_as_peers_are_compared(written: str, read: str) -> None:
    assert parse_settings({"web_proxy": written}, where="test").web_proxy == read


@pytest.mark.parametrize("text", ["gate:22", "10.0.0.1:1", "[::1]:22", "[fe80::1%eth0]:22", "0.0.0.0:0", "a_b:65535"])
def test_an_address_is_read_and_shown_alike(text: str) -> None:
    assert str(parse_address(text)) == text


# fmt: off
NO_ADDRESS = [
    "", ":", "gate", "gate:", ":22", "::1:22", "[gate]:22", "gate:65536", "gate:-1", "gate:٢٢", "a b:22", "a\n:22", "[]:22",
    "a/b:22", "a@b:22", "[::1:22", "gate:" + "9" * 5000, "x" * 300 + ":22",
]
# fmt: on


@pytest.mark.parametrize("text", NO_ADDRESS, ids=range(len(NO_ADDRESS)))
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(BrokerError, match="write HOST:PORT"):
        parse_address(text)


@given(st.text(max_size=40))
def test_no_text_breaks_the_address_parser(text: str) -> None:
    try:
        found = parse_address(text)
    except BrokerError:
        return
    assert parse_address(str(found)) == found


@pytest.mark.parametrize(
    ("data", "wanted"),
    [
        (b"poll_s = = 1", "line 1"),
        (b"\xff\xfe", "is not UTF-8 text"),
        (b"poll_s = 1\npoll_s = 2", "Cannot overwrite a value"),
        (b"[site]\nx = 1", "unknown key 'site'"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, data: bytes, wanted: str) -> None:
    (tmp_path / "settings.toml").write_bytes(data)
    with pytest.raises(BrokerError) as told:
        load_settings(Home(tmp_path))
    assert f"{tmp_path}/settings.toml" in told.value.detail
    assert wanted in told.value.detail
    assert "\n" not in told.value.detail


def test_the_home_is_the_one_named_then_the_environments_then_the_usual(tmp_path: Path) -> None:
    assert find_home("a", {"WICKETGATE_HOME": "b"}).path == Path("a")
    assert find_home(None, {"WICKETGATE_HOME": "b"}).path == Path("b")
    usual = "/var/lib/wicketgate" if Path("/var/lib/wicketgate").is_dir() else "wicketgate-home"
    assert find_home(None, {}).path == Path(usual)


def test_without_a_word_of_the_site_the_engineer_is_warned_15_5_and_1_minutes_before_the_end() -> None:
    assert Settings().warn_before == tuple(timedelta(minutes=one) for one in (15, 5, 1))
