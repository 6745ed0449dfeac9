"""`python -m benchmarks [--only step|ray|lightcnn|reads|ingest|sweep] [--device cuda] [--repeats 5] [--json FILE]`

step      the Comp-GAN step against the naive one (two full backward passes) on the same tuples
ray       images/s of the Comp-GAN loop under Ray Train + DeepSpeed, one worker, against the same loop bare
lightcnn  LightCNN-29v2, forward and backward, at 128 x 128
reads     the images of Algorithm 1's tuples, at random: the tensor cache against a folder of JPEG files
ingest    220,000 faces from a tar into a store, and their tensor cache: faces/s a core, and peak memory; minutes
sweep     eleven counts of synthesized images (Sec. 5.4) at `tiny`, against one full run and eleven: once, many minutes

Every figure is the median of its repeats, with their least and greatest; alternatives take turns.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks import core, data, ray_overhead, sweep
from benchmarks.timing import Figure

BENCHMARKS: dict[str, Callable[[torch.device, int], list[Figure]]] = {
    "step": core.step,
    "lightcnn": core.lightcnn,
    "ray": ray_overhead.ray,
    "reads": data.reads,
    "ingest": data.ingest,
    "sweep": sweep.sweep,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.split("\n\n")[1])
    parser.add_argument("--only", choices=BENCHMARKS)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    figures = []
    for name, benchmark in BENCHMARKS.items():
        if arguments.only in (None, name):
            for figure in benchmark(torch.device(arguments.device), arguments.repeats):
                print(figure, flush=True)
                figures.append(figure)
    if arguments.json:
        arguments.json.write_text(json.dumps([figure._asdict() for figure in figures], indent=1))


if __name__ == "__main__":
    main()
