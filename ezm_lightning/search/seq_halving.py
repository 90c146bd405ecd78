"""The schedule of sequential halving, as host constants.

Source: Danihelka et al. 2022, "Policy improvement by planning with Gumbel", section 3; the sequence is that of mctx
(``_src/seq_halving.py``), so that both searches visit the same candidates.
"""

import math
from itertools import groupby


def considered_visits(num_simulations: int, max_num_considered_actions: int) -> tuple[int, ...]:
    """The visit count a candidate must have to be chosen, for each simulation.

    Each phase visits its candidates ``max(1, n / (log2(m) * considered))`` times, then halves them (never below two).
    Of the candidates with this count the best one is visited, so that a shortened last round visits the best.
    """
    if num_simulations < 1 or max_num_considered_actions < 1:
        raise ValueError(
            f"num_simulations={num_simulations} and max_num_considered_actions={max_num_considered_actions}: "
            "both must be at least 1"
        )
    if max_num_considered_actions == 1:
        return tuple(range(num_simulations))
    phases = math.ceil(math.log2(max_num_considered_actions))
    considered, visits = max_num_considered_actions, 0
    sequence: list[int] = []
    while len(sequence) < num_simulations:
        for _ in range(max(1, num_simulations // (phases * considered))):
            sequence += [visits] * considered
            visits += 1
        considered = max(2, considered // 2)
    return tuple(sequence[:num_simulations])


def halving_rounds(num_simulations: int, max_num_considered_actions: int) -> tuple[int, ...]:
    """The number of candidates visited in each round; before round r each of these has exactly r visits.

    A round is a run of equal considered visits: 32 simulations over 16 candidates are 16, 8, 4, 4. Only the last
    round may be shortened.
    """
    sequence = considered_visits(num_simulations, max_num_considered_actions)
    return tuple(len(list(run)) for _, run in groupby(sequence))
