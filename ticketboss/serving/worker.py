"""Make gunicorn share its work evenly, and speak as the rest of the service does."""

import json
import logging
import mmap
import os
import secrets
import time
from array import array
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path

from gunicorn import glogging, util
from gunicorn.workers.gthread import ThreadWorker

from ticketboss.rules import limits

log = logging.getLogger(__name__)

# For how many workers there is a place, and what stands in one that is empty.
PLACES = 256
NOBODY = 0xFFFF

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
    log.warning("request refused", extra={"request_id": request_id, "status": status_int})
    util.write_nonblock(sock, answer.encode("latin-1"))


util.write_error = write_error


class Worker(ThreadWorker):
    """A threaded worker with a processor of its own, and its share of the connections.

    All workers wait for connections at one socket, and each keeps those that it
    accepted for as long as its clients do. So whoever is awake would take a whole
    burst, and the others stand idle: the one that is ahead lets them go first.
    """

    # How many connections each has open, in memory that the processes share.
    _open = memoryview(mmap.mmap(-1, 2 * PLACES)).cast("H")
    _open[:] = array("H", [NOBODY] * PLACES)

    place = 0
    processor: int | None = None

    def settle(self, others: list["Worker"], processors: list[int]) -> None:
        """Choose, before the fork, a place of its own and the processor with the fewest others."""
        taken = {other.place for other in others}
        self.place = next(place for place in range(PLACES) if place not in taken)
        busy = [other.processor for other in others]
        self.processor = min(processors, key=busy.count, default=None)

    def leave(self) -> None:
        """Give up its place; the parent does this when it is gone."""
        self._open[self.place] = NOBODY

    def init_process(self):
        self._share_the_machine()
        super().init_process()

    def _share_the_machine(self) -> None:
        """Ask the scheduler for what suits threads that share the interpreter lock (sched(7))."""
        if self.processor is not None:
            # They run one at a time: on one processor they find its caches warm
            # and wake each other cheaply.
            with suppress(OSError):
                os.sched_setaffinity(0, {self.processor})
        if hasattr(os, "SCHED_BATCH"):
            # One that is woken waits until the one at work gives up the lock,
            # rather than interrupts it in order to wait for it.
            with suppress(OSError):
                os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
        # Where the database is on this machine it goes first: all wait for its locks.
        os.nice(limits.NICENESS)
        # Linux may weigh sessions rather than processes; so this becomes one.
        os.setsid()
        with suppress(OSError):
            Path("/proc/self/autogroup").write_text(str(limits.NICENESS))

    def load_wsgi(self):
        super().load_wsgi()
        application = self.wsgi

        def keeping_headers_apart(environ, start_response):
            """Tell the application the headers as they came: WSGI joins those of one name."""
            environ["ticketboss.headers"] = start_response.__self__.req.headers
            return application(environ, start_response)

        self.wsgi = keeping_headers_apart

    def notify(self):
        self._open[self.place] = self.nr_conns
        super().notify()

    def accept(self, listener):
        if self.nr_conns > min(self._open) + limits.ACCEPT_AHEAD:
            time.sleep(limits.ACCEPT_COURTESY)
        super().accept(listener)


class Logger(glogging.Logger):
    """gunicorn's log, written by ours. Requests are logged by the application alone."""

    def setup(self, cfg):
        self.loglevel = logging.INFO
        self.error_log.propagate = True

    def access(self, resp, req, environ, request_time):
        pass
