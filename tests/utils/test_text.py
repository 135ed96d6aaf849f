from pathlib import Path

import pytest

from jaxage.utils.text import parse_number, quoted, visible


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a b.jpg", "'a b.jpg'"),
        (Path("faces/顔.jpg"), "'faces/顔.jpg'"),
        ("zero\u200bwidth\n.jpg", r"'zero\u200bwidth\n.jpg'"),
        ("not utf-8 \udcff", r"'not utf-8 \udcff'"),
        ("a" * 100 + "b" * 100, f"'{'a' * 60}...{'b' * 60}'"),
        (Path("a" * 200), f"'{'a' * 200}'"),
    ],
)
def test_a_name_is_one_short_line(name: str | Path, shown: str) -> None:
    assert quoted(name) == shown


def test_what_cannot_be_seen_is_escaped() -> None:
    assert visible("it's 顔\\ \n\u200b\udce9.jpg") == "it's 顔\\ \\n\\u200b\\udce9.jpg"


@pytest.mark.parametrize("text", ["51", "51.", ".5", "5.1e1", "+5", "-5E-1"])
def test_numbers(text: str) -> None:
    assert parse_number(text) == float(text)


@pytest.mark.parametrize("text", ["5_1", "nan", "inf", "\u0665", "1 2", "", "0x1F", "1e", "e5", "."])
def test_what_python_reads_and_nobody_means_is_no_number(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a number$"):
        parse_number(text)
