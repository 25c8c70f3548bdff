"""The false-state rate: how often truth says what is not so, over many simulated lives.

``python tests/fleet/false_state.py [LIVES]`` prints a table. A verdict is *wrong* when it is definite
and the agent was in that state at no moment of the last ``ALLOWANCE_MS`` (the time that news takes:
delivery, one reading of the status file, settling), or since the box could not be reached plus the
silence that truth allows. ``unknown`` is counted apart: it is honest, but of no use.
"""

from __future__ import annotations

import sys
from bisect import bisect_right
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).parent))

from simulated_agent import POLL_MS, Delivery, Life, SimulatedAgent, State

from thopter.fleet.evidence_window import prune
from thopter.fleet.truth import TruthLimits, fold
from thopter.model.evidence import Evidence, Verdict

LIMITS = TruthLimits()
SAMPLES = 40
WAYS = {
    "lossless, in time": Delivery(lag=200, twice=0.0),
    "lossless, late, reordered, repeated": Delivery(lag=4_000, twice=0.2),
    "lossless, journal shuffled too": Delivery(lag=4_000, twice=0.2, in_order=False),
    "1 % lost": Delivery(lag=4_000, twice=0.2, lost=0.01),
    "10 % lost": Delivery(lag=4_000, twice=0.2, lost=0.1),
    "half lost": Delivery(lag=4_000, twice=0.2, lost=0.5),
}


@dataclass
class Rates:
    """Counts over samples; ``wrong`` keeps an example each for the curious."""

    lives: int = 0
    samples: int = 0
    wrong: int = 0
    unknown: int = 0
    unknown_reached: int = 0
    examples: list[str] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)


def allowance(delivery: Delivery) -> int:
    """How old a verdict may be and still be called true."""
    return 2 * delivery.lag + POLL_MS + LIMITS.idle_ms + 1_000


def said(verdict: Verdict) -> State:
    """Return the verdict in the simulation's words."""
    return (verdict.state.value, verdict.reason.value if verdict.reason else "")


def judge(
    window: tuple[Evidence, ...], life: Life, now: int, delivery: Delivery
) -> tuple[State, bool, set[State]]:
    """Return the verdict at ``now``, whether it is wrong, and what would have been right."""
    state = said(fold(window, now))
    begin = now - allowance(delivery)
    for away_from, away_to in sorted(life.away, key=lambda span: span[1], reverse=True):
        if away_from <= now and begin <= away_to:
            begin = min(begin, away_from - allowance(delivery))
    right = life.states(begin, now)
    if state[0] == "queued" and not any(t <= begin for t, _ in life.truth):
        return state, False, right
    return state, state[0] != "unknown" and state not in right, right


def run(seed: int, delivery: Delivery, rates: Rates) -> None:
    """Live one life and judge it at random moments and at its end."""
    life = SimulatedAgent(seed, delivery).live()
    rng = Random(seed + 1)
    begin = life.truth[0][0]
    moments = sorted([rng.randrange(begin, life.end) for _ in range(SAMPLES)] + [life.end])
    coming = sorted(life.heard, key=lambda e: e.seen_ms)
    window: tuple[Evidence, ...] = ()
    rates.lives += 1
    for now in moments:
        cut = bisect_right(coming, now, key=lambda e: e.seen_ms)
        window, coming = prune([*window, *coming[:cut]]), coming[cut:]
        state, wrong, right = judge(window, life, now, delivery)
        rates.samples += 1
        if state[0] == "unknown":
            rates.unknown += 1
            reached = not any(a <= now <= b + allowance(delivery) for a, b in life.away)
            rates.unknown_reached += reached
        if wrong:
            rates.wrong += 1
            rates.kinds[f"said {'/'.join(state).rstrip('/')}"] += 1
            if len(rates.examples) < 5 and not any(f"seed {seed} " in x for x in rates.examples):
                rates.examples.append(f"seed {seed} at {now}: said {state}, true {sorted(right)}")


def measure(delivery: Delivery, lives: int, first_seed: int = 0) -> Rates:
    """Judge ``lives`` lives."""
    rates = Rates()
    for seed in range(first_seed, first_seed + lives):
        run(seed, delivery, rates)
    return rates


def main() -> None:
    """Print the table."""
    lives = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    print(f"{lives} lives each, {SAMPLES + 1} samples a life")
    print(f"{'delivery':38} {'wrong':>9} {'unknown':>9} {'... though box reached':>23}")
    for name, delivery in WAYS.items():
        r = measure(delivery, lives)
        shares = [100 * n / r.samples for n in (r.wrong, r.unknown, r.unknown_reached)]
        print(f"{name:38} {shares[0]:8.3f}% {shares[1]:8.2f}% {shares[2]:22.2f}%")
        for example in r.examples if "-v" in sys.argv else []:
            print("   ", example)
        if "-v" in sys.argv:
            print("   ", dict(r.kinds))


if __name__ == "__main__":
    main()
