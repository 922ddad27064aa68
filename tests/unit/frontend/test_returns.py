from skysail_frontend.core.batching.closed_loop import Returns

LATENCY_S = 0.02


def learned(share_of_8: int, took_s: float, rounds: int = 20) -> Returns:
    """Return what is learned where so many of 8 came back after a while; the last round is at 0."""
    returns = Returns()
    for index in range(rounds, 0, -1):
        returns.answered(8, LATENCY_S, -float(index))
        for _ in range(share_of_8):
            returns.arrived(1, -index + took_s)
    returns.answered(8, LATENCY_S, 0.0)
    return returns


def test_nothing_is_expected_before_anything_was_answered():
    assert Returns().expected(0.0) == (0.0, 0.0)


def test_what_came_back_each_time_is_expected_again_for_a_little_longer_than_it_took():
    rows, until = learned(8, 0.004).expected(0.0)
    assert 7.5 < rows <= 8
    assert 0.004 < until < 0.006


def test_a_part_that_comes_back_is_expected_in_part():
    rows, _ = learned(4, 0.004).expected(0.0)
    assert 3.5 < rows <= 4


def test_what_came_before_the_answer_did_not_come_back():
    returns = learned(8, 0.004)
    returns.arrived(8, -0.001)
    assert returns.expected(0.001)[0] > 7.5


def test_what_has_come_back_is_expected_no_more():
    returns = learned(8, 0.004)
    returns.arrived(6, 0.001)
    rows, until = returns.expected(0.001)
    assert 1.5 < rows <= 2
    assert until > 0.004
    returns.arrived(2, 0.002)
    assert returns.expected(0.002)[0] == 0.0


def test_after_the_time_nothing_is_expected():
    assert learned(8, 0.004).expected(0.01) == (0.0, 0.01)


def test_what_comes_much_later_is_no_return():
    returns = learned(8, 0.9 * LATENCY_S)
    assert returns.expected(0.0) == (0.0, 0.0)


def test_it_is_forgotten_when_callers_come_back_no_more():
    returns = learned(8, 0.004)
    for index in range(1, 20):
        returns.answered(8, LATENCY_S, float(index))
    assert returns.expected(19.0)[0] < 0.2
