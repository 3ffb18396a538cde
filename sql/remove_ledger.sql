-- Remove the first rows of the ledger of an event that is archived.
--
-- A row each:  one was removed.
DELETE FROM ledger
WHERE event_id = %(event_id)s
  AND version = ANY (ARRAY(
      SELECT version
      FROM ledger AS first_rows
      WHERE first_rows.event_id = %(event_id)s
      ORDER BY version
      LIMIT %(limit)s
  ))
  AND EXISTS (
      SELECT FROM events
      WHERE events.event_id = ledger.event_id
        AND archived_version IS NOT NULL
  )
RETURNING version;
