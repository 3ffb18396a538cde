-- List rows of an event in the order in which they were made, for its file.
--
-- A row each:  a reservation, with the version that made it, and all of its columns as JSON.
SELECT created_version AS version, to_jsonb(reservations)::text AS found
FROM reservations
WHERE event_id = %(event_id)s
  AND created_version > %(after)s
ORDER BY created_version
LIMIT %(limit)s;
