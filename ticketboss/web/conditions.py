"""Conditional requests (RFC 9110, section 13): a version is its thing's entity tag."""

import hashlib
import re

from flask import Response, jsonify, request

from ticketboss.rules.changes import ANY_VERSION, IfMatch
from ticketboss.rules.errors import InvalidRequest, PreconditionRequired

ENTITY_TAG = r'(W/)?"([\x21\x23-\x7e\x80-\xff]*)"'
# Some of them, with commas between; elements of a list may be empty (RFC 9110, section 5.6.1).
ENTITY_TAGS = re.compile(rf"[ \t,]*({ENTITY_TAG}[ \t]*(,[ \t,]*|\Z))+\Z")


def if_match(required: bool = False) -> IfMatch:
    """Return the versions that the current request insists on.

    Raises PreconditionRequired where it must name one and does not, or InvalidRequest.
    """
    given = request.headers.get("If-Match")
    if given is None and required:
        raise PreconditionRequired
    return condition(given)


def condition(given: str | None) -> IfMatch:
    """Return the versions that an If-Match insists on; raise InvalidRequest."""
    if given in (None, "*"):
        return ANY_VERSION
    if not ENTITY_TAGS.match(given):
        raise InvalidRequest('If-Match must be * or entity tags such as "14"', fields={})
    tags = re.findall(ENTITY_TAG, given)
    return IfMatch(frozenset(tag for weak, tag in tags if not weak), weak=any(w for w, _ in tags))


def tagged(body: dict, version: int | None) -> Response:
    """Return `body` with its entity tag, or 304 where the client has this version.

    Without a version there is no tag, and the client gets the body. Raises
    PreconditionFailed where a read insists on another version.
    """
    if version is None:
        return jsonify(body)
    if request.method in ("GET", "HEAD"):
        if_match().check(version)
    return unless_seen(body, str(version))


def unless_seen(body: dict, tag: str) -> Response:
    """Return `body` with its entity tag, or 304 where a client that reads has it."""
    seen = request.method in ("GET", "HEAD") and _seen(tag)
    response = Response(status=304) if seen else jsonify(body)
    response.headers["ETag"] = f'"{tag}"'
    return response


def unchanging(content: str, mimetype: str) -> Response:
    """Return what a release says to everybody, or 304 where a client has it.

    Raises PreconditionFailed where it insists on another, or InvalidRequest.
    """
    response = Response(content, mimetype=mimetype)
    response.headers["Cache-Control"] = "no-cache"
    tag = hashlib.sha256(content.encode()).hexdigest()[:32]
    response.set_etag(tag)
    if_match().check_tag(tag)
    if _seen(tag):
        response.status_code = 304
    return response


def _seen(tag: str) -> bool:
    seen = request.if_none_match
    return seen.star_tag or seen.contains_weak(tag)
