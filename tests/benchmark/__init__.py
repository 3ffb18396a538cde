"""Measure the service against the machine it runs on: `python -m tests.benchmark`."""
