"""Judge a running service from outside: what its clients were told against what is on record.

It knows the contract and nothing else of the house: clients speak HTTP and note what
they asked and were told (clients.py), as a history (history.py); the feed is replayed
(ledger.py); and a pure function says what of the history was not as promised (judge.py).
"""
