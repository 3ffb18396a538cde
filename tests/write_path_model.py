"""The write path as a model: so small that every order of things can be tried, guard by guard.

Two processes, one event, one PostgreSQL. A process reads the event, then what its
changes are about, decides, and sends one message that writes all of them or none.
PostgreSQL takes its snapshot at one moment and the event's row at a later one. An
answer may be lost, before or after the commit, and a message that is given up for
lost may still arrive. Everything else (threads, pieces, patience) is left out: it
decides when something is tried, not what may become of it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import combinations

# What stands in the way of an answer that is not true, each alone.
GUARDS = (
    "version",  # the event's row must have the version that was seen
    "seats",  # a supposition is written only where there are seats for all
    "reservation",  # a reservation must have the version at which it was read
    "isolation",  # SERIALIZABLE: a row that changed since the snapshot is a failure
    "check",  # CHECK: no fewer than no seats
    "ledger key",  # no two rows of the ledger with one version
    "id key",  # no two reservations with one id
    "idempotency key",  # no two reservations with one key
    "look-up",  # a message whose answer was lost is looked for before the next try
    "doubt",  # who was sent and not found is not refused, for it may land yet
    "one state",  # a reservation newer than its event as read puts the event off
)


@dataclass(frozen=True)
class Change:
    """Takes one seat under an id, or gives back that of a reservation."""

    kind: str  # reserve or cancel
    id: str
    key: str = ""


@dataclass(frozen=True)
class Reservation:
    id: str
    key: str
    live: bool
    version: int


@dataclass(frozen=True)
class Database:
    total: int
    available: int
    version: int = 0
    # version, change's kind and id, batch
    ledger: tuple[tuple[int, str, str, int], ...] = ()
    reservations: tuple[Reservation, ...] = ()

    def find(self, id: str) -> Reservation | None:
        return next((each for each in self.reservations if each.id == id), None)


@dataclass(frozen=True)
class Message:
    """What is sent to write a batch, and the snapshot once PostgreSQL has taken it."""

    batch: int
    changes: tuple[Change, ...]
    seen: int | None  # None: the event is supposed
    read: tuple[tuple[str, int], ...]  # reservations, with the versions that were read
    snapshot: Database | None = None


@dataclass(frozen=True)
class Process:
    """Serves one batch: where it stands, what it has read, and what became of each change."""

    changes: tuple[Change, ...]
    step: str = "start"
    supposes: bool = True
    arrival: int = 0  # the event's version when the batch arrived
    event: Database | None = None
    reservations: tuple[Reservation, ...] = ()
    batch: int = 0
    sent: tuple[Message, ...] = ()  # without an answer
    answers: tuple[tuple[str, str], ...] = ()  # a change's id, and its answer


@dataclass(frozen=True)
class State:
    database: Database
    processes: tuple[Process, ...]
    flying: tuple[Message, ...] = ()  # given up for lost, and perhaps yet to arrive
    losses: int = 0  # how many answers may still be lost
    batches: int = 0


@dataclass(frozen=True)
class Scenario:
    name: str
    database: Database
    batches: tuple[tuple[Change, ...], ...]
    losses: int = 0
    supposes: bool = True


def sold(total: int, *ids: str) -> Database:
    """Return an event of which some seats were reserved, one for each id."""
    reservations = tuple(Reservation(id, "", True, n) for n, id in enumerate(ids, 1))
    ledger = tuple((n, "reserve", id, -n) for n, id in enumerate(ids, 1))
    return Database(total, total - len(ids), len(ids), ledger, reservations)


def reserve(id: str, key: str = "") -> Change:
    return Change("reserve", id, key)


def cancel(id: str) -> Change:
    return Change("cancel", id)


SCENARIOS = (
    Scenario("two want the last seat", sold(1), ((reserve("a"),), (reserve("b"),))),
    Scenario(
        "two want the last seat, on what they read",
        sold(1),
        ((reserve("a"),), (reserve("b"),)),
        supposes=False,
    ),
    Scenario("two cancel one reservation", sold(1, "x"), ((cancel("x"),), (cancel("x"),))),
    Scenario(
        "two cancel one reservation, on what they read",
        sold(1, "x"),
        ((cancel("x"),), (cancel("x"),)),
        supposes=False,
    ),
    Scenario(
        "a cancel, and a batch that cancels and reserves",
        sold(1, "x"),
        ((cancel("x"),), (cancel("x"), reserve("b"))),
        supposes=False,
    ),
    Scenario("one key in two processes", sold(2), ((reserve("a", "k"),), (reserve("b", "k"),))),
    Scenario("an answer is lost", sold(2), ((reserve("a"),),), losses=2),
    Scenario(
        "an answer is lost beside one who wants the last seat",
        sold(1),
        ((reserve("a"),), (reserve("b"),)),
        losses=1,
    ),
    Scenario(
        "a cancel's answer is lost beside another cancel",
        sold(1, "x"),
        ((cancel("x"),), (cancel("x"),)),
        losses=1,
    ),
)


# --- PostgreSQL -------------------------------------------------------------------------


def execute(database: Database, message: Message, guards: frozenset[str]) -> Database | None:
    """Write a message that has its snapshot; None: nothing was written."""
    snapshot = message.snapshot
    assert snapshot is not None
    seen = snapshot.version if message.seen is None else message.seen
    change = sum(1 if each.kind == "cancel" else -1 for each in message.changes)
    if "version" in guards and seen != snapshot.version:
        return None
    if "seats" in guards and _lowest(snapshot.available, message.changes) < 0:
        return None
    for id, version in message.read:
        found = snapshot.find(id)
        if "reservation" in guards and (found is None or found.version != version):
            return None
    if database.version != snapshot.version and guards & {"isolation", "version"}:
        return None  # a serialization failure, or the row is looked at again and does not fit
    available = database.available + change
    if "check" in guards and not 0 <= available <= database.total:
        return None
    ledger, reservations = database.ledger, {each.id: each for each in database.reservations}
    for place, each in enumerate(message.changes, 1):
        version = seen + place
        if "ledger key" in guards and any(version == row[0] for row in ledger):
            return None
        ledger += ((version, each.kind, each.id, message.batch),)
        if each.kind == "reserve":
            if "id key" in guards and each.id in reservations:
                return None
            taken = any(each.key and each.key == other.key for other in reservations.values())
            if "idempotency key" in guards and taken:
                return None
            # Without the index the second row stands beside the first.
            name = each.id if each.id not in reservations else f"{each.id} again"
            reservations[name] = Reservation(name, each.key, True, version)
        else:
            reservations[each.id] = replace(reservations[each.id], live=False, version=version)
    version = database.version + len(message.changes)
    return Database(database.total, available, version, ledger, tuple(reservations.values()))


def _lowest(available: int, changes: tuple[Change, ...]) -> int:
    lowest = available
    for each in changes:
        available += 1 if each.kind == "cancel" else -1
        lowest = min(lowest, available)
    return lowest


# --- A process ----------------------------------------------------------------------------


def steps(state: State, guards: frozenset[str]) -> Iterator[State]:
    """Yield every state that may come next."""
    database = state.database
    for message in state.flying:
        others = tuple(each for each in state.flying if each is not message)
        if message.snapshot is None:
            yield replace(state, flying=(*others, replace(message, snapshot=database)))
        else:
            written = execute(database, message, guards)
            yield replace(state, flying=others, database=written or database)
        yield replace(state, flying=others)  # it never arrives
    for place, process in enumerate(state.processes):
        for after, following in _advance(state, process, guards):
            processes = list(state.processes)
            processes[place] = following
            yield replace(after, processes=tuple(processes))


def _advance(
    state: State, process: Process, guards: frozenset[str]
) -> Iterator[tuple[State, Process]]:
    database = state.database
    match process.step:
        case "start":
            yield state, replace(process, step="event", arrival=database.version)
        case "event":
            event = None if process.supposes else database
            yield state, replace(process, step="reservations", event=event)
        case "reservations":
            ids = {each.id for each in process.changes}
            keys = {each.key for each in process.changes if each.key}
            found = tuple(
                each
                for each in database.reservations
                if each.id in ids or (each.key in keys and not process.supposes)
            )
            yield state, replace(process, step="decide", reservations=found)
        case "decide":
            if "look-up" in guards and (found := _found(database, process)):
                yield state, _answer(process, dict.fromkeys(found, "made"))
            else:
                yield from _decide(state, process, guards)
        case "send":
            message = process.sent[-1]
            if message.snapshot is None:
                sent = (*process.sent[:-1], replace(message, snapshot=database))
                yield state, replace(process, sent=sent)
                if state.losses:  # on its way to the server
                    yield _lose(state, message), _again(process)
            else:
                written = execute(database, message, guards)
                after = replace(state, database=written or database)
                if written:
                    made = dict.fromkeys((each.id for each in message.changes), "made")
                    yield after, _answer(replace(process, sent=process.sent[:-1]), made)
                else:
                    # Not as supposed, or a rival was first: the next try reads the event.
                    again = replace(_again(process), sent=process.sent[:-1])
                    yield after, replace(again, supposes=False)
                if state.losses:  # on its way back
                    yield replace(after, losses=state.losses - 1), _again(process)


def _decide(
    state: State, process: Process, guards: frozenset[str]
) -> Iterator[tuple[State, Process]]:
    event = process.event
    available = len(process.changes) if event is None else event.available
    newer = event and any(each.version > event.version for each in process.reservations)
    if newer and "one state" in guards:
        yield state, _again(process)
        return
    known = {each.id: each for each in process.reservations}
    keys = {each.key: each for each in process.reservations if each.key}
    answered = dict(process.answers)
    made, refused, read = [], {}, []
    for change in process.changes:
        if change.id in answered:
            continue
        if change.kind == "cancel":
            if known[change.id].live:
                made.append(change)
                read.append((change.id, known[change.id].version))
                available += 1
            else:
                refused[change.id] = "already cancelled"
        elif change.key in keys:
            refused[change.id] = f"is {keys[change.key].id}"
        elif available > 0:
            made.append(change)
            available -= 1
        else:
            refused[change.id] = "sold out"
    if event is None and refused:
        yield state, replace(_again(process), supposes=False)
        return
    may_land = {each.id for message in process.sent for each in message.changes}
    if "doubt" in guards and may_land & refused.keys():
        # Its time ends, and nobody can say what became of it.
        yield state, _answer(process, {**refused, **dict.fromkeys(may_land, "unknown")})
        return
    if not made:
        yield state, _answer(process, refused)
        return
    batch = state.batches + 1
    seen = None if event is None else event.version
    message = Message(batch, tuple(made), seen, tuple(read))
    # Refusals are told when the rest is written.
    answers = (*process.answers, *((id, told) for id, told in refused.items()))
    following = replace(process, step="send", sent=(*process.sent, message), answers=answers)
    yield replace(state, batches=batch), following


def _found(database: Database, process: Process) -> list[str]:
    batches = {message.batch for message in process.sent}
    return [row[2] for row in database.ledger if row[3] in batches]


def _lose(state: State, message: Message) -> State:
    return replace(state, losses=state.losses - 1, flying=(*state.flying, message))


def _again(process: Process) -> Process:
    return replace(process, step="event", event=None, reservations=())


def _answer(process: Process, told: dict[str, str]) -> Process:
    answers = (
        *process.answers,
        *((i, t) for i, t in told.items() if i not in dict(process.answers)),
    )
    ids = {each.id for each in process.changes}
    rest = ids - dict(answers).keys()
    following = replace(process, answers=answers)
    return _again(following) if rest else replace(following, step="end", event=None)


# --- What must be true ----------------------------------------------------------------------


def violation(state: State, start: Database) -> str | None:
    """Return what is wrong with a state in which everything has come to its end."""
    database = state.database
    live = [each for each in database.reservations if each.live]
    if len(live) > database.total:
        return "a seat is sold twice"
    if len(live) != database.total - database.available:
        return "the seats left are not those that are left"
    if [row[0] for row in sorted(database.ledger)] != list(range(1, database.version + 1)):
        return "the ledger has a gap, or a version twice"
    keys = [each.key for each in database.reservations if each.key]
    if len(set(keys)) < len(keys):
        return "a key has two effects"
    made = [(row[1], row[2]) for row in database.ledger]
    if len(set(made)) < len(made):
        return "a change is made twice"
    for process in state.processes:
        for change in process.changes:
            told = dict(process.answers)[change.id]
            by_this = [
                row
                for row in database.ledger
                if row[1:3] == (change.kind, change.id) and row[3] in _batches(state, process)
            ]
            if told == "made" and (change.kind, change.id) not in made:
                return "what was acknowledged is lost"
            if told not in ("made", "unknown") and by_this:
                return "what was refused is made"
        if not _one_state(process, database, start):
            return "what was refused was never so"
    return None


def _batches(state: State, process: Process) -> set[int]:
    # Every batch of this process that was ever sent holds one of its own ids.
    ids = {each.id for each in process.changes if each.kind == "reserve"}
    return {row[3] for row in state.database.ledger if row[2] in ids}


def _one_state(process: Process, database: Database, start: Database) -> bool:
    """Whether there is a version, since the batch arrived, at which all it was refused is so."""
    refused = {
        id: told for id, told in process.answers if told in ("sold out", "already cancelled")
    }
    if not refused:
        return True
    rows = sorted(database.ledger)
    for version in range(process.arrival, database.version + 1):
        passed = [row for row in rows if row[0] <= version]
        cancelled = {row[2] for row in passed if row[1] == "cancel"}
        left = database.total - sum(1 if row[1] == "reserve" else -1 for row in passed)
        if all(
            id in cancelled if told == "already cancelled" else left <= 0
            for id, told in refused.items()
        ):
            return True
    return False


def explore(scenario: Scenario, guards: frozenset[str]) -> tuple[int, str | None]:
    """Try every interleaving; return how many states there are, and a violation if there is one."""
    start = State(
        scenario.database,
        tuple(Process(batch, supposes=scenario.supposes) for batch in scenario.batches),
        losses=scenario.losses,
    )
    known, waiting = {start}, [start]
    while waiting:
        state = waiting.pop()
        if len(state.database.ledger) > 6 or state.batches > 8:
            continue  # rivals that keep losing to each other: nothing new comes of it
        if all(process.step == "end" for process in state.processes) and not state.flying:
            if wrong := violation(state, scenario.database):
                return len(known), wrong
            continue
        for following in steps(state, guards):
            if following not in known:
                known.add(following)
                waiting.append(following)
    return len(known), None


def smallest_breaches(scenario: Scenario, most: int = 3) -> dict[frozenset[str], str]:
    """Return the smallest sets of guards without which something goes wrong, and what."""
    found: dict[frozenset[str], str] = {}
    for size in range(most + 1):
        for missing in map(frozenset, combinations(GUARDS, size)):
            if any(smaller <= missing for smaller in found):
                continue
            _, wrong = explore(scenario, frozenset(GUARDS) - missing)
            if wrong:
                found[missing] = wrong
    return found
