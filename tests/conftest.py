"""Hypothesis runs derandomised; `HYPOTHESIS_PROFILE=dig` searches at random, and longer; `few` has fewer examples,
and `first` stops at the first that fails, as it is."""

import os

from hypothesis import HealthCheck, Phase, settings

SLOW = [HealthCheck.too_slow]  # a busy machine is no finding
settings.register_profile(
    "ci", derandomize=True, deadline=None, max_examples=100, database=None, suppress_health_check=SLOW
)
settings.register_profile("few", settings.get_profile("ci"), max_examples=20)
settings.register_profile("first", settings.get_profile("few"), phases=(Phase.explicit, Phase.generate))
settings.register_profile("dig", deadline=None, max_examples=5000, suppress_health_check=SLOW, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))
