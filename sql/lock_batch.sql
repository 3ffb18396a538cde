-- Tell whether a batch is in the ledger: at the end of its own transaction, or
-- later if its answer was lost.
--
-- The row lock makes this a transaction that writes: under synchronous
-- replication it returns only when everything before it is on the standby.
--
-- One row:  it is; at is the time that all its changes carry.
-- No row:   it is not.
SELECT at
FROM ledger
WHERE event_id = %(event_id)s
  AND version = %(version)s + 1
  AND batch_id = %(batch_id)s
FOR UPDATE;
