"""What the files of a PostgreSQL 14 server that does not run prove; tests/e2e/test_pg14.py reads real ones."""

import struct

import pytest

from citus_cluster.model.pg14_log import (
    FILE_BYTES,
    ControlFile,
    LogTail,
    file_name,
    fork_lsn,
    history_name,
    missing_bytes,
    parse_control_file,
    parse_lsn,
    read_tail,
    remainder,
)

PAGE = 8192
COMMIT, ABORT, PREPARE = (1, 0x00), (1, 0x20), (1, 0x10)
COMMIT_WITH_INFO = (1, 0x80)
HEAP, SWITCH, CHECKPOINT = (10, 0x00), (0, 0x40), (0, 0x10)


class Log:
    """Writes a log as PostgreSQL lays it out, from the beginning of its second file on."""

    def __init__(self) -> None:
        self.base = self.at = FILE_BYTES
        self.previous = 0
        self.content = bytearray()
        self.page(continues=False)

    def page(self, *, continues: bool) -> None:
        """Begin a page."""
        long = self.at % FILE_BYTES == 0
        header = struct.pack("<HHIQIxxxx", 0xD10D, int(continues) | (2 if long else 0), 1, self.at, 0)
        self.put(header + (struct.pack("<QII", 7, FILE_BYTES, PAGE) if long else b""))

    def put(self, data: bytes) -> None:
        self.content += data
        self.at += len(data)

    def record(self, kind: tuple[int, int], length: int = 64) -> int:
        """Add a record; gives where the next one begins."""
        if self.at % PAGE == 0:
            self.page(continues=False)
        start, (manager, info) = self.at, kind
        data = struct.pack("<IIQBBxxI", length, 9, self.previous, info, manager, 0).ljust(length, b"r")
        while data:
            room = PAGE - self.at % PAGE
            part, data = data[:room], data[room:]
            self.put(part)
            if data:
                self.page(continues=True)
        self.put(bytes(-self.at % 8))
        self.previous = start
        return self.at

    def switch(self) -> None:
        self.record(SWITCH, 24)
        self.put(bytes(-self.at % FILE_BYTES))
        self.page(continues=False)

    def read(self, at: int) -> bytes | None:
        """The file that holds a position: what was never written is zero, as in a new file."""
        start = at - at % FILE_BYTES - self.base
        return bytes(self.content[start : start + FILE_BYTES]).ljust(FILE_BYTES, b"\0") if start >= 0 else None

    def tail(self, start: int, had: int | None = None, most_files: int = 9) -> LogTail:
        return read_tail(self.read, start, start if had is None else had, most_files)


def test_positions_in_the_log() -> None:
    assert parse_lsn("0/0") == 0
    assert parse_lsn("1/6B3740") == 0x1_006B_3740
    assert file_name(1, parse_lsn("1/6B3740")) == "000000010000000100000000"
    assert file_name(2, parse_lsn("0/FE000000")) == "0000000200000000000000FE"
    assert history_name(2) == "00000002.history"


@pytest.mark.parametrize(
    ("replayed", "end", "missing"),
    [
        (0x3000060, 0x3000060, 0),
        (0x3000100, 0x3000060, 0),
        (0x3000060, 0x3000100, 160),
        (0x3002000, 0x3002018, 0),  # the header of a page
        (0x4000000, 0x4000028, 0),  # the header of a file
        (0x4000000, 0x4000060, 56),
    ],
)
def test_bytes_that_a_standby_lacks_of_a_log_that_has_ended(replayed: int, end: int, missing: int) -> None:
    assert missing_bytes(replayed, end) == missing


def test_transactions_after_a_position_are_counted() -> None:
    log = Log()
    start = log.record(COMMIT)
    log.record(HEAP, 20_000)  # over three pages
    log.record(COMMIT, 41)
    middle = log.record(COMMIT_WITH_INFO, PAGE)  # its header in one page, its end in the next
    for kind in (ABORT, CHECKPOINT, HEAP, PREPARE):
        log.record(kind)
    assert log.tail(start) == LogTail(log.at, 3, True)
    assert log.tail(start, had=middle) == LogTail(log.at, 1, True), "what was received counts as there"
    assert log.tail(start, had=middle - 1).transactions == 2
    assert log.tail(log.at) == LogTail(log.at, 0, True)


def test_every_place_of_a_record_in_a_page_is_read() -> None:
    log = Log()
    start = log.at
    for number in range(3000):
        log.record(COMMIT, 24 + number % 97)
    assert log.tail(start) == LogTail(log.at, 3000, True)


