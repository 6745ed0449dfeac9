"""`orchestrator.runtime.spread` on all nodes of a Ray cluster, through Ray Data.

Ray Data makes blocks of whatever size it likes; a row is an item. It wraps and logs what a task raises, so a failure on
purpose travels as a row, too.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import ray
from ray.data import DataContext, Datasource, ReadTask, read_datasource
from ray.data.block import BlockMetadata

from compgan_core.errors import CompganError, retold, told
from orchestrator.runtime.cluster import start_ray
from orchestrator.runtime.spread import Items, Work

ROW = pa.schema({"index": pa.int64(), "bytes": pa.large_binary(), "failure": pa.list_(pa.string())})


def on_ray(items: Items, work: Work, address: str | None, here_only: bool) -> Iterator[bytes]:
    """As `spread`; Ray is started or joined if it is not yet."""
    start_ray(address)
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    DataContext.get_current().enable_progress_bars = False
    here = {"ray.io/node-id": ray.get_runtime_context().get_node_id()} if here_only else None
    # The reader waits for disks and buckets more than it computes, and must not take the only core.
    stream = read_datasource(_Stream(items), override_num_blocks=1, num_cpus=0.1, label_selector=here)
    done = stream.map_batches(_Rows(work), batch_size=1, batch_format="pyarrow", zero_copy_batch=True)
    waiting: dict[int, bytes] = {}
    following = 0
    for batch in done.iter_batches(batch_size=1, batch_format="pyarrow", prefetch_batches=0):
        (row,) = batch.to_pylist()
        if row["failure"]:
            raise retold(*row["failure"])
        waiting[row["index"]] = row["bytes"]
        while following in waiting:
            yield waiting.pop(following)
            following += 1


class _Stream(Datasource):
    """The items as Ray Data reads them: one task, which yields a block an item."""

    def __init__(self, items: Items):
        super().__init__()
        self._items = items

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(self, parallelism: int, *_: Any, **__: Any) -> list[ReadTask]:
        unknown = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
        return [ReadTask(self._blocks, unknown)]

    def _blocks(self) -> Iterator[pa.Table]:
        index = -1
        try:
            for index, item in enumerate(self._items()):
                yield _row(index, item)
        except CompganError as error:
            yield _row(index + 1, failure=told(error))


class _Rows:
    """The work as Ray Data calls it, on one core."""

    def __init__(self, work: Work):
        self._work = work

    def __call__(self, batch: pa.Table) -> pa.Table:
        (row,) = batch.to_pylist()
        if row["failure"]:
            return batch
        try:
            return _row(row["index"], self._work(row["bytes"], map))
        except CompganError as error:
            return _row(row["index"], failure=told(error))


def _row(index: int, content: bytes = b"", failure: tuple[str, str] | tuple[()] = ()) -> pa.Table:
    return pa.Table.from_pylist([{"index": index, "bytes": content, "failure": list(failure)}], ROW)
