"""Talk to PostgreSQL: connections, deadlines, and what each failure means.

Nothing else imports psycopg2. Every exchange is one message with one statement
that matters, so it costs one round trip, leaves no transaction open, and works
through pgbouncer in transaction mode.
"""

import os
import queue
import select
import threading
import time
from collections import deque
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, TypeAlias

import psycopg2
from psycopg2 import extensions, extras

from ticketboss.rules import limits
from ticketboss.rules.errors import Overloaded, Unavailable

# A message of several statements is one transaction (PostgreSQL manual,
# "Multiple Statements in a Simple Query"): the settings hold for this message
# only, and its last result arrives after the commit, or as the commit's error.
LIMITS = (
    f"SET LOCAL statement_timeout = {limits.STATEMENT_TIMEOUT_MS};"
    f" SET LOCAL lock_timeout = {limits.LOCK_TIMEOUT_MS};\n"
)
SERIALIZABLE = "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE;\n" + LIMITS

# serialization_failure and deadlock_detected; and unique_violation, which is
# how a rival that wrote the same version or idempotency key first looks when
# its commit falls between our snapshot and our insert.
LOST_TO_A_RIVAL = {"40001", "40P01", "23505"}
# The server does not take the statement just now: no lock in time, cancelled,
# no disk, memory or connection left, an I/O error.
NOT_NOW = ("55P03", "57014", "53", "58")
# The server is going away: connect anew.
RECONNECT = ("57P", "08")
# It has become a standby: whoever is primary now, the other connections are as wrong.
READ_ONLY = "25006"


class Conflict(Exception):
    """A rival transaction was first; nothing was written."""

    # The constraint that showed it, if one did.
    constraint: str | None = None


class ConnectionLost(Exception):
    """The connection broke; a write may have been committed or not."""


class Rejected(Exception):
    """The database refuses these rows, now and again; nothing was written."""


# A named tuple whose fields are the columns of its statement.
Row: TypeAlias = Any

DAY = 86400.0  # poll() takes no infinity


class _Connection(extensions.connection):
    def __init__(self, dsn: str, deadline: float):
        self.deadline = deadline  # connecting waits in _wait, too
        super().__init__(dsn)

    @property
    def hung_up(self) -> bool:
        """Whether it ended while it was idle: only a server that hangs up says something then."""
        if not self.closed and _ready(self, select.POLLIN, 0):
            self.close()
        return bool(self.closed)


def _ready(connection: _Connection, event: int, seconds: float) -> bool:
    poller = select.poll()
    poller.register(connection.fileno(), event)
    return bool(poller.poll(seconds * 1000))


def _wait(connection: _Connection) -> None:
    """Wait for the server, but never past the connection's deadline.

    psycopg2 calls this instead of blocking inside libpq, which has no query
    timeout and in a frozen server's silence would wait forever.
    """
    while (state := connection.poll()) != extensions.POLL_OK:
        event = select.POLLIN if state == extensions.POLL_READ else select.POLLOUT
        left = min(connection.deadline - time.monotonic(), DAY)
        # Late is not lost: what has arrived is read, even where this thread was slow.
        if not _ready(connection, event, max(left, 0)):
            raise TimeoutError("no answer in time")


extensions.set_wait_callback(_wait)
# Times come in UTC, whatever zone the server has: in another one the first or the last
# hours of the calendar are in a year that Python does not have. (libpq says it as it
# connects, in a way that pgbouncer passes on: PostgreSQL manual, 32.15.)
os.environ["PGTZ"] = "UTC"
extras.register_uuid()


def is_dsn(text: str) -> bool:
    """Tell whether libpq can parse `text` as a connection string."""
    try:
        _hosts(text)
    except (psycopg2.ProgrammingError, ValueError):  # ValueError: two hosts, three ports
        return False
    return True


