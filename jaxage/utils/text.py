"""Names from files and from the command line, as messages show them."""

from pathlib import Path

_LONGEST = 120


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
