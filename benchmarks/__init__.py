"""Figures for `docs/results.md`, each beside its alternative, measured in one run."""
