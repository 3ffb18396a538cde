"""The measurements, one function for each row or group of rows of the report.

This machine's load changes from second to second, so what is compared is
measured side by side: in short slices by turns, the median of whose ratios
counts.
"""

import contextlib
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from uuid import uuid4

from tests.benchmark.ground import SEATS, Ground, Service
from tests.benchmark.load import FORMS, CannotMeasure, Pgbench, Slice, Wrk, busy_loops
from ticketboss.data.database import Conflict, Database
from ticketboss.data.store import Store
from ticketboss.rules.changes import Reserve
from ticketboss.rules.ids import ReservationIds
from ticketboss.rules.plan import Plan
from ticketboss.selling.batch import Batches
from ticketboss.selling.line import Line

CONNECTIONS = (1, 8, 32, 128, 256)
USUAL = 32
# Pairs of slices, if two seconds each are to end within five minutes.
TURNS = 4
EVENTS = 100
# A sale that goes on while something else is measured: at most 8 requests
# every 10 ms, so that it takes the same from whatever it runs beside.
SALE = {"connections": 8, "pause": 10}
BUSY_LOOPS = 2
SMALL, LARGE = 1_000, 1_000_000
LEAK_PER_100K = 1.0  # MiB
SOAK_MINUTES = 10


@dataclass
class Row:
    """A ratio, what it should be, and what it was made from."""

    name: str
    value: float | None  # None: it could not be measured, and detail says why
    target: float
    detail: str
    at_most: bool = False
    values: list[float] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        if self.value is None:
            return False
        return self.value <= self.target if self.at_most else self.value >= self.target


@dataclass
class Run:
    """What the measurements share, and what they find."""

    ground: Ground
    service: Service
    wrk: Wrk
    pgbench: Pgbench | None
    seconds: int
    say: Callable[[str], None]
    rows: list[Row] = field(default_factory=list)
    profile: dict[str, float] = field(default_factory=dict)
    curve: list[dict] = field(default_factory=list)
    requests: int = 0
    failed: int = 0
    failures: Counter = field(default_factory=Counter)
    # After each slice: how many requests there have been, and the workers' resident memory.
    resident: list[tuple[int, int]] = field(default_factory=list)
    tokens: int = 0

    def slice(
        self,
        kind: str,
        event: str = "hot",
        connections: int = USUAL,
        service: Service | None = None,
        seconds: int | None = None,
        during: Callable = contextlib.nullcontext,
        **options,
    ) -> Slice:
        """Load the service with one kind of request for a short while.

        `during` takes the service and gives a context manager for that while.
        """
        service = service or self.service
        service.come_to_rest()
        with during(service):
            done = self.wrk.run(
                service.port,
                kind,
                seconds or self.seconds,
                connections,
                **self.options(service, event),
                **options,
            )
        service.empty_log()
        self.count(done, service)
        return done

    def options(self, service: Service, event: str) -> dict:
        self.tokens += 1
        return {"event": service.ground.event(event), "token": f"{event}-{self.tokens}"}

    def count(self, done: Slice, service: Service) -> None:
        if service is self.service:
            self.requests += done.requests
            self.resident.append((self.requests, service.resident()))
        self.failed += done.failed
        self.failures += done.failures

    def compare(self, turns: int, first: Callable, second: Callable) -> list[tuple]:
        """Measure two things by turns, so that neither always goes first."""
        pairs = []
        for turn in range(turns):
            if turn % 2:
                other = second()
                pairs.append((first(), other))
            else:
                pairs.append((first(), second()))
        return pairs

    def add(self, name: str, pairs: list[tuple], target: float, detail: str = "") -> None:
        """Add a row for how fast the first of each pair was, in terms of the second."""
        values = [one.rate / other.rate if other.rate else 0.0 for one, other in pairs]
        rates = [
            statistics.median(part.rate for part in parts) for parts in zip(*pairs, strict=True)
        ]
        detail = detail or f"{rates[0]:,.0f}/s, {rates[1]:,.0f}/s"
        self.rows.append(Row(name, statistics.median(values), target, detail, values=values))


