"""How hypothesis tries properties."""

from hypothesis import HealthCheck, settings

thorough = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
