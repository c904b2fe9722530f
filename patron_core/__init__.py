"""The core of Patron: specs, estimates, the run state machine, the ledger, executors, the supervisor and the verbs.

from patron_core import verbs
from patron_core.store import Store

store = Store.open()
run = verbs.plan(store, spec={"depth": 2, "vocab_size": 4096, "sequence_len": 256}, actor="me")
"""
