"""What is counted, in memory that all processes of an instance share; no HTTP.

Each process counts in a slot of its own, and whoever shows the counts adds up the
slots. A worker goes on in the slot of the one whose place it takes: so no count goes
back when a worker ends, and nothing grows. The series are made before anybody counts,
in the same order in every process, from names that no client can choose.
"""

import mmap
import os
import threading
import time
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, get_args

from ticketboss.rules.errors import TicketBossError
from ticketboss.rules.model import Kind

# For how many workers there is a place. The process that starts them has one, too.
PLACES = 256

# The numbers of a slot: most are the requests, by each route and method and each status of
# HTTP. Memory is taken when it is written to: a few pages for each process.
CELLS = 8192

# What stands for labels that are not among the known.
OTHER = "other"


class Slots:
    """The memory, and which part of it is this process's own. Its first cell says it is used."""

    def __init__(self) -> None:
        memory = memoryview(mmap.mmap(-1, 8 * CELLS * (1 + PLACES))).cast("d")
        self.all = [memory[n * CELLS : (n + 1) * CELLS] for n in range(1 + PLACES)]
        # How many cells of each have a meaning.
        self.length = 1
        self.take(0)
        self.renew_mutex()
        os.register_at_fork(after_in_child=self.renew_mutex)

    def renew_mutex(self) -> None:
        # A thread of the parent's may have it, and is not in the child.
        self.mutex = threading.Lock()

    def take(self, number: int) -> None:
        self.own = self.all[number]
        self.own[0] = 1

    def allot(self, cells: int) -> int:
        """Give a series its place, which is the same in every slot."""
        first, self.length = self.length, self.length + cells
        if self.length > CELLS:
            raise MemoryError("metrics.CELLS is too small")
        return first

    def sums(self) -> list[float]:
        used = (slot[: self.length].tolist() for slot in self.all if slot[0])
        return [sum(cells) for cells in zip(*used, strict=True)]


slots = Slots()


class Sample(NamedTuple):
    """One number of a family, and the labels that tell it from the others."""

    labels: dict[str, Any]
    value: float
    suffix: str = ""


class Family(NamedTuple):
    """All that is told under one name."""

    name: str
    kind: str
    about: str
    samples: list[Sample]


class Metric:
    """A name, and a series of numbers for each known combination of values of its labels."""

    kind = ""
    cells = 1

    def __init__(
        self, name: str, about: str, labels: tuple[str, ...] = (), values: Iterable[str] = ()
    ):
        self.name, self.about, self._labels = name, about, labels
        self._series: dict[tuple[Any, ...], int] = {}
        # A family whose series are not all in the table shows those that have come up.
        self._shows_all = bool(values) or not labels
        for value in values:
            self.know(value)
        if not labels:
            self.know()

    def know(self, *values: Any) -> None:
        """Make a series; in every process in the same order, and before it is used."""
        if values not in self._series:
            self._series[values] = slots.allot(self.cells)

    def _first(self, values: tuple[Any, ...]) -> int:
        first = self._series.get(values)
        return self._series[(OTHER,) * len(values)] if first is None else first

    def family(self, cells: list[float]) -> Family:
        samples: list[Sample] = []
        for values, first in self._series.items():
            found = cells[first : first + self.cells]
            if self._shows_all or any(found):
                samples += self._samples(dict(zip(self._labels, values, strict=True)), found)
        return Family(f"ticketboss_{self.name}", self.kind, self.about, samples)

    def _samples(self, labels: dict[str, Any], cells: list[float]) -> Iterator[Sample]:
        yield Sample(labels, cells[0])


class Counter(Metric):
    kind = "counter"

    def add(self, *values: Any, by: float = 1) -> None:
        first = self._first(values)
        with slots.mutex:
            slots.own[first] += by


class Gauge(Counter):
    """Goes up and down, and ends with its process."""

    kind = "gauge"

    def set(self, value: float) -> None:
        slots.own[self._first(())] = value

    def forget(self, slot: "memoryview[float]") -> None:
        for first in self._series.values():
            slot[first] = 0


