-- List an event's reservations, newest last.
--
-- A row each:  the event's version, whether it is unsettled (see read_event.sql), and
--              the reservation in the columns of read_reservation.sql.
-- One row:     with nulls for the reservation, where there is none.
-- No row:      there is no such event.
--
-- Each status is read from its own place in an index, and only as far as the page
-- needs: so a page costs the same however many there are that it does not show. Rows
-- are compared and ordered with their status, and partner, because then no other
-- index will do, whatever the statistics say.
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
    SELECT found.*
    FROM (VALUES ('held'), ('confirmed'), ('cancelled'), ('expired')) AS stored (status)
    CROSS JOIN LATERAL (
        SELECT reservation_id, event_id, partner_id, seats, status, version, created_version,
               created_at, expires_at, confirmed_at, cancelled_at, requested_seats, hold_seconds,
               idempotency_key, allotment, drawn_from,
               status = 'held' AND expires_at <= now() AS overdue
        FROM reservations
        WHERE reservations.event_id = events.event_id
          AND NOT allotment
          AND CASE WHEN %(partner_id)s::text IS NULL
                   THEN (status, created_version) > (stored.status, %(after)s)
                        AND status <= stored.status
                   ELSE (partner_id, status, created_version)
                            > (%(partner_id)s, stored.status, %(after)s)
                        AND (partner_id, status) <= (%(partner_id)s, stored.status)
              END
          AND ((%(computed)s AND %(status)s IN ('held', 'expired')) IS NOT TRUE
               OR CASE WHEN status = 'held' AND expires_at <= now() THEN 'expired'
                       ELSE status
                  END = %(status)s)
        ORDER BY CASE WHEN %(partner_id)s::text IS NOT NULL THEN partner_id END,
                 status, created_version
        LIMIT %(limit)s
    ) AS found
    WHERE %(status)s::text IS NULL
       OR stored.status = %(status)s
       OR %(computed)s AND %(status)s = 'expired' AND stored.status = 'held'
    ORDER BY created_version
    LIMIT %(limit)s
) AS page ON true
WHERE events.event_id = %(event_id)s
  AND archived_version IS NULL
ORDER BY page.created_version;
