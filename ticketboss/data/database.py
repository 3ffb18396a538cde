"""Talk to PostgreSQL: connections, deadlines, and what each failure means.

Nothing else imports psycopg2. Every exchange is one message with one statement
that matters, so it costs one round trip, leaves no transaction open, and works
through pgbouncer in transaction mode.
"""

import logging
import os
import queue
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeAlias

import psycopg2
from psycopg2 import extensions, extras

from ticketboss import metrics, waiting
from ticketboss.rules import limits
from ticketboss.rules.errors import Overloaded, Unavailable

log = logging.getLogger(__name__)

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
# The server does not take the statement just now: no lock in time, cancelled.
NOT_NOW = ("55P03", "57014")
# It cannot: no disk, memory or connection left, an I/O error.
CANNOT = ("53", "58")
# The server is going away: connect anew.
RECONNECT = ("57P", "08")
# It is a standby: whoever is primary now, the other connections are as wrong.
READ_ONLY = "25006"
# How it says so where a transaction is to be serializable.
NOT_SUPPORTED = "0A000"


class Conflict(Exception):
    """A rival transaction was first; nothing was written."""

    # The constraint that showed it, if one did.
    constraint: str | None = None


class ConnectionLost(Exception):
    """The connection broke; a write may have been committed or not."""


class _ReadOnly(ConnectionLost):
    """The server takes no writes; nothing was written."""


class _Refused(Unavailable):
    """The server answers, and grants no connection."""


class Rejected(Exception):
    """The database refuses these rows, now and again; nothing was written."""


# A named tuple whose fields are the columns of its statement.
Row: TypeAlias = Any
Parameters: TypeAlias = dict[str, Any] | None
Run: TypeAlias = Callable[..., list[Row]]

# How to connect to one host of a connection string.
_Host: TypeAlias = dict[str, Any]

DAY = 86400.0  # poll() takes no infinity


class Connection(extensions.connection):
    host: _Host  # to which it leads

    def __init__(self, dsn: str, deadline: float):
        self.deadline = deadline  # connecting waits in _wait, too
        super().__init__(dsn)

    @property
    def hung_up(self) -> bool:
        """Whether it ended while it was idle: only a server that hangs up says something then."""
        if not self.closed and _ready(self, select.POLLIN, 0):
            self.close()
        return bool(self.closed)


def _ready(connection: Connection, event: int, seconds: float) -> bool:
    poller = select.poll()
    poller.register(connection.fileno(), event)
    return bool(poller.poll(seconds * 1000))


def _wait(connection: Connection) -> None:
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
extras.register_uuid()  # type: ignore[no-untyped-call]


def is_dsn(text: str) -> bool:
    """Tell whether libpq can parse `text` as a connection string."""
    try:
        _hosts(text)
    except (psycopg2.ProgrammingError, ValueError):  # ValueError: two hosts, three ports
        return False
    return True


def _hosts(dsn: str) -> list[_Host]:
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


