"""What schemathesis cannot know from the document: texts of our own formats, and what is random.

It imports this by itself, in its own process: see test_openapi.
"""

import schemathesis
from hypothesis import strategies as st

from ticketboss.rules import limits, names


def texts(form, length):
    """Return a strategy of the texts that a form takes as they are."""

    def taken(text):
        try:
            return form(text) == text
        except ValueError:
            return False

    characters = st.characters(codec="utf-8", exclude_categories=["C", "Z"])
    return st.text(characters, min_size=1, max_size=length).filter(taken)


schemathesis.openapi.format("partner-id", texts(names.partner_id, limits.PARTNER_ID_LENGTH))
schemathesis.openapi.format("event-name", texts(names.event_name, limits.EVENT_NAME_LENGTH))
schemathesis.openapi.format("if-match", st.from_regex(r'\*|(W/)?"[!#-~]*"', fullmatch=True))
