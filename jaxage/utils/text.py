"""Names from files and from the command line, as messages show them."""

import re
from pathlib import Path

_LONGEST = 120
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
_COMMA = re.compile(r"\d+,\d+", re.ASCII)


def parse_number(text: str) -> float:
    """A number of the digits 0-9 with a point and an exponent, and of nothing else that Python would read as one.

    Raises ValueError: `5_1`, nan and digits of other scripts are no numbers.
    """
    if not _NUMBER.fullmatch(text):
        hint = ": write a point for the decimal comma" if _COMMA.fullmatch(text) else ""
        raise ValueError(f"is not a number{hint}")
    return float(text)


def visible(text: str) -> str:
    """The text on one line, with the characters that cannot be seen escaped."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)


def quoted(name: str | Path) -> str:
    """A name in quotes on one line, with characters that cannot be seen escaped.

    Args:
        name: A path of the user's, or a text from a file. The middle of a long text is cut.
    """
    text = str(name)
    if isinstance(name, str) and len(text) > _LONGEST:
        text = f"{text[: _LONGEST // 2]}...{text[-_LONGEST // 2 :]}"
    return repr(text)
