"""The service and, beside it, what the benchmark needs: a no-op, and counts of attempts."""

import contextlib
import os
import threading
import time
from collections import Counter

from flask import Flask, g, jsonify

from ticketboss import create_app, metrics
from ticketboss.data.database import Conflict
from ticketboss.data.store import Written
from ticketboss.web import reservations
from ticketboss.web.bodies import read_object
from ticketboss.web.current import ids

# Seconds between two waits for the interpreter lock.
PROBE_INTERVAL = 0.02


def application() -> Flask:
    """Return the application with `POST /noop`, the measure of what Python and HTTP cost.

    With BENCHMARK_METRICS=off it counts no metric.
    """
    if os.environ.get("BENCHMARK_METRICS") == "off":
        _without_metrics()
    app = create_app()
    counts = Counter()
    _count(app.extensions["ticketboss"]["store"], counts)
    threading.Thread(target=_probe, args=(counts,), daemon=True).start()

    @app.post("/noop")
    def noop():
        members = reservations.RESERVE.read(read_object())
        g.partner_id = members["partner_id"]
        response = jsonify(reservationId=str(ids.new("noop")), **members)
        response.status_code = 201
        return response

    @app.get("/counters")
    def counters():
        return jsonify(pid=os.getpid(), **counts)

    return app


def _without_metrics() -> None:
    def nothing(self, *values, **more) -> None:
        pass

    metrics.Counter.add = metrics.Gauge.set = metrics.Histogram.observe = nothing
    metrics.Histogram.time = lambda self: contextlib.nullcontext()


def _probe(counts: Counter) -> None:
    """Measure what a thread waits for the interpreter lock whenever it has let it go."""
    while True:
        time.sleep(PROBE_INTERVAL)
        started = time.perf_counter()
        time.sleep(0)
        counts["lock_wait_seconds"] += time.perf_counter() - started
        counts["lock_waits"] += 1


def _count(store, counts: Counter) -> None:
    write = store.write

    def counted(plans, batch_id, atomic=False):
        try:
            written = write(plans, batch_id, atomic)
        except Conflict:
            counts["serialization_failures"] += 1
            raise
        for plan in plans:
            outcome = written.get(plan.seen.event_id)
            if isinstance(outcome, Written):
                counts["changes"] += len(plan.entries)
            else:
                counts["version_conflicts" if outcome is None else "locked"] += 1
        counts["commits"] += any(isinstance(outcome, Written) for outcome in written.values())
        return written

    store.write = counted
