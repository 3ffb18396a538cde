-- Remove the first rows of the reservations of an event that is archived.
--
-- A row each:  one was removed.
DELETE FROM reservations
WHERE event_id = %(event_id)s
  AND created_version = ANY (ARRAY(
      SELECT created_version
      FROM reservations AS first_rows
      WHERE first_rows.event_id = %(event_id)s
      ORDER BY created_version
      LIMIT %(limit)s
  ))
  AND EXISTS (
      SELECT FROM events
      WHERE events.event_id = reservations.event_id
        AND archived_version IS NOT NULL
  )
RETURNING created_version;
