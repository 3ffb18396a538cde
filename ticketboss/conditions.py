"""Conditional requests (RFC 9110, section 13): a version is its thing's entity tag."""

from flask import Response, jsonify, request

from ticketboss.changes import ANY_VERSION, IfMatch
from ticketboss.errors import PreconditionRequired


def if_match(required: bool = False) -> IfMatch:
    """Return the versions that the current request insists on.

    Raises PreconditionRequired where it must name one and does not.
    """
    if "If-Match" not in request.headers:
        if required:
            raise PreconditionRequired
        return ANY_VERSION
    tags = request.if_match
    if tags.star_tag:
        return ANY_VERSION
    # Strong comparison: a weak tag matches nothing. A version has at most 19 digits.
    return IfMatch(
        frozenset(int(tag) for tag in tags.as_set() if tag.isdecimal() and len(tag) < 20)
    )


def tagged(body: dict, version: int | None) -> Response:
    """Return `body` with its entity tag, or 304 where the client has this version.

    Without a version there is no tag, and the client gets the body.
    """
    response = jsonify(body)
    if version is not None:
        response.set_etag(str(version))
        if request.method in ("GET", "HEAD") and "If-None-Match" in request.headers:
            response.make_conditional(request)
    return response
