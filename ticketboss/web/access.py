"""Who calls, whose things they may see and change, and how much of the machine is theirs.

With AUTH=keys every call of the API but /health needs a key, and is made for its
partner. With AUTH=open partner ids are believed, and only admin calls need a key.
"""

import hmac
import threading
import time
from collections import OrderedDict, deque
from dataclasses import dataclass
from ipaddress import IPv6Address
from urllib.parse import unquote_plus

from flask import Flask, Response, g, request

from ticketboss.config import Config
from ticketboss.data.keys import Keys
from ticketboss.rules import limits
from ticketboss.rules.errors import Forbidden, InvalidRequest, TooManyRequests, Unauthorized
from ticketboss.rules.keys import KEY, Key, Kind, public_id
from ticketboss.rules.model import ADMIN
from ticketboss.web import clients
from ticketboss.web.current import access, config

PREFIX = "/api/v1/"
OPEN_TO_ALL = {"/api/v1/health"}

NOT_A_KEY = "This is not a key of this service"
NOT_LIVE = "This key is not good, or not any more"
IN_AN_ADDRESS = "A key belongs in the Authorization header; replace this one, it may have been read"


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a request comes from, and whose things it may see and change."""

    # None: everybody's.
    partner_id: str | None = None
    # None: whoever it is, nobody asked.
    kind: Kind | None = None
    # What the ledger says of who made a change.
    actor: str | None = None

    @property
    def admin(self) -> bool:
        return self.kind == "admin"


ANYBODY = Identity()
FIRST_ADMIN = Identity(kind="admin", actor=ADMIN)


def require_admin() -> None:
    """Raise Unauthorized or Forbidden unless the current request has an admin key."""
    if g.identity is ANYBODY:
        g.identity = access.identify()
    if not g.identity.admin:
        raise Forbidden


def require_metrics() -> None:
    """Raise Unauthorized or Forbidden unless the current request may see what is counted."""
    if config.auth == "keys" and access.identify().kind not in ("admin", "metrics"):
        raise Forbidden


def whose(partner_id: str | None) -> str | None:
    """Return whose things a request is about that names a partner, or none.

    Raises Forbidden where that is another one than it may speak for.
    """
    own = g.identity.partner_id
    if own is None:
        return partner_id
    if partner_id not in (None, own):
        raise Forbidden("partnerId is not the partner of this key")
    return own


class Access:
    """Tells callers apart by their keys."""

    def __init__(self, config: Config, keys: Keys):
        self._admin_key = config.admin_key and config.admin_key.encode()
        self._keys = keys
        self._proxies = config.trusted_proxies
        self._guesses = Guesses()
        self._shares = Shares(config.partner_concurrency or config.threads // 2)

    def register(self, app: Flask, by_keys: bool) -> None:
        """Let every request of the application know who it comes from."""
        if by_keys:
            app.before_request(self._admit)
            app.after_request(_vary)
            app.teardown_request(self._see_off)
        else:
            app.before_request(_believe)

    def identify(self) -> Identity:
        """Return who the key of the current request belongs to.

        Raises InvalidRequest, Unauthorized, TooManyRequests, or, where that cannot be
        found out just now, Unavailable or Overloaded.
        """
        if KEY.search(unquote_plus(request.query_string.decode("latin-1"))):
            raise InvalidRequest(IN_AN_ADDRESS, fields={})
        scheme, _, text = request.headers.get("Authorization", "").partition(" ")
        text = text.strip()
        if scheme.lower() != "bearer" or not text:
            raise Unauthorized
        if self._admin_key and hmac.compare_digest(text.encode(), self._admin_key):
            return FIRST_ADMIN
        key_id = public_id(text)
        key = self._keys.live(key_id) if key_id else None
        if key is None or not key.opens(text):
            key = self._meet(text, key_id, known=key is not None)
        self._keys.note_use(key)
        return Identity(key.partner_id, key.kind, key.key_id)

    def _meet(self, text: str, key_id: str | None, known: bool) -> Key:
        """Return a key that is not known here yet; raise where it is a wrong one."""
        sender = _network(clients.address(request.environ, self._proxies))
        few = self._guesses.take(sender)
        key = None
        if key_id and not known:
            # Among many wrong ones a right one is looked for, too, but not by itself.
            key = self._keys.find(key_id) if few else self._keys.find_among_all(key_id)
        if key is not None and key.opens(text):
            self._guesses.forgive(sender)
            return key
        if not few:
            raise TooManyRequests
        raise Unauthorized(NOT_LIVE if key_id else NOT_A_KEY)

    # --- With AUTH=keys ---------------------------------------------------------

    def _admit(self) -> None:
        if not _needs_key():
            return
        identity = self.identify()
        if identity.kind == "metrics":
            raise Forbidden("This key is good for /metrics alone")
        if identity.partner_id is not None:
            g.partner_id = identity.partner_id  # for the log
            self._shares.take(identity.partner_id)
            g.share = identity.partner_id
        g.identity = identity

    def _see_off(self, _: BaseException | None) -> None:
        if share := g.pop("share", None):
            self._shares.give_back(share)


def _believe() -> None:
    g.identity = ANYBODY


def _needs_key() -> bool:
    return request.path.startswith(PREFIX) and request.path not in OPEN_TO_ALL


def _vary(response: Response) -> Response:
    if _needs_key():
        response.headers["Vary"] = "Authorization"
    return response


# --- Bounds -------------------------------------------------------------------------


class Guesses:
    """Counts the wrong keys of each sender within the last second, in bounded memory."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        # When the last of them came, by sender; who has been quiet for the longest first.
        self._times: OrderedDict[str, deque[float]] = OrderedDict()

    def take(self, sender: str) -> bool:
        """Count one more, and tell whether it is among the few that are looked up."""
        now = time.monotonic()
        with self._mutex:
            while self._times and next(iter(self._times.values()))[-1] < now - 1:
                self._times.popitem(last=False)
            times = self._times.get(sender)
            if times is None:
                if len(self._times) >= limits.WRONG_KEY_ADDRESSES:
                    return False
                times = self._times[sender] = deque(maxlen=limits.WRONG_KEYS)
            if len(times) == limits.WRONG_KEYS and times[0] > now - 1:
                return False
            times.append(now)
            self._times.move_to_end(sender)
            return True

    def forgive(self, sender: str) -> None:
        """Take back the last that was counted: it was no guess."""
        with self._mutex:
            if times := self._times.get(sender):
                times.pop()
                if not times:
                    del self._times[sender]


def _network(address: str | None) -> str:
    """Return what one client can choose its addresses from: for IPv6, 64 bits of network."""
    if address is None or ":" not in address:
        return address or ""
    return IPv6Address(address).exploded[:19]


class Shares:
    """Counts the requests of each partner that are in progress."""

    def __init__(self, share: int) -> None:
        self._share = share
        self._mutex = threading.Lock()
        self._counts: dict[str, int] = {}

    def take(self, partner_id: str) -> None:
        """Count one more; raise TooManyRequests where that is more than its share."""
        with self._mutex:
            count = self._counts.get(partner_id, 0)
            if count >= self._share:
                raise TooManyRequests
            self._counts[partner_id] = count + 1

    def give_back(self, partner_id: str) -> None:
        with self._mutex:
            self._counts[partner_id] -= 1
            if not self._counts[partner_id]:
                del self._counts[partner_id]
