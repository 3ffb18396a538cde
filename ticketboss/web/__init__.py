"""HTTP: what a request says, and what is answered."""
