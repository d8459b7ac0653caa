import pytest

from tests.serve_app.scripted import WORKERS


@pytest.fixture(scope="session", autouse=True)
def no_process_is_left():
    yield
    WORKERS.close()
