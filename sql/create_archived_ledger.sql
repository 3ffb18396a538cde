-- Create a table of this session alone in the place of that of the ledger: what the session
-- replays is then what it has put there.
CREATE TEMPORARY TABLE ledger (LIKE ledger INCLUDING INDEXES INCLUDING CONSTRAINTS);
