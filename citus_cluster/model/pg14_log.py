"""The write-ahead log of a stopped PostgreSQL 14 server, read from its files: what a standby lacks of it.

Pure: the content of files goes in. The formats are those of PostgreSQL 14: src/include/catalog/pg_control.h (version
1300), src/include/access/xlog_internal.h, xlogrecord.h and xact.h. Positions are bytes since the log's beginning.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass

FILE_BYTES = 16 * 1024 * 1024
"""Size of one file of the log; the pair's servers are created with PostgreSQL's default."""
_PAGE_BYTES = 8192
_PAGE_HEADER_BYTES, _FILE_HEADER_BYTES, _RECORD_HEADER_BYTES = 24, 40, 24
_PAGE_MAGIC, _CONTINUES_RECORD = 0xD10D, 0x0001
_CONTROL_VERSION, _SHUT_DOWN = 1300, 1
_LARGEST_RECORD_BYTES = 1 << 30
_XLOG_MANAGER, _XLOG_SWITCH = 0, 0x40
_TRANSACTION_MANAGER, _TRANSACTION_MASK, _LAST_MANAGER = 1, 0x70, 21
# Ends of transactions that a client gets confirmed: commit, prepare, commit prepared, rollback prepared.
_ENDS_OF_TRANSACTIONS = frozenset({0x00, 0x10, 0x30, 0x40})


@dataclass(frozen=True)
class ControlFile:
    """The content of a server's control file, whether or not the server was shut down.

    ``checkpoint`` is where the last checkpoint's record begins, which is the end of the log of a server that was shut
    down cleanly (``clean``). ``reached`` is a position that the log certainly has. ``most_sessions`` limits how many
    transactions can have been waiting for a synchronous standby.
    """

    system_identifier: str
    clean: bool
    checkpoint: int
    reached: int
    timeline: int
    most_sessions: int


@dataclass(frozen=True)
class LogTail:
    """The log from a position on: where it ends, and the transactions that ended in it, as far as it was read.

    ``whole`` is False if more of it may exist than could be read.
    """

    end: int
    transactions: int
    whole: bool


@dataclass(frozen=True)
class Remainder:
    """What the log of a stopped server has beyond the position of another server.

    ``transactions`` counts those that were committed or prepared, and ``whole`` says whether the log was read to its
    end: otherwise both figures are lower bounds.
    """

    clean: bool
    whole: bool
    bytes: int
    transactions: int

    @property
    def nothing(self) -> bool:
        """Whether the other server provably has everything."""
        return self.whole and not self.transactions and not (self.clean and self.bytes)

    @property
    def something(self) -> bool:
        """Whether the other server provably lacks committed rows, or this must be assumed."""
        return bool(self.transactions) or (bool(self.bytes) and (self.clean or not self.whole))


def parse_lsn(lsn: str) -> int:
    """Read a position in the log, ``1/6B3740``, as bytes since its beginning."""
    high, low = lsn.split("/")
    return (int(high, 16) << 32) + int(low, 16)


def missing_bytes(replayed: int, end: int) -> int:
    """Return the bytes of the log between what a standby has replayed and a record that begins at ``end``.

    At the beginning of a page or a file of the log, its header comes before the record.
    """
    if replayed % _PAGE_BYTES == 0:
        replayed += _header_bytes(replayed)
    return max(0, end - replayed)


def parse_control_file(content: bytes) -> ControlFile | None:
    """Read ``global/pg_control``; None if it is not one of PostgreSQL 14."""
    if len(content) < 200:
        return None
    (version,) = struct.unpack_from("<I", content, 8)
    if version != _CONTROL_VERSION:
        return None
    (system_identifier,) = struct.unpack_from("<Q", content, 0)
    (state,) = struct.unpack_from("<I", content, 16)
    (checkpoint,) = struct.unpack_from("<Q", content, 32)
    (timeline,) = struct.unpack_from("<I", content, 48)
    (recovered,) = struct.unpack_from("<Q", content, 136)  # how far a standby had to come to be consistent
    (connections,) = struct.unpack_from("<i", content, 180)
    reached = max(checkpoint, recovered)
    return ControlFile(str(system_identifier), state == _SHUT_DOWN, checkpoint, reached, timeline, connections)


def file_name(timeline: int, at: int) -> str:
    """Return the name of the log file that contains a position."""
    number, files = at // FILE_BYTES, (1 << 32) // FILE_BYTES
    return f"{timeline:08X}{number // files:08X}{number % files:08X}"


def history_name(timeline: int) -> str:
    """Return the name of the history file of a timeline, which says where it branched off the earlier ones."""
    return f"{timeline:08X}.history"


def fork_lsn(history: str, timeline: int) -> int | None:
    """Return where a server left ``timeline``, by the history file of its current timeline; None if it never did."""
    for line in history.splitlines():
        words = line.split()
        if len(words) >= 2 and words[0] == str(timeline):
            return parse_lsn(words[1])
    return None


def read_tail(read: Callable[[int], bytes | None], start: int, had: int, most_files: int) -> LogTail:
    """Read the log from ``start``, where a record begins or would begin, to its end.

    ``read`` returns the file of the log that holds a position, None if there is none. Transactions that end at or
    before ``had`` do not count. At most ``most_files`` are read. The checksums of records are not verified: a record
    that a crash cut off counts, although no client got a confirmation.
    """
    if start % FILE_BYTES == 0 and read(start) is None and read(start - FILE_BYTES) is not None:
        # The log ends with a complete file, as at the end of a base backup, and the next file does not exist yet.
        return LogTail(start, 0, True)
    log = _Log(read, start - start % FILE_BYTES, most_files)
    at: int | None = start
    end, previous, transactions = start, None, 0
    while at is not None:
        record = log.record(at, previous)
        if record is None:
            break
        previous, end = record.start, record.end
        if record.ends_transaction and record.end > had:
            transactions += 1
        at = -(-end // FILE_BYTES) * FILE_BYTES if record.switches_file else end
    return LogTail(end, transactions, not log.incomplete)


def remainder(control: ControlFile, had: int, tail: LogTail | None) -> Remainder:
    """Compare what a server's files prove with what another ``had``: everything before that position."""
    if control.clean:
        missing = missing_bytes(had, control.checkpoint)
        return Remainder(True, True, missing, tail.transactions if tail and missing else 0)
    missing = missing_bytes(had, control.reached)
    if tail is None:
        return Remainder(False, False, missing, 0)
    # A log that ends before a position in the control file was not read completely.
    whole = tail.whole and tail.end >= control.reached
    return Remainder(False, whole, max(missing, tail.end - had, 0), tail.transactions)


