"""Compare this checkout with another one: both services up, measured by turns.

Nothing of the other is imported here. Its service runs with the interpreter of its
own `.venv`, on a PostgreSQL that it starts by itself as `make run` does, and its
events are made over HTTP.
"""

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.benchmark import machine
from tests.benchmark.ground import (
    THIS,
    Checkout,
    Ground,
    Service,
    configuration,
    new_prefix,
    temporary_folder,
)
from tests.benchmark.load import CannotMeasure, Slice, Wrk
from tests.benchmark.measures import (
    CONNECTIONS,
    EVENTS,
    USUAL,
    Run,
    numbered,
    slow_commits,
    two_busy_loops,
    warm,
)
from ticketboss.serving import embedded

MANY = max(CONNECTIONS)
# Pairs of slices, if two seconds each are to end within five minutes.
TURNS = 6
# Where an interpreter finds the SQL, and the version of everything that it has installed.
INSTALLED = """
import importlib.metadata, json, platform, ticketboss.sql
versions = {each.name: each.version for each in importlib.metadata.distributions()}
versions["Python"] = platform.python_version()
print(json.dumps([list(ticketboss.sql.__path__)[0], versions]))
"""


@dataclass(frozen=True)
class Load:
    """What both services are loaded with."""

    name: str
    kind: str
    connections: int = USUAL
    during: Callable = contextlib.nullcontext


# In the order in which they are shown; `--only` takes their names.
LOADS = {
    "noop": [Load("No-op", "noop", count) for count in (1, USUAL, MANY)],
    "summary": [Load("Summary", "summary", count) for count in (USUAL, MANY)],
    "reserve": [Load("Reserve, one event", "reserve", count) for count in (1, USUAL, MANY)],
    "spread": [Load(f"Reserve, {EVENTS} events", "spread", count) for count in (USUAL, MANY)],
}
# Those that run only where `--only` names them.
NAMED = {
    "busy": [Load("Beside two busy loops", "reserve", during=two_busy_loops)],
    "slow": [
        Load("Slow, one event", "reserve", during=slow_commits),
        Load(f"Slow, {EVENTS} events", "spread", during=slow_commits),
    ],
}


@dataclass(frozen=True)
class Measured:
    """A slice, and the processor time that the service and its PostgreSQL took for it."""

    slice: Slice
    cpu_seconds: float

    @property
    def rate(self) -> float:
        return self.slice.rate

    @property
    def cost(self) -> float:
        """Processor time for a request that did what it was sent for, in seconds."""
        return self.cpu_seconds / max(self.slice.accepted, 1)


class Comparison:
    """Two services, of which one at a time is loaded."""

    def __init__(self, this: Run, that: Run):
        self.this = this
        self.that = that
        self.pairs: dict[Load, list[tuple[Measured, Measured]]] = {}
        # What the service at rest and its PostgreSQL took in each slice, in processors,
        # and what everybody but the benchmark took of the whole machine.
        self.at_rest: list[float] = []
        self.others = 0.0

    def measure(self, loads: list[Load], say: Callable[[str], None]) -> None:
        """Measure a pair of each load, again and again.

        So a minute in which the machine is slow costs each row one pair, not one row all.
        """
        self.pairs = {load: [] for load in loads}
        started, before = time.monotonic(), self._spent_by_others()
        for turn in range(TURNS):
            say(f"turn {turn + 1} of {TURNS}")
            for place, load in enumerate(loads):
                if (turn + place) % 2:
                    that = self._measured(load, self.that, self.this)
                    this = self._measured(load, self.this, self.that)
                else:
                    this = self._measured(load, self.this, self.that)
                    that = self._measured(load, self.that, self.this)
                self.pairs[load].append((this, that))
        spent = self._spent_by_others() - before
        self.others = spent / (time.monotonic() - started) / os.cpu_count()

    def _measured(self, load: Load, one: Run, other: Run) -> Measured:
        # The other first, so that nothing of its last slice falls into this one.
        for run in (other, one):
            run.service.come_to_rest()
        started, before = time.monotonic(), [run.service.cpu().total() for run in (one, other)]
        done = one.slice(load.kind, connections=load.connections, during=load.during, events=EVENTS)
        taken = time.monotonic() - started
        cpu, at_rest = (
            run.service.cpu().total() - earlier
            for run, earlier in zip((one, other), before, strict=True)
        )
        self.at_rest.append(at_rest / taken)
        return Measured(done, cpu)

    def _spent_by_others(self) -> float:
        services = sum(run.service.cpu().total() for run in (self.this, self.that))
        return machine.busy_seconds() - services - sum(os.times()[:4])


