"""SQL: the database, its statements, its schema."""
