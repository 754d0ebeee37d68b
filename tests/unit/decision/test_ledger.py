"""What a worker may spend: leases taken, used, given back and taken back, and the decisions that pay with them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from nbx.decision.budgets import NO_BUDGETS
from nbx.decision.ledger import AGAIN_MS, IDLE_MS, RENEW_MS
from nbx.errors import Unavailable
from nbx.experience.entries import Spent
from nbx.features.budget import Book
from nbx.features.budget_redis import LEASE_MS
from nbx.features.keys import partition_keys
from nbx.features.store import Verdict
from tests.budget_workers import PARTITIONS, Shop, Worker, budget_plan, money, settled

UNITS, MONEY = "vouchers/units", "gifts/money"


def play(story: Callable[[Shop, Worker, Worker], Awaitable[None]], units: int = 100, money: float = 1000) -> None:
    """Let two workers share the budgets."""

    async def scene() -> None:
        shop = Shop(budget_plan(units, money))
        await story(shop, shop.worker(), shop.worker())

    asyncio.run(scene())


async def lost() -> None:
    raise Unavailable("injected", code="state_timeout")


async def given(worker: Worker, *want: str, customer: str = "anna", slots: int = 1) -> list[str]:
    reply = await worker.decide(customer, *want, slots=slots)
    assert reply.degraded == ()
    return [slot.action for slot in reply.slots if slot.action]


def test_a_decision_pays_in_its_commit_and_the_log_says_from_what() -> None:
    async def story(shop: Shop, worker: Worker, _other: Worker) -> None:
        assert await given(worker, "large", "tips", slots=2) == ["large", "tips"]
        (entry,) = await shop.entries()
        assert [(each.resource, each.amount) for each in entry.spent] == [(MONEY, money(25)), (UNITS, 1)]
        for each in entry.spent:
            keys = [partition_keys(p).spending(each.lease) for p in range(PARTITIONS)]
            counted = [await shop.store.read([key], 1.0) for key in keys]
            assert [count for (count,) in counted if count] == [b"%d" % each.amount]
        assert await settled(shop, worker) == {MONEY: money(25), UNITS: 1}

    play(story)


def test_previews_and_what_has_no_budget_spend_nothing() -> None:
    async def story(shop: Shop, worker: Worker, _other: Worker) -> None:
        reply = await worker.decide("anna", "tips", placement="free")
        assert reply.slots[0].action == "tips"
        assert worker.budgets.asked == 0, "nobody is asked for a placement without budgets"
        assert await given(worker, "tips") == ["tips"]
        assert await worker.ledger._budgets.book(shop.window(UNITS)) != Book(0, {}), "it might have been chosen"
        for _ in range(200):
            await worker.decisions.decide(worker.request("large", mode="preview"))
        assert await shop.spent() == {}
        assert await settled(shop, worker) == {}

    play(story)


def test_all_of_a_budget_is_given_out_and_not_more() -> None:
    async def story(shop: Shop, *workers: Worker) -> None:
        given_out = [await given(workers[i % 2], "voucher", customer=f"c{i}") for i in range(150)]
        assert sum(len(each) for each in given_out) == 100
        reply = await workers[0].decisions.decide(workers[0].request("voucher", explain="reasons"))
        removed = {each.action: (each.reason, each.detail) for each in reply.explanation.removed}
        assert removed["voucher"] == ("budget_spent", "vouchers/units: nothing is left until 2027-01-15T08:10:00Z")
        assert await shop.spent() == {shop.window(UNITS): 100}
        shop.clock.advance(600_000)
        assert await given(workers[1], "voucher") == ["voucher"], "another window"

    play(story)


def test_a_hundred_at_once_share_the_round_trips_and_all_get_theirs() -> None:
    async def story(shop: Shop, worker: Worker, _other: Worker) -> None:
        replies = await asyncio.gather(*(given(worker, "voucher", customer=f"c{i}") for i in range(100)))
        assert replies == [["voucher"]] * 100
        assert worker.budgets.asked <= 4  # two resources, and some came while it was being asked

    play(story)


def test_with_a_lease_in_hand_nobody_is_asked() -> None:
    async def story(shop: Shop, worker: Worker, _other: Worker) -> None:
        for i in range(50):
            await given(worker, "voucher", customer=f"c{i}")
        assert worker.budgets.asked <= 12, "half a percent of 10,000 at a time, and one grant of money"

    play(story, units=10_000)


def test_too_little_in_hand_is_not_taken_for_all_there_is() -> None:
    async def story(shop: Shop, worker: Worker, _other: Worker) -> None:
        assert await given(worker, "small") == ["small"]
        purse = worker.ledger.purse(shop.plan.placements["hero"].budgets, worker.now_ms())
        assert 0 < purse[MONEY] < money(25)
        assert await given(worker, "large") == ["large"]
        assert await given(worker, "voucher", "large", "small", slots=3) == ["small", "large", "voucher"]

    play(story)


def test_a_slate_holds_no_more_than_can_be_paid() -> None:
    async def story(shop: Shop, worker: Worker, _other: Worker) -> None:
        assert await given(worker, "voucher", "large", "small", slots=3) == ["small", "large"]
        assert await given(worker, "voucher", "large", "small", customer="ben", slots=3) == ["small"]
        assert await shop.spent() == {shop.window(UNITS): 1, shop.window(MONEY): money(31)}
        assert await given(worker, "voucher", "large", "small", customer="cleo", slots=3) == []

    play(story, units=1, money=31)


def test_what_a_conflict_stopped_is_not_spent() -> None:
    async def story(shop: Shop, worker: Worker, other: Worker) -> None:
        replies = await asyncio.gather(*(given(w, "voucher") for w in (worker, other) for _ in range(4)))
        assert replies == [["voucher"]] * 8
        assert await shop.spent() == {shop.window(UNITS): 8}
        assert await settled(shop, worker, other) == {UNITS: 8}
        assert len({entry.state_version for entry in await shop.entries()}) == 8

    play(story, units=8)


def test_a_repeated_request_is_paid_once() -> None:
    async def story(shop: Shop, worker: Worker, other: Worker) -> None:
        asks = [w.decisions.decide(w.request("voucher", request_id="r")) for w in (worker, other) for _ in range(5)]
        assert len({reply.decision_id for reply in await asyncio.gather(*asks)}) == 1
        assert await settled(shop, worker, other) == {UNITS: 1}

    play(story)


@pytest.mark.parametrize("applied", [False, True])
def test_a_commit_without_an_answer_counts_as_spent_until_the_truth_is_looked_up(applied: bool) -> None:
    async def story(shop: Shop, worker: Worker, _other: Worker) -> None:
        assert await given(worker, "voucher") == ["voucher"]
        if applied:
            shop.store.failing_commits_after = 1
        else:
            shop.store.failing_commits_before = 1
        assert (await worker.decide("ben", "voucher")).degraded == ("state_unavailable",)
        assert await given(worker, "voucher", customer="cleo") == [], "the second of two may have been spent"
        await worker.tend()
        shop.clock.advance(AGAIN_MS)
        assert await given(worker, "voucher", customer="cleo") == ([] if applied else ["voucher"])
        assert await settled(shop, worker) == {UNITS: 2}
        assert await shop.spent() == {shop.window(UNITS): 2}

    play(story, units=2)


def test_a_cancelled_decision_counts_as_spent_until_the_truth_is_looked_up() -> None:
    async def story(shop: Shop, worker: Worker, _other: Worker) -> None:
        assert await given(worker, "voucher") == ["voucher"]
        waiting = asyncio.Event()

        async def forever() -> None:
            if shop.store._logs and any(lease.flying for lease in worker.ledger._leases.values()):
                waiting.set()
                await asyncio.Event().wait()

        worker.after = forever
        task = asyncio.create_task(worker.decide("ben", "voucher"))
        await waiting.wait()
        task.cancel()
        await asyncio.wait({task})
        worker.after = _nothing
        assert await settled(shop, worker) == {UNITS: 2}, "it was committed"

    play(story, units=5)


def test_an_idle_lease_goes_back_and_a_used_one_is_prolonged() -> None:
    async def story(shop: Shop, worker: Worker, other: Worker) -> None:
        assert await given(worker, "voucher") == ["voucher"]
        first = (await shop.budgets.book(shop.window(UNITS))).leases.keys()
        for _ in range(30):
            shop.clock.advance(RENEW_MS // 3)
            await worker.tend()
            await asyncio.sleep(0.001)
            assert await given(worker, "voucher") == ["voucher"]
        assert (await shop.budgets.book(shop.window(UNITS))).leases.keys() == first, "one all the time"
        held = shop.budgets._leases[shop.window(UNITS)].values()
        assert [lease.ends_ms > shop.clock.now_ms() for lease in held] == [True]
        assert await given(other, "voucher") == ["voucher"]
        shop.clock.advance(IDLE_MS)
        await worker.tend()
        await other.tend()
        assert await shop.budgets.book(shop.window(UNITS)) == Book(32, {})
        assert await given(worker, "voucher") == ["voucher"], "there is plenty: it may be had at once"

    play(story, units=100_000)


def test_a_lease_on_its_way_is_not_given_back() -> None:
    async def story(shop: Shop, worker: Worker, _other: Worker) -> None:
        uses = shop.plan.placements["hero"].budgets
        await worker.ledger.fill(uses, 1, worker.now_ms(), 1_000)
        spent = worker.ledger.take(uses, ["voucher", ""], worker.now_ms())
        for _ in range(3):
            shop.clock.advance(IDLE_MS)
            await worker.tend()
        assert (await shop.budgets.book(shop.window(UNITS))).leases.keys() == {spent[0].lease}
        worker.ledger.settle_commit(spent, Verdict.STALE)
        await worker.tend()
        assert await shop.budgets.book(shop.window(UNITS)) == Book(0, {})

    play(story)


def test_a_lease_taken_back_from_a_sleeper_pays_for_nothing_more() -> None:
    async def story(shop: Shop, sleeper: Worker, other: Worker) -> None:
        assert await given(sleeper, "voucher") == ["voucher"]
        await sleeper.ledger.fill(shop.plan.placements["hero"].budgets, 3, sleeper.now_ms(), 1_000)
        held = (await shop.budgets.book(shop.window(UNITS))).leases
        shop.clock.advance(LEASE_MS)
        count = 0
        for i in range(30):
            count += len(await given(other, "voucher", customer=f"c{i}"))
            await other.tend()
            shop.clock.advance(AGAIN_MS)
        assert count == 9, "all but the one that was spent"
        assert await given(sleeper, "voucher", customer="ben") == [], "it decides again, without"
        assert await shop.spent() == {shop.window(UNITS): 10}
        assert other.ledger._orphans == {}
        assert not held.keys() & (await shop.budgets.book(shop.window(UNITS))).leases.keys()
        assert await settled(shop, sleeper, other) == {UNITS: 10}

    play(story, units=10)


def test_a_spent_budget_is_asked_for_again_now_and_then() -> None:
    async def story(shop: Shop, worker: Worker, other: Worker) -> None:
        assert await given(other, "voucher", customer="ben") == ["voucher"]
        assert await given(other, "voucher", customer="ben") == ["voucher"]
        asked = worker.budgets.asked
        for i in range(10):
            assert await given(worker, "voucher", customer=f"c{i}") == []
        assert worker.budgets.asked <= asked + 2
        await other.ledger.close()
        shop.clock.advance(AGAIN_MS)
        assert await given(worker, "voucher") == []

    play(story, units=2)


def test_crumbs_in_many_hands_come_together() -> None:
    async def story(shop: Shop, *workers: Worker) -> None:
        uses = [use for use in shop.plan.placements["hero"].budgets if use.plan.resource == MONEY]
        for worker in workers:
            await worker.ledger._ask(uses[0].plan, money(15), worker.now_ms(), 1_000.0)
        purses = [worker.ledger.purse(tuple(uses), worker.now_ms()) for worker in workers]
        assert purses == [{MONEY: money(15)}] * 2, "nobody can pay for what costs 25"
        got = []
        for turn in range(60):
            got += await given(workers[turn % 2], "large", customer=f"c{turn}")
            for worker in workers:
                await worker.tend()
            shop.clock.advance(150)
        assert got == ["large"]

    play(story, money=30)


def test_a_release_that_lowers_the_total_stops_the_spending() -> None:
    async def story(shop: Shop, *workers: Worker) -> None:
        for turn in range(40):
            assert await given(workers[turn % 2], "voucher", customer=f"c{turn}") == ["voucher"]
        for worker in workers:
            await worker.ledger.fill(shop.plan.placements["hero"].budgets, 30, worker.now_ms(), 1_000)
        shop.publish(budget_plan(40, release=2))
        for turn in range(60):
            await given(workers[turn % 2], "voucher", customer=f"d{turn}")
            for worker in workers:
                await worker.tend()
            shop.clock.advance(AGAIN_MS)
        assert await shop.spent() == {shop.window(UNITS): 40}, "what is in hand is not spent any more"
        shop.publish(budget_plan(60, release=3))
        for turn in range(30):
            await given(workers[turn % 2], "voucher", customer=f"e{turn}")
            for worker in workers:
                await worker.tend()
            shop.clock.advance(AGAIN_MS)
        assert await shop.spent() == {shop.window(UNITS): 60}

    play(story, units=1_000)


def test_a_release_that_changes_nothing_keeps_the_leases() -> None:
    async def story(shop: Shop, worker: Worker, _other: Worker) -> None:
        await given(worker, "voucher")
        leases = (await shop.budgets.book(shop.window(UNITS))).leases
        shop.publish(budget_plan(1_000, release=2))
        await worker.tend()
        await given(worker, "voucher")
        assert (await shop.budgets.book(shop.window(UNITS))).leases == leases

    play(story, units=1_000)


def test_a_release_that_changes_the_windows_spends_from_the_new_ones() -> None:
    async def story(shop: Shop, worker: Worker, _other: Worker) -> None:
        await given(worker, "voucher")
        before = shop.window(UNITS)
        shop.publish(budget_plan(release=2, per="20m"))
        await given(worker, "voucher")
        await given(worker, "voucher")
        assert await settled(shop, worker) == {UNITS: 2}
        assert await shop.budgets.book(before) == Book(1, {})

    play(story)


@pytest.mark.parametrize("after", [False, True])
def test_a_grant_without_an_answer_loses_nothing(after: bool) -> None:
    async def story(shop: Shop, worker: Worker, _other: Worker) -> None:
        if after:
            worker.after = lost
        else:
            worker.before = lost
        uses = shop.plan.placements["hero"].budgets
        await worker.ledger.fill(uses, 1, worker.now_ms(), 1_000)
        assert worker.ledger.purse(uses, worker.now_ms()) == {UNITS: 0, MONEY: 0}
        worker.before = worker.after = _nothing
        assert not worker.ledger.falls_short(uses, 1, worker.now_ms()), "not at once"
        shop.clock.advance(AGAIN_MS)
        count = 0
        for turn in range(12):
            count += len(await given(worker, "voucher", customer=f"c{turn}"))
            await worker.tend()
            shop.clock.advance(AGAIN_MS)
        assert count == 3
        assert await settled(shop, worker) == {UNITS: 3}

    play(story, units=3)


def test_a_fill_that_is_late_is_not_waited_for() -> None:
    async def story(shop: Shop, worker: Worker, _other: Worker) -> None:
        late = asyncio.Event()

        async def wait() -> None:
            await late.wait()

        worker.budgets.before = wait
        uses = shop.plan.placements["hero"].budgets
        await worker.ledger.fill(uses, 1, worker.now_ms(), 20)
        assert worker.ledger.purse(uses, worker.now_ms()) == {UNITS: 0, MONEY: 0}
        late.set()
        await asyncio.sleep(0.01)
        assert worker.ledger.purse(uses, worker.now_ms()) == {UNITS: 1, MONEY: money(25)}

    play(story)


def test_more_than_the_purse_holds_cannot_be_taken() -> None:
    async def story(shop: Shop, worker: Worker, _other: Worker) -> None:
        uses = shop.plan.placements["hero"].budgets
        with pytest.raises(RuntimeError, match="not in the purse"):
            worker.ledger.take(uses, ["voucher"], worker.now_ms())
        await worker.ledger.fill(uses, 1, worker.now_ms(), 1_000)
        before = worker.ledger.purse(uses, worker.now_ms())
        with pytest.raises(RuntimeError, match="not in the purse"):
            worker.ledger.take(uses, ["large", "voucher"], worker.now_ms())
        assert worker.ledger.purse(uses, worker.now_ms()) == before, "nothing is taken"
        with pytest.raises(RuntimeError, match="not in the purse"):
            worker.ledger.take(uses, ["voucher"], worker.now_ms() + 600_000)
        assert worker.ledger.take(uses, ["tips", ""], worker.now_ms()) == ()
        assert worker.ledger.take(uses, ["voucher"], worker.now_ms())[0] == Spent(
            UNITS, next(iter((await shop.budgets.book(shop.window(UNITS))).leases)), 1
        )

    play(story)


def test_without_a_ledger_budgets_bound_nothing() -> None:
    async def story(shop: Shop, worker: Worker, _other: Worker) -> None:
        worker.decisions._ledger = None
        for i in range(5):
            assert await given(worker, "voucher", customer=f"c{i}") == ["voucher"]
        assert dict(NO_BUDGETS) == {}

    play(story, units=1)


async def _nothing() -> None:
    await asyncio.sleep(0)
