"""From one file to the aligned faces in it. Runs in a process of its own."""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from pydantic import BaseModel

from compgan_core.data.align import crop_to_picture
from compgan_core.errors import StorageError
from orchestrator.prepare.detect import DetectedFace, Detector, Mtcnn, warp
from orchestrator.prepare.media import Picture, Unusable, key_frames, read_photograph
from orchestrator.prepare.naming import is_clip

SIZE = 256
JPEG_QUALITY = 95


@dataclass(frozen=True)
class Task:
    """A file to prepare."""

    name: str
    content: bytes
    sha256: str
    every_frames: int
    networks: Path
    output: Path
    """Where the faces are written, under the names of `Outcome.face`."""


class Outcome(BaseModel, frozen=True, extra="forbid"):
    """What became of a picture: a photograph, or a frame of a clip."""

    frame: int | None
    face: str = ""
    """The file of its face, relative; empty if there is none."""
    reason: str = ""
    """Why there is none."""


class Prepared(BaseModel, frozen=True, extra="forbid"):
    """What became of a file."""

    name: str
    sha256: str
    outcomes: tuple[Outcome, ...]


def prepare_file(task: Task) -> Prepared:
    """Write the face of each picture of a file. A face that is there is whole."""
    return Prepared(name=task.name, sha256=task.sha256, outcomes=tuple(_outcomes(task)))


def start_worker() -> None:
    """For a process that does nothing else: one core, and silence on damaged files, which are reported."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent stops
    os.environ["OPENCV_FFMPEG_LOGLEVEL"] = "-8"
    cv2.setNumThreads(1)
    warnings.simplefilter("ignore")


def aligned_face(picture: Picture, detector: Detector) -> Picture:
    """The crop, (256, 256, 3), of the largest face. Beyond the edge of the picture its last pixels go on.

    Raises:
        Unusable: there is no face, or the edge of the picture cuts through its eyes or mouth.
    """
    faces = detector(picture)
    if not faces:
        raise Unusable("no face was found")
    face = max(faces, key=lambda face: face.side)
    if not _is_inside(face, picture):
        raise Unusable("the face is cut off by the edge of the picture")
    return warp(picture, crop_to_picture(face.landmarks, SIZE), SIZE)


def _outcomes(task: Task) -> Iterator[Outcome]:
    try:
        for frame, picture in _pictures(task):
            yield _outcome(task, frame, picture)
    except Unusable as problem:
        yield Outcome(frame=None, reason=str(problem))


def _pictures(task: Task) -> Iterator[tuple[int | None, Picture]]:
    if is_clip(task.name):
        yield from key_frames(task.content, task.every_frames)
    else:
        yield None, read_photograph(task.content)


def _outcome(task: Task, frame: int | None, picture: Picture) -> Outcome:
    try:
        face = aligned_face(picture, _detector(task.networks))
    except Unusable as problem:
        return Outcome(frame=frame, reason=str(problem))
    name = face_name(task.name, frame)
    _write(task.output / name, face)
    return Outcome(frame=frame, face=name)


def face_name(name: str, frame: int | None) -> str:
    """Where the face of a photograph, or of a frame of a clip, goes."""
    if frame is not None:
        return f"faces/{name}/{frame:06d}.jpg"
    return f"faces/{name}" if name.endswith(".jpg") else f"faces/{name}.jpg"


def _write(path: Path, face: Picture) -> None:
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(face).save(partial, "JPEG", quality=JPEG_QUALITY, subsampling=0)
        os.replace(partial, path)
    except OSError as error:
        raise StorageError(f"{path} cannot be written ({error.strerror}): make room, and run the same again") from error


def _is_inside(face: DetectedFace, picture: Picture) -> bool:
    points = np.stack([face.landmarks.left_eye, face.landmarks.right_eye, face.landmarks.mouth])
    return bool(np.all(points >= 0) and np.all(points < np.array(picture.shape[1::-1])))


@cache
def _detector(networks: Path) -> Detector:
    return Mtcnn(networks)
