"""`no_grad` and `implementation` hold where their block stands: in generators, coroutines and tasks, nowhere else."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tinygpt import Tensor, implementation, no_grad
from tinygpt.runtime.settings import current_implementation

X = Tensor(np.array([2.0, 3.0]), requires_grad=True)


def recording() -> bool:
    return (X * 2).requires_grad


@pytest.fixture(autouse=True)
def default_implementation():
    """Whatever the tests as a whole run with; and a fixture is a generator that hands its block over."""
    with implementation("kernels"):
        yield
    assert recording()


def plain_block():
    with no_grad(), implementation("numpy"):
        for _ in range(3):
            yield recording(), current_implementation()


@no_grad()
@implementation("numpy")
def decorated():
    for _ in range(3):
        yield recording(), current_implementation()


@contextlib.contextmanager
def hands_over():
    with no_grad(), implementation("numpy"):
        yield


INSIDE, OUTSIDE = (False, "numpy"), (True, "kernels")


def here():
    return recording(), current_implementation()


# generators


@pytest.mark.parametrize("make", [plain_block, decorated])
def test_a_generators_block_holds_inside_it_and_not_in_its_consumer(make):
    seen = [(item, here()) for item in make()]
    assert seen == [(INSIDE, OUTSIDE)] * 3
    assert here() == OUTSIDE


@pytest.mark.parametrize("make", [plain_block, decorated])
def test_generators_that_end_in_any_order_leave_nothing_behind(make):
    first, second, third = make(), make(), make()
    assert [next(first), next(second), next(third)] == [INSIDE] * 3
    first.close()
    assert (next(second), here()) == (INSIDE, OUTSIDE)
    with pytest.raises(KeyError):
        third.throw(KeyError)
    del second
    gc.collect()
    assert here() == OUTSIDE


@pytest.mark.parametrize("make", [plain_block, decorated])
def test_a_generator_may_be_resumed_by_another_thread(make):
    items = make()
    assert next(items) == INSIDE
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(next, items).result() == INSIDE
        assert pool.submit(here).result() == OUTSIDE
    assert next(items) == INSIDE
    assert next(items, "end") == "end"


def test_a_block_around_a_resumption_is_the_outer_one():
    def checking():
        with implementation("check"):
            yield current_implementation()
            with implementation("numpy"):
                yield current_implementation()
            yield current_implementation()

    items = checking()
    with implementation("numpy"):
        assert next(items) == "check" and current_implementation() == "numpy"
        assert next(items) == "numpy"
        assert next(items) == "check" and current_implementation() == "numpy"
    assert here() == OUTSIDE


def test_a_block_inside_a_function_that_a_generator_calls_is_the_inner_one():
    def asked():
        with implementation("numpy"):
            return current_implementation()

    def checking():
        with implementation("check"):
            yield asked(), current_implementation()

    assert list(checking()) == [("numpy", "check")]


def test_a_context_manager_made_of_a_generator_hands_its_block_over():
    with hands_over():
        assert here() == INSIDE
    with contextlib.ExitStack() as stack:
        stack.enter_context(hands_over())
        stack.enter_context(no_grad())
        assert here() == INSIDE
    assert here() == OUTSIDE

    def generator():
        with hands_over():
            yield here()
            yield here()

    items = generator()
    assert (next(items), here(), next(items), here()) == (INSIDE, OUTSIDE, INSIDE, OUTSIDE)


def test_a_decorated_generator_receives_what_is_sent_and_thrown_and_returns():
    @no_grad()
    def echo():
        got = []
        while True:
            try:
                value = yield recording()
            except ValueError:
                return got
            got.append(value)

    items = echo()
    next(items)
    assert items.send("a") is False
    with pytest.raises(StopIteration) as stopped:
        items.throw(ValueError)
    assert stopped.value.value == ["a"]


# tasks and coroutines


def test_tasks_that_overlap_do_not_see_each_others_blocks():
    async def task(seconds, name):
        with implementation(name), no_grad():
            await asyncio.sleep(seconds)
            return recording(), current_implementation()

    @no_grad()
    async def coroutine(seconds):
        await asyncio.sleep(seconds)
        return recording(), current_implementation()

    async def main():
        seen = await asyncio.gather(
            task(0.02, "numpy"), task(0.001, "check"), coroutine(0.01), asyncio.sleep(0, here())
        )
        return [*seen, here()]

    expected = [(False, "numpy"), (False, "check"), (False, "kernels"), OUTSIDE, OUTSIDE]
    assert asyncio.run(main()) == expected
    assert here() == OUTSIDE


def test_one_block_object_may_serve_several_tasks_and_threads():
    quiet = no_grad()

    async def task(seconds):
        with quiet:
            await asyncio.sleep(seconds)
            return recording()

    async def main():
        inside = await asyncio.gather(task(0.02), task(0.001), task(0.01))
        return inside, recording()

    assert asyncio.run(main()) == ([False] * 3, True)


def test_an_async_generators_block_stays_inside_it():
    async def plain():
        with no_grad():
            for _ in range(2):
                await asyncio.sleep(0)
                yield recording()

    @no_grad()
    async def wrapped():
        for _ in range(2):
            await asyncio.sleep(0)
            yield recording()

    async def main():
        seen = []
        for items in (plain(), wrapped()):
            async for item in items:
                seen.append((item, recording()))
        unfinished = wrapped()
        await unfinished.__anext__()
        await unfinished.aclose()
        return seen, recording()

    assert asyncio.run(main()) == ([(False, True)] * 4, True)


def test_to_thread_and_inner_tasks_inherit_and_new_threads_do_not():
    async def child():
        return recording()

    async def main():
        loop, seen = asyncio.get_running_loop(), []
        with no_grad():
            seen.append(await asyncio.to_thread(recording))
            seen.append(await asyncio.create_task(child()))
            seen.append(await loop.run_in_executor(None, recording))
            thread = threading.Thread(target=lambda: seen.append(recording()))
            thread.start()
            thread.join()
        return seen

    assert asyncio.run(main()) == [False, False, True, True]


def test_the_threads_of_a_batch_use_the_callers_implementation(monkeypatch):
    from tinygpt import Tokenizer

    tokenizer, seen = Tokenizer([bytes([byte]) for byte in range(256)], [], {}), []
    monkeypatch.setattr(tokenizer, "encode", lambda text, **names: seen.append(current_implementation()))
    with implementation("numpy"):
        tokenizer.encode_batch(["a"] * 20)
    assert seen == ["numpy"] * 20


# our own generators


def test_the_generators_of_the_package_leave_the_consumers_setting_alone():
    from tinygpt import GPT, GPTConfig

    model = GPT(GPTConfig(vocab_size=11, n_positions=8, n_embd=4, n_layer=1, n_head=2), seed=1)
    for _ in model.generate([1, 2], max_tokens=3, seed=0):
        loss = model.loss([[1, 2]], [[2, 3]])
        assert loss.requires_grad
        loss.backward()
