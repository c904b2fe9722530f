"""What was refused is kept with the run and told by whoever looks at it, until something else happens."""

from __future__ import annotations

import pytest

from patron_core import verbs
from patron_core.errors import Refused
from patron_core.store import Store, runs

SPEC = {"depth": 1, "sequence_len": 64, "vocab_size": 512, "batch_tokens": 256, "num_steps": 20}


def test_a_refused_dryrun_is_told_by_the_next_look_and_forgotten_once_it_went_well(sqlite_store: Store) -> None:
    run = verbs.plan(sqlite_store, spec=SPEC, actor="ada")
    assert verbs.view(sqlite_store, run.id).to_dict()["refused"] is None
    for _ in range(3):
        with pytest.raises(Refused) as caught:
            verbs.dryrun(sqlite_store, run.name, actor="ada")
    seen = verbs.view(sqlite_store, run.id).to_dict()
    assert seen["refused"] == {"verb": "dryrun", "message": caught.value.message, "next": caught.value.next}
    assert [event.kind for event in runs.events(sqlite_store, run.id)].count("refused") == 1  # said once is said
    assert seen["state"] == "draft"

    verbs.deposit(sqlite_store, usd_micros=1_000_000, key="one", actor="ada")
    verbs.dryrun(sqlite_store, run.id, actor="ada")
    assert verbs.view(sqlite_store, run.id).refused is None


@pytest.mark.parametrize("verb", ["fund", "launch"])
def test_what_money_verbs_refuse_is_kept_too(sqlite_store: Store, verb: str) -> None:
    run = verbs.plan(sqlite_store, spec=SPEC, actor="ada")
    with pytest.raises(Refused):
        getattr(verbs, verb)(sqlite_store, run.id, actor="ada", **({"key": "k"} if verb == "fund" else {}))
    kept = verbs.view(sqlite_store, run.id).refused
    assert kept is not None
    assert kept["verb"] == verb
    assert "draft" in kept["message"]
