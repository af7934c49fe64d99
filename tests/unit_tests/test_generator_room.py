"""The bound on a batch of chats: down where memory runs out, up again with patience."""

from __future__ import annotations

from langchain_gpu.generators.room import Room
from langchain_gpu.utils.backoff import PATIENCE


def tries(room: Room, rows: int) -> int:
    """Batches of 10 tokens a row that go well before more is tried."""
    count = 1
    while room.finished(rows, 10) is None:
        count += 1
        assert count < 10_000
    return count


def test_half_of_what_failed_is_allowed() -> None:
    room = Room()
    assert room.failed(5, 10) == 50
    assert room.tokens == 30
    assert room.failed(3, 10) == 30
    assert room.tokens == 20
    assert room.failed(8, 10) == 20  # a late one changes nothing
    assert room.tokens == 20


def test_it_comes_back_after_enough_full_batches() -> None:
    room = Room()
    room.failed(8, 10)
    assert tries(room, 4) == 2 * PATIENCE
    assert room.tokens == 80


def test_every_failure_asks_for_more_patience() -> None:
    room = Room()
    room.failed(8, 10)
    tries(room, 4)
    room.failed(8, 10)
    assert tries(room, 4) == 4 * PATIENCE


def test_small_batches_and_single_rows_say_nothing() -> None:
    room = Room()
    assert room.finished(8, 10) is None  # there is no bound
    room.failed(8, 10)
    for _ in range(10 * PATIENCE):
        assert room.finished(2, 10) is None
        assert room.finished(1, 1000) is None
    assert room.tokens == 40