def test_a_log_goes_on_in_the_next_file() -> None:
    log = Log()
    start = log.record(HEAP)
    log.switch()
    log.record(COMMIT)
    log.record(HEAP, FILE_BYTES)
    log.record(COMMIT)
    assert log.tail(start) == LogTail(log.at, 2, True)
    assert log.tail(start, most_files=2) == LogTail(log.tail(start, most_files=2).end, 1, False)
    assert read_tail(lambda at: None, start, start, 9) == LogTail(start, 0, False), "no file, no proof"


def test_a_log_may_end_with_a_file() -> None:
    """After a base backup, where the next file has not begun: the file before shows that nothing is missing."""
    there = {FILE_BYTES: bytes(FILE_BYTES)}
    assert read_tail(there.get, 2 * FILE_BYTES, 2 * FILE_BYTES, 9) == LogTail(2 * FILE_BYTES, 0, True)
    assert read_tail(there.get, 3 * FILE_BYTES, 3 * FILE_BYTES, 9).whole is False, "two files are missing"
    assert read_tail(there.get, 2 * FILE_BYTES + 40, 2 * FILE_BYTES + 40, 9).whole is False, "the file had begun"


def test_what_an_earlier_use_of_a_file_left_is_not_the_log() -> None:
    log = Log()
    start = log.record(HEAP)
    end = log.record(COMMIT)
    older = Log()
    older.record(COMMIT, 3 * PAGE)
    older.record(COMMIT)
    # The page after the last one is of the file's last use, and says another address.
    stale = bytearray(older.content[PAGE:])
    struct.pack_into("<Q", stale, 8, 0)
    content = bytes(log.content).ljust(PAGE, b"\0") + bytes(stale)
    assert read_tail(lambda at: content.ljust(FILE_BYTES, b"\0"), start, start, 9) == LogTail(end, 1, True)


def control_file(state: int = 6, checkpoint: int = 0x3000060, recovered: int = 0, version: int = 1300) -> bytes:
    content = bytearray(8192)
    struct.pack_into("<QI", content, 0, 7, version)
    struct.pack_into("<I", content, 16, state)
    struct.pack_into("<Q", content, 32, checkpoint)
    struct.pack_into("<I", content, 48, 3)
    struct.pack_into("<Q", content, 136, recovered)
    struct.pack_into("<i", content, 180, 33)
    return bytes(content)


def test_a_control_file_tells_how_far_a_server_came_in_any_state() -> None:
    for state in range(7):
        found = parse_control_file(control_file(state))
        assert found == ControlFile("7", state == 1, 0x3000060, 0x3000060, 3, 33)
    standby = parse_control_file(control_file(5, recovered=0x4000000))
    assert standby is not None
    assert standby.reached == 0x4000000
    assert parse_control_file(control_file(version=1700)) is None
    assert parse_control_file(b"") is None


CRASHED = ControlFile("7", False, 1000, 1000, 1, 33)
CLEAN = ControlFile("7", True, 1000, 1000, 1, 33)


@pytest.mark.parametrize(
    ("control", "had", "tail", "nothing", "something"),
    [
        (CLEAN, 1000, None, True, False),
        (CLEAN, 900, LogTail(1000, 0, True), False, True),
        (CRASHED, 1000, LogTail(1200, 0, True), True, False),
        (CRASHED, 1000, LogTail(1200, 1, True), False, True),
        # Below the last checkpoint, but no transaction ended since.
        (CRASHED, 900, LogTail(1200, 0, True), True, False),
        # The log cannot be read, or not to its end: the checkpoint alone proves a loss, and nothing proves none.
        (CRASHED, 900, None, False, True),
        (CRASHED, 900, LogTail(950, 0, True), False, True),
        (CRASHED, 1000, None, False, False),
        (CRASHED, 1000, LogTail(5000, 0, False), False, True),
    ],
)
def test_what_is_proved(control: ControlFile, had: int, tail: LogTail | None, nothing: bool, something: bool) -> None:
    found = remainder(control, had, tail)
    assert (found.nothing, found.something) == (nothing, something)


def test_a_history_tells_where_a_server_left_a_timeline() -> None:
    history = "1\t0/3000148\tno recovery target specified\n\n2\t1/5000000\tno recovery target specified\n"
    assert fork_lsn(history, 1) == 0x3000148
    assert fork_lsn(history, 2) == 0x1_0500_0000
    assert fork_lsn(history, 3) is None
