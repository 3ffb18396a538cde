"""One client's connection, from its first byte to its end; nothing here ever waits.

    SILENT     says nothing yet             5 s, then closed
       │ first byte
    ARRIVING   a request is on its way ◀─┐  10 s for all of it, then 408
       │ all of it                       │
    (answered, by the thread that has it)│
       │ what the system does not take   │
    LEAVING    an answer is on its way   │  10 s without progress, then closed
       │ all of it                       │
       ├─▶ IDLE    between two requests ─┘  KEEPALIVE, then closed
       │ if it was the last
    LINGERING  what still comes is dropped  2 s, then closed

In each state a connection has a deadline and awaits one thing of its socket:
bytes, or room for bytes. It belongs to whoever has taken it out of the poll.
"""

import logging
import time
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum, auto
from math import inf
from socket import MSG_PEEK, SHUT_WR, socket
from types import SimpleNamespace

from gunicorn.http.errors import ParseException

from ticketboss import metrics
from ticketboss.rules import limits
from ticketboss.serving import wire
from ticketboss.serving.poll import Awaited

log = logging.getLogger(__name__)

# How much is read at a time; nearly every request is smaller.
RECEIVE = 16 * 1024


class State(Enum):
    SILENT = auto()
    ARRIVING = auto()
    LEAVING = auto()
    IDLE = auto()
    LINGERING = auto()


# What it is to be late, in each state and for what it awaits, but where a connection simply ends.
CUT_OFF: dict[tuple[State, Awaited | None], str] = {
    (State.SILENT, Awaited.BYTES): metrics.SILENT,
    (State.ARRIVING, Awaited.BYTES): metrics.LATE,
    (State.ARRIVING, Awaited.ROOM): metrics.UNREAD,
    (State.LEAVING, Awaited.ROOM): metrics.UNREAD,
}


@dataclass
class House:
    """What the connections of a worker have in common."""

    app: object
    settings: SimpleNamespace
    # Until when a client may still begin a request; an end there is only where the worker stops.
    last_call: float = inf


class Connection:
    """A socket, what has arrived on it, and what is still to be sent."""

    __slots__ = (
        "state",
        "deadline",
        "awaits",
        "_socket",
        "_house",
        "_incoming",
        "_environment",
        "_leaving",
        "_last",
        "_lingers",
        "_dropped",
    )

    state: State
    awaits: Awaited | None
    deadline: float

    def __init__(self, client: socket, peer: tuple, server: tuple, house: House):
        client.setblocking(False)
        self._socket = client
        self._house = house
        self._incoming = wire.Incoming(house.settings, peer)
        self._environment = wire.base_environment(server, peer, house.settings.workers > 1)
        self._leaving = memoryview(b"")
        # Whether what is leaving is the last answer, and whether the client may send on.
        self._last = False
        self._lingers = False
        self._dropped = 0
        self._await(State.SILENT, Awaited.BYTES, limits.FIRST_BYTE_PATIENCE)

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def proceed(self) -> None:
        """Do what can be done now that it has what it awaited; raise OSError if it is broken.

        Afterwards `awaits` says what to wait for, and None that it is to be closed.
        """
        if self.state is State.LINGERING:
            self._drop()
        elif self.state is State.LEAVING:
            self._send()
        elif self.awaits is Awaited.BYTES and not self._receive():
            if self._incoming.in_body:
                metrics.CUT_OFF.add(metrics.MALFORMED)
                self._refuse(400, "EndOfFile")
            else:
                self.awaits = None
        else:
            self._take()

    def due(self) -> float:
        """Return when it is late, on the monotonic clock."""
        if self.state in (State.SILENT, State.IDLE):
            return min(self.deadline, self._house.last_call)
        return self.deadline

    def expire(self) -> None:
        """End it, unless it has moved on in the last moment."""
        between = self.state in (State.SILENT, State.IDLE)
        if self.due() > time.monotonic() or (between and self._has_spoken()):
            return
        if reason := CUT_OFF.get((self.state, self.awaits)):
            metrics.CUT_OFF.add(reason)
        if self.state is State.ARRIVING and self.awaits is Awaited.BYTES:
            self._refuse(408, "Late")
        else:
            self.awaits = None

    def _await(self, state: State, awaits: Awaited, patience: float) -> None:
        self.state = state
        self.awaits = awaits
        self.deadline = time.monotonic() + patience

    def _receive(self) -> bool:
        """Take in what has arrived; tell whether the client has more to say."""
        try:
            data = self._socket.recv(RECEIVE)
        except BlockingIOError:
            return True
        self._incoming.arrived.data += data
        return bool(data)

    def _has_spoken(self) -> bool:
        """Tell whether something has arrived that no thread has come to read so far."""
        try:
            return bool(self._socket.recv(1, MSG_PEEK))
        except BlockingIOError:
            return False

    def _take(self) -> None:
        """Answer the next request if it is there as a whole."""
        try:
            taken = self._incoming.take()
        except ParseException as fault:
            metrics.CUT_OFF.add(metrics.MALFORMED)
            self._refuse(wire.status_of(fault), type(fault).__name__)
            return
        if taken:
            self._answer(*taken)
            return
        new = self.state is not State.ARRIVING or self.awaits is Awaited.ROOM
        if self._incoming.begun and new:
            self._await(State.ARRIVING, Awaited.BYTES, limits.REQUEST_PATIENCE)
        if self._incoming.wants_go_ahead():
            self._socket.send(wire.CONTINUE)

    def _answer(self, request, body: bytes) -> None:
        client_ends = request.should_close() and not request.must_close
        self._last = self._house.last_call < inf or request.should_close()
        self._lingers = not client_ends
        environ = wire.environment(self._environment, request, body)
        try:
            answer = wire.run(self._house.app, environ, self._last)
        except Exception:
            log.exception("unexpected error")
            self._refuse(500, "Error")
        else:
            self._leaving = memoryview(answer)
            self._send()

    def _refuse(self, status: int, fault: str) -> None:
        """Answer what is no request, and end the connection: who knows where the next begins?"""
        answer, request_id = wire.refusal(status)
        log.warning(
            "request refused",
            extra={
                "request_id": request_id,
                "status": status,
                "fault": fault,
                "client": self._environment["REMOTE_ADDR"],
            },
        )
        self._last = self._lingers = True
        self._leaving = memoryview(answer)
        self._send()

    def _send(self) -> None:
        """Send what the system takes, and go on when that is all."""
        with suppress(BlockingIOError):
            self._leaving = self._leaving[self._socket.send(self._leaving) :]
        if self._leaving:
            self._await(State.LEAVING, Awaited.ROOM, limits.READING_PATIENCE)
        elif not self._last:
            self._await_next()
        elif self._lingers:
            self._socket.shutdown(SHUT_WR)
            self._await(State.LINGERING, Awaited.BYTES, limits.LINGER)
        else:
            self.awaits = None

    def _await_next(self) -> None:
        if self._incoming.begun:
            # It is its turn again when there is room for the answer, behind all others.
            self._await(State.ARRIVING, Awaited.ROOM, limits.READING_PATIENCE)
        else:
            self._await(State.IDLE, Awaited.BYTES, self._house.settings.keepalive)

    def _drop(self) -> None:
        """Read on until the client ends, too, or has gone on for too long."""
        data = self._socket.recv(RECEIVE)
        self._dropped += len(data)
        if not data or self._dropped > limits.LINGER_BYTES:
            self.awaits = None