def warm(run: Run) -> None:
    """Reach every connection, thread and code path once, before anything counts."""
    for kind in ("noop", "reserve", "mixed", "hold", "summary"):
        run.slice(kind, "warm", max(CONNECTIONS), seconds=1)
    run.requests = 0
    run.resident.clear()


def hot(run: Run) -> None:
    """Reserve on one hot event / no-op."""
    costs = {"noop": Counter(), "reserve": Counter()}

    def measured(kind: str) -> Slice:
        before, cpu = run.service.counters(), run.service.cpu()
        done = run.slice(kind)
        costs[kind].update(run.service.cpu() - cpu)
        costs[kind].update(run.service.counters() - before)
        costs[kind]["accepted"] += done.accepted
        return done

    pairs = run.compare(TURNS + 2, lambda: measured("reserve"), lambda: measured("noop"))
    run.add("Reserve, one hot event / no-op", pairs, 0.50)
    run.profile["noop_rate"] = statistics.median(noop.rate for _, noop in pairs)
    for kind, cost in costs.items():
        for part in ("python", "postgresql"):
            if part in cost and cost["accepted"]:
                run.profile[f"{kind}_{part}_ms"] = 1000 * cost[part] / cost["accepted"]
        run.profile[f"{kind}_lock_wait_ms"] = (
            1000 * cost["lock_wait_seconds"] / max(cost["lock_waits"], 1)
        )
    counts = costs["reserve"]
    commits = max(counts["commits"], 1)
    run.profile["commits_per_reservation"] = counts["commits"] / max(counts["changes"], 1)
    run.profile["locked_per_commit"] = counts["locked"] / commits
    conflicts = counts["serialization_failures"] + counts["version_conflicts"]
    run.profile["conflicts_per_commit"] = conflicts / commits


def connections(run: Run) -> None:
    """Refused or failed requests, and latencies, at 1 to 256 connections."""
    slices = {count: [] for count in CONNECTIONS}
    for _ in range(TURNS - 1):
        for count, found in slices.items():
            found.append(run.slice("reserve", connections=count))
    for count, found in slices.items():
        run.curve.append(
            {
                "connections": count,
                "rate": statistics.median(part.rate for part in found),
                "p50_ms": statistics.median(part.p50 for part in found),
                "p99_ms": statistics.median(part.p99 for part in found),
                "spread": statistics.median(part.p99 / part.p50 for part in found),
                "requests": sum(part.requests for part in found),
                "failed": sum(part.failed for part in found),
            }
        )
    failed = sum(point["failed"] for point in run.curve)
    requests = sum(point["requests"] for point in run.curve)
    run.rows.append(
        Row(
            "Refused or failed, 1 to 256 connections",
            failed,
            0,
            f"of {requests:,} reservations",
            at_most=True,
        )
    )
    usual = next(point for point in run.curve if point["connections"] == USUAL)
    values = [part.p99 / part.p50 for part in slices[USUAL]]
    detail = f"{usual['p99_ms']:.1f} ms, {usual['p50_ms']:.1f} ms"
    run.rows.append(
        Row(
            f"p99 / p50, {USUAL} connections",
            usual["spread"],
            4,
            detail,
            at_most=True,
            values=values,
        )
    )


