"""The errors of serving, for the service and its clients."""

from medfocus.errors import InputError, MedfocusError


class RequestError(InputError):
    """A request that cannot be answered, whatever its images."""

    default_code = "serve.request"


class BusyError(MedfocusError):
    """An engine whose queue is full."""

    default_code = "serve.busy"


class ServiceError(MedfocusError):
    """A service that cannot be reached, or that does not answer as one."""

    default_code = "serve.unreachable"
