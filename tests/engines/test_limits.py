from __future__ import annotations

from itertools import pairwise

from comic_upscale.engines.limits import BATCHES_BEFORE_GROWTH, Limits

GIB = 2**30


def test_a_measured_device_takes_one_until_it_has_measured() -> None:
    limits = Limits("cuda", batch=None, tile=None, measured=True)
    assert limits.batch(768, 512, 100 * GIB) == 1
    assert limits.wants(768 * 512)
    limits.learn(768 * 512, 768 * 512 * 1000)
    assert not limits.wants(768 * 512)
    assert limits.batch(768, 512, 100 * GIB) == 10
    assert limits.batch(64, 64, 100 * GIB) == 32
    assert limits.batch(768, 512, GIB) == 2
    assert limits.batch(768, 512, 0) == 1


def test_a_cpu_takes_one_and_cuts_alike_whatever_its_memory() -> None:
    limits = Limits("cpu", batch=None, tile=None, measured=False)
    assert limits.batch(64, 64, None) == 1
    assert limits.longest(100, 100) is None
    assert limits.longest(3000, 2000) == limits.longest(768, 512) is not None


def test_a_huge_page_leaves_less_memory_to_its_windows() -> None:
    limits = Limits("cpu in strips", batch=None, tile=None, measured=False)
    assert limits.longest(1400, 1400) is None
    assert limits.longest(4000, 4000) == 1448
    assert limits.longest(5000, 5000) == 724


def test_the_user_decides() -> None:
    limits = Limits("cpu", batch=5, tile=128, measured=False)
    assert limits.batch(768, 512, None) == 5
    assert limits.longest(64, 64) == 128
    assert Limits("cpu", batch=None, tile=0, measured=False).longest(9999, 9999) is None


def test_out_of_memory_halves_the_batch_and_then_the_window() -> None:
    limits = Limits("cpu", batch=8, tile=512, measured=False)
    assert limits.shrink(8, 512, 512)
    assert limits.batch(512, 512, None) == 4
    assert limits.batch(256, 256, None) == 8
    assert limits.shrink(4, 512, 512)
    assert limits.shrink(2, 512, 512)
    assert limits.batch(512, 512, None) == 1
    assert limits.longest(4000, 4000) == 512
    sides = []
    while limits.shrink(1, *(limits.longest(4000, 4000) or 0,) * 2):
        sides.append(limits.longest(4000, 4000))
    assert sides == [256, 128, 64]


def test_windows_that_cannot_be_made_smaller_end_the_search() -> None:
    limits = Limits("cpu", batch=None, tile=None, measured=False)
    for _ in range(10):
        if not limits.shrink(1, 700, 700):
            return
    raise AssertionError("the search goes on for ever")


def test_a_page_that_is_never_to_be_cut_is_not() -> None:
    limits = Limits("cpu", batch=None, tile=0, measured=False)
    assert not limits.shrink(1, 4000, 4000)


def test_no_tensor_has_more_elements_than_an_index_can_tell() -> None:
    # RRDB of x4: 64 features at the native size.
    limits = Limits("cuda", batch=None, tile=None, measured=True, widest=64 * 16)
    limits.learn(768 * 512, 768 * 512)
    assert limits.batch(768, 512, 100 * GIB) == 5
    assert limits.longest(1024, 1024) is None
    longest = limits.longest(2000, 1500)
    assert longest is not None
    assert 1400 < longest < 1449
    # What the user says is bounded by it, too; a page that is never to be cut goes whole.
    assert Limits("cuda", batch=99, tile=None, measured=True, widest=1024).batch(768, 512, None) == 5
    assert Limits("cuda", batch=None, tile=4000, measured=True, widest=1024).longest(5000, 5000) == 1448
    assert Limits("cuda", batch=None, tile=0, measured=True, widest=1024).longest(5000, 5000) is None
    # A compact network, at the size of the input, is bounded by its constants first.
    narrow = Limits("cuda", batch=None, tile=None, measured=True, widest=64)
    narrow.learn(768 * 512, 768 * 512)
    assert narrow.batch(768, 512, 100 * GIB) == 10
    assert narrow.longest(2000, 2000) is None


def test_limits_return_after_many_batches_that_fit() -> None:
    limits = Limits("cuda", batch=8, tile=512, measured=False)
    for count in (8, 4, 2):
        assert limits.shrink(count, 512, 512)
    assert limits.shrink(1, 512, 512)
    seen = []
    for _ in range(6 * BATCHES_BEFORE_GROWTH):
        state = (limits.longest(4000, 4000), limits.batch(512, 512, None))
        if not seen or seen[-1] != state:
            seen.append(state)
        limits.record_success(1, 256, 256)
    assert seen == [(256, 1), (512, 1), (512, 2), (512, 4), (512, 8)]


def test_limits_that_are_still_right_are_tried_ever_more_rarely() -> None:
    limits = Limits("cuda", batch=8, tile=512, measured=False)
    failures = []
    for number in range(8 * BATCHES_BEFORE_GROWTH):
        count = limits.batch(512, 512, None)
        if count > 4:
            assert limits.shrink(count, 512, 512)
            failures.append(number)
        else:
            limits.record_success(count, 512, 512)
    gaps = [later - earlier for earlier, later in pairwise(failures)]
    assert gaps == [BATCHES_BEFORE_GROWTH + 1, 2 * BATCHES_BEFORE_GROWTH + 1, 4 * BATCHES_BEFORE_GROWTH + 1]


def test_only_a_size_that_fitted_since_the_last_error_has_worked() -> None:
    limits = Limits("cuda", batch=8, tile=512, measured=False)
    assert not limits.has_worked(1, 64, 64)
    limits.record_success(4, 512, 512)
    assert limits.has_worked(4, 512, 512)
    assert limits.has_worked(16, 256, 256)
    assert not limits.has_worked(5, 512, 512)
    limits.shrink(8, 512, 512)
    assert not limits.has_worked(1, 64, 64)
