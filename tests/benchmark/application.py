"""The service and, beside it, what the benchmark needs: a no-op, and counts of attempts."""

import os
from collections import Counter

from flask import Flask, g, jsonify

from ticketboss import create_app, reservations
from ticketboss.bodies import read_object
from ticketboss.current import ids
from ticketboss.database import Conflict
from ticketboss.store import Written


def application() -> Flask:
    """Return the application with `POST /noop`, the measure of what Python and HTTP cost."""
    app = create_app()
    _count(app.extensions["ticketboss"]["store"])

    @app.post("/noop")
    def noop():
        members = reservations.RESERVE.read(read_object())
        g.partner_id = members["partner_id"]
        response = jsonify(reservationId=str(ids.new("noop")), **members)
        response.status_code = 201
        return response

    @app.get("/counters")
    def counters():
        return jsonify(pid=os.getpid(), **app.extensions["ticketboss"]["store"].counts)

    return app


def _count(store) -> None:
    counts = Counter()
    write = store.write

    def counted(plans, batch_id):
        try:
            written = write(plans, batch_id)
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
    store.counts = counts
