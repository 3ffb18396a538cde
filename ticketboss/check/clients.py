"""Clients that do what partners do, all at once, and note what they were told."""

import contextlib
import http.client
import json
import random
import secrets
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from ticketboss.check.history import LAST, Record, unpack

# Longer than the service lets anybody wait: what takes longer counts as unanswered.
PATIENCE = 10.0
# How long what was given up may still be on its way to the database, and how long holds
# last at most: after that nothing happens any more by itself.
REST = 5.0
# How long a service that was just disturbed has until it must answer again.
RECOVERY = 60.0
# After an answer that it is not the time: 503, or none.
PAUSE = 0.1

# One that sells out and is fought over, one that many have a share of, one with room.
SIZES = {"few": 12, "some": 300, "many": 100_000}
# Seats of the middle one that are set aside before anybody buys.
ALLOTTED = 10
CAPS = {"maxSeatsPerPartner": 50, "maxHeldSeatsPerPartner": 12}  # of the middle one
PARTNERS = 5


class CheckError(Exception):
    """The check cannot be run; the message is one line."""


class Server:
    """One kept-alive connection to an instance; for one thread."""

    def __init__(self, url: str, key: str):
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise CheckError(f"{url} is no http:// or https:// address")
        self._base = parts.path.rstrip("/") + "/api/v1"
        # Every call of an admin is allowed, whether keys are asked for or not.
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._connection = (
            http.client.HTTPSConnection(
                parts.hostname, parts.port, timeout=PATIENCE, context=ssl.create_default_context()
            )
            if parts.scheme == "https"
            else http.client.HTTPConnection(parts.hostname, parts.port, timeout=PATIENCE)
        )

    def call(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int | None, Any, http.client.HTTPMessage | None]:
        """Return status, JSON and headers of an answer; None where none came."""
        sent = {**self._headers, **(headers or {})}
        data = None
        if body is not None:
            data = json.dumps(body).encode()
            sent["Content-Type"] = "application/json"
        try:
            self._connection.request(method, self._base + path, data, sent)
            response = self._connection.getresponse()
            text = response.read()
            answer = json.loads(text) if text else None
        except (OSError, http.client.HTTPException):
            self._connection.close()
            return None, None, None
        except ValueError:  # a proxy's page, say
            answer = None
        return response.status, answer, response.headers

    def close(self) -> None:
        self._connection.close()


