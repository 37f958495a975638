"""The store of record: one SQLite file, in WAL mode, whose embeddings and photos are sealed.

Templates (embeddings of enrolled photos) are kept in *blocks*, sealed as a whole. A block is never
changed: what adds, drops or merges templates writes new blocks and deletes old ones in one
transaction, so that two readers agree on a block by its number alone. Deleted pages are zeroed
(`secure_delete`), and a deletion ends with an empty log.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facefoundry.errors import FoundryError
from facefoundry.gallery.crypto import Sealer
from facefoundry.gallery.photos import Photos
from facefoundry.onnx_file import Floats

Ids = NDArray[np.int64]

SCHEMA_VERSION = "1"
SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID;
CREATE TABLE identity (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE,
  templates INTEGER NOT NULL, enrolled TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP);
CREATE TABLE block (id INTEGER PRIMARY KEY AUTOINCREMENT, templates INTEGER NOT NULL,
  sealed BLOB NOT NULL);
CREATE TABLE member (identity INTEGER NOT NULL REFERENCES identity ON DELETE CASCADE,
  block INTEGER NOT NULL REFERENCES block ON DELETE CASCADE,
  PRIMARY KEY (identity, block)) WITHOUT ROWID;
CREATE INDEX member_of_block ON member (block);
"""
CHECK = "check"
BUSY_SECONDS = 10


class StorageError(FoundryError):
    """The disk is full, the file locked or unreadable: no fault of what was asked."""


@dataclass(frozen=True)
class Block:
    """Templates: `identities` (N,) rising, `embeddings` (N, D) of unit length."""

    identities: Ids
    embeddings: Floats

    def without(self, identity: int) -> Block:
        keep = self.identities != identity
        return Block(self.identities[keep], self.embeddings[keep])


def merge(blocks: Iterable[Block]) -> Block:
    parts = list(blocks)
    identities = np.concatenate([part.identities for part in parts])
    order = np.argsort(identities, kind="stable")
    embeddings = np.concatenate([part.embeddings for part in parts])
    return Block(identities[order], embeddings[order])


