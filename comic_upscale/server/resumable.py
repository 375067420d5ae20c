"""Uploads that arrive in several requests: their rows, their locks, and their bytes as pieces in the storage.

A piece is flushed to the storage, and then its row is committed together with the new offset. So the offset counts only
bytes that outlive a crash, on a local disk and in a bucket alike. A complete upload is put together from its pieces.

Whoever changes an upload holds its lock, which expires unless it is renewed. Each change checks the lock in its own
transaction. A request that the server has lost from sight therefore changes nothing once another one has begun.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from comic_upscale.errors import ComicUpscaleError
from comic_upscale.server.accounts import Account
from comic_upscale.server.database.engine import Database
from comic_upscale.server.database.schema import is_over, now_ms, pieces, resumable
from comic_upscale.server.files import FileStore, StoredFile
from comic_upscale.server.ids import new_id
from comic_upscale.server.quotas import check_quotas

PIECE_BYTES = 4 << 20
"""Bytes of a stored piece, and the most that a crash of the server loses."""
MOST_CUTS = 1000
"""Pieces that an upload may have beyond those of a whole one: an upload may be cut that often."""
LOCK_MS = 10_000
"""Milliseconds without a sign of life after which a lock expires."""
KEEP_MS = 86_400_000
"""Milliseconds without a byte after which an unfinished upload is deleted, at most."""
OPEN_TIMES = 4
"""How many uploads of the largest allowed size may be open at once for a user, or an address without an account."""


class LockedError(ComicUpscaleError):
    """Another request is changing the upload."""


class OffsetError(ComicUpscaleError):
    """A request continues at another place than the stored bytes end.

    Args:
        offset: where they end.
    """

    def __init__(self, offset: int) -> None:
        super().__init__(f"the server has {offset:,} bytes of this upload: continue there")
        self.offset = offset


class OpenError(ComicUpscaleError):
    """The user has too many unfinished uploads."""


class CutsError(ComicUpscaleError):
    """An upload came in too many pieces."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewUpload:
    """An upload that begins."""

    name: str
    """Of the file, as the client sent it."""
    length: int
    """Bytes of the whole file."""
    fields: Mapping[str, str]
    """Fields of the form of an upload, for the job that begins at the last byte."""
    is_held: bool
    """Whether the upload waits for a request that makes a job of one or several uploads."""
    keep_ms: int
    """Milliseconds without a byte after which it is deleted."""


def create(
    connection: Connection, account: Account, new: NewUpload, *, most_bytes: int, most_files: int
) -> Mapping[str, Any]:
    """Begin an upload, and return its row.

    Args:
        connection: in a transaction that writes, so that uploads that begin at the same time are counted.
        account: who uploads.
        new: the upload.
        most_bytes: of the open uploads of the user, or of the address without an account.
        most_files: their largest number.

    Raises:
        QuotaError: the user has sent as much as allowed, with all open uploads.
        OpenError: there are too many open uploads.
    """
    mine = [resumable.c.owner_id == account.user_id, resumable.c.job_id.is_(None)]
    if account.is_anonymous:
        mine.append(resumable.c.address == account.address)
    count, size = connection.execute(
        sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(resumable.c.length), 0)).where(*mine)
    ).one()
    if count >= most_files or size + new.length > most_bytes:
        raise OpenError(
            f"you have {count:,} unfinished uploads with {size:,} bytes: finish or delete some, or wait until they "
            "expire"
        )
    check_quotas(connection, account, int(size) + new.length)
    row = connection.execute(
        sa.insert(resumable)
        .values(
            id=new_id(), owner_id=account.user_id, address=account.address, name=new.name, fields=dict(new.fields),
            is_held=new.is_held, length=new.length, created_at=now_ms(), expires_at=now_ms() + new.keep_ms,
        )
        .returning(*resumable.c)
    ).mappings().one()  # fmt: skip
    return dict(row)


def find(connection: Connection, account: Account, upload_id: str) -> Mapping[str, Any] | None:
    """Return the row of an upload of this account; None if there is none, or it has expired."""
    row = connection.execute(
        sa.select(resumable).where(
            resumable.c.id == upload_id,
            resumable.c.owner_id == account.user_id,
            resumable.c.expires_at > now_ms(),
        )
    )
    found = row.mappings().first()
    return None if found is None else dict(found)


def lock(connection: Connection, upload_ids: Sequence[str], token: str) -> None:
    """Lock uploads, all or none.

    Raises:
        LockedError: another request holds one of them.
    """
    free = sa.or_(
        resumable.c.lock.is_(None), resumable.c.lock == token, is_over(resumable.c.locked_until, LOCK_MS)
    )
    locked = connection.execute(
        sa.update(resumable)
        .where(resumable.c.id.in_(upload_ids), free)
        .values(lock=token, locked_until=now_ms() + LOCK_MS)
    )
    if locked.rowcount != len(set(upload_ids)):
        raise LockedError("another request is changing this upload: try again in some seconds")


def unlock(connection: Connection, token: str) -> None:
    """Give the locks with this token back."""
    connection.execute(
        sa.update(resumable).where(resumable.c.lock == token).values(lock=None, locked_until=0)
    )


def unlock_all(connection: Connection) -> None:
    """Give all locks back, when the only server of a database starts: a killed one has left them behind."""
    connection.execute(sa.update(resumable).where(resumable.c.lock.is_not(None)).values(lock=None))


