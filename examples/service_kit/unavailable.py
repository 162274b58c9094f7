"""A server that does not answer. Commands use this too, so it needs no web framework."""


class UnavailableError(Exception):
    """A server that a request needs does not answer."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail
