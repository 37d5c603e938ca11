from hypothesis import given
from hypothesis import strategies as st

from sercache.cache import mapping as lookahead
from sercache.cache.mapping import LOOK_AHEAD, PrefetchThrottle, look_ahead


@given(count=st.integers(0, 30))
def test_every_batch_is_announced_once_and_never_after_its_turn(count):
    announced = []
    for batch, coming in look_ahead(range(count)):
        announced += coming
        assert announced == list(range(min(count, batch + LOOK_AHEAD + 1)))
    assert announced == list(range(count))


def test_announcements_become_rare_while_nothing_comes_from_disk_and_return_when_something_does(
    monkeypatch,
):
    usage = type("Usage", (), {"ru_inblock": 7, "ru_majflt": 1})()
    monkeypatch.setattr(lookahead.resource, "getrusage", lambda who: usage)
    watch = PrefetchThrottle()
    first = [watch.count_and_decide() for _ in range(8)]
    later = [watch.count_and_decide() for _ in range(640)]
    assert all(first)
    assert sum(later) == 10
    usage.ru_majflt += 1
    assert all(watch.count_and_decide() for _ in range(8))
    usage.ru_inblock += 8
    assert watch.count_and_decide()