def alone(run: Run) -> None:
    """One client's write through the write path / the same write without batching."""
    run.service.create("alone")
    event_id = run.ground.event("alone")
    store = Store(Database(run.ground.dsn, size=1))
    path = Line(Batches(store))
    ids = ReservationIds()

    def change() -> Reserve:
        return Reserve(ids.new(event_id), event_id, "alone", 1)

    def direct() -> None:
        plan = Plan.supposing(event_id)
        change().apply(plan)
        while True:
            try:
                return plan.place(*store.write([plan], uuid4())[event_id])
            except Conflict:  # with a page of an index, at times, not with a rival
                continue

    def batched() -> None:
        path.submit(event_id, change())

    def timed(write: Callable) -> float:
        started = time.perf_counter()
        write()
        return 1000 * (time.perf_counter() - started)

    for _ in range(100):
        direct()
        batched()
    times = []
    end = time.monotonic() + 2 * run.seconds
    while time.monotonic() < end:
        times.append((timed(batched), timed(direct)))
        other = timed(direct)
        times.append((timed(batched), other))
    store.database.close()
    one, other = (statistics.median(part) for part in zip(*times, strict=True))
    run.profile["alone_ms"] = one
    run.rows.append(
        Row(
            "One client alone: latency / without batching",
            one / other,
            1.10,
            f"{one:.2f} ms, {other:.2f} ms",
            at_most=True,
        )
    )


def one_by_one(run: Run) -> None:
    """Reserve on one hot event / pgbench on the same server."""
    run.service.create("rival")
    event_id, dsn = run.ground.event("rival"), run.ground.dsn
    server = int(run.ground.sql("SHOW server_version_num")[0][0])
    rivals = []

    def rival():
        found = [run.pgbench.run(dsn, form, event_id, run.seconds, server) for form in FORMS]
        rivals.extend(found)
        return max(found, key=lambda part: part.rate)

    pairs = run.compare(TURNS - 1, lambda: run.slice("reserve"), rival)
    for form in FORMS:
        run.profile[f"pgbench_{form.replace(' ', '_')}"] = statistics.median(
            part.rate for part in rivals if part.form == form
        )
    run.add("Reserve / pgbench one by one, 16 clients", pairs, 1.0)


def numbered(name: str) -> list[str]:
    """Return the names of the events that the load "spread" takes by turns."""
    return [f"{name}-{number}" for number in range(1, EVENTS + 1)]


def spread(run: Run) -> None:
    """Reserve over 100 events / on one."""
    run.service.create(*numbered("spread"))
    pairs = run.compare(
        TURNS, lambda: run.slice("spread", "spread", events=EVENTS), lambda: run.slice("reserve")
    )
    run.add(f"Reserve over {EVENTS} events / on one", pairs, 1.0)


def mixed(run: Run) -> None:
    """Reserve and cancel 80/20 / reserve alone."""
    pairs = run.compare(TURNS, lambda: run.slice("mixed"), lambda: run.slice("reserve"))
    run.add("Reserve and cancel 80/20 / reserve", pairs, 0.8)


def summary(run: Run) -> None:
    """Summary reads / no-op, while a sale is running beside either."""
    sales = []

    def during_a_sale(kind: str) -> Slice:
        options = {**run.options(run.service, "hot"), **SALE}
        with run.wrk.behind(run.service.port, "reserve", **options) as sale:
            done = run.slice(kind)
        run.count(sale[0], run.service)
        sales.append(sale[0].rate)
        return done

    pairs = run.compare(TURNS, lambda: during_a_sale("summary"), lambda: during_a_sale("noop"))
    run.profile["sale_beside"] = statistics.median(sales)
    run.add("Summary / no-op, during a sale", pairs, 0.6)


def idempotent(run: Run) -> None:
    """Reserve with an idempotency key / without."""
    pairs = run.compare(TURNS, lambda: run.slice("idempotent"), lambda: run.slice("reserve"))
    run.add("Idempotent reserve / reserve", pairs, 0.85)


def hold(run: Run) -> None:
    """Pairs of hold and confirm / reserve."""
    run.service.create("hold")
    pairs = run.compare(TURNS, lambda: run.slice("hold", "hold"), lambda: run.slice("reserve"))
    run.add("Hold + confirm pairs / reserve", pairs, 0.45)


