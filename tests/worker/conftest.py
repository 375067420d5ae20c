from tests.server.conftest import *  # noqa: F403 - the same fixtures
