-- What the rivals sell from: no ledger, no versions, no keys.
CREATE TABLE events (
    event_id text PRIMARY KEY,
    total_seats integer NOT NULL,
    available_seats integer NOT NULL CHECK (available_seats BETWEEN 0 AND total_seats)
);
CREATE TABLE reservations (
    reservation_id uuid PRIMARY KEY,
    event_id text NOT NULL REFERENCES events,
    partner_id text NOT NULL,
    seats integer NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
