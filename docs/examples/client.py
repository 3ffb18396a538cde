"""A partner's client of TicketBoss: one file, Python's standard library only.

    python3 client.py reserve abc-corp 3 order-1001
    python3 client.py cancel 01a204a0-c8d1-768e-ab01-e9f371e252b8
    python3 client.py follow 14

TICKETBOSS_URL says where the service is, EVENT_ID which event is meant, and TICKETBOSS_KEY is
your key, where the service wants one. Take what you need; what matters is in `call`.
"""

import http.client
import json
import os
import random
import sys
import time
import urllib.error
import urllib.request

SERVICE = os.environ.get("TICKETBOSS_URL", "http://127.0.0.1:8080") + "/api/v1"
EVENT = f"{SERVICE}/events/{os.environ.get('EVENT_ID', 'node-meetup-2025')}"
KEY = os.environ.get("TICKETBOSS_KEY")

TRIES = 6
PATIENCE = 10  # seconds for one answer; the service itself gives up after 5
POLL = 1  # seconds between two looks at a feed in which nothing happens
# "Not now": from the service, or from a proxy in front of it.
AGAIN = (429, 502, 503, 504)


class Refused(Exception):
    """The service has understood, and says no; the same request again changes nothing."""

    def __init__(self, answer):
        super().__init__(f"{answer['code']}: {answer['error']}")
        self.code = answer["code"]
        self.answer = answer


def call(method, url, body=None, **headers):
    """Return the status, headers and JSON of an answer.

    Where no answer came, nobody knows what has happened: the request is sent again as it
    was. Every call of TicketBoss may be repeated so; a reserve only with its key.
    """
    data = None if body is None else json.dumps(body).encode()
    headers = {name.replace("_", "-"): value for name, value in headers.items() if value}
    if KEY:
        headers["Authorization"] = f"Bearer {KEY}"
    if data is not None:
        headers["Content-Type"] = "application/json"
    for attempt in range(TRIES):
        request = urllib.request.Request(url, data, headers, method=method)
        wait = 0
        try:
            try:
                answer = urllib.request.urlopen(request, timeout=PATIENCE)
            except urllib.error.HTTPError as error:  # an answer, too: 304 and upwards
                answer = error
            with answer:
                text = answer.read()
            if answer.status not in AGAIN:
                return answer.status, answer.headers, json.loads(text) if text else None
            failure = f"status {answer.status}"
            after = answer.headers.get("Retry-After", "")
            wait = int(after) if after.isdigit() else 0  # some proxies send a date
        except (OSError, http.client.HTTPException) as error:
            failure = error
        # Longer each time and never the same, so that not all come back at once.
        time.sleep(wait + random.uniform(0, 0.1 * 2**attempt))
    raise TimeoutError(f"no answer in {TRIES} tries: {failure}")


def reserve(partner, seats, key):
    """Reserve seats and return the reservation; `key` is this order's own, for all its tries.

    Keep the key with the order before you call: after a crash, the same call finds out.
    """
    body = {"partnerId": partner, "seats": seats}
    status, _, answer = call("POST", f"{EVENT}/reservations", body, Idempotency_Key=key)
    if status != 201:
        raise Refused(answer)
    # The reservation as it is now: a late repetition may show it cancelled, see `status`.
    return answer


def cancel(reservation_id):
    """Give all seats back. That they are back already is no failure: judge a 404 by its code."""
    status, _, answer = call("DELETE", f"{SERVICE}/reservations/{reservation_id}")
    if status != 204 and answer["code"] not in ("already_cancelled", "hold_expired"):
        raise Refused(answer)


def follow(after):
    """Yield the changes of the event after a version, as they happen, for as long as you ask.

    Each version comes once, in order, with none missing. Keep the last one with what you
    made of it, and go on from there after a crash. `cursor_ahead` says that the service has
    not got that far: it was restored from a backup, and you know more than it does.
    """
    seen = None
    while True:
        url = f"{EVENT}/changes?after={after}"
        status, headers, page = call("GET", url, If_None_Match=seen)
        if status not in (200, 304):
            raise Refused(page)
        if status == 200 and page["items"]:
            yield from page["items"]
            after, seen = page["next"], None
        else:
            seen = headers["ETag"]  # nothing new: the next such answer has no body
            time.sleep(POLL)


def main(command, *arguments):
    if command == "reserve":
        partner, seats, key = arguments
        print(json.dumps(reserve(partner, int(seats), key)))
    elif command == "cancel":
        cancel(*arguments)
    elif command == "follow":
        for change in follow(int(*arguments)):
            print(json.dumps(change), flush=True)
    else:
        raise SystemExit(__doc__)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:] or [""])
    except (Refused, TimeoutError) as failure:
        raise SystemExit(str(failure)) from None
    except KeyboardInterrupt:
        pass
