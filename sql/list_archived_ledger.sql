-- List rows of an event's ledger in the order in which they were made, for its file.
--
-- A row each:  a change, with its version, and all of its columns as JSON.
SELECT version AS version, to_jsonb(ledger)::text AS found
FROM ledger
WHERE event_id = %(event_id)s
  AND version > %(after)s
ORDER BY version
LIMIT %(limit)s;
