"""Text from elsewhere, made fit to be shown: what a terminal would obey, or would not show, becomes an escape.

A server, a file or a user names things as it likes: ``\\x1b]52;…`` writes a terminal's clipboard, ``\\u202e`` turns the
rest of the line around, a line break forges a line of ours. JSON keeps every character, and escapes those.
"""

import json
import re
import unicodedata

_HIDDEN_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Control and format characters, lone surrogates, line and paragraph separators."""


def visible(text: str, *, keep: str = "") -> str:
    """Replace hidden characters by escapes as Python writes them, ``\\x1b``; a tab becomes a space.

    Those of ``keep`` stay. The width of what is left is that of what is seen.
    """
    if text.isprintable():
        return text
    return "".join(c if c in keep or not _is_hidden(c) else " " if c == "\t" else _escape(c) for c in text)


def visible_lines(text: str) -> str:
    """As :func:`visible`, for a text of several lines."""
    return visible(text, keep="\n")


def json_text(data: object, *, indent: int | None = None, compact: bool = False) -> str:
    """Write data as JSON in which every hidden character is escaped; other characters are as they are."""
    separators = (",", ":") if compact else None
    text = json.dumps(data, indent=indent, separators=separators, ensure_ascii=False, default=str)
    return text if text.isprintable() else _NOT_ASCII.sub(_json_escape, text)


_NOT_ASCII = re.compile(r"[^\n -~]")


def _is_hidden(character: str) -> bool:
    return not character.isprintable() and unicodedata.category(character) in _HIDDEN_CATEGORIES


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def _json_escape(found: "re.Match[str]") -> str:
    # json's own escapes: pairs of surrogates beyond the first 65,536 characters.
    return json.dumps(found[0])[1:-1] if _is_hidden(found[0]) else found[0]
