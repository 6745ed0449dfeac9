"""The stages of a study, each a function of directories and of exactly the settings that decide its result.

A stage reads the directories of its inputs, computes on whatever Runtime it is given (every worker calls it), writes
its files on rank 0 into `out`, and returns the metrics of its record. Its keyword arguments are its identity: whoever
runs it hashes them, so it cannot use a setting that is not accounted for.
"""

from compgan_core.stages.generation import compgan, fidelity, judge, pictures, quality, rival, synthesis
from compgan_core.stages.inputs import split
from compgan_core.stages.recognition import classifier, evaluate, finetune, head, pretrain, validate
from compgan_core.stages.supervised import alike, attributes, baseline, supervised

__all__ = [
    "alike",
    "attributes",
    "baseline",
    "classifier",
    "compgan",
    "evaluate",
    "fidelity",
    "finetune",
    "head",
    "judge",
    "pictures",
    "pretrain",
    "quality",
    "rival",
    "split",
    "supervised",
    "synthesis",
    "validate",
]