class Pool:
    """A bounded number of connections, lent in the order in which they are asked for.

    Whoever comes while somebody waits waits behind: a pool that lets the quickest
    have it starves the one who leads a batch while many read. A server may grant
    fewer than are wanted: then no more are opened for a while, and all share those
    that are open.
    """

    def __init__(self, size: int):
        self._mutex = threading.Lock()
        # None for each connection that may still be opened, and then those that are
        # idle; the one that was used last is lent first, so that the busiest stay warm.
        self._idle: list[Connection | None] = [None] * size
        self._waiting: deque[queue.SimpleQueue[Connection | None]] = deque()
        # How many are open, idle or lent, and until when they have to do.
        self._open = 0
        self._rests_until = float("-inf")

    @property
    def idle(self) -> int:
        """How many connections, open or yet to be opened, are lent to nobody."""
        return len(self._idle)

    @property
    def waiting(self) -> int:
        """How many callers wait for one."""
        return len(self._waiting)

    def take(self, deadline: float) -> Connection | None:
        """Lend a connection, or the right to open one; raise Overloaded at the deadline."""
        while (connection := self._next(deadline)) and connection.hung_up:
            self.give_back(connection)
        return connection

    def _next(self, deadline: float) -> Connection | None:
        with self._mutex:
            if self._idle and (self._idle[-1] or self._may_open()):
                return self._idle.pop()
            place: queue.SimpleQueue[Connection | None] = queue.SimpleQueue()
            self._waiting.append(place)
        with suppress(queue.Empty):
            return place.get(timeout=max(deadline - time.monotonic(), 0))
        with self._mutex:
            if place in self._waiting:
                self._waiting.remove(place)
                raise Overloaded
        return place.get()  # it came at the last moment

    def _may_open(self) -> bool:
        return not self._open or time.monotonic() >= self._rests_until

    def opened(self) -> None:
        """Note that what is lent is a connection by now, and that there may be more."""
        with self._mutex:
            self._open += 1
            metrics.DATABASE_OPEN.add()
            self._rests_until = float("-inf")

    def refused(self) -> bool:
        """Open no more for a while; False if none is open, for then there is no other way."""
        with self._mutex:
            if self._open:
                self._rests_until = time.monotonic() + limits.POOL_REST
            return bool(self._open)

    def give_back(self, connection: Connection | None) -> None:
        with self._mutex:
            if connection is not None and connection.closed:
                self._open -= 1
                metrics.DATABASE_OPEN.add(by=-1)
                connection = None
            self._idle.insert(len(self._idle) if connection else 0, connection)
            while self._waiting and self._idle and (self._idle[-1] or self._may_open()):
                self._waiting.popleft().put(self._idle.pop())

    def empty(self) -> None:
        """Close the connections that are idle; those that are lent live on."""
        with self._mutex:
            for place, connection in enumerate(self._idle):
                if connection is not None:
                    connection.close()
                    self._open -= 1
                    metrics.DATABASE_OPEN.add(by=-1)
                self._idle[place] = None


@dataclass(frozen=True)
class _Trouble:
    """Why the server cannot be used, as somebody found out."""

    reason: str
    # Whether it is everybody's: then one caller at a time finds out whether it is over.
    of_all: bool = True
    # Whether a write found out: then only one that succeeds shows that it is over.
    of_writes: bool = False
    # Whether it keeps nobody from reading.
    reads_work: bool = False
    since: float = field(default_factory=time.monotonic)

    def concerns(self, writing: bool) -> bool:
        return self.of_all and (writing or not self.reads_work)

    def is_news_after(self, known: "_Trouble | None") -> bool:
        """Whether it is worse than what is known."""
        return (
            known is None
            or (self.of_all and not known.of_all)
            or (not self.of_writes and known.of_writes)
        )


