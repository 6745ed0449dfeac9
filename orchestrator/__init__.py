"""Runs stages somewhere, once, and remembers. Knows no loss and no layer."""
