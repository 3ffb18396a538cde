-- List an event's changes in the order of their commits.
--
-- A row each:  the event's version, whether it is unsettled (see read_event.sql), and
--              the change.
-- One row:     with nulls for the change, where there is none.
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
    SELECT version, type, CASE WHEN type <> 'allotted' THEN reservation_id END AS reservation_id,
           partner_id, seats, available_seats, at, actor, details
    FROM ledger
    WHERE ledger.event_id = events.event_id
      AND ledger.version > %(after)s
    ORDER BY ledger.version
    LIMIT %(limit)s
) AS page ON true
WHERE events.event_id = %(event_id)s
ORDER BY page.version;
