from skysail_frontend.core.batching.closed_loop import ClosedLoop

LATENCY_S = 0.02


def learned(share_of_8: int, took_s: float, rounds: int = 20) -> ClosedLoop:
    """Return what is learned where so many of 8 came back after a while; the last round is at 0."""
    closed_loop = ClosedLoop()
    for index in range(rounds, 0, -1):
        closed_loop.observe_result(8, LATENCY_S, -float(index))
        for _ in range(share_of_8):
            closed_loop.observe_arrival(1, -index + took_s)
    closed_loop.observe_result(8, LATENCY_S, 0.0)
    return closed_loop


def test_nothing_is_expected_before_anything_was_answered():
    assert ClosedLoop().expected_returns(0.0) == (0.0, 0.0)


def test_what_came_back_each_time_is_expected_again_for_a_little_longer_than_it_took():
    rows, until = learned(8, 0.004).expected_returns(0.0)
    assert 7.5 < rows <= 8
    assert 0.004 < until < 0.006


def test_a_part_that_comes_back_is_expected_in_part():
    rows, _ = learned(4, 0.004).expected_returns(0.0)
    assert 3.5 < rows <= 4


def test_what_came_before_the_answer_did_not_come_back():
    closed_loop = learned(8, 0.004)
    closed_loop.observe_arrival(8, -0.001)
    assert closed_loop.expected_returns(0.001)[0] > 7.5


def test_what_has_come_back_is_expected_no_more():
    closed_loop = learned(8, 0.004)
    closed_loop.observe_arrival(6, 0.001)
    rows, until = closed_loop.expected_returns(0.001)
    assert 1.5 < rows <= 2
    assert until > 0.004
    closed_loop.observe_arrival(2, 0.002)
    assert closed_loop.expected_returns(0.002)[0] == 0.0


def test_after_the_time_nothing_is_expected():
    assert learned(8, 0.004).expected_returns(0.01) == (0.0, 0.01)


def test_what_comes_much_later_is_no_return():
    closed_loop = learned(8, 0.9 * LATENCY_S)
    assert closed_loop.expected_returns(0.0) == (0.0, 0.0)


def test_it_is_forgotten_when_callers_come_back_no_more():
    closed_loop = learned(8, 0.004)
    for index in range(1, 20):
        closed_loop.observe_result(8, LATENCY_S, float(index))
    assert closed_loop.expected_returns(19.0)[0] < 0.2
