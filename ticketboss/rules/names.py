"""The forms of ids and names: what may stand in one, and how it is written here."""

import re
import unicodedata

from ticketboss.rules import limits

# Not . or .., which clients take out of an address (RFC 3986, section 5.2.4).
EVENT_ID = re.compile(rf"(?!\.{{1,2}}\Z)[a-z0-9._-]{{1,{limits.EVENT_ID_LENGTH}}}\Z")

# What shows nothing, though str.isprintable() lets it pass: what Unicode calls
# default-ignorable (DerivedCoreProperties.txt) outside its class C, and some blanks more.
INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u180f\u2800\u3164\ufe00-\ufe0f\uffa0"
    "\U00013441\U00013442\U00016fe4\U0001d159\U000e0100-\U000e01ef]"
)
# What emoji are joined and chosen by, and some scripts cannot be spelt without.
JOINERS = re.compile("[\u200c\u200d\ufe0e\ufe0f]")


def partner_id(text: str) -> str:
    """Return a partner's id in its one form; raise ValueError that says what is wrong.

    Two ids that look the same by invisible means, or by how accents are composed,
    would be two partners, each without the other's orders and keys.
    """
    return _visible(text, text, limits.PARTNER_ID_LENGTH)


def event_name(text: str) -> str:
    """Return the name of an event in its one form; raise ValueError that says what is wrong."""
    return _visible(text, JOINERS.sub("", text), limits.EVENT_NAME_LENGTH)


def _visible(text: str, judged: str, length: int) -> str:
    """Return `text` in NFC, if what is judged of it can be seen and it is not too long."""
    # Composed it has a fourth of its characters at least. To compose takes as long as
    # the square of them.
    composed = unicodedata.normalize("NFC", text) if len(text) <= 4 * length else text
    if not 1 <= len(composed) <= length:
        raise ValueError(f"must have 1 to {length} characters")
    # Of Unicode's classes C and Z only the space is printable: no control, format,
    # private, unassigned or surrogate character, and no other white space.
    if not judged or not judged.isprintable() or INVISIBLE.search(judged):
        raise ValueError("must have visible characters and plain spaces only")
    if judged != judged.strip():
        raise ValueError("must not begin or end with a space")
    return composed
