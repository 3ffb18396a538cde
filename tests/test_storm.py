"""Everything at once, over connections that break: what is answered is what was written."""

import random
import threading
import time
from collections import Counter, defaultdict
from contextlib import ExitStack
from functools import partial
from typing import NamedTuple
from uuid import uuid4

import pytest
from proxy import POINTS, Proxy, is_exchange, is_lookup, is_write

from ticketboss.data import database as database_module
from ticketboss.data.database import Database
from ticketboss.data.store import Store
from ticketboss.rules.changes import Cancel, Confirm, Edit, Extend, Look, Reduce, Reserve
from ticketboss.rules.errors import TicketBossError, Unavailable
from ticketboss.selling.batch import Batches
from ticketboss.selling.line import Line

SECONDS = 5
SEATS = 12
EVENTS = ("alpha", "beta", "gamma", "delta")


class Call(NamedTuple):
    event_id: str
    change: object
    outcome: object = None
    failure: BaseException | None = None
    # The atomic request that it was part of.
    request: object = None


class Storm:
    """Some clients of several processes, each doing what comes to its mind, or much at once."""

    def __init__(self):
        self.calls: list[Call] = []
        self.reserved: list[tuple] = [(uuid4(), EVENTS[0])]
        self.ends = time.monotonic() + SECONDS
        # Whether several seats were sold as a whole: where the machine is busy that takes longer.
        self.whole = False

    @property
    def rages(self) -> bool:
        return time.monotonic() < self.ends + (0 if self.whole else 3 * SECONDS)

    def client(self, path: Line, seed: int) -> None:
        chance = random.Random(seed)
        while self.rages:
            if chance.random() < 0.2:
                self.many(path, chance)
                continue
            event_id, change = self.something(chance)
            self.note(partial(path.submit, event_id, change), event_id, change)

    def many(self, path: Line, chance: random.Random) -> None:
        """Send some changes in one request, each alone or all of them or none."""
        atomic = chance.random() < 0.5
        number, seats = (chance.randint(2, 3), 1) if atomic else (chance.randint(2, 9), 4)
        asked = [self.something(chance, seats) for _ in range(number)]
        asked = [each for each in asked if not isinstance(each[1], (Edit, Look))]
        request = object() if atomic else None
        turns = path.submit_all(asked, atomic) if asked else []
        made = [self.note(turn.result, turn.event_id, turn.change, request) for turn in turns]
        new = [c for _, c in asked if isinstance(c, Reserve) and not c.idempotency_key]
        self.whole = self.whole or (atomic and len(new) > 1 and all(made))

    def note(self, ask, event_id: str, change, request: object = None) -> bool:
        """Ask, and note what came of it; tell whether the change was made."""
        try:
            outcome = ask()
        except BaseException as failure:
            self.calls.append(Call(event_id, change, None, failure, request))
            return False
        self.calls.append(Call(event_id, change, outcome, None, request))
        if isinstance(change, Reserve):
            self.reserved.append((outcome.reservation.reservation_id, event_id))
        return True

    def something(self, chance: random.Random, most: int = 4) -> tuple:
        event_id = chance.choice(EVENTS)
        if chance.random() < 0.5:
            key = chance.choice([None, f"key-{chance.randrange(60)}"])
            hold_seconds = chance.choice([None, None, 1])
            seats = chance.randint(1, most)
            return event_id, Reserve(uuid4(), event_id, "abc", seats, hold_seconds, key)
        reservation_id, of_event = chance.choice(self.reserved[-40:])
        kinds = {
            Cancel: (10, lambda: Cancel(reservation_id)),
            Confirm: (2, lambda: Confirm(reservation_id)),
            Reduce: (2, lambda: Reduce(reservation_id, 1)),
            Extend: (1, lambda: Extend(reservation_id, 2)),
            Edit: (1, lambda: Edit({"total_seats": chance.randint(10, 14)})),
            Look: (1, Look),
        }
        weights, makes = zip(*kinds.values(), strict=True)
        # Sometimes the event is guessed wrong, as by the mark in an id.
        event_id = chance.choice([of_event] * 9 + [event_id])
        return event_id, chance.choices(makes, weights)[0]()

    def breaker(self, proxy: Proxy, seed: int) -> None:
        chance = random.Random(seed)
        while self.rages:
            which = chance.choice([is_write, is_write, is_lookup, is_exchange])
            proxy.fault(chance.choice(POINTS), which).reached.wait(0.5)
            time.sleep(chance.uniform(0.02, 0.5))


