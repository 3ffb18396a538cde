"""Measure the service beside its rivals, on one PostgreSQL server, by turns."""

import contextlib
import statistics
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from psycopg2 import extensions

from tests import serving
from tests.benchmark.against import Load
from tests.benchmark.ground import SEATS, Checkout, Ground, Service
from tests.benchmark.load import CannotMeasure, Slice, Wrk
from tests.benchmark.measures import EVENTS, TURNS, Run, numbered, slow_commits

HERE = Path(__file__).parent
PYTHON = serving.ROOT / ".venv" / "rivals" / "bin" / "python"


@dataclass(frozen=True)
class Rival:
    """Another design, and how gunicorn serves it."""

    name: str
    application: str
    worker: str
    # Connections to PostgreSQL, of each process.
    pool_size: int


UVICORN = "fastapi_asyncpg:app", "uvicorn_worker.UvicornWorker"
RIVALS = (
    # Few connections are best for one event, many for many.
    Rival("FastAPI, asyncpg, pool 2", *UVICORN, 2),
    Rival("FastAPI, asyncpg, pool 16", *UVICORN, 16),
    Rival("Flask, FOR UPDATE", "flask_for_update:app", "gthread", 24),
)
NAME = 26
COLUMN = 13
LOADS = (
    Load("one event", "reserve"),
    Load("one event", "reserve", 256),
    Load(f"{EVENTS} events", "spread"),
    Load("one, +4 ms", "reserve", during=slow_commits),
    Load(f"{EVENTS}, +4 ms", "spread", during=slow_commits),
)
# A wrong number of seats left, where something was sold twice or lost.
WRONG = """
SELECT count(*)
FROM events
WHERE total_seats - available_seats <> (
    SELECT coalesce(sum(seats), 0)
    FROM reservations
    WHERE reservations.event_id = events.event_id
)
"""


class RivalService(Service):
    """A rival under gunicorn, with as many processes as the service has."""

    def __init__(self, ground: Ground, rival: Rival):
        where = extensions.parse_dsn(ground.dsn)
        where["database"] = where.pop("dbname")
        # The names that every client of PostgreSQL knows.
        settings = {f"PG{name.upper()}": value for name, value in where.items()}
        super().__init__(ground, Checkout(rival.name, HERE, PYTHON), **settings)
        self.environment["POOL_SIZE"] = str(rival.pool_size)
        self.command = [
            *(PYTHON, "-m", "gunicorn", f"--bind=127.0.0.1:{self.port}", "--log-level=warning"),
            f"--workers={ground.config.workers}",
            f"--threads={rival.pool_size}",  # where it has such: nobody waits for a connection
            *(f"--worker-class={rival.worker}", rival.application),
        ]


@dataclass
class Rivalry:
    """The service, its rivals, and what each reached under each load."""

    service: Service
    rivals: list[RivalService]
    slices: dict[tuple[Load, str], list[Slice]] = field(default_factory=dict)

    def ratio(self, load: Load, name: str) -> float:
        """Return the median, over the turns, of a rival's rate in terms of the service's."""
        ours, theirs = self.slices[load, self.service.name], self.slices[load, name]
        pairs = zip(theirs, ours, strict=True)
        return statistics.median(their.rate / our.rate if our.rate else 0 for their, our in pairs)

    def median(self, load: Load, name: str, figure: str) -> float:
        return statistics.median(getattr(each, figure) for each in self.slices[load, name])


@contextlib.contextmanager
def rivalry(base: Ground) -> Iterator[Rivalry]:
    """Give the service and its rivals, all of them up, each with the same events."""
    if not PYTHON.exists():
        raise CannotMeasure("the rivals have no environment yet: make bench-rivals makes it")
    with base.beside("rivals") as theirs, contextlib.ExitStack() as stack:
        theirs.sql((HERE / "schema.sql").read_text("utf-8"))
        names = ["hot", *numbered("hot")]
        for name in names:
            theirs.sql("INSERT INTO events VALUES (%s, %s, %s)", (theirs.event(name), SEATS, SEATS))
        service = stack.enter_context(Service(base))
        service.create(*names)
        rivals = [stack.enter_context(RivalService(theirs, rival)) for rival in RIVALS]
        yield Rivalry(service, rivals)
        if wrong := theirs.sql(WRONG)[0][0]:
            raise CannotMeasure(f"{wrong} of the rivals' events have sold twice, or lost")


def measure(found: Rivalry, wrk: Wrk, seconds: int, say: Callable[[str], None]) -> Run:
    """Load one after the other, each going first by turns; return the run, with its failures."""
    run = Run(found.service.ground, found.service, wrk, None, seconds, say)
    services = [found.service, *found.rivals]
    say("warming up")
    for service in services:
        for kind in ("reserve", "spread"):
            run.slice(kind, connections=256, service=service, seconds=1, events=EVENTS)
    for turn in range(TURNS):
        say(f"turn {turn + 1} of {TURNS}")
        for place, load in enumerate(LOADS):
            first = (turn + place) % len(services)
            for service in services[first:] + services[:first]:
                for other in services:
                    if other is not service:  # which the slice itself waits for
                        other.come_to_rest()
                done = run.slice(
                    load.kind,
                    connections=load.connections,
                    service=service,
                    during=load.during,
                    events=EVENTS,
                )
                found.slices.setdefault((load, service.name), []).append(done)
    return run


def table(found: Rivalry) -> str:
    """Return a line for each: its rate as a multiple of the service's, and its p99."""

    def line(name: str, figures: Iterable[str]) -> str:
        return f"{name:{NAME}}" + "".join(f"{figure:>{COLUMN}}" for figure in figures)

    def medians(name: str, figure: str) -> list[str]:
        return [f"{found.median(load, name, figure):,.0f}" for load in LOADS]

    ours, theirs = found.service.name, [rival.name for rival in found.rivals]
    lines = [
        line("", [load.name for load in LOADS]),
        line("", [f"{load.connections} conn." for load in LOADS]),
        "-" * (NAME + COLUMN * len(LOADS)),
        line("this service", [f"{rate}/s" for rate in medians(ours, "rate")]),
    ]
    for name in theirs:
        lines.append(line(name, [f"{found.ratio(load, name):.2f}" for load in LOADS]))
    lines += ["", line("99th percentile, ms", []), line("this service", medians(ours, "p99"))]
    lines += [line(name, medians(name, "p99")) for name in theirs]
    return "\n".join(lines)
