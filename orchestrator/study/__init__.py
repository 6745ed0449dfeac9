"""The whole pipeline: which stages a study has, what must run, and running it."""

from orchestrator.study.shared import SharedPlan
from orchestrator.study.stage import Plan, Stage, Step
from orchestrator.study.study import BESIDE, Beside, Measure, Study, study_of
from orchestrator.study.worker import StageRuntime, Worker, make_faces_of

__all__ = [
    "BESIDE",
    "Beside",
    "Measure",
    "Plan",
    "SharedPlan",
    "Stage",
    "StageRuntime",
    "Step",
    "Study",
    "Worker",
    "make_faces_of",
    "study_of",
]
