"""Text of strangers: shown whole, as text, and what deceives the eye is marked (WEB-7, WEB-12)."""

from __future__ import annotations

import html
import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from approval.foreign import oddities, show_foreign
from broker.domain.people import Role, RoleAt
from broker.store import inventory, people
from tests.approval.running import OWNER, Running

MARK = re.compile(r'<mark title="[^"]*">(.*?)</mark>', re.DOTALL)
UNSEEN = ("Cc", "Cf", "Co", "Cn", "Cs", "Zl", "Zp")


def inside(shown: str) -> str:
    assert shown.startswith('<bdi class="foreign">')
    assert shown.endswith("</bdi>")
    return shown.removeprefix('<bdi class="foreign">').removesuffix("</bdi>")


@given(st.text(alphabet=st.characters(), max_size=40))
def test_nothing_that_cannot_be_seen_is_left_and_nothing_acts_as_markup(text: str) -> None:
    shown = inside(str(show_foreign(text)))
    assert "<" not in MARK.sub("", shown)
    assert not any(unicodedata.category(ch) in UNSEEN and ch not in "\n\t\r" for ch in shown)
    assert len(MARK.findall(shown)) == oddities(text)


@given(st.text(alphabet=st.characters(), max_size=40))
def test_the_text_can_be_read_back_from_what_is_shown(text: str) -> None:
    """Whatever was marked stands there by its number, all else as it is: nothing is dropped, nothing is put in another order."""

    def spelt(found: re.Match[str]) -> str:
        number = re.fullmatch(r"U\+([0-9A-F]{4,6})", found[1])
        return chr(int(number[1], 16)) if number else html.unescape(found[1])

    shown = inside(str(show_foreign(text)))
    back, at = "", 0
    for found in MARK.finditer(shown):
        back += html.unescape(shown[at : found.start()]) + spelt(found)
        at = found.end()
    back += html.unescape(shown[at:])
    assert back == text


@pytest.mark.parametrize(
    "odd",
    [
        "\u202e",
        "\u2066",
        "\u200b",
        "\u200f",
        "\ufeff",
        "\u00ad",
        "\u2028",
        "\u3164",
        "\u2800",
        "\u00a0",
        "\x1b",
        "\x00",
        "\ue000",
        "\U000e0041",
        "kestr\u0435l",
        "\u0430\u0441\u0441\u0435\u0441\u0441",
        "\uff42\uff4d\uff53",
        "\U0001d41b\U0001d426\U0001d42c",
        "o\u0300\u0300\u0300\u0300",
    ],
    ids=ascii,
)
def test_each_way_to_deceive_is_marked(odd: str) -> None:
    assert oddities(f"bms {odd} 01") >= 1
    assert "<mark" in str(show_foreign(odd))


@pytest.mark.parametrize(
    "plain",
    [
        "replace cell 4\nthen test",
        "Ærøskøbing, Zürich",
        "배터리 점검",
        "замена ячейки",
        "صيانة",
        "5 °C → 7 µV",
        "",
        "a\tb",
    ],
)
def test_honest_text_of_any_script_is_not_marked(plain: str) -> None:
    assert oddities(plain) == 0
    assert "<mark" not in str(show_foreign(plain))


def test_law_10_hostile_names_and_reasons_are_text_on_every_page_that_shows_them(site: Running) -> None:
    name, reason = 'O <img src=x onerror="alert(1)">', "</div><script>alert(1)</script>{{7*7}}\n" * 20
    with site.db.begin() as tx:
        here = inventory.load_site(tx, "kestrel")
        people.insert_person(tx, handle="o.two", name=name, roles=[RoleAt(Role.OWNER, here.id)], by="test")
        site.enrol(tx, "o.two")
    asked = site.ask(reason=reason, change="<i>CHG</i>")
    denier = site.client("o.two")
    seen = [denier.get(path).text for path in ("/", f"/requests/{asked.id}", "/account")]
    site.act(denier, f"/requests/{asked.id}/deny", version="1", reason="<u>no</u>")
    seen += [site.client(OWNER).get(f"/requests/{asked.id}").text]
    for text in seen:
        assert not any(tag in text for tag in ("<script>alert", "<img", "<i>CHG", "<u>no"))
    assert "&lt;script&gt;alert(1)&lt;/script&gt;{{7*7}}" in seen[1]
    assert "&lt;i&gt;CHG&lt;/i&gt;" in seen[1]
    assert "&lt;u&gt;no&lt;/u&gt;" in seen[3]
    for text in seen[2:]:
        assert "O &lt;img src=x onerror=&#34;alert(1)&#34;&gt;" in text


def test_a_page_says_how_many_places_are_not_what_they_seem(site: Running) -> None:
    asked = site.ask(reason="cell \u202e4 of kestr\u0435l\u200b")
    page = site.client(OWNER).get(f"/requests/{asked.id}").text
    assert "3 marked places are not what they seem" in page
    assert '<mark title="RIGHT-TO-LEFT OVERRIDE">U+202E</mark>' in page
    assert "letters of several scripts: CYRILLIC, LATIN" in page
    honest = site.ask("bms-02.kestrel")
    assert "Look twice" not in site.client(OWNER).get(f"/requests/{honest.id}").text
