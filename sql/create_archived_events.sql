-- Create a table of this session alone in the place of that of events: what the session
-- replays is then what it has put there.
CREATE TEMPORARY TABLE events (LIKE events INCLUDING INDEXES INCLUDING CONSTRAINTS);
