"""Records of sweeps that were never run."""

from orchestrator.sweeps.ledger import Base, SeedResult, SweepHead, TrialRecord, trial_key


def head(*fields, variants=("plain", "exp")):
    base = Base(
        dataset="faces", dataset_fingerprint="d" * 20, preset="tiny", task="ER-FE", shots=5, overrides={},
        variants=variants,
    )  # fmt: skip
    return SweepHead(id="5" * 20, base=base, fields=fields, metric="novel", created="2026-01-02T03:04:05+00:00")


def result(seed, novel, stages=None):
    metrics = {"plain": {"novel": 20.0, "base": 70.0}, "exp": {"novel": novel, "base": 69.0}}
    return SeedResult(seed=seed, metrics=metrics, stages=stages or {}, seconds=1.0)


def trial(values, accuracies, state="finished", stages=None, **more):
    """accuracies: by seed. stages: by seed."""
    results = tuple(result(seed, a, (stages or {}).get(seed)) for seed, a in enumerate(accuracies))
    key = trial_key("5" * 20, values)
    return TrialRecord(key=key, values=values, state=state, results=results, seconds=1.0, **more)
