-- List an event's reservations, newest last.
--
-- A row each:  whether the event is unsettled (see read_event.sql), and the
--              reservation in the columns of read_reservation.sql.
-- One row:     with nulls for the reservation, where there is none.
-- No row:      there is no such event.
SELECT EXISTS (
           SELECT FROM reservations
           WHERE reservations.event_id = events.event_id
             AND status = 'held'
             AND expires_at <= now()
       ) AS unsettled,
       page.*
FROM events
LEFT JOIN LATERAL (
    SELECT reservation_id, event_id, partner_id, seats, status, version, created_version,
           created_at, expires_at, confirmed_at, cancelled_at, requested_seats, hold_seconds,
           idempotency_key, status = 'held' AND expires_at <= now() AS overdue
    FROM reservations
    WHERE reservations.event_id = events.event_id
      AND created_version > %(after)s
      AND (%(partner_id)s::text IS NULL OR partner_id = %(partner_id)s)
      AND (%(status)s::text IS NULL
           OR CASE WHEN %(computed)s AND status = 'held' AND expires_at <= now() THEN 'expired'
                   ELSE status
              END = %(status)s)
    ORDER BY created_version
    LIMIT %(limit)s
) AS page ON true
WHERE events.event_id = %(event_id)s
ORDER BY page.created_version;
