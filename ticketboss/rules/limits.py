"""Every bound of the service, each in one place with its reason beside it.

Times are in seconds, sizes in bytes, unless a name says otherwise.
"""

# --- Waiting -----------------------------------------------------------------

# How long one exchange with the database may take, connecting included. A
# frozen server says nothing at all, so only a clock on this side notices it.
# /health must answer within 1 s while every thread sits out this bound: it
# leaves 0.4 s for the queue in front of the threads to drain.
DATABASE_PATIENCE = 0.6

# The same where the server has only just fallen silent: a write that it swallowed
# is looked up within this, so that both together stay under a second. After that
# first while a probe gets all of the above, or a server that takes longer than
# this to connect to would stay unreachable.
PROBE_PATIENCE = 0.2
FRESH_SILENCE = 1.0

# The same bound on the server's side, a little shorter, so that a slow
# statement is refused by the server, which knows why, rather than by the clock
# here, which does not. Rows of events are not waited for; what a lock is waited
# for is held by somebody outside, who alters a table, say.
STATEMENT_TIMEOUT_MS = 500
LOCK_TIMEOUT_MS = 200

# A batch that fails as a whole is served event by event. If the database does not
# take so many of them in time, it is not about them: the rest is told so at once.
PIECES_UNAVAILABLE = 2

# How long a change waits for somebody else who keeps its event's row locked, if the
# event stands still meanwhile: as long as the other's commit may take.
LOCK_PATIENCE = DATABASE_PATIENCE

# How long a change may keep losing to rivals before its client is told so.
# Partners' HTTP clients commonly give up after 10 s; this leaves them an answer.
REQUEST_DEADLINE = 5.0

# How many batches in a row may lose to rivals as a whole before the next is served
# event by event: more than chance makes likely, and 10 ms at most.
CONFLICTS_TOGETHER = 3

# Full jitter between two tries: a random part of a span that doubles from the
# first to the last of these. One commit takes about 2 ms, so the first try
# waits for about one rival.
RETRY_FIRST = 0.001
RETRY_LAST = 0.004

# The same between two tries to connect: a server that starts has better things to do.
RECONNECT_LAST = 0.05

# How long a pool makes do with the connections it has, after the server refused one.
POOL_REST = 5.0

# How long a worker that has more connections than another lets that one accept
# a new one: some times what it takes to wake up. Short connections come and go,
# so being a few ahead is not yet more.
ACCEPT_COURTESY = 0.002
ACCEPT_AHEAD = 2

# /health trusts a success of the database that is at most this old.
HEALTH_FRESHNESS = 1.0

# How long a start waits for the database: long enough for one that starts at
# the same time, short enough that nobody wonders whether it hangs.
STARTUP_PATIENCE = 5.0

# How long no worker is started after one that could not start, while others serve.
START_PAUSE = 5.0

# For how long one try of a migration waits for a lock, while every request for that
# table waits behind it: half of what those wait for one themselves. Between two tries
# they have ten times as long.
MIGRATION_LOCK_TIMEOUT_MS = 100
MIGRATION_PAUSE = 1.0

# How long a migration tries to get its locks before it names, and gives up to, the one
# who has them: less than what supervisors commonly give to a start.
MIGRATION_PATIENCE = 60.0

# How long the writer of the log waits for more lines to write at once. Also what
# is lost of them when the process is killed.
LOG_GATHERING = 0.01

# How long an exit waits for the log to be written: somebody may be about to read it.
LOG_PATIENCE = 0.5

# --- Clients -----------------------------------------------------------------

# How long a new connection may say nothing: a client connects in order to ask.
FIRST_BYTE_PATIENCE = 5.0

# How long a request may be on its way as a whole, head and body. An honest one is a
# packet or two; this bears with several lost ones.
REQUEST_PATIENCE = 10.0

# How long a client may take nothing of an answer before it is given up.
READING_PATIENCE = 10.0

# How long, and through how many bytes, a connection that is to end is read on, so
# that what the client still sends does not make its system discard our answer
# (RFC 9112, section 9.6).
LINGER = 2.0
LINGER_BYTES = 1024 * 1024

# How long a worker that stops leaves a kept-alive connection open for somebody who
# may be sending on it just now: some times the round trip to anywhere.
STOP_SILENCE = 1.0

# For how long a worker that stops goes on letting in whoever has knocked: longer than the
# rest of a handshake takes on the way to a proxy. Who knocks meanwhile is not heard.
HANDSHAKE = 0.05

# How much of an answer the system takes beyond what its client has room for. Who asks
# for many large ones at once and reads none gets one or two.
UNSENT_BYTES = 16 * 1024

# What a 503 or a 429 asks its client to wait.
RETRY_AFTER = 1

# --- Keys --------------------------------------------------------------------

# How old what a process knows of live keys may be: a revoked key ends everywhere
# within it. It is renewed at half of that, so that there are many tries for it.
KEYS_TRUSTED = 30.0
KEYS_RENEWED = 15.0

# How often a process may read all live keys because of keys that it does not know. A
# right one is met within this, however many wrong ones come from its address.
KEYS_REST = 0.5

# Keys that a process knows, about 4 MB. Where more are live, those that were not used
# lately are looked up one by one.
KEYS_KNOWN = 10_000

# Wrong keys that are looked up for one address (for IPv6, a network of 64 bits) within
# a second: nobody mistypes faster. And the addresses that are remembered for it.
WRONG_KEYS = 10
WRONG_KEY_ADDRESSES = 4096

# --- Sizes -------------------------------------------------------------------

# All lines of a request's head together: several times what proxies and browsers send.
HEAD_BYTES = 32 * 1024

# A reserve takes about 100 bytes; 16 KiB leaves room for anything honest.
BODY_BYTES = 16 * 1024

# A batch has up to 64 operations, and the answer an item for each.
BATCH_BODY_BYTES = 128 * 1024
BATCH_OPERATIONS = 64
BATCH_ITEM_BYTES = 1900

# A refusal has at most 4 KiB, whatever the client's own names are: two of the longest,
# of characters that JSON writes as twelve bytes each, fit into the fields of one.
NAME_SHOWN = 64
FIELDS_BYTES = 3000


def body_bytes(path: str) -> int:
    """Return how large the body of a request to a path may be."""
    return BATCH_BODY_BYTES if path.rstrip("/") == "/api/v1/batch" else BODY_BYTES


# Lines that wait for a slow reader of the log: some ten seconds of a busy process.
LOG_BYTES = 4 * 1024 * 1024

# Changes written by one transaction. Enough for every thread of a process, as
# many as it usually has; a bound because a failed one is decided again as a whole.
BATCH_CHANGES = 64

# Expired holds settled by one transaction: about 40 ms of work, far from the
# statement timeout, so that those who wait for it hardly notice.
SETTLE_HOLDS = 500

# --- The contract ------------------------------------------------------------

SEATS_MINIMUM, SEATS_MAXIMUM = 1, 10
PARTNER_ID_LENGTH = 64
EVENT_ID_LENGTH = 64
EVENT_NAME_LENGTH = 200
TOTAL_SEATS_MAXIMUM = 10_000_000
HOLD_SECONDS_MAXIMUM = 3600
HOLD_TOTAL_SECONDS = 7200
IDEMPOTENCY_KEY_LENGTH = 255
LIST_DEFAULT, LIST_MAXIMUM = 50, 100
FEED_DEFAULT, FEED_MAXIMUM = 100, 1000
