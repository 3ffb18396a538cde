"""What every answer has in common: a request id, a log line, and errors as JSON."""

import logging
import re
import time
from functools import partial

from flask import Flask, Request, Response, g, jsonify, request
from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Response as BaseResponse

from ticketboss import logs, metrics
from ticketboss.config import Network
from ticketboss.rules import limits
from ticketboss.rules.errors import TicketBossError
from ticketboss.rules.ids import random_bytes
from ticketboss.rules.keys import masked
from ticketboss.web import clients, schemas

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

LOGGER = "ticketboss.requests"

log = logging.getLogger(LOGGER)


def register(app: Flask, proxies: tuple[Network, ...] = ()) -> None:
    """Give every request of the application an id, a log line and JSON errors.

    `proxies` are those whose word for whom they were called by is taken.
    """
    app.before_request(_begin)
    app.after_request(partial(_end, proxies))
    app.register_error_handler(TicketBossError, _refuse)
    app.register_error_handler(HTTPException, _refuse_http)
    app.register_error_handler(Exception, _fail)


def _begin() -> None:
    given = request.environ.get("HTTP_X_REQUEST_ID", "")
    known = g._get_current_object()  # each look through the proxy costs as much as all below
    known.started = time.perf_counter()
    known.request_id = given if REQUEST_ID.match(given) else random_bytes().hex()


def _end(proxies: tuple[Network, ...], response: Response) -> Response:
    asked, known = request._get_current_object(), g._get_current_object()  # type: ignore[attr-defined]
    headers = response.headers
    headers.add("X-Request-Id", known.request_id)
    headers.add("X-Content-Type-Options", "nosniff")
    if "Cache-Control" not in headers:
        # What has an entity tag may be kept by its client alone, and asked for again each time.
        headers.add("Cache-Control", "private, no-cache" if "ETag" in headers else "no-store")
    seconds = time.perf_counter() - known.started
    code = known.get("error_code")
    _count(asked, response.status_code, seconds, code)
    logs.say(
        LOGGER,
        "request",
        request_id=known.request_id,
        traceparent=_traceparent(asked.environ),
        method=asked.method,
        path=masked(asked.path),
        status=response.status_code,
        ms=round(seconds * 1000, 2),
        partner=known.get("partner_id"),
        event=known.get("event_id"),
        code=code,
        client=clients.address(asked.environ, proxies),
    )
    return response


def _count(asked: Request, status: int, seconds: float, code: str | None) -> None:
    rule = asked.url_rule
    # A method that a route does not have is a client's own word.
    route, method = (rule.rule, asked.method) if rule else (metrics.OTHER, metrics.OTHER)
    metrics.REQUESTS.add(route, method, status)
    metrics.REQUEST_SECONDS.observe(seconds, route, method)
    if code:
        metrics.REFUSALS.add(code)


def _traceparent(environ: dict) -> str | None:
    given = environ.get("HTTP_TRACEPARENT", "")
    return given if TRACEPARENT.match(given) else None


def _refuse(fact: TicketBossError) -> Response:
    g.partner_id = fact.partner_id or g.get("partner_id")
    g.error_code = fact.code
    body = {**schemas.public(fact.body()), "requestId": g.request_id}
    response = jsonify(body)
    response.status_code = fact.status
    if fact.status in (429, 503):
        response.headers["Retry-After"] = str(limits.RETRY_AFTER)
    if fact.status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


def _refuse_http(error: HTTPException) -> BaseResponse:
    # The exception's own response keeps headers such as Allow.
    response = error.get_response()
    if error.code is not None and error.code >= 400:
        g.error_code = CODES.get(error.code, error.name.lower().replace(" ", "_"))
        body = {
            "error": SENTENCES.get(error.code, error.name),
            "code": g.error_code,
            "requestId": g.request_id,
        }
        response.data = jsonify(body).data
        response.content_type = "application/json"
    return response


def _fail(error: Exception) -> Response:
    log.error("unexpected error", exc_info=error, extra={"request_id": g.request_id})
    return _refuse(TicketBossError())
