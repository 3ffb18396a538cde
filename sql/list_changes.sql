-- List an event's changes in the order of their commits.
--
-- Where a scope is given, names and ids of all other partners are null: a version that
-- is left out would look as if it had been lost.
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
    SELECT version, type,
           CASE WHEN type <> 'allotted'
                 AND (%(scope)s::text IS NULL OR partner_id = %(scope)s) THEN reservation_id
           END AS reservation_id,
           CASE WHEN %(scope)s::text IS NULL OR partner_id = %(scope)s THEN partner_id
           END AS partner_id,
           seats, available_seats, at,
           CASE WHEN %(scope)s::text IS NULL OR EXISTS (
               SELECT FROM keys
               WHERE key_id = actor
                 AND keys.partner_id = %(scope)s
           ) THEN actor END AS actor,
           details
    FROM ledger
    WHERE ledger.event_id = events.event_id
      AND ledger.version > %(after)s
    ORDER BY ledger.version
    LIMIT %(limit)s
) AS page ON true
WHERE events.event_id = %(event_id)s
  AND archived_version IS NULL
ORDER BY page.version;
