"""What every answer has in common: a request id, a log line, and errors as JSON."""

import logging
import re
import secrets
import time

from flask import Flask, Response, g, jsonify, request
from werkzeug.exceptions import HTTPException

from ticketboss.rules import limits
from ticketboss.rules.errors import PayloadTooLarge, TicketBossError
from ticketboss.rules.keys import masked
from ticketboss.web import schemas

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}\Z")
# What names a request to everybody on its way (W3C Trace Context, section 3.2); its version
# and its flags say nothing here.
TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0+-)[0-9a-f]{32}-(?!0+-)[0-9a-f]{16}-[0-9a-f]{2}\Z")

# Routing and parsing speak werkzeug's names; partners read ours.
CODES = {400: "invalid_request", 404: "route_not_found", 500: "internal_error"}
SENTENCES = {
    400: "The request is not valid",
    404: "There is nothing at this address",
    405: "This address does not take this method",
    500: "Something went wrong on our side",
}

log = logging.getLogger("ticketboss.requests")


class Answer(Response):
    """A response that claims no media type unless it has one: a 204 has none."""

    default_mimetype = None


def register(app: Flask) -> None:
    """Give every request of the application an id, a log line and JSON errors."""
    app.response_class = Answer
    app.before_request(_begin)
    app.after_request(_end)
    app.register_error_handler(TicketBossError, _refuse)
    app.register_error_handler(HTTPException, _refuse_http)
    app.register_error_handler(Exception, _fail)


def _begin() -> None:
    g.started = time.perf_counter()
    given = request.headers.get("X-Request-Id", "")
    g.request_id = given if REQUEST_ID.match(given) else secrets.token_hex(16)


def _end(response: Response) -> Response:
    headers = response.headers
    headers["X-Request-Id"] = g.request_id
    headers["X-Content-Type-Options"] = "nosniff"
    # What has an entity tag may be kept by its client alone, and asked for again each time.
    headers.setdefault("Cache-Control", "private, no-cache" if "ETag" in headers else "no-store")
    log.info(
        "request",
        extra={
            "request_id": g.request_id,
            "traceparent": _traceparent(),
            "method": request.method,
            "path": masked(request.path),
            "status": response.status_code,
            "ms": round((time.perf_counter() - g.started) * 1000, 2),
            "partner": g.get("partner_id"),
        },
    )
    return response


def _traceparent() -> str | None:
    given = request.headers.get("traceparent", "")
    return given if TRACEPARENT.match(given) else None


def _refuse(fact: TicketBossError) -> Response:
    g.partner_id = fact.partner_id or g.get("partner_id")
    body = {**schemas.public(fact.body()), "requestId": g.request_id}
    response = jsonify(body)
    response.status_code = fact.status
    if fact.status in (429, 503):
        response.headers["Retry-After"] = str(limits.RETRY_AFTER)
    if fact.status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


def _refuse_http(error: HTTPException) -> Response:
    if error.code == 413:
        return _refuse(PayloadTooLarge.than(request.max_content_length - 1))
    # The exception's own response keeps headers such as Allow.
    response = error.get_response()
    if error.code >= 400:
        body = {
            "error": SENTENCES.get(error.code, error.name),
            "code": CODES.get(error.code, error.name.lower().replace(" ", "_")),
            "requestId": g.request_id,
        }
        response.data = jsonify(body).data
        response.content_type = "application/json"
    return response


def _fail(error: Exception) -> Response:
    log.error("unexpected error", exc_info=error, extra={"request_id": g.request_id})
    return _refuse(TicketBossError())
