"""What a stage is, as one short name: a hash of its recipe and of the fingerprints of its inputs.

Workers, GPUs, buckets and retries are not in it: they change how a stage runs, not what it makes.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

from compgan_core.errors import ConfigurationError

LENGTH = 20  # 80 bits: a million stages collide with probability 4e-13


def fingerprint(stage: str, version: int, recipe: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    """20 hexadecimal digits, the same in every process and for every order of keys.

    stage: its name. version: of the stage's code; raised by hand when the same recipe would make something else.
    recipe: anything JSON can hold. inputs: role -> fingerprint of the artifact in that role.

    Raises:
        ConfigurationError: the recipe holds a value that JSON cannot hold; the message says where.
    """
    whole = {"stage": stage, "version": version, "recipe": recipe, "inputs": inputs}
    text = json.dumps(plain(whole, ""), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:LENGTH]


def plain(value: Any, where: str) -> Any:
    """The same value in dicts, lists and scalars only.

    Raises ConfigurationError, naming the place under `where`, for whatever would not come back from JSON as it was.
    """
    if isinstance(value, Mapping):
        return {_name(key, where): plain(item, f"{where}.{key}".lstrip(".")) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, f"{where}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigurationError(f"{where} is {value}, which JSON cannot hold: use a finite number or None")
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise ConfigurationError(
        f"{where} is of type {type(value).__name__}, which JSON cannot hold: "
        "use None, bool, int, float, str, or lists and mappings of them"
    )


def _name(key: Any, where: str) -> str:
    if not isinstance(key, str):
        raise ConfigurationError(f"{where or 'the mapping'} has the key {key!r}, and JSON keys are text: use a str")
    return key
