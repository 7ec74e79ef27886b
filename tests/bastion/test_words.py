"""The words of a console line: what ssh makes of a quoted reason is still that reason."""

from __future__ import annotations

import pytest

from broker.bastion.answers import Words, WrongWords, split_words


def the_parser() -> Words:
    parser = Words()
    parser.add_argument("asset")
    parser.add_argument("--for", dest="length", required=True)
    parser.add_argument("--reason", required=True)
    return parser


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('bms-01 --for 2h --reason "cell 4 drifts"', "cell 4 drifts"),
        ("bms-01 --for 2h --reason cell 4 drifts", "cell 4 drifts"),
        ("bms-01 --reason cell 4 drifts --for 2h", "cell 4 drifts"),
        ("bms-01 --for 2h --reason it's stuck at 4", "it's stuck at 4"),
        ("--reason drift bms-01 --for 2h", "drift"),
        ("bms-01 --for 2h --reason=drift", "drift"),
    ],
)
def test_a_reason_of_several_words_needs_no_second_pair_of_quotes(line: str, reason: str) -> None:
    asked = the_parser().parse(split_words(line))
    assert (asked.asset, asked.length, asked.reason) == ("bms-01", "2h", reason)


@pytest.mark.parametrize(
    "line",
    [
        "bms-01 extra --for 2h --reason drift",
        "bms-01 --for 2h --reason",
        "bms-01 --for 2h 3h --reason drift",
        "--for 2h --reason drift bms 01",
    ],
)
def test_a_word_too_many_elsewhere_is_still_wrong(line: str) -> None:
    with pytest.raises(WrongWords):
        the_parser().parse(split_words(line))


@pytest.mark.parametrize("line", ['request bms-01 --reason "cell', "request bms-01 --reason 'cell", "'"])
def test_a_quote_left_open_is_wrong(line: str) -> None:
    with pytest.raises(ValueError, match="quotation"):
        split_words(line)
