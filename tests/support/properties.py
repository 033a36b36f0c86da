"""How hypothesis tries properties.

EXAMPLES, of the environment, is how many examples at most; on Pythons that are not the one that
runs the long tests, it is fewer (tests/every_python.py).
"""

import os

from hypothesis import HealthCheck, settings

EXAMPLES = int(os.environ.get("EXAMPLES") or 300)

thorough = settings(
    max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
