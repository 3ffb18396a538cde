-- Remove the next rows of the ledger of an event that is archived.
--
-- A row each:  one was removed, at this place of their order.
DELETE FROM ledger
WHERE event_id = %(event_id)s
  AND version = ANY (ARRAY(
      SELECT version
      FROM ledger AS next_rows
      WHERE next_rows.event_id = %(event_id)s
        AND version > %(after)s
      ORDER BY version
      LIMIT %(limit)s
  ))
  AND EXISTS (
      SELECT FROM events
      WHERE events.event_id = ledger.event_id
        AND archived_version IS NOT NULL
  )
RETURNING version AS version;
