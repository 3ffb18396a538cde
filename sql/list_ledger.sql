-- List an event's ledger for the replay, after a version.
--
-- A row each:  the change, in the columns of model.LedgerEntry.
SELECT version, type, reservation_id, partner_id, seats, available_seats, at
FROM ledger
WHERE event_id = %(event_id)s
  AND version > %(after)s
ORDER BY version
LIMIT %(limit)s;
