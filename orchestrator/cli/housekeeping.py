"""`orch gc` and `orch repair`: what a store holds in vain, and what stands in the way of a run."""

from __future__ import annotations

from typing import Annotated

import typer

from orchestrator.cli.options import DEFAULT_STORE, Json, Store, open_artifacts
from orchestrator.cli.output import Printer

HOUR_S = 3600.0


def gc(
    delete: Annotated[bool, typer.Option("--delete", help="Remove what is found; without it nothing is.")] = False,
    older_than: Annotated[
        float, typer.Option("--older-than", min=1, metavar="HOURS", help="Only what is at least so old.")
    ] = 24,
    store: Store = DEFAULT_STORE,
    json: Json = False,
) -> None:
    """Find what nothing in a store names: what killed processes left, checkpoints of finished stages, old leases.

    Runs may go on meanwhile: what a record or a checkpoint names stays, and so does what a run is at.
    """
    from orchestrator.housekeeping import find_litter, remove

    printer, artifacts = Printer(json), open_artifacts(store)
    litter = find_litter(artifacts, older_than * HOUR_S)
    rows: dict[str, tuple[int, int]] = {}
    for item in litter:
        count, size = rows.get(item.why, (0, 0))
        rows[item.why] = count + len(item.objects), size + item.size_bytes
    printer.table(
        ("what", "objects", "MB"), [(why, count, round(size / 1e6, 1)) for why, (count, size) in rows.items()]
    )
    gone = remove(artifacts.store, litter) if delete else 0
    if not rows:
        printer.note(f"nothing in {artifacts.store.url} is there in vain for {older_than:g} hours")
    elif delete:
        printer.note(f"{gone} objects were removed")
    else:
        printer.note("nothing was removed: --delete does it, and --json lists the keys")
    printer.facts(
        {
            "removed": gone,
            "litter": [{"why": i.why, "key": s.key, "bytes": s.size_bytes} for i in litter for s in i.objects],
        }
    )


def repair(
    delete: Annotated[
        bool, typer.Option("--delete", help="Remove what cannot be used; without it nothing is changed.")
    ] = False,
    store: Store = DEFAULT_STORE,
    json: Json = False,
) -> None:
    """Find records and checkpoints whose files somebody removed, or that cannot be read. Removed, they are made again.

    A run then goes on from the last checkpoint that is whole. Files that are there are never removed.
    """
    from orchestrator.housekeeping import find_damage

    printer, artifacts = Printer(json), open_artifacts(store)
    damages = [*find_damage(artifacts)]
    for damage in damages:
        printer.note(f"{damage.key}: {damage.why}")
        if delete:
            damage.repair(artifacts.store)
    if not damages:
        printer.note(f"all records and checkpoints of {artifacts.store.url} have their files")
    elif delete:
        printer.note(f"{len(damages)} were removed; the same commands make them again")
    else:
        printer.note("nothing was changed: --delete removes them, and the same commands make them again")
    printer.facts({"removed": delete, "damage": [{"key": d.key, "why": d.why} for d in damages]})
