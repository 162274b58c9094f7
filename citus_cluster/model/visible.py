"""External text, made safe to show: characters that a terminal would interpret, or would not show, are escaped.

Names from servers, files and users can contain any character: ``\\x1b]52;…`` writes to a terminal's clipboard,
``\\u202e`` reverses the rest of the line, a line break forges a line of output. JSON keeps every character, and escapes
these.
"""

import json
import re
import unicodedata

_HIDDEN_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Control and format characters, lone surrogates, line and paragraph separators."""


def visible(text: str, *, keep: str = "") -> str:
    """Replace hidden characters with Python's escapes, such as ``\\x1b``; a tab becomes a space.

    Characters in ``keep`` stay. The result is as wide as it looks.
    """
    if text.isprintable():
        return text
    return "".join(c if c in keep or not _is_hidden(c) else " " if c == "\t" else _escape(c) for c in text)


def visible_lines(text: str) -> str:
    """Like :func:`visible`, for text of several lines."""
    return visible(text, keep="\n")


def json_text(data: object, *, indent: int | None = None, compact: bool = False) -> str:
    """Return data as JSON in which every hidden character is escaped, and no other."""
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