def _hosts(dsn: str) -> list[dict]:
    """Split a multi-host connection string, so that each host gets its own deadline.

    libpq walks the list itself, but is stuck on a first host that accepts the
    connection and then says nothing (PostgreSQL manual, 32.1.1.3).
    """
    parts = {"fallback_application_name": "ticketboss", **extensions.parse_dsn(dsn)}
    parts["client_encoding"] = "UTF8"
    hosts = parts.get("host", "").split(",")
    ports = parts.get("port", "").split(",")
    if len(ports) == 1:
        ports *= len(hosts)
    return [
        {name: value for name, value in {**parts, "host": host, "port": port}.items() if value}
        for host, port in zip(hosts, ports, strict=True)
    ]


class _Pool:
    """A bounded number of connections, lent in the order in which they are asked for.

    Whoever comes while somebody waits waits behind: a pool that lets the quickest
    have it starves the one who leads a batch while many read.
    """

    def __init__(self, size: int):
        self._mutex = threading.Lock()
        # Connections, and None for each that may still be opened; the one that
        # was used last is lent first, so that the busiest stay warm.
        self._idle: list[_Connection | None] = [None] * size
        self._waiting: deque[queue.SimpleQueue] = deque()

    def take(self, deadline: float) -> _Connection | None:
        """Lend a connection, or the right to open one; raise Overloaded at the deadline."""
        with self._mutex:
            if self._idle:
                return self._idle.pop()
            place = queue.SimpleQueue()
            self._waiting.append(place)
        with suppress(queue.Empty):
            return place.get(timeout=max(deadline - time.monotonic(), 0))
        with self._mutex:
            if place in self._waiting:
                self._waiting.remove(place)
                raise Overloaded
        return place.get()  # it came at the last moment

    def give_back(self, connection: _Connection | None) -> None:
        if connection is not None and connection.closed:
            connection = None
        with self._mutex:
            if self._waiting:
                self._waiting.popleft().put(connection)
            else:
                self._idle.append(connection)

    def empty(self) -> None:
        """Close the connections that are idle; those that are lent live on."""
        with self._mutex:
            for place, connection in enumerate(self._idle):
                if connection is not None:
                    connection.close()
                self._idle[place] = None


