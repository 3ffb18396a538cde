-- List events with what their ledgers must give.
--
-- A row each:  the event; ledger_version is that of the last row of its ledger.
SELECT event_id, name, initial_seats, total_seats, available_seats, reservation_count, version,
       sales_open_at, sales_close_at, max_seats_per_partner, max_held_seats_per_partner,
       allotted_seats, created_at, now() AS read_at,
       (
           SELECT max(version)
           FROM ledger
           WHERE ledger.event_id = events.event_id
       ) AS ledger_version
FROM events
WHERE event_id > %(after)s
  AND archived_version IS NULL
  AND (%(event_id)s::text IS NULL OR event_id = %(event_id)s)
ORDER BY event_id
LIMIT %(limit)s;
