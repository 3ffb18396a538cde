-- The schema: events, their reservations, and the ledger of changes.
--
-- serves: 1
--
-- Keys of event-owned tables lead with event_id, there are no triggers and no
-- sequences, and ids come in as parameters: the schema also suits databases
-- that spread an event's rows over machines.

-- The event's row is the hottest row there is. Its updates stay heap-only: no
-- column that changes is indexed, and the fillfactor leaves room for dozens of
-- versions in the page. Autovacuum looks after it from the first thousand dead
-- versions on, however large the table is.
CREATE TABLE events (
    event_id text NOT NULL,
    name text NOT NULL,
    initial_seats integer NOT NULL,
    total_seats integer NOT NULL,
    available_seats integer NOT NULL,
    reservation_count integer NOT NULL DEFAULT 0,
    version bigint NOT NULL DEFAULT 0,
    sales_open_at timestamptz,
    sales_close_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT events_one_per_id PRIMARY KEY (event_id),
    -- Checked by every update of the row, whatever that changes: a regular expression
    -- that counts to 64 takes 6 microseconds, more than the update; this takes 0.3.
    CONSTRAINT events_id_is_printable CHECK (
        length(event_id) BETWEEN 1 AND 64
        AND event_id !~ '[^a-z0-9._-]'
    ),
    CONSTRAINT events_never_oversold CHECK (available_seats BETWEEN 0 AND total_seats),
    CONSTRAINT events_total_seats_in_range CHECK (total_seats BETWEEN 0 AND 10000000),
    CONSTRAINT events_count_matches_seats CHECK (
        reservation_count BETWEEN 0 AND total_seats - available_seats
        AND (reservation_count > 0) = (total_seats > available_seats)
    ),
    CONSTRAINT events_version_not_negative CHECK (version >= 0),
    CONSTRAINT events_sales_open_before_close CHECK (sales_open_at < sales_close_at)
) WITH (
    fillfactor = 10,
    autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_scale_factor = 0
);

-- created_version is the event's version that made the reservation: it orders
-- an event's reservations without gaps in time, so lists page along it.
CREATE TABLE reservations (
    event_id text NOT NULL,
    created_version bigint NOT NULL,
    reservation_id uuid NOT NULL,
    partner_id text NOT NULL,
    seats integer NOT NULL,
    status text NOT NULL,
    version bigint NOT NULL,
    created_at timestamptz NOT NULL,
    expires_at timestamptz,
    confirmed_at timestamptz,
    cancelled_at timestamptz,
    requested_seats integer NOT NULL,
    hold_seconds integer,
    idempotency_key text,
    CONSTRAINT reservations_one_per_version PRIMARY KEY (event_id, created_version),
    CONSTRAINT reservations_belong_to_an_event FOREIGN KEY (event_id) REFERENCES events,
    CONSTRAINT reservations_seats_positive CHECK (seats BETWEEN 1 AND requested_seats),
    CONSTRAINT reservations_status_known CHECK (
        status IN ('held', 'confirmed', 'cancelled', 'expired')
    ),
    CONSTRAINT reservations_hold_has_an_end CHECK (status <> 'held' OR expires_at IS NOT NULL),
    CONSTRAINT reservations_version_not_before_created CHECK (version >= created_version)
);

-- Ids are made by the service and come to it without their event. On a database
-- that spreads events over machines this index cannot be unique; nothing but a
-- collision of random ids depends on it.
CREATE UNIQUE INDEX reservations_one_per_id ON reservations (reservation_id);

-- A key belongs to its partner, whatever the event.
CREATE UNIQUE INDEX reservations_one_per_idempotency_key
    ON reservations (partner_id, idempotency_key) WHERE idempotency_key IS NOT NULL;

-- What has expired and is not in the ledger yet.
CREATE INDEX reservations_held_by_end
    ON reservations (event_id, expires_at) WHERE status = 'held';

-- Lists, each status by itself: of an event, and of a partner's reservations in it.
CREATE INDEX reservations_by_status
    ON reservations (event_id, status, created_version);
CREATE INDEX reservations_by_partner
    ON reservations (event_id, partner_id, status, created_version);

-- One row per change of an event, appended and never touched again. seats is
-- what the change leaves: the reservation's seats; those given back by one that
-- was cancelled or expired; the event's total after an edit. All changes of one
-- transaction share a batch_id, by which it is recognised if its answer is lost.
CREATE TABLE ledger (
    event_id text NOT NULL,
    version bigint NOT NULL,
    type text NOT NULL,
    reservation_id uuid,
    partner_id text,
    seats integer NOT NULL,
    available_seats integer NOT NULL,
    at timestamptz NOT NULL,
    batch_id uuid NOT NULL,
    CONSTRAINT ledger_one_change_per_version PRIMARY KEY (event_id, version),
    CONSTRAINT ledger_belongs_to_an_event FOREIGN KEY (event_id) REFERENCES events,
    CONSTRAINT ledger_version_positive CHECK (version > 0),
    CONSTRAINT ledger_available_not_negative CHECK (available_seats >= 0),
    CONSTRAINT ledger_type_known CHECK (
        type IN ('reserved', 'held', 'confirmed', 'reduced', 'extended',
                 'cancelled', 'expired', 'event_updated')
    ),
    CONSTRAINT ledger_names_what_changed CHECK (
        (type = 'event_updated') = (reservation_id IS NULL)
        AND (reservation_id IS NULL) = (partner_id IS NULL)
    )
);
