"""Partners who sell all the time, and notice whatever is lost while servers come and go."""

import contextlib
import http.client
import threading
import time
import uuid

from serving import Answer, Client, run_sql, wait_for

EVENT = "long-sale"
ADDRESS = f"/api/v1/events/{EVENT}/reservations"
ONE_SEAT = {"partnerId": "abc-corp", "seats": 1}

# A careful client begins anew rather than send on a connection that has been silent for
# so long: somebody may just be closing it.
FRESH = 0.3


def reserve(client: Client) -> Answer:
    """Repeat while the service says 503, as it may on a busy machine; a proxy's is another."""
    key = uuid.uuid4().hex
    while True:
        answer = client.post(ADDRESS, ONE_SEAT, idempotency_key=key)
        if answer.status != 503 or b'"unavailable"' not in answer.body:
            return answer


class Partners:
    """Eight of them: half keep their connections, half open one for each request."""

    def __init__(self, dsn: str, client, refused_is_lost: bool = True):
        self._dsn = dsn
        self._client = client
        self._refused_is_lost = refused_is_lost
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._sell, args=(keeps,)) for keeps in [True, False] * 4
        ]
        self.lost: list[str] = []
        self.made: list[str] = []

    def _sell(self, keeps: bool) -> None:
        while not self._stop.is_set():
            with contextlib.closing(self._client()) as client:
                self._sell_through(client, keeps)

    def _sell_through(self, client: Client, keeps: bool) -> None:
        used = time.monotonic()
        try:
            while not self._stop.is_set() and time.monotonic() < used + FRESH:
                answer = reserve(client)
                used = time.monotonic()
                if answer.status != 201:
                    self.lost.append(f"{answer.status} {answer.body!r}")
                    return
                self.made.append(answer.json["reservationId"])
                if not keeps or answer.headers["Connection"] == "close":
                    return
        except ConnectionRefusedError as refusal:
            # Nothing has been said yet, so it may be said to another one.
            if self._refused_is_lost:
                self.lost.append(repr(refusal))
            time.sleep(0.02)
        except (OSError, http.client.HTTPException) as fault:
            self.lost.append(repr(fault))

    def go_on(self, number: int = 40) -> None:
        """Wait until they have made some more reservations."""
        enough = len(self.made) + number
        assert wait_for(lambda: self.lost or len(self.made) >= enough, seconds=60)
        assert self.lost == [], self.lost

    def __enter__(self) -> "Partners":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind, *_) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        if kind is None:
            assert self.lost == [], self.lost
            # What was made is what they were told of, each once.
            found = run_sql(self._dsn, "SELECT reservation_id::text FROM reservations")
            assert sorted(self.made) == sorted(name for (name,) in found)