def size(run: Run) -> None:
    """Reserve, cancel and summary at 1,000,000 reservations / at 1,000."""
    names = ("Reserve", "Cancel", "Summary")
    try:
        with (
            run.ground.beside("small") as small,
            run.ground.beside("large") as large,
            Service(small) as few,
            Service(large) as many,
        ):
            started = time.monotonic()
            for service, count in ((few, SMALL), (many, LARGE)):
                _fill(service, count)
            run.profile["fill_seconds"] = time.monotonic() - started
            run.say(f"{LARGE:,} reservations loaded in {run.profile['fill_seconds']:.0f} s")
            found = _at_both_sizes(run, few, many)
    except CannotMeasure as reason:
        for name in names:
            run.rows.append(Row(f"{name} at {LARGE:,} / {SMALL:,}", None, 0.9, str(reason)))
        return
    for name, pairs in zip(names, found, strict=True):
        run.add(f"{name} at {LARGE:,} / {SMALL:,}", pairs, 0.9)


def _at_both_sizes(run: Run, few: Service, many: Service) -> list[list[tuple]]:
    # Half as long, so that no cancel is left without a reservation to cancel.
    shorter = max(run.seconds // 2, 1)
    for service in (few, many):
        run.slice("reserve", "sized", service=service, seconds=1)
        run.slice("summary", "sized", service=service, seconds=1)

    def cancel(service: Service) -> Slice:
        rows = service.ground.sql(
            "SELECT reservation_id FROM reservations WHERE event_id = %s AND status = 'confirmed'"
            " ORDER BY created_version DESC LIMIT 100000",
            (service.ground.event("sized"),),
        )
        with tempfile.NamedTemporaryFile("w", suffix=".ids") as file:
            file.writelines(f"{row[0]}\n" for row in rows)
            file.flush()
            return run.slice("cancel", "sized", service=service, seconds=shorter, ids=file.name)

    def plain(kind: str) -> Callable:
        return lambda service: run.slice(kind, "sized", service=service)

    reserves, cancels, summaries = [], [], []
    for _ in range(TURNS):
        for pairs, measure in (
            (reserves, plain("reserve")),
            (cancels, cancel),
            (summaries, plain("summary")),
        ):
            turned = len(pairs) % 2
            one, other = (few, many) if turned else (many, few)
            done = measure(one), measure(other)
            pairs.append(done[::-1] if turned else done)
    return [reserves, cancels, summaries]


def _fill(service: Service, count: int) -> None:
    """Sell `count` seats of an event in bulk, as the service would have one by one."""
    service.create("sized")
    ground = service.ground
    event_id = ground.event("sized")
    given = {"event_id": event_id, "count": count, "seats": 10_000_000}
    # Ids as the service makes them (RFC 9562, section 5.7), a millisecond apart.
    numbered = """
        SELECT number, 'partner-' || number %% 64 AS partner_id,
               now() - (%(count)s - number) * interval '1 millisecond' AS at,
               (substr(hex, 1, 8) || '-' || substr(hex, 9, 4) || '-7000-8000-'
                || lpad(to_hex(number), 12, '0'))::uuid AS reservation_id
        FROM (SELECT number, lpad(to_hex((extract(epoch FROM now()) * 1000)::bigint
                                         - %(count)s + number), 12, '0') AS hex
              FROM generate_series(1, %(count)s) AS number) AS numbers"""
    ground.sql(
        f"""
        BEGIN;
        INSERT INTO reservations (event_id, created_version, reservation_id, partner_id, seats,
                                  status, version, created_at, confirmed_at, requested_seats)
        SELECT %(event_id)s, number, reservation_id, partner_id, 1, 'confirmed', number, at, at, 1
        FROM ({numbered}) AS made;
        INSERT INTO ledger (event_id, version, type, reservation_id, partner_id, seats,
                            available_seats, at, batch_id)
        SELECT %(event_id)s, number, 'reserved', reservation_id, partner_id, 1,
               %(seats)s - number, at, reservation_id
        FROM ({numbered}) AS made;
        UPDATE events
        SET available_seats = %(seats)s - %(count)s, reservation_count = %(count)s,
            version = %(count)s
        WHERE event_id = %(event_id)s;
        COMMIT
        """,
        given,
    )
    ground.tidy_up()


def memory(run: Run) -> None:
    """Growth of the workers' resident memory, per worker and 100,000 requests."""
    for _ in range(2):
        run.slice("reserve")
    _growth(run)


def _growth(run: Run) -> None:
    """Add a row for the second half of all requests: the first fills pools and caches."""
    requests, end = run.resident[-1]
    half, start = next(point for point in run.resident if point[0] >= requests / 2)
    workers = len(run.service.worker_pids())
    # Of fewer requests it tells the whole growth: a page here or there is no leak.
    growth = (end - start) / workers / 2**20 / max((requests - half) / 100_000, 1)
    run.profile |= {"resident_requests": requests}
    run.rows.append(
        Row(
            "Growth of a worker, MiB per 100,000 requests",
            growth,
            LEAK_PER_100K,
            f"{start / workers / 2**20:.1f}, {end / workers / 2**20:.1f} MiB",
            at_most=True,
        )
    )


def two_busy_loops(_) -> contextlib.AbstractContextManager:
    return busy_loops(BUSY_LOOPS)


def slow_commits(service: Service) -> contextlib.AbstractContextManager:
    return service.ground.slow_commits()


def busy(run: Run) -> None:
    """Reserve on one hot event beside two busy loops / without."""
    pairs = run.compare(
        TURNS,
        lambda: run.slice("reserve", during=two_busy_loops),
        lambda: run.slice("reserve"),
    )
    run.add("Reserve beside two busy loops / without", pairs, 0.5)


def slow(run: Run) -> None:
    """Reserve with commits that take 4 ms longer, on one event and over 100."""
    names = (
        "Reserve, commits 4 ms longer / as they are",
        f"Over {EVENTS} events / on one, 4 ms longer",
    )
    if run.ground.lent:
        reason = "slow commits need a trigger, which only an embedded database gets"
        run.rows += [Row(name, None, 1.0, reason) for name in names]
        return
    run.service.create(*numbered("slow"))

    def slowly(kind: str, event: str = "hot") -> Slice:
        return run.slice(kind, event, during=slow_commits, events=EVENTS)

    pairs = run.compare(TURNS, lambda: slowly("reserve"), lambda: run.slice("reserve"))
    run.add(names[0], pairs, 0.5)
    pairs = run.compare(TURNS, lambda: slowly("spread", "slow"), lambda: slowly("reserve"))
    run.add(names[1], pairs, 1.0)


def caps(run: Run) -> None:
    """Reserve on an event with caps, and beside one"""
    run.service.create("plain")
    run.service.create("limited", maxSeatsPerPartner=SEATS, maxHeldSeatsPerPartner=SEATS)
    pairs = run.compare(
        TURNS, lambda: run.slice("reserve", "limited"), lambda: run.slice("reserve")
    )
    run.add("Reserve on an event with caps / without", pairs, 0.6)

    def beside(event: str) -> Slice:
        options = {**run.options(run.service, event), **SALE}
        with run.wrk.behind(run.service.port, "reserve", **options) as sale:
            done = run.slice("reserve")
        run.count(sale[0], run.service)
        return done

    pairs = run.compare(TURNS + 2, lambda: beside("limited"), lambda: beside("plain"))
    run.add("Reserve beside one with caps / beside one without", pairs, 0.98)


def counting(run: Run) -> None:
    """Reserve with metrics / without"""
    with Service(run.ground, BENCHMARK_METRICS="off") as without:
        run.slice("reserve", service=without, seconds=1)
        pairs = run.compare(
            2 * TURNS, lambda: run.slice("reserve"), lambda: run.slice("reserve", service=without)
        )
    run.add("Reserve with metrics / without", pairs, 0.98)


def batches(run: Run) -> None:
    """Reserve in batches / one by one"""
    run.service.create("batch", *numbered("batch"))

    def together(size: int, **more) -> Slice:
        return run.slice("batch", "batch", size=size, **more)

    def single() -> Slice:
        return run.slice("reserve")

    for size, target in ((16, 3.0), (64, 4.0)):
        pairs = run.compare(TURNS, lambda size=size: together(size), single)
        run.add(f"Reserve in batches of {size} / one by one", pairs, target)
    pairs = run.compare(
        TURNS,
        lambda: together(16, events=EVENTS),
        lambda: run.slice("spread", "batch", events=EVENTS),
    )
    run.add(f"Batches of 16 over {EVENTS} events / one by one", pairs, 3.0)

    def beside() -> Slice:
        options = {**run.options(run.service, "hot"), "size": 64}
        with run.wrk.behind(run.service.port, "batch", connections=1, **options) as others:
            done = run.slice("reserve")
        run.count(others[0], run.service)
        return done

    run.add("Reserve beside batches of 64 / alone", run.compare(TURNS, beside, single), 0.5)
    slowest = []
    for _ in range(TURNS):
        options = run.options(run.service, "hot")
        with run.wrk.behind(run.service.port, "reserve", connections=USUAL, **options) as sale:
            slowest.append(run.slice("batch", connections=1, size=16, atomic="true").p99)
        run.count(sale[0], run.service)
    run.rows.append(
        Row(
            f"Atomic batch beside {USUAL} clients, p99 in ms",
            statistics.median(slowest),
            1000,
            f"at most {max(slowest):.0f} ms",
            at_most=True,
            values=slowest,
        )
    )


def soak(run: Run) -> None:
    """Ten minutes of every kind of request, by turns"""
    run.service.create(*numbered("soak"))
    kinds = ("reserve", "mixed", "hold", "summary", "idempotent", "spread")
    minutes = []
    for minute in range(1, SOAK_MINUTES + 1):
        done = [
            run.slice(kind, "soak", 2 * USUAL, seconds=60 // len(kinds), events=EVENTS)
            if kind == "spread"
            else run.slice(kind, "hot", 2 * USUAL, seconds=60 // len(kinds))
            for kind in kinds
        ]
        minutes.append(sum(part.requests for part in done) / sum(part.seconds for part in done))
        resident = run.resident[-1][1] / len(run.service.worker_pids()) / 2**20
        run.say(f"minute {minute}: {minutes[-1]:,.0f} requests/s, a worker has {resident:.1f} MiB")
    first, last = statistics.median(minutes[:3]), statistics.median(minutes[-3:])
    run.rows.append(
        Row(
            "The last three of ten minutes / the first",
            last / first,
            0.9,
            f"{last:,.0f}/s, {first:,.0f}/s",
            values=minutes,
        )
    )
    ((dead, live),) = run.ground.sql(
        "SELECT n_dead_tup, n_live_tup FROM pg_stat_user_tables WHERE relname = 'events'"
    )
    run.profile |= {"dead_event_rows": dead, "live_event_rows": live}
    _growth(run)


# In the order in which they run and are shown; `--only` takes their names.
MEASURES: dict[str, Callable[[Run], None]] = {
    "hot": hot,
    "connections": connections,
    "alone": alone,
    "pgbench": one_by_one,
    "spread": spread,
    "mixed": mixed,
    "summary": summary,
    "idempotent": idempotent,
    "hold": hold,
    "size": size,
    "memory": memory,
}
# Those that run only where `--only` names them.
NAMED: dict[str, Callable[[Run], None]] = {
    "batches": batches,
    "caps": caps,
    "metrics": counting,
    "busy": busy,
    "slow": slow,
    "soak": soak,
}
