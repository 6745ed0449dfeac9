"""What is known of sweeps: JSON objects in the store, each written whole, after what it tells of.

    sweeps/<id>/sweep.json          create-only: what all trials have in common
    sweeps/<id>/trials/<key>.json   a trial that has ended; replaced when it ran again or over more seeds
    sweeps/<id>/test.json           the last reading of the test rows, and how many there were
    sweeps/<id>/stop.json           somebody asked the sweep to stop

A sweep's id does not depend on the values, seeds and search that were asked for, so a wider command extends it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from compgan_core.errors import ConfigurationError, StorageError, did_you_mean
from orchestrator.artifacts.fingerprint import fingerprint
from orchestrator.artifacts.store import KeyMissing, Store

SWEEPS = "sweeps"
PARALLEL_RECORDS = 8  # a bucket takes tens of milliseconds to answer for each


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


AnyEntry = TypeVar("AnyEntry", bound=_Entry)


class Base(_Entry):
    """What all trials of a sweep have in common. `overrides` are those of `--set`."""

    dataset: str
    dataset_fingerprint: str
    preset: str
    task: str
    shots: int
    overrides: dict[str, str]
    variants: tuple[str, ...]


class SweepHead(_Entry):
    """A sweep. `fields` are what its trials differ in, sorted; `created` is UTC, ISO 8601."""

    id: str
    base: Base
    fields: tuple[str, ...]
    metric: str
    """What trials are compared by."""
    created: str


class SeedResult(_Entry):
    """A configuration at one seed."""

    seed: int
    metrics: dict[str, dict[str, float]]
    """Variant -> measure -> percent, the mean over the draws of the shots."""
    stages: dict[str, str]
    """Stage name -> fingerprint."""
    seconds: float


class TrialRecord(_Entry):
    """A trial that has ended. `failure` is one sentence; `probes` are what early stopping saw."""

    key: str
    values: dict[str, str]
    state: Literal["finished", "stopped", "failed"]
    results: tuple[SeedResult, ...]
    failure: str = ""
    probes: tuple[dict[str, float], ...] = ()
    tries: int = 1
    seconds: float


class TestTable(_Entry):
    """Results on the test rows, which are read for the chosen configuration and the baseline only."""

    __test__ = False  # pytest: not a test

    chosen: dict[str, str]
    rows: dict[str, tuple[SeedResult, ...]]
    """Title -> the results of its seeds."""
    readings: int = 1
    """How often the test rows were read: again when a wider command chose again."""


class Ledger:
    """The sweeps of one store. Every method raises StorageError if the store fails or a record is damaged."""

    def __init__(self, store: Store):
        self.store = store

    def open(self, base: Base, fields: Iterable[str], metric: str) -> SweepHead:
        """The sweep of these, begun if there is none yet. Of many callers all get the same one."""
        names = tuple(sorted(fields))
        recipe = {**base.model_dump(mode="json"), "fields": names, "metric": metric}
        created = datetime.now(UTC).isoformat(timespec="seconds")
        head = SweepHead(
            id=fingerprint("sweep", 1, recipe, {}), base=base, fields=names, metric=metric, created=created
        )
        if self.store.put_bytes(_head(head.id), _json(head), create_only=True):
            return head
        return self._read(SweepHead, _head(head.id))

    def heads(self) -> list[SweepHead]:
        """All sweeps, the latest first."""
        heads = [self._read(SweepHead, _head(id_)) for id_ in self._ids()]
        return sorted(heads, key=lambda head: head.created, reverse=True)

    def head(self, id_or_prefix: str) -> SweepHead:
        """The sweep with this id, or with the one id that begins so. Raises ConfigurationError if there is none."""
        ids = self._ids()
        found = [id_ for id_ in ids if id_.startswith(id_or_prefix)]
        if len(found) > 1:
            raise ConfigurationError(f"{id_or_prefix!r} may be sweep {' or '.join(found)}: give more of the id")
        if not found:
            others = did_you_mean(id_or_prefix, ids) if ids else f"{self.store.url} has none yet"
            raise ConfigurationError(f"no sweep {id_or_prefix!r}; {others}")
        return self._read(SweepHead, _head(found[0]))

    def trials(self, sweep: str) -> dict[str, TrialRecord]:
        """The trials that have ended, by key."""
        names = [key.rpartition("/")[2].removesuffix(".json") for key in self.store.keys(f"{SWEEPS}/{sweep}/trials/")]
        with ThreadPoolExecutor(PARALLEL_RECORDS) as pool:
            return dict(zip(names, pool.map(lambda name: self._trial(sweep, name), names), strict=True))

    def trial(self, sweep: str, key: str) -> TrialRecord | None:
        """What became of one trial, if it has ended."""
        try:
            return self._trial(sweep, key)
        except KeyMissing:
            return None

    def put_trial(self, sweep: str, record: TrialRecord) -> None:
        """Write what became of a trial, in place of what was known of it."""
        assert record.key == trial_key(sweep, record.values), record.key
        self.store.put_bytes(_trial(sweep, record.key), _json(record))

    def test(self, sweep: str) -> TestTable | None:
        """The results on the test rows, if they have been read."""
        try:
            return self._read(TestTable, _test(sweep))
        except KeyMissing:
            return None

    def put_test(self, sweep: str, table: TestTable) -> None:
        self.store.put_bytes(_test(sweep), _json(table))

    def ask_to_stop(self, sweep: str) -> None:
        """Ask whoever runs the sweep, on whatever machine, to start no more trials."""
        self.store.put_bytes(_stop(sweep), b"{}")

    def stop_asked(self, sweep: str) -> bool:
        return self.store.exists(_stop(sweep))

    def clear_stop(self, sweep: str) -> None:
        self.store.delete(_stop(sweep))

    def _trial(self, sweep: str, key: str) -> TrialRecord:
        record = self._read(TrialRecord, _trial(sweep, key))
        if record.key != key:
            raise self._damaged(_trial(sweep, key), f"it describes trial {record.key}")
        return record

    def _ids(self) -> list[str]:
        parts = [key.split("/") for key in self.store.keys(f"{SWEEPS}/")]
        return [names[1] for names in parts if len(names) == 3 and names[2] == "sweep.json"]

    def _read(self, kind: type[AnyEntry], key: str) -> AnyEntry:
        try:
            return kind.model_validate_json(self.store.get_bytes(key))
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise self._damaged(key, f"{place}: {first['msg']}" if place else first["msg"]) from error

    def _damaged(self, key: str, why: str) -> StorageError:
        return StorageError(f"{key} in {self.store.url} is damaged ({why}); delete it and give the command again")


def trial_key(sweep: str, values: Mapping[str, str]) -> str:
    """The name of a configuration within a sweep."""
    return fingerprint("trial", 1, values, {"sweep": sweep})


def _head(sweep: str) -> str:
    return f"{SWEEPS}/{sweep}/sweep.json"


def _trial(sweep: str, key: str) -> str:
    return f"{SWEEPS}/{sweep}/trials/{key}.json"


def _test(sweep: str) -> str:
    return f"{SWEEPS}/{sweep}/test.json"


def _stop(sweep: str) -> str:
    return f"{SWEEPS}/{sweep}/stop.json"


def _json(entry: _Entry) -> bytes:
    return entry.model_dump_json(indent=1).encode()