class Database:
    """A bounded set of connections, and a memory of whether the server answers.

    Connections live long (connecting costs a hundred round trips), are opened
    when first needed, and so never cross a fork.
    """

    def __init__(self, dsn: str, size: int):
        self._hosts = _hosts(dsn)
        self._pool = _Pool(size)
        # Since when the server leaves its callers without an answer.
        self._silent_since: float | None = None
        self._probe = threading.Lock()
        # When it last did what it was asked, on the monotonic clock.
        self.last_success = float("-inf")
        # Why the last attempt to connect failed: for the operator, never for a client.
        self.last_failure = ""

    @property
    def silent(self) -> bool:
        """Whether the server left its last caller without an answer."""
        return self._silent_since is not None

    def deadline(self) -> float:
        """Return until when, on the monotonic clock, an exchange that starts now may take."""
        now, since = time.monotonic(), self._silent_since
        fresh = since is not None and now - since < limits.FRESH_SILENCE
        return now + (limits.PROBE_PATIENCE if fresh else limits.DATABASE_PATIENCE)

    def read(self, sql: str, parameters: dict | None = None) -> list[Row]:
        """Run a statement that may safely run twice and return its rows.

        Raises Unavailable, Overloaded, Conflict or Rejected.
        """
        deadline = self.deadline()
        while True:
            try:
                return self._exchange(LIMITS + sql, parameters, deadline)
            except ConnectionLost:
                # Found dead in the pool, most likely; the next may be new.
                if time.monotonic() >= deadline:
                    raise Unavailable from None
                time.sleep(limits.RETRY_FIRST)

    def write(self, sql: str, parameters: dict) -> list[Row]:
        """Run `sql` as one serializable transaction and return its last rows.

        They are durable when this returns: the last result arrives after the
        commit. Raises Unavailable or Overloaded (nothing was sent), Conflict or
        Rejected (nothing was written), ConnectionLost (nobody knows).
        """
        deadline = self.deadline()
        return self._exchange(SERIALIZABLE + sql, parameters, deadline)

    @contextmanager
    def session(self):
        """Give a function that runs statements, each in a transaction of its own.

        For maintenance: on a connection of its own, without deadline. Raises
        Unavailable, ConnectionLost, Conflict or Rejected.
        """
        connection = self._connect(time.monotonic() + limits.DATABASE_PATIENCE)
        connection.deadline = float("inf")

        def run(sql: str, parameters: dict | None = None) -> list[Row]:
            cursor.execute(sql, parameters)
            return cursor.fetchall() if cursor.description else []

        try:
            with connection.cursor() as cursor:
                yield run
        except psycopg2.Error as error:
            raise self._meaning(error, connection) from error
        finally:
            connection.close()

    @contextmanager
    def transaction(self):
        """Give a function that runs statements in one transaction, as in a session."""
        with self.session() as run:
            run("BEGIN")
            yield run
            run("COMMIT")

    def close(self) -> None:
        """Close the connections that are idle; those in use live on."""
        self._pool.empty()

    def _fall_silent(self) -> None:
        if self._silent_since is None:
            self._silent_since = time.monotonic()

    def _exchange(self, sql: str, parameters: dict | None, deadline: float) -> list[Row]:
        # While the server is silent only one caller at a time finds out whether
        # it still is; everybody else is told at once and keeps no thread busy.
        probing = self.silent
        if probing and not self._probe.acquire(blocking=False):
            raise Unavailable
        try:
            return self._run(sql, parameters, deadline)
        finally:
            if probing:
                self._probe.release()

    def _run(self, sql: str, parameters: dict | None, deadline: float) -> list[Row]:
        # What is left is for the exchange itself: to wait in the pool is no silence of the server.
        connection = self._pool.take(deadline - limits.PROBE_PATIENCE)
        try:
            if connection is None or connection.hung_up:
                connection = self._connect(deadline)
            connection.deadline = deadline
            with connection.cursor() as cursor:
                cursor.execute(sql, parameters)
                rows = cursor.fetchall() if cursor.description else []
        except TimeoutError:
            self._fall_silent()
            raise ConnectionLost from None
        except psycopg2.Error as error:
            meaning = self._meaning(error, connection)
            if not isinstance(meaning, ConnectionLost):
                self._silent_since = None  # a refusal is an answer, too
            raise meaning from error
        except ValueError as error:  # a NUL or a surrogate; never sent
            raise Rejected(str(error)) from error
        finally:
            self._pool.give_back(connection)
        self._silent_since = None
        self.last_success = time.monotonic()
        return rows

    def _meaning(self, error: psycopg2.Error, connection: _Connection) -> Exception:
        """Say what an error means for the caller, by what is left of the connection."""
        code = error.pgcode
        # Not its detail, which shows whole rows.
        told = f"{error.diag.message_primary} ({code})" if code else str(error).strip()
        if isinstance(error, psycopg2.ProgrammingError) and code is None:
            return Rejected(told)  # the driver refuses the parameters
        if code is None or connection.closed or code.startswith(RECONNECT):
            connection.close()
            return ConnectionLost()
        if code in LOST_TO_A_RIVAL:
            conflict = Conflict(told)
            conflict.constraint = error.diag.constraint_name
            return conflict
        if code == READ_ONLY:
            connection.close()
            self.close()
            return ConnectionLost()
        if code.startswith(NOT_NOW):
            return Unavailable()
        return Rejected(told)

    def _connect(self, deadline: float) -> _Connection:
        """Connect to the first host that answers and accepts; raise Unavailable."""
        refused = True
        for position, host in enumerate(self._hosts):
            now = time.monotonic()
            share = (deadline - now) / (len(self._hosts) - position)
            factory = partial(_Connection, deadline=now + share)
            try:
                connection = psycopg2.connect(
                    **host, connection_factory=factory, cursor_factory=extras.NamedTupleCursor
                )
            except (psycopg2.Error, TimeoutError) as error:
                refused = refused and not isinstance(error, TimeoutError)
                self.last_failure = str(error).strip().partition("\n")[0]
                continue
            connection.autocommit = True
            return connection
        # A server that refuses a connection, for there are enough, may serve the others.
        if not refused or time.monotonic() - self.last_success > limits.FRESH_SILENCE:
            self._fall_silent()
        raise Unavailable
