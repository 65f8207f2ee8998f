"""Where sentences end.

A full stop ends one once something tells that it is no decimal point: a space after it. The stops of Chinese and Japanese
need none.
"""

import re

STOP = r"[.!?…][\"'”’»)\]]*"
"""That ends a sentence where a space follows, and the quotes and brackets after it."""
CJK_STOP = "[。！？｡]"

_END = re.compile(rf"(?:{STOP}(?=\s)|{CJK_STOP})[\r\n]*|[\r\n]+")


def sentence_ends(text: str) -> list[int]:
    """Offsets at which a sentence or a line ends, ascending, the text's own end last.

    Spaces after a sentence stand before the next one; line breaks belong to the line that they end.
    """
    ends: list[int] = []
    seen, something = 0, False
    for match in _END.finditer(text):
        something = something or not text[seen : match.end()].isspace()
        seen = match.end()
        if something and seen < len(text):
            ends.append(seen)
            something = False
    return [*ends, len(text)] if text else []