class Database:
    """A bounded set of connections, and a memory of whether the server can be used.

    Connections live long (connecting costs a hundred round trips), are opened
    when first needed, and so never cross a fork. What is in the way is logged, unless
    it is quiet: for somebody who tells it otherwise.
    """

    def __init__(self, dsn: str, size: int, quiet: bool = False):
        self._hosts = _hosts(dsn)
        self._quiet = quiet
        self.pool = Pool(size)
        self._trouble: _Trouble | None = None
        # Since when it grants fewer connections than the pool would open, and whether it was told.
        self._short_since: float | None = None
        self._short = False
        self._mutex = threading.Lock()
        self._probe = threading.Lock()
        # When something was last written, on the monotonic clock.
        self.last_write = float("-inf")
        # Why the last attempt to connect failed: for the operator, never for a client.
        self.last_failure = ""

    @property
    def silent(self) -> bool:
        """Whether the server left its last caller without an answer, or takes no writes."""
        trouble = self._trouble
        return trouble is not None and trouble.of_all

    @property
    def freshly_silent(self) -> bool:
        """Whether that has been found out in the last second."""
        trouble = self._trouble
        return (
            trouble is not None
            and trouble.of_all
            and time.monotonic() - trouble.since < limits.FRESH_SILENCE
        )

    def deadline(self) -> float:
        """Return until when, on the monotonic clock, an exchange that starts now may take."""
        patience = limits.PROBE_PATIENCE if self.freshly_silent else limits.DATABASE_PATIENCE
        return time.monotonic() + patience

    def read(self, sql: str, parameters: Parameters = None) -> list[Row]:
        """Run a statement that may safely run twice and return its rows.

        Raises Unavailable, Overloaded, Conflict or Rejected.
        """
        return self._patiently(LIMITS + sql, parameters, ConnectionLost)

    def read_durably(
        self, sql: str, parameters: Parameters = None, wrote: Callable[[list[Row]], bool] = bool
    ) -> list[Row]:
        """Read as above, as a transaction that writes: it locks some rows, say.

        Then what it has read is durable when this returns, and its server can commit.
        `wrote` says of the rows whether anything was written.
        """
        rows = self._patiently(LIMITS + sql, parameters, ConnectionLost, writing=True)
        if wrote(rows):
            self._note_success(writing=True)
        return rows

    def write(
        self, sql: str, parameters: dict[str, Any], wrote: Callable[[list[Row]], bool] = bool
    ) -> list[Row]:
        """Run `sql` as one serializable transaction and return its last rows.

        They are durable when this returns: the last result arrives after the
        commit. `wrote` says of them whether anything was written. Raises
        Unavailable, Overloaded, Conflict or Rejected (nothing was written), or
        ConnectionLost (nobody knows).
        """
        rows = self._patiently(SERIALIZABLE + sql, parameters, _ReadOnly, writing=True)
        if wrote(rows):
            self._note_success(writing=True)
        return rows

    def _patiently(
        self, sql: str, parameters: Parameters, again: type[Exception], writing: bool = False
    ) -> list[Row]:
        """Run a message, and after some failures again, on another connection."""
        deadline = self.deadline()
        lost: Exception | None = None
        for _ in _tries(deadline):
            try:
                return self._exchange(sql, parameters, deadline, writing)
            except again as error:
                lost = error
        if isinstance(lost, _ReadOnly):
            self._note(_Trouble(str(lost), of_writes=True, reads_work=True))
        raise Unavailable from lost

    @contextmanager
    def session(self) -> Iterator[Run]:
        """Give a function that runs statements, each in a transaction of its own.

        For maintenance: on a connection of its own, without deadline. Raises
        Unavailable, ConnectionLost, Conflict or Rejected.
        """
        connection = self._connect(time.monotonic() + limits.DATABASE_PATIENCE)
        connection.deadline = float("inf")

        def run(sql: str, parameters: Parameters = None) -> list[Row]:
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
    def transaction(self) -> Iterator[Run]:
        """Give a function that runs statements in one transaction, as in a session."""
        with self.session() as run:
            run("BEGIN")
            yield run
            run("COMMIT")

    def close(self) -> None:
        """Close the connections that are idle; those in use live on."""
        self.pool.empty()

    def _tell(self, level: int, message: str, **facts: str) -> None:
        if not self._quiet:
            log.log(level, message, extra=facts)

    def _note(self, trouble: _Trouble) -> None:
        with self._mutex:
            if not trouble.is_news_after(self._trouble):
                return
            self._trouble = trouble
        self._tell(logging.WARNING, "the database cannot be used", reason=trouble.reason)

    def _note_success(self, writing: bool = False) -> None:
        if writing:
            self.last_write = time.monotonic()
        trouble = self._trouble
        if trouble is None or trouble.reads_work and not writing:
            return
        with self._mutex:
            if self._trouble is not trouble:
                return
            over = writing or not trouble.of_writes
            self._trouble = None if over else replace(trouble, reads_work=True)
        if over:
            self._tell(logging.INFO, "the database can be used again")

    def _exchange(
        self, sql: str, parameters: Parameters, deadline: float, writing: bool
    ) -> list[Row]:
        # In trouble only one caller at a time finds out whether that is over;
        # everybody else is told at once and keeps no thread busy.
        probing = self._trouble is not None and self._trouble.concerns(writing)
        if probing and not self._probe.acquire(blocking=False):
            raise Unavailable
        try:
            return self._run(sql, parameters, deadline, writing)
        finally:
            if probing:
                self._probe.release()

    def _run(self, sql: str, parameters: Parameters, deadline: float, writing: bool) -> list[Row]:
        waiting.here.step_aside()
        with metrics.POOL_SECONDS.time():
            connection = self._borrow(deadline)
        metrics.DATABASE_BUSY.add()
        try:
            connection.deadline = deadline
            with connection.cursor() as cursor, metrics.DATABASE_SECONDS.time():
                cursor.execute(sql, parameters)
                rows = cursor.fetchall() if cursor.description else []
        except TimeoutError as error:
            self._note(_Trouble(str(error), of_writes=writing))
            if writing and len(self._hosts) > 1:
                self._turn_from(connection.host)
            raise ConnectionLost from None
        except psycopg2.Error as error:
            meaning = self._meaning(error, connection, writing)
            if self.silent and not isinstance(meaning, ConnectionLost):
                self._note_success()  # a refusal is an answer, too
            raise meaning from error
        except ValueError as error:  # a NUL or a surrogate; never sent
            raise Rejected(str(error)) from error
        finally:
            metrics.DATABASE_BUSY.add(by=-1)
            self.pool.give_back(connection)
        self._note_success()
        return rows

    def _meaning(
        self, error: psycopg2.Error, connection: Connection, writing: bool = False
    ) -> Exception:
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
        if code == READ_ONLY or (writing and code == NOT_SUPPORTED):
            connection.close()
            self.close()
            return _ReadOnly(told)
        if code.startswith(CANNOT):
            self._note(_Trouble(told, of_all=False, of_writes=writing, reads_work=writing))
            return Unavailable()
        if code.startswith(NOT_NOW):
            return Unavailable()
        return Rejected(told)

    def _borrow(self, deadline: float) -> Connection:
        """Return a connection of the pool, which may have to be opened first."""
        # What is left is for the exchange itself: to wait here is no silence of the server.
        while (connection := self.pool.take(deadline - limits.PROBE_PATIENCE)) is None:
            try:
                connection = self._open(deadline)
            except BaseException as failure:
                self.pool.give_back(None)
                if not isinstance(failure, _Refused):
                    raise
            else:
                self.pool.opened()
                break
        return connection

    def _open(self, deadline: float) -> Connection:
        """Connect, as soon as the server lets us; raise _Refused where others are connected."""
        refusal = None
        for _ in _tries(deadline):
            try:
                connection = self._connect(deadline)
            except _Refused:
                refusal = self.last_failure
                if self.pool.refused():
                    self._note_short()
                    raise
            except Unavailable:
                break
            else:
                self._short_since, self._short = None, False
                return connection
        self._note(_Trouble(refusal or self.last_failure))
        raise Unavailable

    def _note_short(self) -> None:
        """Tell that the server refuses what others have, if it still does after a rest.

        One that restarts refuses some, too, while others are connected.
        """
        now = time.monotonic()
        self._short_since = self._short_since or now
        if not self._short and now - self._short_since >= limits.POOL_REST:
            message = "the database grants fewer connections than POOL_SIZE"
            self._tell(logging.WARNING, message, reason=self.last_failure)
            self._short = True

    def _connect(self, deadline: float) -> Connection:
        """Connect to the first host that answers and accepts; raise Unavailable or _Refused."""
        refused = True
        for position, host in enumerate(self._hosts):
            now = time.monotonic()
            share = (deadline - now) / (len(self._hosts) - position)
            factory = partial(Connection, deadline=now + share)
            try:
                connection: Connection = psycopg2.connect(
                    **host, connection_factory=factory, cursor_factory=extras.NamedTupleCursor
                )
            except (psycopg2.Error, TimeoutError) as error:
                refused = refused and not isinstance(error, TimeoutError)
                self.last_failure = str(error).strip().partition("\n")[0]
                continue
            connection.autocommit = True
            connection.host = host
            return connection
        raise _Refused if refused else Unavailable

    def _turn_from(self, host: _Host) -> None:
        """Try the hosts after one first: it accepts connections, and no write in time.

        A primary that has been replaced does so: it says that it can be written to, and
        waits in vain for a standby.
        """
        after = self._hosts.index(host) + 1
        self._hosts = [*self._hosts[after:], *self._hosts[:after]]
        self.close()


def _tries(deadline: float) -> Iterator[None]:
    """Give a first try at once, and others after pauses that double, until a deadline.

    Each has time enough to fail for the server's own reason rather than for the clock.
    """
    pause = limits.RETRY_FIRST
    while True:
        yield
        if time.monotonic() + pause > deadline - limits.PROBE_PATIENCE:
            return
        time.sleep(pause)
        pause = min(2 * pause, limits.RECONNECT_LAST)
