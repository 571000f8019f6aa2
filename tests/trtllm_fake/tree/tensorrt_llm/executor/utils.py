"""Errors of a request."""


class RequestError(RuntimeError):
    """The executor could not serve a request."""
