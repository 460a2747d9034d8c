"""Experiments: measured figures that the derivations state, each a module with a command of its own."""
