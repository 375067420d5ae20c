"""Budget and assembler: bounded, fair, and never waiting for what will not come."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from comic_upscale.execution.budget import Budget
from comic_upscale.execution.local.flow import BatchAssembler, BatchLimits


@given(st.lists(st.integers(1, 250), min_size=1, max_size=40))
def test_the_budget_is_never_exceeded_and_everyone_gets_through(costs: list[int]) -> None:
    in_flight = peak = served = 0

    async def page(budget: Budget, cost: int) -> None:
        nonlocal in_flight, peak, served
        taken = await budget.take(cost)
        assert taken == min(cost, 100)
        in_flight += taken
        peak = max(peak, in_flight)
        await asyncio.sleep(0)
        in_flight -= taken
        budget.give_back(taken)
        served += 1

    async def everyone() -> None:
        budget = Budget(100)
        await asyncio.wait_for(asyncio.gather(*(page(budget, cost) for cost in costs)), 5)

    asyncio.run(everyone())
    assert peak <= 100
    assert served == len(costs)


def test_a_large_page_is_not_passed_by_for_ever_by_small_ones() -> None:
    order: list[str] = []

    async def scenario() -> None:
        budget = Budget(10)
        await budget.take(6)

        async def taker(name: str, pixels: int) -> None:
            await budget.take(pixels)
            order.append(name)

        waiting = [asyncio.create_task(taker("large", 10)), asyncio.create_task(taker("small", 1))]
        await asyncio.sleep(0)
        budget.give_back(6)
        await asyncio.sleep(0.01)
        assert order == ["large"]
        budget.give_back(10)
        await asyncio.gather(*waiting)

    asyncio.run(scenario())
    assert order == ["large", "small"]


@given(st.lists(st.sampled_from("abc"), max_size=30), st.integers(1, 5), st.lists(st.booleans(), max_size=30))
def test_every_item_comes_out_once_in_batches_of_one_key(
    keys: list[str], limit: int, pauses: list[bool]
) -> None:
    items = list(enumerate(keys))

    async def scenario() -> list[list[tuple[int, str]]]:
        assembler: BatchAssembler[tuple[int, str]] = BatchAssembler()

        async def fill() -> None:
            for number, item in enumerate(items):
                assembler.add(item[1], item)
                if number < len(pauses) and pauses[number]:
                    await asyncio.sleep(0)
            assembler.close()

        filling = asyncio.create_task(fill())
        batches = []
        while batch := await asyncio.wait_for(assembler.take(lambda _: limit), 5):
            batches.append(batch)
            assembler.done()
        await filling
        return batches

    batches = asyncio.run(scenario())
    assert sorted(item for batch in batches for item in batch) == items
    assert all(len({key for _, key in batch}) == 1 and len(batch) <= limit for batch in batches)


def test_a_full_batch_goes_before_an_older_partial_one() -> None:
    async def scenario() -> list[int]:
        assembler: BatchAssembler[int] = BatchAssembler()
        assembler.add("odd", 0)
        for item in (1, 2, 3):
            assembler.add("even", item)
        return await assembler.take(lambda _: 2)

    assert asyncio.run(scenario()) == [1, 2]


def test_a_device_that_has_work_gets_full_batches_alone() -> None:
    async def scenario() -> None:
        assembler: BatchAssembler[int] = BatchAssembler()
        busy = True

        def take() -> asyncio.Task[list[int]]:
            return asyncio.create_task(assembler.take(lambda _: 2, is_idle=lambda: not busy))

        waiting = take()
        assembler.add("even", 1)
        await asyncio.sleep(0.01)
        assert not waiting.done()
        assembler.add("even", 2)
        assert await asyncio.wait_for(waiting, 5) == [1, 2]
        # One that is short is taken as soon as the device has nothing else to do.
        assembler.add("odd", 3)
        waiting = take()
        await asyncio.sleep(0.01)
        assert not waiting.done()
        busy = False
        assembler.done()
        assert await asyncio.wait_for(waiting, 5) == [3]
        # Once no item follows, no batch fills.
        busy = True
        assembler.add("odd", 4)
        waiting = take()
        await asyncio.sleep(0.01)
        assert not waiting.done()
        assembler.close()
        assert await asyncio.wait_for(waiting, 5) == [4]
        assembler.done()
        assembler.done()
        assert await asyncio.wait_for(take(), 5) == []

    asyncio.run(scenario())


def test_a_batch_size_is_asked_once_for_a_batch_and_may_fall() -> None:
    limits, asked = BatchLimits(), iter((1, 16, 4, 3, 2, 9))
    found = [
        limits.find("page", ended, is_idle=is_idle, ask=lambda: next(asked))
        for ended, is_idle in (
            (0, True),
            (0, False),
            (1, False),
            (1, True),
            (2, False),
            (3, False),
            (4, True),
        )
    ]
    # While the device computes, the last answer counts if it was larger.
    assert found == [1, 1, 16, 16, 16, 4, 2]
    assert limits.find("another", 4, is_idle=False, ask=lambda: 7) == 7


def test_a_device_that_has_work_gets_nothing_that_it_does_not_prefer() -> None:
    async def scenario() -> None:
        assembler: BatchAssembler[int] = BatchAssembler()
        busy = True
        for item in (1, 3):
            assembler.add("odd", item)
        waiting = asyncio.create_task(
            assembler.take(lambda _: 2, prefers=lambda item: item % 2 == 0, is_idle=lambda: not busy)
        )
        await asyncio.sleep(0.01)
        assert not waiting.done()
        assembler.close()
        await asyncio.sleep(0.01)
        assert not waiting.done()
        busy = False
        assembler.done()
        assert await asyncio.wait_for(waiting, 5) == [1, 3]

    asyncio.run(scenario())


def test_what_a_device_could_not_process_comes_again_and_nobody_leaves_before() -> None:
    async def scenario() -> None:
        assembler: BatchAssembler[int] = BatchAssembler()
        for item in (1, 2, 3):
            assembler.add("even", item)
        assembler.add("odd", 4)
        assembler.close()
        assert await assembler.take(lambda _: 2) == [1, 2]
        assert await assembler.take(lambda _: 2) == [4]
        assembler.done()
        assert await assembler.take(lambda _: 2) == [3]
        assembler.done()
        other = asyncio.create_task(assembler.take(lambda _: 2))
        await asyncio.sleep(0)
        assert not other.done()
        assembler.put_back("even", [1, 2])
        assert await asyncio.wait_for(other, 5) == [1, 2]
        assembler.done()
        assert await asyncio.wait_for(assembler.take(lambda _: 2), 5) == []

    asyncio.run(scenario())


def test_a_limit_that_cannot_be_told_takes_nothing() -> None:
    def lost(_: int) -> int:
        raise RuntimeError("the device is lost")

    async def scenario() -> list[int]:
        assembler: BatchAssembler[int] = BatchAssembler()
        assembler.add("even", 1)
        assembler.close()
        try:
            await assembler.take(lost)
        except RuntimeError:
            return await asyncio.wait_for(assembler.take(lambda _: 2), 5)
        raise AssertionError("it did not raise")

    assert asyncio.run(scenario()) == [1]
