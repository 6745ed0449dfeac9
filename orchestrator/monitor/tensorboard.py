"""A run as TensorBoard's files, written from the ledger and from records: a restart loses and doubles nothing."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import numpy as np
from PIL import Image
from tensorboardX import SummaryWriter

from orchestrator.artifacts.artifacts import Artifacts
from orchestrator.monitor.report import histories, records_of
from orchestrator.monitor.runs import RunHead, Runs, faces_of


def write_tensorboard(artifacts: Artifacts, head: RunHead, directory: Path) -> None:
    """Write scalars of every stage with a history, and all pictures of the time-lapse, in place of what was there."""
    shutil.rmtree(directory, ignore_errors=True)
    status = Runs(artifacts.store).status(head.id)
    with SummaryWriter(str(directory)) as writer:
        for stage, rows in histories(artifacts, head, status, records_of(artifacts, head)).items():
            for row in rows:
                for name in row.keys() - {"step"}:
                    writer.add_scalar(f"{stage}/{name}".replace(" ", "_"), row[name], int(row["step"]))
        for planned in head.stages:
            for key in artifacts.store.keys(faces_of(planned.fingerprint)) if planned.kind == "compgan" else ():
                picture = np.asarray(Image.open(io.BytesIO(artifacts.store.get_bytes(key)), formats=["JPEG"]))
                writer.add_image("compgan/faces", picture, int(Path(key).stem), dataformats="HWC")