def add_pieces(
    connection: Connection, upload_id: str, token: str, stored: Sequence[StoredFile], keep_ms: int
) -> int:
    """Record stored pieces behind the ones that are there, and return the new offset.

    Args:
        connection: in a transaction that writes.
        upload_id: of the upload.
        token: of its lock.
        stored: the pieces, in order.
        keep_ms: milliseconds until the upload is deleted, from now on.

    Raises:
        LockedError: the lock was lost.
        CutsError: the upload came in too many pieces.
    """
    held = resumable.c.id == upload_id, resumable.c.lock == token
    row = connection.execute(
        sa.select(resumable.c.offset, resumable.c.length).where(*held).with_for_update()
    ).first()
    if row is None:
        raise LockedError("another request has taken this upload over: ask for its offset")
    offset, length = row
    count = connection.scalar(
        sa.select(sa.func.count()).select_from(pieces).where(pieces.c.resumable_id == upload_id)
    )
    if (count or 0) + len(stored) > MOST_CUTS + length // PIECE_BYTES:
        raise CutsError("the upload came in too many small pieces: begin it again, and send larger ones")
    for piece in stored:
        connection.execute(
            sa.insert(pieces).values(
                resumable_id=upload_id, start=offset, size=piece.size, storage_key=piece.key
            )
        )
        offset += piece.size
    connection.execute(
        sa.update(resumable)
        .where(*held)
        .values(offset=offset, locked_until=now_ms() + LOCK_MS, expires_at=now_ms() + keep_ms)
    )
    return int(offset)


def attach(connection: Connection, upload_ids: Sequence[str], token: str, job_id: str) -> list[str]:
    """Let uploads belong to the job that was made of them, and return the keys of their pieces.

    The caller deletes the pieces from the storage after the commit.

    Raises:
        LockedError: a lock was lost.
    """
    owned = connection.execute(
        sa.update(resumable)
        .where(resumable.c.id.in_(upload_ids), resumable.c.lock == token)
        .values(job_id=job_id)
    )
    if owned.rowcount != len(set(upload_ids)):
        raise LockedError("another request has taken an upload over: try again")
    return _take_keys(connection, pieces.c.resumable_id.in_(upload_ids))


def delete(connection: Connection, upload_id: str, token: str) -> list[str]:
    """Delete an upload that this token locks, and return the keys of its pieces, as `attach` does."""
    keys = _take_keys(connection, pieces.c.resumable_id == upload_id)
    connection.execute(sa.delete(resumable).where(resumable.c.id == upload_id, resumable.c.lock == token))
    return keys


def delete_expired(connection: Connection, most: int) -> tuple[list[str], int]:
    """Delete expired uploads, and return the keys of their pieces and the number of uploads."""
    expired = list(
        connection.scalars(
            sa.select(resumable.c.id)
            .where(resumable.c.expires_at < now_ms(), is_over(resumable.c.locked_until, LOCK_MS))
            .limit(most)
        )
    )
    keys = _take_keys(connection, pieces.c.resumable_id.in_(expired))
    connection.execute(sa.delete(resumable).where(resumable.c.id.in_(expired)))
    return keys, len(expired)


def assemble(
    database: Database, store: FileStore, upload_id: str, held: Sequence[str], token: str, key: str
) -> StoredFile:
    """Put the pieces of an upload together as one file of the storage. Blocks.

    Args:
        database: of the server.
        store: of the server.
        upload_id: of a complete upload.
        held: all uploads of the job. Their locks are renewed meanwhile.
        token: of the locks.
        key: of the new file.

    Raises:
        LockedError: the lock was lost.
        OutputError: the storage cannot be read or written; nothing is left behind.
    """
    found = database.read(
        lambda connection: connection.execute(
            sa.select(pieces.c.storage_key, pieces.c.size)
            .where(pieces.c.resumable_id == upload_id)
            .order_by(pieces.c.start)
        ).all()
    )
    with store.create(key) as writer:
        renewed = float("-inf")
        for piece, size in found:
            if time.monotonic() - renewed > LOCK_MS / 3000:
                database.write(lambda connection: lock(connection, held, token))
                renewed = time.monotonic()
            for data in store.read(piece, 0, size):
                writer.write(data)
        return writer.commit()


class PieceWriter:
    """Collects the bytes of one request, and stores them as pieces. Its methods block; call them on a thread.

    Args:
        store: of the server.
        upload_id: of the upload.
    """

    def __init__(self, store: FileStore, upload_id: str) -> None:
        self._store, self._upload_id = store, upload_id

    def store(self, data: Iterable[bytes]) -> StoredFile:
        """Store bytes as one piece.

        Raises:
            OutputError: the storage cannot be written.
        """
        # A key is used once: a crash may have left a piece behind that no row names.
        with self._store.create(f"pieces/{self._upload_id}/{new_id()}") as writer:
            for each in data:
                writer.write(each)
            return writer.commit()

    def discard(self, stored: Iterable[StoredFile]) -> None:
        """Delete pieces that are not recorded."""
        for piece in stored:
            self._store.delete(piece.key)


def _take_keys(connection: Connection, which: sa.ColumnElement[bool]) -> list[str]:
    return list(connection.scalars(sa.delete(pieces).where(which).returning(pieces.c.storage_key)))
