"""Pure. What the text of an answer must be: a guide.

It travels with its request wherever that goes. What it allows next is a function of the guide and of the tokens made so
far, and of nothing else: so a stream that moves goes on under it as if it had not.
"""

from msgspec import Struct

from proto.limits import KIB

JSON_SCHEMA, JSON_OBJECT, REGEX, CHOICE, GRAMMAR = "json_schema", "json_object", "regex", "choice", "grammar"
KINDS = (JSON_SCHEMA, JSON_OBJECT, REGEX, CHOICE, GRAMMAR)
TEXT_BYTES_MAX = 64 * KIB  # some times the largest schema in use


class Guide(Struct, array_like=True, frozen=True):
    """`text`: a JSON schema, a regular expression, a JSON list of strings, or a grammar (Lark's or GBNF)."""

    kind: str
    text: str = ""


def guide_complaint(guide: Guide | None) -> str:
    """What is wrong with a guide before anybody has read its text; empty if nothing is."""
    if guide is None:
        return ""
    if guide.kind not in KINDS:
        return f"a guide is one of {', '.join(KINDS)}"
    if len(guide.text.encode()) > TEXT_BYTES_MAX:
        return f"the guide has more than {TEXT_BYTES_MAX} bytes"
    return ""
