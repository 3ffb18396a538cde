-- Remove the next rows of the reservations of an event that is archived.
--
-- A row each:  one was removed, at this place of their order.
DELETE FROM reservations
WHERE event_id = %(event_id)s
  AND created_version = ANY (ARRAY(
      SELECT created_version
      FROM reservations AS next_rows
      WHERE next_rows.event_id = %(event_id)s
        AND created_version > %(after)s
      ORDER BY created_version
      LIMIT %(limit)s
  ))
  AND EXISTS (
      SELECT FROM events
      WHERE events.event_id = reservations.event_id
        AND archived_version IS NOT NULL
  )
RETURNING created_version AS version;