@pytest.fixture(params=["SERIALIZABLE", "READ COMMITTED"])
def storm(request, dsn, sql, monkeypatch):
    """Let it rage over two processes; give what was called when all are answered.

    Isolation is the last of the guards: without it nothing may be sold twice or lost.
    """
    if request.param == "READ COMMITTED":
        monkeypatch.setattr(database_module, "SERIALIZABLE", database_module.LIMITS)
    for event_id in EVENTS:
        Store(Database(dsn, 1)).create_event(event_id, "Event", SEATS)
    storm = Storm()
    with ExitStack() as stack:
        proxies = [stack.enter_context(Proxy(dsn)) for _ in range(2)]
        databases = [Database(proxy.dsn, size=4) for proxy in proxies]
        paths = [Line(Batches(Store(database))) for database in databases]
        work = [(storm.client, paths[n % 2], n) for n in range(12)]
        work += [(storm.breaker, proxy, n) for n, proxy in enumerate(proxies)]
        threads = [threading.Thread(target=do, args=args, daemon=True) for do, *args in work]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(4 * SECONDS + 10)
            assert not thread.is_alive(), "a request waits in vain"
        for database in databases:
            database.close()
    # A transaction whose client is gone may still be under way.
    others = "SELECT count(*) FROM pg_stat_activity WHERE state <> 'idle' AND datname IS NOT NULL"
    deadline = time.monotonic() + 10
    while sql(others) != [(1,)] and time.monotonic() < deadline:
        time.sleep(0.05)
    return storm.calls


def test_what_is_answered_in_a_storm_is_what_was_written(storm, sql, verify):
    changes = defaultdict(list)
    for row in sql("SELECT reservation_id, event_id, version, type, batch_id FROM ledger"):
        changes[row[0]].append(row[1:])
    wrong = []
    together = defaultdict(list)
    keyed = defaultdict(set)
    cancelled = Counter()
    for call in storm:
        change, failure = call.change, call.failure
        if call.request and isinstance(change, Reserve) and not change.idempotency_key:
            # One that has a key may have been made before.
            rows = changes[change.reservation_id]
            made_by = [batch_id for *_, type, batch_id in rows if type in ("reserved", "held")]
            together[call.request].append((*made_by, None)[0])
        if isinstance(failure, Unavailable):
            continue  # it may have been made or not
        refused = isinstance(failure, TicketBossError) and type(failure) is not TicketBossError
        if failure is not None and not refused:
            wrong.append(("failed", call))
        if isinstance(change, Reserve):
            if failure is not None:
                if changes[change.reservation_id]:
                    wrong.append(("refused, but written", call))
                continue
            made = call.outcome.reservation
            written = changes[made.reservation_id]
            if (call.event_id, made.version) not in [row[:2] for row in written]:
                wrong.append(("acknowledged, but not written", call))
            if change.idempotency_key is not None:
                keyed[change.idempotency_key].add(made.reservation_id)
        if isinstance(change, Cancel) and failure is None:
            cancelled[change.reservation_id] += 1
    whole = [batch_ids for batch_ids in together.values() if len(batch_ids) > 1]
    wrong += [("made in part", batch_ids) for batch_ids in whole if len(set(batch_ids)) > 1]
    wrong += [("one key, two reservations", key) for key, ids in keyed.items() if len(ids) > 1]
    for reservation_id, times in cancelled.items():
        types = [row[2] for row in changes[reservation_id]]
        if times > 1 or types.count("cancelled") != 1:
            wrong.append(("cancelled, but not once", reservation_id, times, types))
    assert wrong == []
    made = Counter(batch_ids[0] is not None for batch_ids in whole)
    assert made[True] and made[False], made
    kinds = Counter(type(call.change) for call in storm if call.failure is None)
    assert all(kinds[kind] for kind in (Reserve, Cancel, Confirm, Edit, Look)), kinds
    assert any(isinstance(call.failure, Unavailable) for call in storm), "nothing was broken"
    status, output = verify()
    assert status == 0, output
