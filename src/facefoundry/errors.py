"""The one error that a user is meant to read."""

from __future__ import annotations

import errno
import sqlite3

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class FoundryError(Exception):
    """Something the user can mend: the message is one line that names the thing and the fix.

    Entry points print it without a traceback and exit with status 1; anything else is a bug
    and keeps its traceback.
    """


class DivergedError(FoundryError):
    """A training whose loss is no longer a number."""


def is_disk_full(error: BaseException) -> bool:
    """Whether it is for want of room that this error, or one that it was raised from, came."""
    at: BaseException | None = error
    while at is not None:
        if isinstance(at, OSError) and at.errno in NO_ROOM:
            return True
        if getattr(at, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
            return True
        at = at.__cause__ or at.__context__
    return False
