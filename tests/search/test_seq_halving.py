"""The halving schedule, as tables."""

import pytest

from ezm_lightning.search import considered_visits, halving_rounds

# (num_simulations, max_num_considered_actions) -> sequence; the first rows are those of mctx's own test
SEQUENCES = {
    (8, 1): (0, 1, 2, 3, 4, 5, 6, 7),
    (8, 2): (0, 0, 1, 1, 2, 2, 3, 3),
    (8, 3): (0, 0, 0, 1, 1, 2, 2, 3),
    (8, 4): (0, 0, 0, 0, 1, 1, 2, 2),
    (8, 8): (0, 0, 0, 0, 0, 0, 0, 0),
    (4, 8): (0, 0, 0, 0),
    (16, 8): (0,) * 8 + (1,) * 4 + (2, 2, 3, 3),
    (1, 16): (0,),
}
ROUNDS = {
    (32, 16): (16, 8, 4, 4),
    (32, 8): (8, 4, 4, 2, 2, 2, 2, 2, 2, 2, 2),
    (16, 8): (8, 4, 2, 2),
    (64, 16): (16, 8, 8, 4, 4, 4, 4) + (2,) * 8,
    (8, 8): (8,),
    (20, 16): (16, 4),
    (9, 2): (2, 2, 2, 2, 1),
    (3, 1): (1, 1, 1),
}


@pytest.mark.parametrize(("budget", "expected"), SEQUENCES.items())
def test_sequence(budget, expected):
    assert considered_visits(*budget) == expected


@pytest.mark.parametrize(("budget", "expected"), ROUNDS.items())
def test_rounds(budget, expected):
    assert halving_rounds(*budget) == expected


def test_a_candidate_considered_in_round_r_has_r_visits():
    for simulations in range(1, 70):
        for considered in range(1, 20):
            sequence, rounds = considered_visits(simulations, considered), halving_rounds(simulations, considered)
            assert sum(rounds) == len(sequence) == simulations
            assert sequence == tuple(r for r, k in enumerate(rounds) for _ in range(k))
            assert list(rounds) == sorted(rounds, reverse=True)


def test_it_is_the_sequence_of_mctx():
    mctx = pytest.importorskip("mctx", reason="mctx is not installed (extra `oracle`)")
    sequence = mctx._src.seq_halving.get_sequence_of_considered_visits
    for simulations in (1, 5, 8, 16, 32, 33, 50, 64):
        for considered in range(1, 34):
            assert considered_visits(simulations, considered) == sequence(considered, simulations)


def test_a_budget_of_nothing_is_refused():
    with pytest.raises(ValueError, match="num_simulations=0"):
        considered_visits(0, 4)
