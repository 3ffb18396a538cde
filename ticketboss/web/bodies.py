"""Read JSON request bodies strictly: what RFC 8259 leaves open is refused here.

Flask's own parser takes NaN, duplicate members, UTF-16 and a byte order mark,
and fails on deep nesting with a 500.
"""

import json
from decimal import Decimal

from flask import request
from gunicorn.http.errors import ParseException

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


def _read(limit: int) -> bytes:
    """Return the whole body, or raise: no part of one is taken for all of it.

    werkzeug stops reading one byte past the limit in a chunked body, and gunicorn at
    the end of the connection, without a word.
    """
    try:
        body = request.get_data(cache=False)
    except ParseException:  # a malformed chunk
        raise InvalidRequest("The body is not valid HTTP", fields={}) from None
    if len(body) > limit:
        raise PayloadTooLarge.than(limit)
    if request.content_length not in (None, len(body)):
        raise InvalidRequest("The body is shorter than its Content-Length", fields={})
    return body


def read_object(limit: int = limits.BODY_BYTES) -> dict:
    """Return the JSON object in the body of the current request, of at most `limit` bytes.

    Raises UnsupportedMediaType, InvalidRequest, or werkzeug's
    RequestEntityTooLarge.
    """
    if request.mimetype != "application/json" or request.headers.get("Content-Encoding"):
        raise UnsupportedMediaType
    if request.mimetype_params.get("charset", "utf-8").lower() != "utf-8":
        raise UnsupportedMediaType
    request.max_content_length = limit + 1
    try:
        value = _DECODER.decode(_read(limit).decode("utf-8"))
    except (ValueError, ArithmeticError, RecursionError):
        # Bad UTF-8, bad JSON, an exponent of 19 digits, too deep.
        raise InvalidRequest("The body is not valid JSON in UTF-8", fields={}) from None
    if not isinstance(value, dict):
        raise InvalidRequest("The body must be a JSON object", fields={})
    return value
