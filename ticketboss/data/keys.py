"""The keys of one database, and in each process a memory of those that are live.

A request asks the memory, never the database. All live keys are read as one set, and
at most so often: what is guessed changes nothing about that, and adds nothing to it.
"""

import threading
import time
from contextlib import suppress
from datetime import date
from typing import NamedTuple

from ticketboss.data.database import Conflict, Database, Rejected, Row
from ticketboss.data.statements import statement
from ticketboss.rules import limits
from ticketboss.rules.errors import TicketBossError, Unavailable
from ticketboss.rules.keys import Key, Kind, digest


class Reading(NamedTuple):
    """The live keys by their public ids, as they were read."""

    # On the monotonic clock, before the database was asked.
    at: float
    today: date
    keys: dict[str, Key]


class Keys:
    """Creates, lists and revokes keys, and knows those that are live."""

    def __init__(self, database: Database):
        self._database = database
        # One thread at a time reads them all.
        self._mutex = threading.Lock()
        self._reading = Reading(float("-inf"), date.min, {})
        # When the database last failed to tell, and before when not to ask it again.
        self._failed_at = self._rests_until = float("-inf")

    # --- For admins -----------------------------------------------------------

    def create(self, key_id: str, text: str, kind: Kind, partner_id: str | None) -> Key:
        (row,) = self._database.read(
            statement("create_key"),
            {"key_id": key_id, "digest": digest(text), "kind": kind, "partner_id": partner_id},
        )
        return _key(row)

    def list(self, partner_id: str | None, after: str | None, limit: int) -> list[Key]:
        """Return keys, without their digests, made after the one with the id `after`."""
        rows = self._database.read(
            statement("list_keys"), {"partner_id": partner_id, "after": after, "limit": limit}
        )
        return [_key(row) for row in rows]

    def read(self, key_id: str) -> Key | None:
        rows = self._database.read(statement("read_key"), {"key_id": key_id})
        return _key(rows[0]) if rows else None

    def revoke(self, key_id: str) -> bool:
        """Revoke a key, here at once; tell whether there is one."""
        found = self._database.read(statement("revoke_key"), {"key_id": key_id})
        self._reading.keys.pop(key_id, None)
        return bool(found)

    # --- For every request ------------------------------------------------------

    def live(self, key_id: str) -> Key | None:
        """Return a key that was live within the last KEYS_TRUSTED seconds, if it is known here.

        Raises Unavailable or Overloaded where that cannot be found out just now.
        """
        now = time.monotonic()
        if now > self._reading.at + limits.KEYS_TRUSTED:
            self._read_all(arrived=now)
        elif now > max(self._reading.at + limits.KEYS_RENEWED, self._rests_until):
            # In good time, so that a database that is away for a moment goes unnoticed.
            with suppress(TicketBossError, Conflict, Rejected):
                self._refresh()
        return self._reading.keys.get(key_id)

    def find(self, key_id: str) -> Key | None:
        """Return a live key as the database has it now."""
        reading = self._reading  # if it is replaced meanwhile, that is newer than this
        key = self.read(key_id)
        if key is None or key.revoked_at is not None:
            return None
        if len(reading.keys) < limits.KEYS_KNOWN:
            reading.keys[key_id] = key
        return key

    def find_among_all(self, key_id: str) -> Key | None:
        """Return a live key as the database had it a moment ago, whoever asks and how often."""
        self._refresh()
        return self._reading.keys.get(key_id)

    def note_use(self, key: Key) -> None:
        """Remember, once a day, that a key was used; where that fails it is left."""
        if key.last_used_on != (today := self._reading.today):
            key.last_used_on = today  # first, so that nobody else tries
            with suppress(TicketBossError, Conflict, Rejected):
                self._database.read(statement("mark_key_used"), {"key_id": key.key_id})

    def _refresh(self) -> None:
        """Read all live keys, unless that is being done, or was tried a moment ago."""
        if self._mutex.acquire(blocking=False):
            try:
                if time.monotonic() > max(self._reading.at + limits.KEYS_REST, self._rests_until):
                    self._read()
            finally:
                self._mutex.release()

    def _read_all(self, arrived: float) -> None:
        """Read all live keys, unless somebody does so while this thread waits for it."""
        if not self._mutex.acquire(timeout=limits.DATABASE_PATIENCE):
            raise Unavailable
        try:
            if self._failed_at > arrived:
                raise Unavailable  # the database is not asked by one after the other
            if arrived > self._reading.at + limits.KEYS_TRUSTED:
                self._read()
        finally:
            self._mutex.release()

    def _read(self) -> None:
        at, before = time.monotonic(), self._reading
        try:
            rows = self._database.read(statement("list_live_keys"), {"limit": limits.KEYS_KNOWN})
        except BaseException:
            self._failed_at = time.monotonic()
            self._rests_until = self._failed_at + limits.RETRY_AFTER
            raise
        keys = {row.key_id: _key(row) for row in rows}
        today = rows[0].today if rows else before.today
        for key_id, key in keys.items():
            known = before.keys.get(key_id)
            if known is not None and known.last_used_on == today:
                key.last_used_on = today  # noted already, or in vain
        self._reading = Reading(at, today, keys)


def _key(row: Row) -> Key:
    columns = row._asdict()
    columns.pop("today", None)
    if "digest" in columns:
        columns["digest"] = bytes(columns["digest"])
    return Key(**columns)
