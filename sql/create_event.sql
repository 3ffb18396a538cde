-- Create an event with all its seats available, and enter that in the ledger.
--
-- One row:  it was created now.
-- No row:   an event with this id exists, and stays as it is.
WITH created AS (
    INSERT INTO events (event_id, name, initial_seats, total_seats, available_seats,
                        sales_open_at, sales_close_at, max_seats_per_partner,
                        max_held_seats_per_partner)
    VALUES (%(event_id)s, %(name)s, %(total_seats)s, %(total_seats)s, %(total_seats)s,
            %(sales_open_at)s, %(sales_close_at)s, %(max_seats_per_partner)s,
            %(max_held_seats_per_partner)s)
    ON CONFLICT (event_id) DO NOTHING
    RETURNING event_id, version, total_seats, created_at
), entry AS (
    SELECT event_id, version, 'event_created' AS type, NULL::uuid AS reservation_id,
           NULL::text AS partner_id, total_seats AS seats, total_seats AS available_seats,
           created_at AS at, %(batch_id)s::uuid AS batch_id, %(actor)s::text AS actor,
           NULL::timestamptz AS expires_at, NULL::text AS idempotency_key,
           %(details)s::jsonb AS details
    FROM created
)
INSERT INTO ledger (event_id, version, type, reservation_id, partner_id, seats, available_seats,
                    at, batch_id, actor, expires_at, idempotency_key, details, checksum)
SELECT entry.*, hash_record_extended(entry, 0)
FROM entry
RETURNING event_id;
