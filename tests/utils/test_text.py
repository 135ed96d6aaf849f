from pathlib import Path

import pytest

from jaxage.utils.text import quoted, visible


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
