"""A running service, as the tests of serving/ have it."""

from tests.serving.conftest import serve

__all__ = ["serve"]  # a fixture
