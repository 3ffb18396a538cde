"""Lists in pages: what a query string asks for, and the cursors that lead on.

A cursor is the last thing of the page before, by its id, and opaque to clients.
"""

import base64
import re
from urllib.parse import parse_qsl

from flask import request

from ticketboss.rules.errors import InvalidRequest
from ticketboss.web import schemas


def query() -> dict:
    """Return the query string's members: text, each once; raise InvalidRequest."""
    text = request.query_string.decode("ascii", "surrogateescape")
    pairs = parse_qsl(text, keep_blank_values=True, errors="surrogateescape")
    for name, value in pairs:
        try:
            (name + value).encode()  # no surrogates
        except UnicodeEncodeError:
            name = schemas.shown(name)
            fault = name, f"{name} must be UTF-8, percent-encoded"
            raise schemas.refusal([fault]) from None
    return schemas.unique(pairs)


def cursor(place: str) -> str:
    """Return the cursor that leads on from a place."""
    return base64.urlsafe_b64encode(place.encode()).decode().rstrip("=")


def place(cursor: str) -> str:
    """Return the place that a cursor leads on from; raise InvalidRequest."""
    if re.fullmatch(r"[A-Za-z0-9_-]{1,400}", cursor):
        try:
            return base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode("utf-8")
        except ValueError:
            pass
    raise not_a_cursor()


def not_a_cursor() -> InvalidRequest:
    sentence = "after must be the next of an earlier page of this list"
    return InvalidRequest(sentence, fields={"after": [sentence]})