class Store:
    """One connection. Not for several threads at once: the caller takes turns."""

    def __init__(self, path: Path, model: str, size: int, sealer: Sealer) -> None:
        """Open or make the file for embeddings of `size` numbers by the model of that hash.

        Raises FoundryError for another key, another model, or a file that is no gallery.
        """
        self.path, self.size, self._sealer = path, size, sealer
        self._context = f"block of {model}"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(mode=0o600)  # the names in it are for the owner alone
            self._db = sqlite3.connect(
                path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
            for pragma in (
                "journal_mode=WAL",
                "synchronous=FULL",  # what was acknowledged survives a crash of the machine
                "secure_delete=ON",
                "foreign_keys=ON",
            ):
                self._db.execute(f"PRAGMA {pragma}")
            self.photos = Photos(self._db, sealer, model)
            with self.transaction():
                self._create_or_check(model)
                self.photos.create()
        except (sqlite3.Error, OSError) as error:
            raise FoundryError(f"{path}: not a usable gallery ({error}); give another file") from (
                error
            )

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing, and on disk when the block ends. Raises FoundryError where SQLite does:
        a name taken, a full disk, another process that writes for long."""
        try:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:  # a full disk has rolled back already
                    self._db.execute("ROLLBACK")
                raise
        except sqlite3.OperationalError as error:
            raise StorageError(f"{self.path}: {error}; nothing was changed") from error
        except sqlite3.Error as error:
            raise FoundryError(f"{self.path}: {error}; nothing was changed") from error

    def _create_or_check(self, model: str) -> None:
        if not self._db.execute("SELECT 1 FROM sqlite_master").fetchone():
            for statement in SCHEMA.split(";\n"):
                self._db.execute(statement)
            sealed = self._sealer.seal(CHECK.encode(), CHECK)
            values = {"schema": SCHEMA_VERSION, "model": model, "size": self.size, CHECK: sealed}
            self._db.executemany("INSERT INTO meta VALUES (?, ?)", values.items())
        meta = dict(self._db.execute("SELECT key, value FROM meta"))
        if meta.get("schema") != SCHEMA_VERSION:
            raise FoundryError(f"{self.path}: a gallery of another version; use a new file")
        if (meta["model"], meta["size"]) != (model, self.size):
            raise FoundryError(
                f"{self.path}: made by model {meta['model'][:12]} ({meta['size']} numbers), not by"
                f" {model[:12]} ({self.size}); use that model, or enrol again in a new gallery"
            )
        self._sealer.open(meta[CHECK], CHECK)

    def changes(self) -> int:
        """A number that differs after another connection has written."""
        return int(self._db.execute("PRAGMA data_version").fetchone()[0])

    def blocks(self) -> dict[int, int]:
        """{number: templates} of every block."""
        return dict(self._db.execute("SELECT id, templates FROM block ORDER BY id"))

    def read_block(self, number: int) -> Block:
        row = self._db.execute("SELECT sealed FROM block WHERE id = ?", (number,)).fetchone()
        plain = self._sealer.open(row[0], self._context)
        count = len(plain) // (8 + 4 * self.size)
        identities = np.frombuffer(plain, np.int64, count)
        embeddings = np.frombuffer(plain, np.float32, offset=8 * count)
        return Block(identities, embeddings.reshape(count, self.size))

    def write_block(self, block: Block) -> int:
        """Inside a transaction."""
        plain = block.identities.tobytes() + block.embeddings.astype(np.float32).tobytes()
        added = self._db.execute(
            "INSERT INTO block (templates, sealed) VALUES (?, ?)",
            (len(block.identities), self._sealer.seal(plain, self._context)),
        )
        number = int(added.lastrowid or 0)
        members = [(int(identity), number) for identity in np.unique(block.identities)]
        self._db.executemany("INSERT INTO member VALUES (?, ?)", members)
        return number

    def delete_blocks(self, numbers: Iterable[int]) -> None:
        """Inside a transaction."""
        self._db.executemany("DELETE FROM block WHERE id = ?", [(number,) for number in numbers])

    def identity_of(self, name: str) -> int | None:
        row = self._db.execute("SELECT id FROM identity WHERE name = ?", (name,)).fetchone()
        return None if row is None else int(row[0])

    def name_of(self, identity: int) -> str | None:
        """None where another process has just deleted it."""
        row = self._db.execute("SELECT name FROM identity WHERE id = ?", (identity,)).fetchone()
        return None if row is None else str(row[0])

    def templates_of(self, identity: int) -> int:
        query = "SELECT templates FROM identity WHERE id = ?"
        return int(self._db.execute(query, (identity,)).fetchone()[0])

    def add_identities(self, names: Iterable[str]) -> Ids:
        """Inside a transaction. Their numbers, in the order of the names."""
        statement = "INSERT INTO identity (name, templates) VALUES (?, 0)"
        rows = [self._db.execute(statement, (name,)).lastrowid for name in names]
        return np.array(rows, np.int64)

    def count_templates(self, identities: Iterable[tuple[int, int]]) -> None:
        """Inside a transaction: set (templates, identity) rows."""
        self._db.executemany("UPDATE identity SET templates = ? WHERE id = ?", identities)

    def remove_templates(self, identity: int) -> None:
        """Inside a transaction: write every block that has some of an identity's anew, without."""
        rows = self._db.execute("SELECT block FROM member WHERE identity = ?", (identity,))
        for (number,) in rows.fetchall():
            rest = self.read_block(number).without(identity)
            self.delete_blocks([number])
            if len(rest.identities):
                self.write_block(rest)

    def remove_identity(self, identity: int) -> None:
        """Inside a transaction, after its templates; its photos go with it."""
        self._db.execute("DELETE FROM identity WHERE id = ?", (identity,))

    def empty_log(self) -> None:
        """Move the log into the file and cut it, so that nothing deleted is left in it."""
        busy, _, _ = self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if busy:
            raise FoundryError(
                f"{self.path}: deleted, but another process is reading and keeps the old log;"
                " close it and delete once more"
            )

    def identities(self, limit: int, after: str = "") -> list[tuple[str, int, str]]:
        """(name, templates, time of enrolment in UTC) by name, from the first beyond `after`."""
        query = (
            "SELECT name, templates, enrolled FROM identity WHERE name > ? ORDER BY name LIMIT ?"
        )
        return self._db.execute(query, (after, limit)).fetchall()

    def count(self) -> tuple[int, int]:
        """(identities, templates)."""
        templates = self._db.execute("SELECT coalesce(sum(templates), 0) FROM block").fetchone()
        identities = self._db.execute("SELECT count(*) FROM identity").fetchone()
        return int(identities[0]), int(templates[0])

    def rotate(self, sealer: Sealer) -> None:
        """Seal everything anew with another key, in one transaction, and leave no old bytes."""
        with self.transaction():
            for number in self.blocks():
                sealed = self._db.execute("SELECT sealed FROM block WHERE id = ?", (number,))
                plain = self._sealer.open(sealed.fetchone()[0], self._context)
                renewed = (sealer.seal(plain, self._context), number)
                self._db.execute("UPDATE block SET sealed = ? WHERE id = ?", renewed)
            self.photos.reseal(sealer)
            check = sealer.seal(CHECK.encode(), CHECK)
            self._db.execute("UPDATE meta SET value = ? WHERE key = ?", (check, CHECK))
        self._sealer = sealer
        self.photos = replace(self.photos, sealer=sealer)
        self.empty_log()

    def close(self) -> None:
        self._db.close()
