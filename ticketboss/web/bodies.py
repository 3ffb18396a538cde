"""Read JSON request bodies strictly: what RFC 8259 leaves open is refused here.

Flask's own parser takes NaN, duplicate members, UTF-16 and a byte order mark,
and fails on deep nesting with a 500.
"""

import json
from decimal import Decimal
from functools import lru_cache

from flask import request
from gunicorn.http.errors import ParseException
from werkzeug.http import parse_options_header

from ticketboss.rules import limits
from ticketboss.rules.errors import InvalidRequest, PayloadTooLarge, UnsupportedMediaType
from ticketboss.web.schemas import unique

# Numbers from here on are beyond every range, and cost the more to write out.
BEYOND = Decimal(10**32)


def _constant(name: str):
    raise InvalidRequest(f"{name} is not JSON", fields={})


def _integer(digits: str) -> int:
    # Python refuses to read more than 4,300 digits; these are beyond every range already.
    return int(digits[:32])


def _number(text: str) -> int | Decimal:
    """Return a number that is written with a fraction or an exponent: 3.0 and 3e0 are 3."""
    number = Decimal(text)
    if number != number.to_integral_value():
        return number
    return int(max(-BEYOND, min(number, BEYOND)))


_DECODER = json.JSONDecoder(
    object_pairs_hook=unique, parse_constant=_constant, parse_int=_integer, parse_float=_number
)


def _read(environ: dict, length: int | None, limit: int) -> bytes:
    """Return the whole body, or raise: no part of one is taken for all of it.

    gunicorn stops reading at the end of the connection, without a word.
    """
    if length is None and not environ.get("wsgi.input_terminated"):
        return b""  # nobody says where it ends
    try:
        body = environ["wsgi.input"].read(limit + 1 if length is None else min(length, limit + 1))
    except ParseException:  # a malformed chunk
        raise InvalidRequest("The body is not valid HTTP", fields={}) from None
    if max(length or 0, len(body)) > limit:  # of what is too large not all may have come
        raise PayloadTooLarge.than(limit)
    if length not in (None, len(body)):
        raise InvalidRequest("The body is shorter than its Content-Length", fields={})
    return body


@lru_cache(maxsize=64)
def _is_json(content_type: str) -> bool:
    mimetype, parameters = parse_options_header(content_type)
    return (
        mimetype.lower() == "application/json"
        and parameters.get("charset", "utf-8").lower() == "utf-8"
    )


def read_object(limit: int = limits.BODY_BYTES) -> dict:
    """Return the JSON object in the body of the current request, of at most `limit` bytes.

    Raises UnsupportedMediaType, InvalidRequest or PayloadTooLarge.
    """
    asked = request._get_current_object()  # type: ignore[attr-defined]
    environ = asked.environ
    if not _is_json(environ.get("CONTENT_TYPE", "")) or environ.get("HTTP_CONTENT_ENCODING"):
        raise UnsupportedMediaType
    body = _read(environ, asked.content_length, limit)
    try:
        value = _DECODER.decode(body.decode("utf-8"))
    except (ValueError, ArithmeticError, RecursionError):
        # Bad UTF-8, bad JSON, an exponent of 19 digits, too deep.
        raise InvalidRequest("The body is not valid JSON in UTF-8", fields={}) from None
    if not isinstance(value, dict):
        raise InvalidRequest("The body must be a JSON object", fields={})
    return value
