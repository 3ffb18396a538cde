"""Conditional requests (RFC 9110, section 13): a version is its thing's entity tag."""

from flask import Response, jsonify, request

from ticketboss.rules.changes import ANY_VERSION, IfMatch
from ticketboss.rules.errors import PreconditionRequired


def if_match(required: bool = False) -> IfMatch:
    """Return the versions that the current request insists on.

    Raises PreconditionRequired where it must name one and does not.
    """
    if "If-Match" not in request.headers:
        if required:
            raise PreconditionRequired
        return ANY_VERSION
    tags = request.if_match
    # Strong comparison: a weak tag matches nothing.
    return ANY_VERSION if tags.star_tag else IfMatch(frozenset(tags.as_set()))


def tagged(body: dict, version: int | None) -> Response:
    """Return `body` with its entity tag, or 304 where the client has this version.

    Without a version there is no tag, and the client gets the body. Raises
    PreconditionFailed where a read insists on another version.
    """
    if version is None:
        return jsonify(body)
    tag = str(version)
    response = None
    if request.method in ("GET", "HEAD"):
        if_match().check(version)
        seen = request.if_none_match
        if seen.star_tag or seen.contains_weak(tag):
            response = Response(status=304)
    response = response or jsonify(body)
    response.headers["ETag"] = f'"{tag}"'
    return response
