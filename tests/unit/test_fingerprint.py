from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compgan_core.errors import ConfigurationError
from orchestrator.artifacts.fingerprint import LENGTH, fingerprint

RECIPE = {
    "weights": {"lambda_id": 10.0, "lambda_tv": 1e-4},
    "sizes": [64, 32],
    "name": "Zoë",
    "resume": None,
    "on": True,
}
INPUTS = {"split": "aa", "classifier": "bb"}

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def test_it_never_changes_since_stored_artifacts_are_found_by_it() -> None:
    assert fingerprint("compgan", 1, RECIPE, INPUTS) == "9c275a3189c703b244ec"


@given(st.dictionaries(st.text(), json_values, min_size=2, max_size=5))
def test_the_order_of_keys_does_not_matter(recipe: dict[str, Any]) -> None:
    backwards = dict(reversed(recipe.items()))
    assert fingerprint("a", 1, recipe, {}) == fingerprint("a", 1, backwards, {})


@pytest.mark.parametrize(
    "other",
    [
        ("pretrain", 1, RECIPE, INPUTS),
        ("compgan", 2, RECIPE, INPUTS),
        ("compgan", 1, RECIPE | {"on": 1}, INPUTS),
        ("compgan", 1, RECIPE | {"sizes": [32, 64]}, INPUTS),
        ("compgan", 1, RECIPE, INPUTS | {"split": "bb", "classifier": "aa"}),
        ("compgan", 1, RECIPE | {"extra": None}, INPUTS),
    ],
)
def test_everything_that_changes_the_result_changes_it(other: tuple[str, int, dict[str, Any], dict[str, str]]) -> None:
    assert fingerprint(*other) != fingerprint("compgan", 1, RECIPE, INPUTS)


def test_it_is_the_same_in_another_process() -> None:
    code = f"from orchestrator.artifacts.fingerprint import fingerprint as f; print(f('a', 1, {RECIPE!r}, {INPUTS!r}))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == fingerprint("a", 1, RECIPE, INPUTS)
    assert len(printed.strip()) == LENGTH


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"loss": {"weights": [1.0, float("nan")]}}, r"recipe\.loss\.weights\[1\] is nan"),
        ({"rate": float("inf")}, r"recipe\.rate is inf"),
        ({"tasks": {"T1"}}, r"recipe\.tasks is of type set"),
        ({"raw": b"x"}, r"recipe\.raw is of type bytes"),
        ({"counts": {1: "a"}}, r"recipe\.counts has the key 1"),
    ],
)
def test_what_json_cannot_hold_is_refused_with_its_place(recipe: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        fingerprint("a", 1, recipe, {})
