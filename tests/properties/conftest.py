"""No deadline for a single example: on a busy machine it measures the neighbours."""

from hypothesis import settings

settings.register_profile("ucaudit", deadline=None)
settings.load_profile("ucaudit")
