"""Make gunicorn speak as the rest of the service does: JSON for errors, and one log."""

import json
import logging
import secrets
from http import HTTPStatus

from gunicorn import glogging, util
from gunicorn.workers.gthread import ThreadWorker as Worker

__all__ = ["Logger", "Worker"]

_CODES = {400: "invalid_request", 500: "internal_error"}
_SENTENCES = {
    414: "The address is too long",
    431: "The headers are too many or too long",
    500: "Something went wrong on our side",
    501: "This transfer coding is not supported",
}


def write_error(sock, status_int: int, reason: str, mesg: str) -> None:
    """Answer a request that never reached the application (RFC 9112, section 3).

    Takes the place, and so the parameters, of the function of gunicorn that
    writes an HTML page. `mesg` is left out: it may quote what the client sent.
    """
    request_id = secrets.token_hex(16)
    if status_int not in (414, 431):  # gunicorn says "Bad Request" for some others
        reason = HTTPStatus(status_int).phrase
    code = _CODES.get(status_int, reason.lower().replace(" ", "_"))
    body = json.dumps(
        {
            "error": _SENTENCES.get(status_int, "The request is not valid HTTP"),
            "code": code,
            "requestId": request_id,
        }
    )
    answer = (
        f"HTTP/1.1 {status_int} {reason}\r\n"
        "Connection: close\r\n"
        "Content-Type: application/json\r\n"
        f"X-Request-Id: {request_id}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n{body}"
    )
    util.write_nonblock(sock, answer.encode("latin-1"))


util.write_error = write_error


class Logger(glogging.Logger):
    """gunicorn's log, written by ours. Requests are logged by the application alone."""

    def setup(self, cfg):
        self.loglevel = logging.INFO
        self.error_log.propagate = True

    def access(self, resp, req, environ, request_time):
        pass