class Client:
    """Calls one instance and notes every call, with seconds since `began`."""

    def __init__(
        self, name: str, server: int, url: str, key: str, records: list[Record], began: float
    ):
        self._name = name
        self._server = server
        self._http = Server(url, key)
        self._records = records
        self._began = began

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def create(self, event: str, seats: int, **caps: int) -> Record:
        asked = {"totalSeats": seats, **caps}
        body = {"eventId": event, "name": f"A check: {event}", **asked}
        return self._call("create", event, asked, "POST", "/events", body)

    def edit(self, event: str, version: int, **members: Any) -> Record:
        return self._call(
            *("edit", event, {**members, "ifMatch": version}),
            *("PATCH", f"/events/{event}", members),
        )

    def reserve(self, event: str, members: dict[str, Any], **more: Any) -> Record:
        return self._call(
            *("reserve", event, {**members, **more}),
            *("POST", f"/events/{event}/reservations", members),
        )

    def change(self, call: str, event: str, reservation_id: str, **asked: Any) -> Record:
        """Confirm, extend, reduce or cancel a reservation."""
        method, more = {
            "confirm": ("POST", "/confirm"),
            "extend": ("POST", "/extend"),
            "reduce": ("PATCH", ""),
            "cancel": ("DELETE", ""),
        }[call]
        body = {name: asked[name] for name in asked if name != "ifMatch"} or None
        return self._call(
            *(call, event, {"reservationId": reservation_id, **asked}),
            *(method, f"/reservations/{reservation_id}{more}", body),
        )

    def allot(self, event: str, **asked: Any) -> Record:
        return self._call("allot", event, asked, "PUT", f"/events/{event}/allotments", asked)

    def release(self, event: str, partner_id: str) -> Record:
        asked = {"partnerId": partner_id}
        path = f"/events/{event}/allotments"
        return self._call("release", event, asked, "DELETE", path, query=asked)

    def allotments(self, event: str) -> Record:
        asked = {"limit": 100}
        path = f"/events/{event}/allotments"
        return self._call("allotments", event, asked, "GET", path, query=asked)

    def batch(self, operations: list[dict[str, Any]], atomic: bool) -> Record:
        """Bring many, each with the members of the single call and the event that it is about."""
        asked = {"operations": operations, "atomic": atomic}
        sent = {**asked, "operations": [_operation(each) for each in operations]}
        return self._call("batch", "", asked, "POST", "/batch", sent)

    def event(self, event: str, seen: int | None = None) -> Record:
        asked = {} if seen is None else {"ifNoneMatch": seen}
        return self._call("event", event, asked, "GET", f"/events/{event}")

    def reservation(self, event: str, reservation_id: str) -> Record:
        asked = {"reservationId": reservation_id}
        return self._call("reservation", event, asked, "GET", f"/reservations/{reservation_id}")

    def changes(self, event: str, after: int, limit: int, partner_id: str | None = None) -> Record:
        """Read the feed, as a partner if it is one whose key this client has."""
        query = {"after": after, "limit": limit}
        asked = {**query, **({"as": partner_id} if partner_id else {})}
        return self._call("changes", event, asked, "GET", f"/events/{event}/changes", query=query)

    def reservations(self, event: str, pages: int, **wanted: Any) -> list[dict[str, Any]]:
        """Read a list, at most so many pages of it."""
        items: list[dict[str, Any]] = []
        cursor = None
        for _ in range(pages):
            query = {**wanted, **({"after": cursor} if cursor else {})}
            asked = {**wanted, **({"afterId": items[-1]["reservationId"]} if items else {})}
            record = self._call(
                *("reservations", event, asked, "GET", f"/events/{event}/reservations"), query=query
            )
            if record.status != 200:
                raise CheckError(f"the reservations of {event} cannot be read: {record.status}")
            items += record.answer["items"]
            cursor = record.answer["next"]
            if cursor is None:
                break
        return items

    def _call(
        self,
        call: str,
        event: str,
        asked: dict[str, Any],
        method: str,
        path: str,
        body: Any = None,
        query: dict[str, Any] | None = None,
    ) -> Record:
        headers = {}
        if "key" in asked:
            headers["Idempotency-Key"] = asked["key"]
        if "ifMatch" in asked:
            headers["If-Match"] = f'"{asked["ifMatch"]}"'
        if "ifNoneMatch" in asked:
            headers["If-None-Match"] = f'"{asked["ifNoneMatch"]}"'
        if query:
            path += "?" + urlencode(query, quote_via=quote)
        start = time.monotonic() - self._began
        status, answer, told = self._http.call(method, path, body, headers)
        record = Record(
            client=self._name,
            call=call,
            event=event,
            asked=asked,
            start=start,
            end=time.monotonic() - self._began,
            status=status,
            answer=answer,
            tag=told.get("ETag") if told else None,
            replayed=bool(told and told.get("Idempotent-Replayed")),
            server=self._server,
        )
        self._records.append(record)
        return record


