"""Read JSON request bodies strictly: what RFC 8259 leaves open is refused here.

Flask's own parser takes NaN, duplicate members, UTF-16 and a byte order mark,
and fails on deep nesting with a 500.
"""

import json

from flask import request
from gunicorn.http.errors import ParseException

from ticketboss.rules import limits
from ticketboss.rules.errors import InvalidRequest, PayloadTooLarge, UnsupportedMediaType


def _object(pairs: list[tuple]) -> dict:
    members = dict(pairs)
    if len(members) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise InvalidRequest(
            f"{twice} appears more than once", fields={twice: ["appears more than once"]}
        )
    return members


def _constant(name: str):
    raise InvalidRequest(f"{name} is not JSON", fields={})


def _integer(digits: str) -> int:
    # Python refuses to read more than 4,300 digits; these are beyond every range already.
    return int(digits[:32])


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant, parse_int=_integer)


def _read() -> bytes:
    """Return the whole body, or raise: no part of one is taken for all of it.

    werkzeug stops reading at MAX_CONTENT_LENGTH (one byte past our limit) in a
    chunked body, and gunicorn at the end of the connection, without a word.
    """
    try:
        body = request.get_data(cache=False)
    except ParseException:  # a malformed chunk
        raise InvalidRequest("The body is not valid HTTP", fields={}) from None
    if len(body) > limits.BODY_BYTES:
        raise PayloadTooLarge
    if request.content_length not in (None, len(body)):
        raise InvalidRequest("The body is shorter than its Content-Length", fields={})
    return body


def read_object() -> dict:
    """Return the JSON object in the body of the current request.

    Raises UnsupportedMediaType, InvalidRequest, or werkzeug's
    RequestEntityTooLarge for more than Flask's MAX_CONTENT_LENGTH.
    """
    if request.mimetype != "application/json" or request.headers.get("Content-Encoding"):
        raise UnsupportedMediaType
    if request.mimetype_params.get("charset", "utf-8").lower() != "utf-8":
        raise UnsupportedMediaType
    try:
        value = _DECODER.decode(_read().decode("utf-8"))
    except (ValueError, RecursionError):  # bad UTF-8, bad JSON, too long a number, too deep
        raise InvalidRequest("The body is not valid JSON in UTF-8", fields={}) from None
    if not isinstance(value, dict):
        raise InvalidRequest("The body must be a JSON object", fields={})
    return value
