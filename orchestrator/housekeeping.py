"""What a store holds that nothing names any more, and what is named and cannot be used.

`find_litter` lists what killed processes left: files without a record, checkpoints of finished stages, writes that were
begun, leases that are over. `find_damage` lists records, checkpoints and leases that stand in the way of a run. Both
only look; `remove` and `Damage.repair` act.

A run that goes on is known by its leases, which it renews every few seconds, by its ledger, and by the age of what it
has just written, all measured by the store's clock.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from pydantic import ValidationError

from compgan_core.errors import StorageError
from orchestrator.artifacts.artifacts import ARTIFACTS, PARALLEL_FILES, Artifacts, FileEntry
from orchestrator.artifacts.lease import LEASES, RELEASED
from orchestrator.artifacts.store import KeyMissing, Store, Stored
from orchestrator.monitor.runs import RUNS, Runs
from orchestrator.runtime.checkpoints import CHECKPOINTS, Checkpoint

TRAIN = "train"  # where Ray Train keeps its runs; `ray_runtime` says so, too, but importing Ray takes seconds
CHECK = "check"  # where `prove_usable` writes
SILENT_S = 600.0
"""A lease or a ledger that has not been renewed for so long is that of a dead process; a lease runs out after 20."""

Home = tuple[str, str]  # (stage, fingerprint)


@dataclass(frozen=True)
class Litter:
    """What can be removed: a few objects that are so for the same reason."""

    why: str
    objects: tuple[Stored, ...]
    still: Callable[[], bool] = lambda: True
    """Asked once more before they go."""

    @property
    def size_bytes(self) -> int:
        return sum(stored.size_bytes for stored in self.objects)


@dataclass(frozen=True)
class Damage:
    """An object that cannot be used, and why. Without it, the stage is made again, or goes on from an earlier step."""

    key: str
    why: str

    def repair(self, store: Store) -> None:
        store.delete(self.key)


def find_litter(artifacts: Artifacts, older_s: float) -> list[Litter]:
    """What nothing names, and is at least `older_s` seconds old. Raises StorageError if a record is damaged."""
    look = _Look(artifacts, older_s)
    found = [*look.files(), *look.checkpoints(), *look.train_runs(), *look.leases(), *look.writes()]
    return [litter for litter in found if litter.objects]


def remove(store: Store, litter: Iterable[Litter]) -> int:
    """Remove what is still litter; how many objects that were."""
    gone = [stored for item in litter if item.still() for stored in item.objects]
    with ThreadPoolExecutor(PARALLEL_FILES) as pool:
        list(pool.map(store.remove, gone))
    return len(gone)


class _Look:
    """One look at a store. Objects are listed before what names them is read: a name that comes later is seen."""

    def __init__(self, artifacts: Artifacts, older_s: float):
        self.artifacts, self.store = artifacts, artifacts.store
        now = _now(self.store)
        self._is_old: Callable[[Stored], bool] = lambda stored: now - stored.modified >= older_s
        self._is_silent: Callable[[Stored], bool] = lambda stored: now - stored.modified >= SILENT_S
        self._all = {
            prefix: [*self.store.objects(f"{prefix}/")]
            for prefix in (ARTIFACTS, CHECKPOINTS, TRAIN, LEASES, RUNS, CHECK)
        }
        self._alive = {home for home, keys in self._leases().items() if self._held(keys)}
        self._named, self._recorded = self._records()
        self._named |= self._checkpointed()

    def files(self) -> Iterator[Litter]:
        """Files of artifacts that no record names: their process was killed before it wrote one."""
        for home, stored in _by_home(self._all[ARTIFACTS]).items():
            if home not in self._alive:
                unnamed = [s for s in stored if s.key not in self._named and not s.key.endswith("/record.json")]
                yield self._litter("files without a record", unnamed, partial(self._unrecorded, home, unnamed))

    def checkpoints(self) -> Iterator[Litter]:
        """Checkpoints of finished stages, and files of others that were never acknowledged."""
        for home, stored in _by_home(self._all[CHECKPOINTS]).items():
            if home in self._alive:
                continue
            if home in self._recorded:
                pointers_first = sorted(stored, key=lambda s: not s.key.endswith(".json"))
                yield self._litter("checkpoints of finished stages", pointers_first)
            else:
                unnamed = [s for s in stored if not _is_pointer(s.key) and s.key not in self._named]
                yield self._litter("files of checkpoints that were never complete", unnamed)

    def train_runs(self) -> Iterator[Litter]:
        """What Ray Train and killed workers left of runs that are over. Nobody reads it but the run itself."""
        runs: dict[str, list[Stored]] = {}
        for stored in self._all[TRAIN]:
            runs.setdefault(stored.key.split("/")[1], []).append(stored)
        live = self._live_studies()
        for run, all_of_it in runs.items():
            idle = all(self._is_old(s) for s in all_of_it)
            of_live = self._is_of(run, live) or any(
                f"/{stage}-{name[:12]}-" in s.key for stage, name in self._alive for s in all_of_it
            )
            if idle and not of_live:
                yield self._litter("leftovers of Ray Train", [s for s in all_of_it if s.key not in self._named])

    def leases(self) -> Iterator[Litter]:
        """Those of finished stages, and turns that another has followed."""
        for home, stored in self._leases().items():
            if home in self._alive:
                continue
            turns = sorted({s.key.partition(".")[0] for s in stored})
            over = stored if home in self._recorded else [s for s in stored if s.key.partition(".")[0] != turns[-1]]
            yield self._litter("leases that are over", over)

    def writes(self) -> Iterator[Litter]:
        yield self._litter("writes that were never finished", self.store.unfinished())
        yield self._litter("probes of the store", self._all[CHECK])

    def _litter(self, why: str, stored: Iterable[Stored], still: Callable[[], bool] = lambda: True) -> Litter:
        return Litter(why, tuple(s for s in stored if self._is_old(s)), still)

    def _leases(self) -> dict[Home, list[Stored]]:
        return _by_home(self._all[LEASES])

    def _held(self, keys: list[Stored]) -> bool:
        last = max(keys, key=lambda stored: stored.key)  # a beat comes after its turn
        if self._is_silent(last):
            return False
        try:
            return self.store.get_bytes(last.key) != RELEASED
        except KeyMissing:
            return True

    def _records(self) -> tuple[set[str], set[Home]]:
        named, recorded = set(), set()
        for record in self.artifacts.records():
            recorded.add((record.stage, record.fingerprint))
            named |= {entry.key for entry in record.files.values()}
        return named, recorded

    def _checkpointed(self) -> set[str]:
        """What acknowledged checkpoints name, those of finished stages left out."""
        named: set[str] = set()
        for home, stored in _by_home([*self.store.objects(f"{CHECKPOINTS}/")]).items():
            if home not in self._recorded or home in self._alive:
                for pointer in filter(_is_pointer, (s.key for s in stored)):
                    named |= {entry.key for entry in _files_of(self.store, pointer)}
        return named

    def _unrecorded(self, home: Home, files: Iterable[Stored]) -> bool:
        record = self.artifacts.record(*home)
        named = {entry.key for entry in record.files.values()} if record else set()
        return not any(stored.key in named for stored in files)

    def _live_studies(self) -> set[str]:
        """Of runs whose ledger is written to."""
        live, runs = set(), Runs(self.store)
        for stored in self._all[RUNS]:
            if stored.key.endswith("/status.json") and not self._is_silent(stored):
                id_ = stored.key.split("/")[1]
                if runs.status(id_).state == "running":
                    live.add(runs.head(id_).study)
        return live

    @staticmethod
    def _is_of(run: str, studies: set[str]) -> bool:
        return any(run.startswith(f"{study}-") for study in studies)


def find_damage(artifacts: Artifacts) -> Iterator[Damage]:
    """What stands in the way of runs. Sizes are compared; `orch data verify` and every fetch compare contents."""
    store = artifacts.store
    sizes = {
        stored.key: stored.size_bytes
        for prefix in (ARTIFACTS, CHECKPOINTS, TRAIN)
        for stored in store.objects(f"{prefix}/")
    }

    def wrong(files: Iterable[FileEntry]) -> str:
        for entry in files:
            found = sizes.get(entry.key)
            if found is None and store.exists(entry.key):
                continue  # it came after the listing
            if found is None:
                return f"its file {entry.key} is gone"
            if found != entry.size_bytes:
                return f"its file {entry.key} has {found} bytes instead of {entry.size_bytes}"
        return ""

    for key in sizes:
        parts = key.split("/")
        if len(parts) == 4 and parts[0] == ARTIFACTS and parts[3] == "record.json":
            try:
                record = artifacts.record(parts[1], parts[2])
                why = wrong(record.files.values()) if record else ""
            except StorageError:
                why = "it is no record"
        elif parts[0] == CHECKPOINTS and _is_pointer(key):
            try:
                why = wrong(Checkpoint.model_validate_json(store.get_bytes(key)).files.values())
            except ValidationError:
                why = "it is no checkpoint"
            except KeyMissing:
                why = ""
        else:
            continue
        if why and store.exists(key):
            yield Damage(key, why)
    for stored in store.objects(f"{LEASES}/"):
        if not stored.key.endswith(".beat") and not _is_lease(store, stored.key):
            yield Damage(stored.key, "it is no lease")


def _is_lease(store: Store, key: str) -> bool:
    try:
        return isinstance(json.loads(store.get_bytes(key)), dict)
    except KeyMissing:
        return True
    except ValueError:
        return False


def _files_of(store: Store, pointer: str) -> list[FileEntry]:
    try:
        return [*Checkpoint.model_validate_json(store.get_bytes(pointer)).files.values()]
    except KeyMissing:
        return []  # another checkpoint has taken its place
    except ValidationError as error:
        raise StorageError(f"{pointer} in {store.url} is no checkpoint: run `orch repair`, then this again") from error


def _by_home(objects: Iterable[Stored]) -> dict[Home, list[Stored]]:
    """By the stage and fingerprint that they lie under."""
    found: dict[Home, list[Stored]] = {}
    for stored in objects:
        _, stage, fingerprint, *rest = stored.key.split("/")
        if rest:
            found.setdefault((stage, fingerprint), []).append(stored)
    return found


def _is_pointer(key: str) -> bool:
    return key.count("/") == 3 and key.endswith(".json")


def _now(store: Store) -> float:
    """The time by the store's own clock."""
    key = f"{CHECK}/{uuid.uuid4().hex}"
    store.put_bytes(key, b"what time is it")
    try:
        return next(stored.modified for stored in store.objects(key))
    finally:
        store.delete(key)