class Check:
    """A run: events of its own, clients on them for a while, and everything read at the end."""

    def __init__(self, urls: list[str], key: str, seconds: float, clients: int = 12):
        self._urls = urls
        self._key = key
        self._seconds = seconds
        self._clients = clients
        self._began = time.monotonic()
        self._run = secrets.token_hex(4)
        self._seats = {f"check-{self._run}-{name}": seats for name, seats in SIZES.items()}
        self._events = list(self._seats)
        self._partners = [f"check-{self._run}-{number}" for number in range(PARTNERS)]
        self._batches = False
        self._partner: dict[str, str] = {}  # the key of one, as it was created
        self._bug: BaseException | None = None
        # What was acknowledged of late, for anybody to change: event and reservation.
        self._known: deque[tuple[str, str]] = deque(maxlen=60)
        # What was sent of late with a key, for anybody to repeat.
        self._keyed: deque[tuple[str, dict[str, Any], str]] = deque(maxlen=20)
        self.records: list[Record] = []
        # What the service does not offer, and was left out.
        self.left_out: list[str] = []

    def run(self) -> list[Record]:
        """Return the history of a run; raise CheckError where there can be none."""
        with self._client("admin") as admin:
            self._open(admin)
        try:
            return self._sell_and_read()
        finally:
            self._revoke()

    def _sell_and_read(self) -> list[Record]:
        self._ends = time.monotonic() + self._seconds
        work = [(self._sell, number) for number in range(self._clients)]
        threads = [
            threading.Thread(target=self._guard, args=each, daemon=True)
            for each in [*work, (self._manage, self._clients)]
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self._bug is not None:
            raise self._bug
        time.sleep(REST)
        self._close()
        return self.records

    def _client(self, name: str, server: int = 0, key: str | None = None) -> Client:
        server %= len(self._urls)
        url = self._urls[server]
        return Client(name, server, url, key or self._key, self.records, self._began)

    def _ask_for_keys(self) -> None:
        """Where callers are told apart, get a key as a partner has it."""
        asked = Server(self._urls[0], "").call("GET", "/events")
        if asked[0] != 401:
            return
        body = {"partnerId": self._partners[0]}
        status, answer, _ = Server(self._urls[0], self._key).call("POST", "/keys", body)
        if status != 201:
            raise CheckError(f"{self._urls[0]} creates no key: {status or 'no answer'}")
        self._partner = answer

    def _revoke(self) -> None:
        if self._partner:
            Server(self._urls[0], self._key).call("DELETE", f"/keys/{self._partner['keyId']}")

    def _guard(self, work: Callable[[Client, random.Random], None], number: int) -> None:
        try:
            with self._client(str(number), number) as client:
                chance = random.Random(f"{self._run} {number}")
                while time.monotonic() < self._ends:
                    work(client, chance)
        except BaseException as bug:
            self._bug = bug

    def _open(self, admin: Client) -> None:
        """Make the events, and find out what the service offers."""
        self._ask_for_keys()
        for event, seats in self._seats.items():
            caps = CAPS if event.endswith("some") else {}
            record = admin.create(event, seats, **caps)
            if record.status == 400 and caps:
                self.records.remove(record)
                self.left_out.append("caps")
                record = admin.create(event, seats)
            if record.status != 201:
                told = record.answer.get("error") if isinstance(record.answer, dict) else None
                raise CheckError(
                    f"{self._urls[0]} creates no event: {told or record.status or 'no answer'}"
                )
        self._allotments = admin.allotments(self._events[0]).status == 200
        if self._allotments:
            # Now that there are seats for it: a moment later they are sold.
            admin.allot(self._events[1], partnerId=self._partners[0], seats=ALLOTTED)
        else:
            self.records.pop()
            self.left_out.append("allotments")
        wish = {"partnerId": self._partners[0], "seats": 1}
        record = admin.batch([{"op": "reserve", "eventId": self._events[0], **wish}], atomic=False)
        self._batches = record.code != "route_not_found"
        if not self._batches:
            self.records.remove(record)
            self.left_out.append("batches")

    # --- What partners do ---------------------------------------------------------

    def _sell(self, client: Client, chance: random.Random) -> None:
        """Do one thing; wait a moment where it is not the time."""
        event = chance.choice(self._events)
        do = chance.choices(
            (self._reserve, self._repeat, self._change, self._look, self._bring_many),
            (40, 6, 36, 14, 4 if self._batches else 0),
        )[0]
        record = do(client, chance, event)
        if record is not None and (record.unknown or record.status in (429, 503)):
            time.sleep(PAUSE)

    def _wish(self, chance: random.Random) -> dict[str, Any]:
        wish = {"partnerId": chance.choice(self._partners), "seats": chance.choice((1, 1, 2, 3, 9))}
        if chance.random() < 0.4:
            wish["holdSeconds"] = chance.choice((1, 1, 2, 3))
        return wish

    def _reserve(self, client: Client, chance: random.Random, event: str) -> Record:
        wish = self._wish(chance)
        more: dict[str, Any] = {}
        if chance.random() < 0.3:
            more["key"] = secrets.token_hex(8)
            self._keyed.append((event, wish, more["key"]))
        elif chance.random() < 0.1:
            more["ifMatch"] = chance.choice([self._version(event), 1])
        record = client.reserve(event, wish, **more)
        self._remember(record)
        return record

    def _repeat(self, client: Client, chance: random.Random, event: str) -> Record | None:
        """Send again what somebody has sent, or is sending, with a key."""
        if not self._keyed:
            return None
        event, wish, key = chance.choice(tuple(self._keyed))
        if chance.random() < 0.1:  # the same key for something else
            wish = {**wish, "seats": wish["seats"] % 10 + 1}
        return client.reserve(event, wish, key=key)

    def _change(self, client: Client, chance: random.Random, event: str) -> Record | None:
        if not self._known:
            return None
        event, reservation_id = chance.choice(tuple(self._known))
        call, asked = self._some_change(chance)
        if chance.random() < 0.05:
            asked["ifMatch"] = chance.choice([self._version(event), 1])
        return client.change(call, event, reservation_id, **asked)

    def _some_change(self, chance: random.Random) -> tuple[str, dict[str, Any]]:
        call = chance.choices(("cancel", "confirm", "reduce", "extend"), (10, 6, 4, 2))[0]
        if call == "reduce":
            return call, {"seats": chance.randint(1, 4)}
        if call == "extend":
            return call, {"holdSeconds": chance.choice((1, 2, 3, 3600))}
        return call, {}

    def _look(self, client: Client, chance: random.Random, event: str) -> Record | None:
        match chance.randrange(5):
            case 0:
                return client.event(event)
            case 1:
                return client.event(event, self._version(event))
            case 2:
                after = max(self._version(event) - chance.randint(0, 30), 0)
                return client.changes(event, after + 10**6 * (chance.random() < 0.05), 20)
            case 3 if self._known:
                return client.reservation(*chance.choice(tuple(self._known)))
        wanted = chance.choice(
            [{}, {"partnerId": chance.choice(self._partners)}]
            + [{"status": status} for status in ("held", "confirmed", "cancelled", "expired")]
        )
        with contextlib.suppress(CheckError):
            client.reservations(event, 2, limit=chance.choice((5, 50)), **wanted)
        return None

    def _bring_many(self, client: Client, chance: random.Random, event: str) -> Record:
        operations = []
        for _ in range(chance.randint(1, 8)):
            if self._known and chance.random() < 0.4:
                of, reservation_id = chance.choice(tuple(self._known))
                call, asked = self._some_change(chance)
                asked["reservationId"] = reservation_id
            else:
                of, call, asked = chance.choice(self._events), "reserve", self._wish(chance)
                if chance.random() < 0.3:
                    asked["key"] = secrets.token_hex(8)
            if chance.random() < 0.05:
                asked["ifMatch"] = chance.choice([self._version(of), 1])
            operations.append({"op": call, "eventId": of, **asked})
        record = client.batch(operations, chance.random() < 0.5)
        for made in unpack([record]):
            self._remember(made)
        return record

    def _manage(self, client: Client, chance: random.Random) -> None:
        """Edit an event now and then, as its organisers do."""
        event = chance.choice(self._events)
        if self._allotments and chance.random() < 0.6:
            self._allot(client, chance, event)
        elif (seen := client.event(event)).status == 200:
            seats = self._seats[event] + chance.randint(-3, 3)
            client.edit(event, seen.answer["version"], totalSeats=seats)
        time.sleep(chance.uniform(0.05, 0.5))

    def _allot(self, client: Client, chance: random.Random, event: str) -> None:
        partner = chance.choice(self._partners)
        match chance.randrange(4):
            case 0:
                client.release(event, partner)
            case 1:
                client.allotments(event)
            case _:
                asked: dict[str, Any] = {"partnerId": partner, "seats": chance.randint(1, 30)}
                made = next((r.answer for r in self.records[:-200:-1] if r.status == 201), None)
                if made and "createdAt" in made and chance.random() < 0.5:
                    # On the database's clock, as it was told a moment ago.
                    at = datetime.fromisoformat(made["createdAt"].replace("Z", "+00:00"))
                    asked["releaseAt"] = (at + timedelta(seconds=4)).isoformat()
                client.allot(event, **asked)

    def _remember(self, record: Record) -> None:
        if record.call == "reserve" and record.status == 201:
            self._known.append((record.event, record.answer["reservationId"]))

    def _version(self, event: str) -> int:
        """Return a version that the event had a moment ago."""
        for record in reversed(self.records[-200:]):
            if record.event == event and record.made and record.answer:
                version = record.answer.get("version")
                if version is not None:
                    return int(version)
        return 0

    # --- The end ------------------------------------------------------------------

    def _close(self) -> None:
        """End sales, and read everything that there is on each instance."""
        with self._client(LAST) as admin:
            for event in self._events:
                self._end_sales(admin, event)
        for server in range(len(self._urls)):
            with self._client(LAST, server) as client:
                for event in self._events:
                    self._read_all(client, event)
            if self._partner:
                with self._client("partner", server, self._partner["key"]) as client:
                    for event in self._events:
                        self._read_feed(client, event, self._partners[0])

    def _end_sales(self, admin: Client, event: str) -> None:
        # The check's clock may not be the database's: two days ago is past on both.
        closed = datetime.now(timezone.utc) - timedelta(days=2)
        at = closed.isoformat().replace("+00:00", "Z")
        while _insist(200, admin.event, event).answer.get("salesCloseAt") is None:
            admin.edit(event, self._version(event), salesCloseAt=at)
        _insist(409, admin.reserve, event, {"partnerId": self._partners[0], "seats": 1})

    def _read_feed(self, client: Client, event: str, partner_id: str | None = None) -> None:
        after, items = 0, [None]
        while items:
            answer = _insist(200, client.changes, event, after, 1000, partner_id).answer
            after, items = answer["next"], answer["items"]

    def _read_all(self, client: Client, event: str) -> None:
        self._read_feed(client, event)
        _insist(200, client.event, event)
        if self._allotments:
            _insist(200, client.allotments, event)
        found = client.reservations(event, 10**6, limit=100)
        for item in random.Random(self._run).sample(found, min(len(found), 50)):
            _insist(200, client.reservation, event, item["reservationId"])


def _operation(asked: dict[str, Any]) -> dict[str, Any]:
    """Return an operation as a batch takes it: with headers as members."""
    sent = dict(asked)
    if asked["op"] != "reserve":
        del sent["eventId"]
    if "ifMatch" in sent:
        sent["ifMatch"] = f'"{sent["ifMatch"]}"'
    if "key" in sent:
        sent["idempotencyKey"] = sent.pop("key")
    return sent


def _insist(wanted: int, call: Callable[..., Record], *arguments: Any) -> Record:
    """Call until the answer has the status that is wanted."""
    ends = time.monotonic() + RECOVERY
    while (record := call(*arguments)).status != wanted:
        if time.monotonic() > ends:
            raise CheckError(
                f"{record.call} of {record.event} is not answered at the end: {record.status}"
                f" {record.code}"
            )
        time.sleep(PAUSE)
    return record
