"""An event in a file: written when it is archived, replayed, and read back.

The file has JSON in lines: the event's row, then its reservations in the order in which
they were made, then its ledger, each row as its table has it. The last line counts
both, and has the SHA-256 of all lines before it.
"""

import hashlib
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4

from ticketboss.data.database import Database, Run
from ticketboss.data.statements import statement
from ticketboss.data.store import IN_ORDER, Store, Written
from ticketboss.data.verify import Replay, replay
from ticketboss.rules.errors import Unavailable
from ticketboss.rules.model import COMMAND, Event
from ticketboss.rules.plan import Plan

FORMAT = 1
# The tables that an event has rows in, by what a line calls one of them.
TABLES = {"reservation": "reservations", "change": "ledger"}
# The column along which each table's rows are in order.
ORDER = {"reservations": "created_version", "ledger": "version"}
# How many rows are read or put back at a time, and removed; and the pause after each removal.
ROWS = 2_000
REMOVED = 1_000
PAUSE = 0.02

Row = dict[str, Any]


class ArchiveError(Exception):
    """A file, or an event, is not as it has to be; the message is one line."""


@dataclass(frozen=True)
class File:
    """A file of which the checksum was right, and the event's row in it."""

    path: Path
    event: Row

    @property
    def event_id(self) -> str:
        return str(self.event["event_id"])

    @property
    def version(self) -> int:
        return int(self.event["version"])

    def pages(self) -> Iterator[tuple[str, list[Row]]]:
        """Yield the rows, some of one table at a time."""
        page: list[Row] = []
        table = ""
        with self.path.open("rb") as file:
            for line in file:
                ((kind, row),) = list(json.loads(line).items())[:1]
                if kind not in TABLES:
                    continue
                if TABLES[kind] != table or len(page) == ROWS:
                    if page:
                        yield table, page
                    table, page = TABLES[kind], []
                page.append(row)
        if page:
            yield table, page


@dataclass(frozen=True)
class Found:
    """An event's row in the database."""

    event: Event
    archived_version: int | None
    whole: Row


def find(database: Database, event_id: str) -> Found | None:
    """Return an event, archived or not; None: there is no such."""
    rows = database.read(statement("read_archived_event"), {"event_id": event_id})
    if not rows:
        return None
    columns = rows[0]._asdict()
    version, whole = columns.pop("archived_version"), columns.pop("whole")
    return Found(Event(**columns, archived=version is not None), version, whole)


# --- Files ----------------------------------------------------------------------------


