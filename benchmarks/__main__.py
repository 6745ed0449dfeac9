"""`python -m benchmarks [--only step lightcnn ...] [--device cuda] [--repeats 5] [--json FILE]`

step      the Comp-GAN step, float32 and bfloat16, against the naive one, on the same tuples
lightcnn  a training step of LightCNN-29v2 at 128 x 128, float32 and bfloat16, against plain layers
training  whole loops on faces of noise; on a GPU, beside the same loops launched kernel by kernel
roofline  FLOP, bytes and time of a step by part, beside a matrix product and a copy of the same machine
ray       images/s of the Comp-GAN loop under Ray Train + DeepSpeed, one worker, against the same loop bare
watching  processor time of the Comp-GAN loop while it is watched, against the same loop unwatched, in turns
reads     the images of Algorithm 1's tuples, at random: the tensor cache against a folder of JPEG files
ingest    220,000 faces from a tar into a store, and their tensor cache: faces/s a core, and peak memory; minutes
orchestra seconds of `orch --help`, of planning 10,000 stages, and of `orch train` beside its stages
sweep     eleven counts of synthesized images (Sec. 5.4) at `tiny`, against one full run and eleven: once, many minutes

Every figure is the median of its repeats, with their least and greatest; alternatives take turns. The first four need
neither Ray nor DeepSpeed nor a store.
"""

from __future__ import annotations

import argparse
import json
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks import data, orchestra, ray_overhead, roofline, step, sweep, training, watching
from benchmarks.timing import Figure

BENCHMARKS: dict[str, Callable[[torch.device, int], list[Figure]]] = {
    "step": step.step,
    "lightcnn": step.lightcnn,
    "training": training.training,
    "roofline": roofline.roofline,
    "ray": ray_overhead.ray,
    "watching": watching.watching,
    "reads": data.reads,
    "ingest": data.ingest,
    "orchestra": orchestra.orchestra,
    "sweep": sweep.sweep,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.split("\n\n")[1])
    parser.add_argument("--only", nargs="+", choices=BENCHMARKS, default=list(BENCHMARKS))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    figures, failures = [], []
    for name in arguments.only:
        try:
            for figure in BENCHMARKS[name](torch.device(arguments.device), arguments.repeats):
                print(figure, flush=True)
                figures.append(figure)
        except Exception:  # the others are still worth their time on a machine that is lent by the minute
            traceback.print_exc()
            failures.append(name)
        if arguments.json:
            arguments.json.write_text(json.dumps([figure._asdict() for figure in figures], indent=1))
    if failures:
        sys.exit(f"failed: {', '.join(failures)}")


if __name__ == "__main__":
    main()
