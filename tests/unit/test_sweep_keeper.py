"""What the driver of a sweep records of trials that cannot do so themselves."""

import time
from types import SimpleNamespace

from sweep_records import head

from orchestrator.artifacts.store import open_store
from orchestrator.sweeps.ledger import Ledger, trial_key
from orchestrator.sweeps.sweep import _Keeper


def test_a_trial_that_is_stopped_is_recorded_with_its_probes_and_its_seconds_and_tracked(tmp_path):
    ledger, swept, seen, tracked = Ledger(open_store(tmp_path)), head("mu.con"), [], []
    body = SimpleNamespace(values=lambda config: {"mu.con": config["mu.con"]})
    keeper = _Keeper(SimpleNamespace(head=swept), ledger, body, seen.append, tracked.append)
    keeper({"kind": "begin", "trial": "a", "values": {"mu.con": "7"}})
    time.sleep(0.05)
    keeper({"kind": "begin", "trial": "a", "values": {"mu.con": "7"}})  # it was restarted
    keeper({"kind": "probe", "trial": "a", "score": 3.0, "probe": {"progress": 25.0}})
    keeper({"kind": "trial", "trial": "a", "config": {"mu.con": "7"}, "state": "stopped", "message": ""})
    record = ledger.trial(swept.id, trial_key(swept.id, {"mu.con": "7"}))
    assert (record.state, record.probes, record.tries) == ("stopped", ({"progress": 25.0},), 1)
    assert 0.05 <= record.seconds < 10
    assert len(seen) == 4 and tracked == [record]
