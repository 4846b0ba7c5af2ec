"""What all tests share: the event loop they run on, and how Hypothesis makes examples."""

import pytest
from hypothesis import HealthCheck, settings

# How long an example takes says something about the machine, never about what is tested.
_PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
# `make test` tries the same examples each time, so that what fails is what was changed. New ones
# are looked for where finding something is the purpose: `make torture` names the other profile.
settings.register_profile("same", _PATIENT, derandomize=True, database=None)
settings.register_profile("new", _PATIENT)
settings.load_profile("same")


@pytest.fixture
def anyio_backend() -> str:
    """The gateway runs under uvicorn, so asyncio is the only backend there is."""
    return "asyncio"
