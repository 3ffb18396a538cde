-- Tell whether a batch is in the ledger, if its answer was lost.
--
-- It is known by the change at one place of it: by the version that this change
-- made on top of the one that was seen, or, if none was seen, by a reservation
-- that it made, or else by one that it changed: the version that this one has is
-- the batch's, unless others have changed it again. Only then the ledger is read.
--
-- One row:  it is, on top of seen_version; at is the time that all its changes carry.
-- No row:   it is not.
WITH changed AS (
    SELECT version
    FROM reservations
    WHERE reservation_id = %(changed_id)s
      AND version > %(changed_from)s
)
SELECT at, version - %(place)s AS seen_version
FROM ledger
WHERE event_id = %(event_id)s
  AND version = coalesce(%(version)s + %(place)s, (
      SELECT created_version
      FROM reservations
      WHERE reservation_id = %(created_id)s
  ), (
      SELECT version
      FROM ledger
      WHERE event_id = %(event_id)s
        AND version = (SELECT version FROM changed)
        AND batch_id = %(batch_id)s
  ), (
      SELECT max(version)
      FROM ledger
      WHERE event_id = %(event_id)s
        AND version > %(changed_from)s
        AND version < (SELECT version FROM changed)
        AND reservation_id = %(changed_id)s
        AND batch_id = %(batch_id)s
  ))
  AND batch_id = %(batch_id)s;
