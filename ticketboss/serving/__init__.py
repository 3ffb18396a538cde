"""Processes: gunicorn, its worker, the start, the embedded PostgreSQL."""
