"""Adapters: problems in a framework's own terms. `adapters.torch` and `adapters.jax` need the extra of that name."""