class Histogram(Metric):
    kind = "histogram"

    def __init__(self, name: str, about: str, bounds: tuple[float, ...], *labels: str):
        self._bounds = bounds
        self.cells = len(bounds) + 2  # what is above them all, and the sum
        super().__init__(name, about, labels)

    def observe(self, value: float, *values: Any) -> None:
        first = self._first(values)
        bucket = first + bisect_left(self._bounds, value)
        with slots.mutex:
            slots.own[bucket] += 1
            slots.own[first + self.cells - 1] += value

    def time(self) -> "_Timer":
        """Return a context of which the duration is observed, however it ends."""
        return _Timer(self)

    def _samples(self, labels: dict[str, Any], cells: list[float]) -> Iterator[Sample]:
        count = 0.0
        for bound, inside in zip((*self._bounds, "+Inf"), cells, strict=False):
            count += inside
            yield Sample({**labels, "le": bound}, count, "_bucket")
        yield Sample(labels, cells[-1], "_sum")
        yield Sample(labels, count, "_count")


class _Timer:
    __slots__ = ("_histogram", "_began")

    def __init__(self, histogram: Histogram):
        self._histogram = histogram

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._histogram.observe(time.perf_counter() - self._began)


# --- Processes ----------------------------------------------------------------------


def enter(place: int) -> None:
    """Count for the worker in a place from now on, from where the one before it stopped."""
    leave(place)
    slots.take(1 + place)


def leave(place: int) -> None:
    """Let what a worker has be nobody's any more; its counts stay."""
    for metric in TABLE:
        if isinstance(metric, Gauge):
            metric.forget(slots.all[1 + place])


def families() -> list[Family]:
    """Return everything as it is now, over all processes."""
    cells = slots.sums()
    return [metric.family(cells) for metric in TABLE]


# --- What there is ------------------------------------------------------------------


def _codes(fact: type[TicketBossError]) -> set[str]:
    return {fact.code}.union(*map(_codes, fact.__subclasses__()))


# Beside those of the rules there are two of an address that is none.
CODES = sorted(_codes(TicketBossError) | {"route_not_found", "method_not_allowed", OTHER})
# Why a client's connection was ended, other than at its own wish or between two requests.
SILENT, LATE, UNREAD, MALFORMED, NO_ROOM = REASONS = (
    *("silent", "late", "unread", "malformed", "no_room"),
)

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
SIZES = (1, 2, 4, 8, 16, 32, 64)

TABLE: tuple[Metric, ...] = (
    REQUESTS := Counter("requests_total", "Requests answered", ("route", "method", "status")),
    REQUEST_SECONDS := Histogram(
        "request_seconds", "Time from a request to its answer", SECONDS, "route", "method"
    ),
    REFUSALS := Counter(
        "refusals_total", "Requests, and operations of batches, refused", ("code",), CODES
    ),
    CHANGES := Counter("changes_total", "Changes of events written", ("type",), get_args(Kind)),
    BATCH_CHANGES := Histogram("batch_changes", "Changes tried as one transaction", SIZES),
    CONFLICTS := Counter("conflicts_total", "Times that a rival changed an event first"),
    SKIPPED_ROWS := Counter(
        "skipped_rows_total", "Times that a row was locked by somebody and not waited for"
    ),
    RETRIES := Counter("retries_total", "Changes put back in line by a batch"),
    LOST_ANSWERS := Counter(
        "lost_answers_total", "Writes of an event whose answer the database did not give"
    ),
    LOST_ANSWERS_FOUND := Counter(
        "lost_answers_found_total", "Of those, writes that were then found to have been made"
    ),
    LINE_SECONDS := Histogram("line_seconds", "Time of a change in line for a batch", SECONDS),
    POOL_SECONDS := Histogram(
        "pool_seconds", "Time until there was a connection to the database", SECONDS
    ),
    DATABASE_SECONDS := Histogram("database_seconds", "Time of exchanges with it", SECONDS),
    CLIENTS := Gauge("client_connections", "Connections of clients that are open"),
    DATABASE_OPEN := Gauge("database_connections", "Connections to the database that are open"),
    DATABASE_BUSY := Gauge("database_connections_in_use", "Of those, the ones in use"),
    CUT_OFF := Counter("clients_cut_off_total", "Clients' connections ended", ("reason",), REASONS),
    LOG_LINES_DROPPED := Counter("log_lines_dropped_total", "Log lines that nobody took"),
)
