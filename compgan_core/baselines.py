"""Classical competitors of Tables 2 and 3, by scikit-learn: Fisherface, visual words with an SVM, features with an SVM.

A fitted baseline reads faces: (n, side, side) gray in [0, 1], or (n, width) features, to (n,) classes.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from pydantic import BaseModel, ConfigDict, Field

from compgan_core.errors import ConfigurationError
from compgan_core.randomness import generator

Method = Literal["fisherface", "words", "features"]


class BaselineRecipe(BaseModel):
    """One classical competitor."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: Method
    """fisherface: principal components, then linear discriminants (Belhumeur et al. 1997). words: histograms of visual
    words and a linear SVM. features: a network's features and a linear SVM."""
    side: int = 48
    """Of the gray face, in pixels."""
    components: int = Field(150, ge=1)
    """Of fisherface; never more than faces minus classes, or the scatter within classes is singular."""
    words: int = Field(256, ge=2)
    patch: int = 8
    """Side of a patch, in pixels; patches overlap by half."""
    cells: int = 3
    """Histograms a side, so that a word is known by where it stands."""
    sampled: int = 50_000
    """Patches that the words are learned from."""
    penalty: float = 0.1
    """C of the SVM."""


def fit(recipe: BaselineRecipe, x: np.ndarray, y: np.ndarray, seed: int) -> Any:
    """A fitted scikit-learn pipeline. x: as of the module's docstring; y (n,). ConfigurationError: no scikit-learn."""
    try:
        from sklearn.decomposition import PCA
        from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import Normalizer, StandardScaler
        from sklearn.svm import LinearSVC
    except ImportError:
        raise ConfigurationError(
            "the classical baselines need scikit-learn: install compgan-orchestrator[report]"
        ) from None
    svm = LinearSVC(C=recipe.penalty, random_state=seed, max_iter=10_000)
    if recipe.method == "fisherface":
        components = min(recipe.components, len(x) - len(np.unique(y)), x[0].size)
        flat = x.reshape(len(x), -1)
        return make_pipeline(PCA(components, random_state=seed), LinearDiscriminantAnalysis()).fit(flat, y)
    if recipe.method == "features":
        return make_pipeline(StandardScaler(), svm).fit(x, y)
    return make_pipeline(Words(recipe, seed), Normalizer(), svm).fit(x, y)


def read(fitted: Any, recipe: BaselineRecipe, x: np.ndarray) -> np.ndarray:
    """(n,) classes."""
    return fitted.predict(x.reshape(len(x), -1) if recipe.method == "fisherface" else x)


class Words:
    """Visual words: cluster means of small patches at unit contrast; a face is a histogram of them in each cell."""

    def __init__(self, recipe: BaselineRecipe, seed: int):
        self.recipe, self.seed = recipe, seed

    def fit(self, x: np.ndarray, y: np.ndarray) -> Words:
        from sklearn.cluster import MiniBatchKMeans

        rng = generator(self.seed, "words")
        per_face = max(1, self.recipe.sampled // len(x))
        patches = np.concatenate([rng.permutation(self._patches(face)[0])[:per_face] for face in x])
        words = min(self.recipe.words, len(patches))
        self.means = MiniBatchKMeans(words, random_state=self.seed, n_init=1, batch_size=4096).fit(patches)
        return self

    def transform(self, x: np.ndarray) -> np.ndarray:
        """Square roots of the shares of words, (n, cells * cells * words)."""
        n_words, cells = self.means.n_clusters, self.recipe.cells
        table = np.empty((len(x), cells * cells * n_words), np.float32)
        for i, face in enumerate(x):
            patches, cell = self._patches(face)
            index = cell * n_words + self.means.predict(patches)
            table[i] = np.bincount(index, minlength=table.shape[1])
        return np.sqrt(table)

    def _patches(self, face: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(n, patch * patch) float32 at mean 0 and unit norm, and the cell that each lies in."""
        size, step = self.recipe.patch, self.recipe.patch // 2
        windows = sliding_window_view(face, (size, size))[::step, ::step]
        rows, columns = windows.shape[:2]
        flat = windows.reshape(rows * columns, -1).astype(np.float32)
        flat = flat - flat.mean(1, keepdims=True)
        flat /= np.linalg.norm(flat, axis=1, keepdims=True) + 1e-2
        place = np.arange(rows)[:, None] * self.recipe.cells // rows * self.recipe.cells
        return flat, (place + np.arange(columns) * self.recipe.cells // columns).ravel()
