"""What the store remembers of sweeps."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from compgan_core.errors import ConfigurationError, StorageError
from orchestrator.artifacts.store import open_store
from orchestrator.sweeps.ledger import Base, Ledger, SeedResult, TestTable, TrialRecord, trial_key

BASE = Base(
    dataset="faces", dataset_fingerprint="d" * 20, preset="tiny", task="ER-FE", shots=5, overrides={"draws": "2"},
    variants=("plain", "compgan"),
)  # fmt: skip
RESULT = SeedResult(
    seed=0, metrics={"compgan": {"novel": 41.5, "base": 60.0}}, stages={"compgan": "a" * 20}, seconds=3.5
)


@pytest.fixture
def ledger(tmp_path):
    return Ledger(open_store(tmp_path / "store"))


def trial(sweep, values=(("synth.count", "5"),), **fields):
    values = dict(values)
    facts = {"state": "finished", "results": (RESULT,), "seconds": 4.0, **fields}
    return TrialRecord(key=trial_key(sweep, values), values=values, **facts)


def opened(ledger, fields=("synth.count",), metric="novel", **base):
    return ledger.open(BASE.model_copy(update=base), fields, metric)


def test_everything_comes_back_as_it_was_written(store):
    ledger = Ledger(store)
    head = opened(ledger)
    first = trial(head.id, probes=({"progress": 25.0, "probe_few_shot": 33.0},))
    second = trial(head.id, {"synth.count": "10"}, state="failed", results=(), failure="A loss is not finite.", tries=3)
    table = TestTable(chosen=first.values, rows={"chosen": (RESULT,), "baseline": ()})
    assert (ledger.trials(head.id), ledger.test(head.id), ledger.trial(head.id, first.key)) == ({}, None, None)
    for record in (first, second):
        ledger.put_trial(head.id, record)
    ledger.put_test(head.id, table)
    again = Ledger(store)
    assert again.heads() == [head] and again.head(head.id[:6]) == head
    assert again.trials(head.id) == {first.key: first, second.key: second}
    assert again.trial(head.id, second.key) == second
    assert again.test(head.id) == table


def test_a_sweep_is_asked_to_stop_by_anyone_until_it_is_cleared(store):
    ours, theirs = Ledger(store), Ledger(store)
    head, other = opened(ours), opened(ours, fields=["mu.exp"])
    assert not ours.stop_asked(head.id)
    theirs.ask_to_stop(head.id)
    theirs.ask_to_stop(head.id)
    assert ours.stop_asked(head.id) and not ours.stop_asked(other.id)
    ours.clear_stop(head.id)
    ours.clear_stop(head.id)
    assert not theirs.stop_asked(head.id)
    assert len(ours.heads()) == 2


def test_the_same_command_opens_the_same_sweep_whatever_the_order(ledger):
    first = opened(ledger, ["synth.count", "mu.exp"], overrides={"draws": "2", "shots": "3"})
    assert opened(ledger, ["mu.exp", "synth.count"], overrides={"shots": "3", "draws": "2"}) == first
    assert len(ledger.heads()) == 1


@pytest.mark.parametrize(
    "other",
    [
        {"fields": ["synth.count", "mu.exp"]}, {"metric": "base"}, {"dataset_fingerprint": "e" * 20}, {"task": "ER-FP"},
        {"preset": "small"}, {"shots": 1}, {"overrides": {}}, {"variants": ("compgan",)},
    ],
)  # fmt: skip
def test_another_base_field_or_metric_is_another_sweep(ledger, other):
    assert opened(ledger, **other).id != opened(ledger).id


def test_the_first_to_open_a_sweep_decides_when_it_began(ledger):
    head = opened(ledger)
    changed = head.model_copy(update={"created": "2001-01-01T00:00:00+00:00"})
    ledger.store.put_bytes(f"sweeps/{head.id}/sweep.json", changed.model_dump_json().encode())
    assert opened(ledger) == changed


def test_sweeps_are_listed_with_the_latest_first(ledger):
    heads = [opened(ledger, shots=n) for n in range(1, 4)]
    dated = [
        h.model_copy(update={"created": f"200{y}-01-01T00:00:00+00:00"}) for h, y in zip(heads, "312", strict=True)
    ]
    for head in dated:
        ledger.store.put_bytes(f"sweeps/{head.id}/sweep.json", head.model_dump_json().encode())
    assert [head.created[:4] for head in ledger.heads()] == ["2003", "2002", "2001"]


def test_a_trial_that_ran_again_replaces_what_was_known_of_it(ledger):
    head = opened(ledger)
    ledger.put_trial(head.id, trial(head.id, state="stopped", results=()))
    ledger.put_trial(head.id, trial(head.id, tries=2))
    (record,) = ledger.trials(head.id).values()
    assert (record.state, record.tries) == ("finished", 2)


def test_a_trial_is_named_by_its_sweep_and_values_and_not_by_their_order():
    assert trial_key("s", {"a": "1", "b": "2"}) == trial_key("s", {"b": "2", "a": "1"})
    assert len({trial_key("s", {"a": "1"}), trial_key("t", {"a": "1"}), trial_key("s", {"a": "2"})}) == 3


def test_a_prefix_must_mean_one_sweep(ledger):
    with pytest.raises(ConfigurationError, match=r"no sweep 'abc'; .* has none yet"):
        ledger.head("abc")
    ids = sorted(opened(ledger, shots=n).id for n in range(1, 40))  # more than there are first digits
    clash = next(a[0] for a, b in itertools.pairwise(ids) if a[0] == b[0])
    with pytest.raises(ConfigurationError, match=rf"'{clash}' may be sweep {clash}\w+ or {clash}\w+.*more of the id"):
        ledger.head(clash)
    with pytest.raises(ConfigurationError, match=f"did you mean {ids[0]}"):
        ledger.head(ids[0][:-1] + "x")
    assert ledger.head(ids[0]).id == ids[0]


@pytest.mark.parametrize("data", [b"", b"\xff\xfe", b"[]", b"{}", b'{"key": "x"}', b"\x80\x04K\x01."])
def test_a_damaged_record_is_named_in_one_sentence(ledger, data):
    head = opened(ledger)
    for key, read in (
        (f"sweeps/{head.id}/trials/abc.json", ledger.trials),
        (f"sweeps/{head.id}/test.json", ledger.test),
        (f"sweeps/{head.id}/sweep.json", ledger.head),
    ):
        ledger.store.put_bytes(key, data)
        with pytest.raises(StorageError, match=f"{key} in .* is damaged") as caught:
            read(head.id)
        assert "\n" not in str(caught.value)


def test_a_damaged_sweep_does_not_hide_another(ledger):
    head = opened(ledger)
    ledger.store.put_bytes("sweeps/ffffffffffffffffffff/sweep.json", b"{")
    assert ledger.head(head.id) == head


def test_a_record_under_the_name_of_another_trial_is_damaged(ledger):
    head = opened(ledger)
    ledger.put_trial(head.id, trial(head.id))
    (key,) = ledger.trials(head.id)
    ledger.store.put_bytes(
        f"sweeps/{head.id}/trials/{'0' * 20}.json", ledger.store.get_bytes(f"sweeps/{head.id}/trials/{key}.json")
    )
    with pytest.raises(StorageError, match=f"{'0' * 20}.json .* is damaged .it describes trial {key}"):
        ledger.trials(head.id)


@given(st.floats())
def test_every_number_survives_the_record(number):
    result = RESULT.model_copy(update={"metrics": {"plain": {"novel": number}}})
    back = SeedResult.model_validate_json(result.model_dump_json()).metrics["plain"]["novel"]
    assert back == number or (math.isnan(back) and math.isnan(number))


def test_a_record_of_a_later_layout_is_not_guessed_at():
    with pytest.raises(ValidationError, match="Extra inputs"):
        TrialRecord.model_validate_json(trial("s").model_dump_json()[:-1] + ',"more": 1}')
