import time

from benchmarks.race import FEWEST_OF_THE_SLOW, Pace, race


def test_contenders_take_turns_and_a_different_one_begins() -> None:
    order: list[str] = []
    pace = Pace(seconds=0, fewest=3, most=3, sample=0)
    seconds = race({name: lambda name=name: order.append(name) for name in "abc"}, pace)
    assert order[:3] == list("abc")  # to find out how long each takes
    assert order[3:] == list("abcbcacab")
    assert {name: len(times) for name, times in seconds.items()} == {"a": 3, "b": 3, "c": 3}


def test_short_calls_are_repeated_and_told_per_call() -> None:
    pace = Pace(seconds=0, fewest=2, most=2, sample=0.02)
    calls = 0

    def run() -> None:
        nonlocal calls
        calls += 1
        time.sleep(0.002)

    (times,) = race({"a": run}, pace).values()
    assert calls > 8
    assert all(0.0015 < second < 0.02 for second in times)


def test_the_slow_drop_out_and_the_others_go_on() -> None:
    pace = Pace(seconds=0.05, fewest=6, most=6, sample=0)
    seconds = race({"slow": lambda: time.sleep(0.03), "fast": lambda: None}, pace)
    assert len(seconds["slow"]) == FEWEST_OF_THE_SLOW
    assert len(seconds["fast"]) == 6


def test_rounds_fill_the_time() -> None:
    pace = Pace(seconds=0.2, fewest=1, most=1000, sample=0)
    (times,) = race({"a": lambda: time.sleep(0.01)}, pace).values()
    assert 5 < len(times) <= 20