@dataclass(frozen=True)
class _Record:
    start: int
    end: int
    ends_transaction: bool
    switches_file: bool


class _Log:
    """The files of a log as one sequence of bytes, read as needed."""

    def __init__(self, read: Callable[[int], bytes | None], base: int, most_files: int) -> None:
        self._read = read
        self._base = base
        self._content = bytearray()
        self._most = most_files * FILE_BYTES
        self.incomplete = False
        """Whether the log may have more than was read."""

    def record(self, at: int, previous: int | None) -> _Record | None:
        """The record at a position; None if the log ends. ``previous`` is where the one before it begins."""
        if at % _PAGE_BYTES == 0:
            if self._page(at, continues=False) is None:
                return None
            at += _header_bytes(at)
        elif self._page(at - at % _PAGE_BYTES, continues=None) is None:
            return None
        header = self._take(at, _RECORD_HEADER_BYTES)
        if header is None:
            return None
        length, _, before, info, manager = struct.unpack_from("<IIQBB", header)
        sound = _RECORD_HEADER_BYTES <= length <= _LARGEST_RECORD_BYTES and manager <= _LAST_MANAGER
        if not sound or (before != previous if previous is not None else before >= at):
            return None
        end = self._skip(at, length)
        if end is None:
            return None
        return _Record(
            at,
            -(-end // 8) * 8,
            manager == _TRANSACTION_MANAGER and info & _TRANSACTION_MASK in _ENDS_OF_TRANSACTIONS,
            manager == _XLOG_MANAGER and info & 0xF0 == _XLOG_SWITCH,
        )

    def _take(self, at: int, count: int) -> bytes | None:
        """Return the bytes of a record, which may continue in the next page."""
        found = b""
        while True:
            part = min(count - len(found), _PAGE_BYTES - at % _PAGE_BYTES)
            found += self._content[at - self._base : at - self._base + part]
            if len(found) == count:
                return found
            at += part
            if self._page(at, continues=True) is None:
                return None
            at += _header_bytes(at)

    def _skip(self, at: int, count: int) -> int | None:
        """Return the end of the record that begins at a position."""
        while count > (room := _PAGE_BYTES - at % _PAGE_BYTES):
            count -= room
            at += room
            if self._page(at, continues=True) is None:
                return None
            at += _header_bytes(at)
        return at + count

    def _page(self, at: int, *, continues: bool | None) -> int | None:
        """Check the page that begins at a position; None if it was never written, or is an older one."""
        if at - self._base >= len(self._content) and not self._read_on(at):
            return None
        magic, flags, _, address = struct.unpack_from("<HHIQ", self._content, at - self._base)
        if (magic, address) != (_PAGE_MAGIC, at):
            return None
        return at if continues is None or bool(flags & _CONTINUES_RECORD) is continues else None

    def _read_on(self, at: int) -> bool:
        if len(self._content) >= self._most:
            self.incomplete = True
            return False
        content = self._read(at)
        if content is None:
            # The first file of the log must exist; a later one that does not exist was never begun.
            self.incomplete = self.incomplete or not self._content
            return False
        if len(content) != FILE_BYTES:
            self.incomplete = True
            return False
        self._content += content
        return True


def _header_bytes(page: int) -> int:
    return _FILE_HEADER_BYTES if page % FILE_BYTES == 0 else _PAGE_HEADER_BYTES
