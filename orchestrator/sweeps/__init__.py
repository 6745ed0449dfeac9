"""Sweeps: many configurations of one study, which share what they have in common."""
