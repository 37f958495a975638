"""The one error that a user is meant to read."""


class FoundryError(Exception):
    """Something the user can mend: the message is one line that names the thing and the fix.

    Entry points print it without a traceback and exit with status 1; anything else is a bug
    and keeps its traceback.
    """


class DivergedError(FoundryError):
    """A training whose loss is no longer a number."""
