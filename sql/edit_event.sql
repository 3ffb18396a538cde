-- Change an event's name, size or sales window, archive it or restore it, if nobody has
-- changed the event since it was read, and enter it in the ledger.
--
-- One row:  it is written, on top of seen_version, at the time of its ledger row.
-- No row:   somebody else was first or has the event's row, or a hold has expired
--           and is not settled.
WITH free AS (
    SELECT event_id
    FROM events
    WHERE event_id = %(event_id)s
      AND version = %(version)s
      AND archived_version IS NOT DISTINCT FROM %(archived_version)s
    FOR NO KEY UPDATE SKIP LOCKED
), edited AS (
    UPDATE events
    SET name = %(name)s,
        total_seats = %(total_seats)s,
        available_seats = %(available_seats)s,
        sales_open_at = %(sales_open_at)s,
        sales_close_at = %(sales_close_at)s,
        max_seats_per_partner = %(max_seats_per_partner)s,
        max_held_seats_per_partner = %(max_held_seats_per_partner)s,
        archived_version = CASE WHEN %(archives)s THEN version + 1 END,
        version = version + 1
    FROM free
    WHERE events.event_id = free.event_id
      AND version = %(version)s
      AND NOT EXISTS (
          SELECT FROM reservations
          WHERE reservations.event_id = %(event_id)s
            AND status = 'held'
            AND expires_at <= now()
      )
    RETURNING events.event_id, version, total_seats, available_seats
), entry AS (
    SELECT event_id, version, 'event_updated' AS type, NULL::uuid AS reservation_id,
           NULL::text AS partner_id, total_seats AS seats, available_seats,
           now() AS at, %(batch_id)s::uuid AS batch_id, %(actor)s::text AS actor,
           NULL::timestamptz AS expires_at, NULL::text AS idempotency_key,
           %(details)s::jsonb AS details
    FROM edited
)
INSERT INTO ledger (event_id, version, type, reservation_id, partner_id, seats, available_seats,
                    at, batch_id, actor, expires_at, idempotency_key, details, checksum)
SELECT entry.*, hash_record_extended(entry, 0)
FROM entry
RETURNING at, version - 1 AS seen_version;
