"""Photos of enrolments, in the gallery's file where that was asked for: sealed one by one, and
gone with their identity."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass

from facefoundry.gallery.crypto import Sealer

SCHEMA = """
CREATE TABLE IF NOT EXISTS photo (id INTEGER PRIMARY KEY AUTOINCREMENT,
  identity INTEGER NOT NULL REFERENCES identity ON DELETE CASCADE, sealed BLOB NOT NULL)
"""
INDEX = "CREATE INDEX IF NOT EXISTS photo_of_identity ON photo (identity)"


@dataclass(frozen=True)
class Photos:
    """The photos of an open store; its transactions are the caller's."""

    database: sqlite3.Connection
    sealer: Sealer
    model: str

    def create(self) -> None:
        """The table, in galleries from before there was one, too."""
        self.database.execute(SCHEMA)
        self.database.execute(INDEX)

    def add(self, identity: int, photos: Iterable[bytes]) -> None:
        """The files of an identity's photos, as they were given."""
        context = self._context(identity)
        rows = [(identity, self.sealer.seal(photo, context)) for photo in photos]
        self.database.executemany("INSERT INTO photo (identity, sealed) VALUES (?, ?)", rows)

    def of(self, identity: int) -> list[bytes]:
        """In the order of enrolment."""
        query = "SELECT sealed FROM photo WHERE identity = ? ORDER BY id"
        rows = self.database.execute(query, (identity,))
        return [self.sealer.open(sealed, self._context(identity)) for (sealed,) in rows]

    def remove(self, identity: int) -> None:
        self.database.execute("DELETE FROM photo WHERE identity = ?", (identity,))

    def reseal(self, sealer: Sealer) -> None:
        """Seal every photo with another key, one in memory at a time."""
        numbers = self.database.execute("SELECT id, identity FROM photo").fetchall()
        for number, identity in numbers:
            query = "SELECT sealed FROM photo WHERE id = ?"
            (sealed,) = self.database.execute(query, (number,)).fetchone()
            context = self._context(identity)
            renewed = sealer.seal(self.sealer.open(sealed, context), context)
            self.database.execute("UPDATE photo SET sealed = ? WHERE id = ?", (renewed, number))

    def _context(self, identity: int) -> str:
        return f"photo of identity {identity} of {self.model}"
