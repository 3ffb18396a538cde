-- Create a table of this session alone in the place of that of reservations: what the session
-- replays is then what it has put there.
CREATE TEMPORARY TABLE reservations (LIKE reservations INCLUDING INDEXES INCLUDING CONSTRAINTS);
