-- List the allotments of an event that live, by their partners.
--
-- A row each:  the event's version, whether it is unsettled (see read_event.sql), and
--              the allotment in the columns of read_reservation.sql.
-- One row:     with nulls for the allotment, where there is none.
-- No row:      there is no such event.
SELECT events.version AS event_version,
       EXISTS (
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
           idempotency_key, allotment, drawn_from,
           status = 'held' AND expires_at <= now() AS overdue
    FROM reservations
    WHERE reservations.event_id = events.event_id
      AND status = 'held'
      AND allotment
      AND partner_id > %(after)s
      AND partner_id = coalesce(%(partner_id)s, partner_id)
    ORDER BY partner_id
    LIMIT %(limit)s
) AS page ON true
WHERE events.event_id = %(event_id)s
  AND archived_version IS NULL
ORDER BY page.partner_id;
