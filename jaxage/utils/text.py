"""Names from files and from the command line, as messages show them."""

from pathlib import Path

_LONGEST = 120


def quoted(name: str | Path) -> str:
    """A name in quotes on one line: characters that cannot be seen are escaped, and the middle of a long one is cut."""
    text = str(name)
    if len(text) > _LONGEST:
        text = f"{text[: _LONGEST // 2]}...{text[-_LONGEST // 2 :]}"
    return repr(text)