def write(database: Database, event: Row, path: Path) -> None:
    """Write the file of an event that is archived. Raises OSError, too."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "wb") as file, database.session() as run:
        digest = hashlib.sha256()
        counts: Counter[str] = Counter()

        def put(line: str) -> None:
            raw = line.encode() + b"\n"
            digest.update(raw)
            file.write(raw)

        put(json.dumps({"ticketboss_archive": FORMAT, "event": event}, ensure_ascii=False))
        for kind, table in TABLES.items():
            for page in _pages(run, table, event["event_id"]):
                for row in page:
                    put(f'{{"{kind}": {row}}}')
                counts[table] += len(page)
                _sync(file)
        end = {"counts": {t: counts[t] for t in ORDER}, "sha256": digest.hexdigest()}
        file.write(json.dumps(end).encode() + b"\n")
        _sync(file)


def _pages(run: Run, table: str, event_id: str) -> Iterator[list[str]]:
    given = {"event_id": event_id, "after": -1, "limit": ROWS}
    while found := run(IN_ORDER + statement(f"list_archived_{table}"), given):
        yield [row.found for row in found]
        given["after"] = found[-1].version


def _sync(file: BinaryIO) -> None:
    """Bring to the disk what was written: little at a time, for others commit to it, too."""
    file.flush()
    os.fsync(file.fileno())


def load(path: Path) -> File:
    """Return what is in a file; raise ArchiveError where it is not as it was written."""
    digest = hashlib.sha256()
    counts: Counter[str] = Counter()
    event: Row | None = None
    complete = False
    last = dict.fromkeys(ORDER, -1)

    def count(table: str, row: Row) -> None:
        version = row.get(ORDER[table])
        if event is None or row.get("event_id") != event.get("event_id"):
            raise ValueError("a row of another event")
        if not isinstance(version, int) or version <= last[table]:
            raise ValueError("a row in another place")
        last[table] = version
        counts[table] += 1

    try:
        with path.open("rb") as file:
            for number, line in enumerate(file):
                match json.loads(line):
                    case {"ticketboss_archive": 1, "event": dict(row)} if number == 0:
                        event = row
                    case {"reservation": dict(row)} if event and not complete:
                        count("reservations", row)
                    case {"change": dict(row)} if event and not complete:
                        count("ledger", row)
                    case {"counts": dict(told), "sha256": str(sha256)} if not complete:
                        complete = sha256 == digest.hexdigest() and all(
                            told.get(table) == counts[table] for table in TABLES.values()
                        )
                        if not complete:
                            raise ArchiveError(f"{path} is not as it was written")
                    case _:
                        raise ArchiveError(f"{path} has a line {number + 1} that it cannot have")
                digest.update(line)
    except OSError as error:
        raise ArchiveError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError:
        raise ArchiveError(f"{path} is not the archive of an event") from None
    if event is None or not complete:
        raise ArchiveError(f"{path} is not complete")
    return File(path, event)


def replayed(
    database: Database, archive: File, advance: Callable[[int], None] = lambda changes: None
) -> Replay:
    """Replay a file as verify replays the database: in tables of a session of its own.

    Raises ArchiveError, and what Database.session raises.
    """
    with database.session() as run:
        for table in ("events", *TABLES.values()):
            run(statement(f"create_archived_{table}"))
        event = archive.event | {"archived_version": None}
        run(statement("restore_event"), {"event": json.dumps(event)})
        put_back(run, archive)
        for found in replay(run, archive.event_id, advance):
            return found
    raise ArchiveError(f"{archive.path} has no event")


def put_back(run: Run, archive: File) -> None:
    for table, rows in archive.pages():
        run(statement(f"restore_{table}"), {"rows": json.dumps(rows)})


# --- Out of the database, and back ------------------------------------------------------


def keep(database: Database, found: Found, path: Path) -> File:
    """Return the file of an event that is archived; write it unless it is there.

    Raises ArchiveError where it is another event's or state's, or would not replay.
    """
    if path.exists():
        archive = load(path)
        if archive.event != found.whole:
            raise ArchiveError(f"{path} has another event, or another state of it")
        return archive
    new = path.with_name(path.name + ".new")
    try:
        write(database, found.whole, new)
        if differences := replayed(database, load(new)).differences:
            raise ArchiveError(
                f"what the database has of {found.event.event_id} does not replay"
                f" ({differences[0]}): some of it was removed, and is in the file of that time"
            )
        new.rename(path)
        make_durable(path.parent)
    except OSError as error:
        raise ArchiveError(f"{path} cannot be written: {error.strerror}") from None
    finally:
        with suppress(OSError):
            new.unlink()
    return load(path)


def make_durable(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(
    database: Database, event_id: str, advance: Callable[[int], None] = lambda rows: None
) -> None:
    """Remove an archived event's reservations and ledger, some at a time, beside all that sells."""
    with database.session() as run:
        for table in TABLES.values():
            # From place to place: the index still has those that are gone.
            given = {"event_id": event_id, "after": -1, "limit": REMOVED}
            while removed := run(statement(f"remove_{table}"), given):
                given["after"] = max(row.version for row in removed)
                advance(len(removed))
                time.sleep(PAUSE)


def forget_keys(database: Database, event_id: str) -> int:
    """Drop the idempotency keys of an event whose sales are closed; return how many."""
    count = 0
    with database.session() as run:
        given = {"event_id": event_id, "after": -1, "limit": REMOVED}
        while dropped := run(statement("forget_keys"), given):
            count += len(dropped)
            given["after"] = max(row.created_version for row in dropped)
            time.sleep(PAUSE)
    return count


def restore(store: Store, archive: File) -> None:
    """Put an event back; only then it lives again.

    Raises ArchiveError where it lives, or was archived at another version.
    """
    version = archive.version
    database = store.database
    with database.session() as run:
        event = archive.event | {"archived_version": version}
        run(statement("restore_event"), {"event": json.dumps(event)})
        found = find(database, archive.event_id)
        if found is None or found.archived_version != version:
            state = "lives" if found and not found.event.archived else "is another one"
            raise ArchiveError(f"the event {archive.event_id} {state} in the database")
        put_back(run, archive)
    plan = Plan(found.event, (), found.event.read_at)
    plan.edit(actor=COMMAND, available_seats=found.event.available_seats, archived=False)
    if not isinstance(store.edit(plan, uuid4()), Written):
        raise Unavailable  # somebody else restores it, or has its row
