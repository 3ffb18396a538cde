-- Create an event with all its seats available.
--
-- One row:  it was created now.
-- No row:   an event with this id exists, and stays as it is.
INSERT INTO events (event_id, name, initial_seats, total_seats, available_seats,
                    sales_open_at, sales_close_at)
VALUES (%(event_id)s, %(name)s, %(total_seats)s, %(total_seats)s, %(total_seats)s,
        %(sales_open_at)s, %(sales_close_at)s)
ON CONFLICT (event_id) DO NOTHING
RETURNING event_id;
