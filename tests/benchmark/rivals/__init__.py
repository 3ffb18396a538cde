"""What a team would build instead, each in a short file, and the comparison with it."""
