"""Who goes in when, on a real event loop."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from nbx.api.turns import FEW, GROUP, MANY, Turns


class Hall:
    """Visitors by number: who is inside, and in which order they came in."""

    def __init__(self) -> None:
        self.turns = Turns(asyncio.get_running_loop())
        self.came: list[int] = []
        self._news = asyncio.Event()
        self._doors: dict[int, asyncio.Event] = {}
        self._visits: dict[int, asyncio.Task[None]] = {}

    async def send(self, *numbers: int) -> None:
        """Let visitors come, in this order; they stay until told."""
        for number in numbers:
            self._doors[number] = asyncio.Event()
            self._visits[number] = asyncio.create_task(self._visit(number))
        await asyncio.sleep(0)

    async def end(self, *numbers: int) -> None:
        """Let visitors leave together."""
        for number in numbers:
            self._doors[number].set()
        await asyncio.gather(*(self._visits[number] for number in numbers))
        await asyncio.sleep(0)

    async def cancel(self, *numbers: int) -> None:
        for number in numbers:
            self._visits[number].cancel()
        await asyncio.gather(*(self._visits[number] for number in numbers), return_exceptions=True)
        await asyncio.sleep(0)

    async def until(self, count: int) -> None:
        """Wait until so many have come in."""
        while len(self.came) < count:
            self._news.clear()
            await self._news.wait()

    async def _visit(self, number: int) -> None:
        await self.turns.enter()
        try:
            self.came.append(number)
            self._news.set()
            await self._doors[number].wait()
        finally:
            self.turns.leave()


def test_who_finds_nobody_goes_in_at_once_and_the_others_when_it_is_done_together() -> None:
    async def scene() -> None:
        hall = Hall()
        await hall.send(0)
        assert hall.came == [0]
        await hall.send(1, 2, 3)
        assert hall.came == [0]
        await hall.end(0)
        assert hall.came == [0, 1, 2, 3]
        await hall.end(1, 2, 3)
        await hall.send(4)
        assert hall.came[-1] == 4
        await hall.end(4)

    asyncio.run(scene())


def test_after_a_group_of_some_size_the_next_waits_for_more_but_not_for_ever() -> None:
    async def scene() -> None:
        hall = Hall()
        await hall.send(0)
        await hall.send(*range(1, FEW + 1))
        await hall.end(0)
        first = list(range(FEW + 1))
        await hall.send(100)
        await hall.end(*first[1:])
        assert hall.came == first  # nobody is inside, and 100 waits
        await hall.send(101)
        await hall.until(FEW + 3)
        assert hall.came == [*first, 100, 101]
        await hall.end(100, 101)

    asyncio.run(scene())


def test_many_need_not_wait_for_more() -> None:
    async def scene() -> None:
        hall = Hall()
        await hall.send(0)
        await hall.send(*range(1, FEW + 1))
        await hall.end(0)
        many = list(range(100, 100 + MANY))
        await hall.send(*many[:-1])
        await hall.end(*range(1, FEW + 1))
        assert len(hall.came) == FEW + 1
        await hall.send(many[-1])
        await asyncio.sleep(0)
        assert sorted(hall.came[FEW + 1 :]) == many
        await hall.end(*many)

    asyncio.run(scene())


def test_nobody_waits_for_ever_for_those_inside() -> None:
    async def scene() -> None:
        hall = Hall()
        await hall.send(0, 1)
        await hall.until(2)
        assert hall.came == [0, 1]
        await hall.end(0, 1)

    asyncio.run(asyncio.wait_for(scene(), 10))


def test_no_more_go_in_at_once_than_a_group_has_and_in_their_order() -> None:
    async def scene() -> None:
        hall = Hall()
        rest = list(range(1, 2 * GROUP + 2))
        await hall.send(0)
        await hall.send(*rest)
        await hall.end(0)
        assert hall.came == list(range(GROUP + 1))
        await hall.until(len(rest) + 1)
        assert hall.came == [0, *rest]
        await hall.end(*rest)
        await hall.send(1000)
        assert hall.came[-1] == 1000
        await hall.end(1000)

    asyncio.run(asyncio.wait_for(scene(), 10))


def test_who_gives_up_while_waiting_holds_nobody_up() -> None:
    async def scene() -> None:
        hall = Hall()
        await hall.send(0)
        await hall.send(1, 2)
        await hall.cancel(1)
        await hall.end(0)
        assert hall.came == [0, 2]
        await hall.end(2)
        await hall.send(3)
        assert hall.came[-1] == 3
        await hall.end(3)

    asyncio.run(scene())


def test_who_is_let_in_and_gives_up_at_once_leaves() -> None:
    async def scene() -> None:
        turns = Turns(asyncio.get_running_loop())
        await turns.enter()
        waiting = asyncio.create_task(turns.enter())
        await asyncio.sleep(0)
        turns.leave()
        waiting.cancel()
        with suppress(asyncio.CancelledError):
            await waiting
        assert waiting.cancelled()
        last = asyncio.create_task(turns.enter())
        await asyncio.sleep(0)
        assert last.done()  # found nobody inside

    asyncio.run(scene())
