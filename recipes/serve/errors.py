"""Refusals of a server: each has a sentence, and a kind that becomes a status of HTTP."""


class Refused(ValueError):
    """A request that is not carried out; its message says why, and the way out.

    ``status`` is the status of HTTP: 400 for a value, 404 for what is not there, 409 for what does
    not go now, 413 for what is too large, 415 for another kind of file, 429 for a limit, 507 for a
    disk that takes nothing more.
    """

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status