def checkouts(path: Path) -> tuple[Checkout, Checkout]:
    """Return this checkout and the one at a path. Raises CannotMeasure if they cannot serve."""
    if configuration().database_url:
        raise CannotMeasure("--against needs a database for each: leave DATABASE_URL unset")
    folder = path.resolve()
    if not (folder / "tests" / "benchmark" / "application.py").exists():
        raise CannotMeasure(f"--against takes a checkout of TicketBoss, not {str(path)!r}")
    that = Checkout("that", folder, folder / ".venv" / "bin" / "python")
    if not that.python.exists():
        raise CannotMeasure(f"{path} has no .venv yet: make -C {path} .venv/test")
    for checkout in (THIS, that):
        sql, _ = _installed(checkout)
        if not (checkout.folder / "sql").samefile(sql):
            raise CannotMeasure(
                f"{checkout.python} takes its SQL from {sql}:"
                f" make -C {checkout.folder} clean .venv/test"
            )
    return THIS, that


def describe(*both: Checkout) -> str:
    """Return a line for each checkout, and one for what is installed in one only."""
    lines = [f"{each.name}: {each.folder} ({_commit(each.folder)})" for each in both]
    versions = [_installed(each)[1] for each in both]
    for each, own, others in zip(both, versions, versions[::-1], strict=True):
        apart = [f"{name} {own[name]}" for name in sorted(own) if own[name] != others.get(name)]
        if apart:
            lines.append(f"Only {each.name} has {', '.join(apart)}.")
    return "\n".join(lines)


@contextlib.contextmanager
def comparison(both: tuple[Checkout, Checkout], seconds: int, say: Callable[[str], None]):
    """Give the comparison of two checkouts, each with a database that is removed afterwards."""
    config, wrk = configuration(), Wrk()
    with contextlib.ExitStack() as stack:
        runs = []
        for checkout in both:
            folder = stack.enter_context(temporary_folder())
            server = embedded.Server(folder)
            # The service stops what it starts; this is for one that had to be killed.
            stack.callback(server.leave)
            ground = Ground(config, server.dsn, new_prefix())
            service = stack.enter_context(Service(ground, checkout, folder))
            server.join()
            service.create("hot", "warm", *numbered("hot"))
            runs.append(Run(ground, service, wrk, None, seconds, say))
        for run in runs:
            warm(run)
            run.ground.tidy_up()
        yield Comparison(*runs)


def verify(service: Service) -> None:
    """Let a checkout replay its ledger; raise CannotMeasure if anything disagrees."""
    command = [service.python, "-m", "flask", "--app", "wsgi", "verify"]
    done = subprocess.run(
        command,
        cwd=service.checkout,
        env=service.environment,
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    if done.returncode != 0:
        lines = done.stdout.strip().splitlines() or ["no reason given"]
        raise CannotMeasure(f"verify of {service.checkout} failed: {lines[-1]}")


@cache
def _installed(checkout: Checkout) -> tuple[str, dict[str, str]]:
    done = subprocess.run(
        [checkout.python, "-c", INSTALLED], cwd=checkout.folder, capture_output=True, text=True
    )
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["no reason given"]
        raise CannotMeasure(
            f"{checkout.python} cannot serve ({lines[-1]}):"
            f" make -C {checkout.folder} clean .venv/test"
        )
    return json.loads(done.stdout)


def _commit(folder: Path) -> str:
    with contextlib.suppress(OSError):
        done = subprocess.run(
            ["git", "-C", folder, "describe", "--always", "--dirty"],
            capture_output=True,
            text=True,
        )
        if done.returncode == 0:
            return f"commit {done.stdout.strip()}"
    return "no commit known"
