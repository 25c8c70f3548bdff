"""Truth, for all histories: order, repetition, time and signs of life; and the false-state rate."""

from __future__ import annotations

from random import Random

import pytest
from evidence_kit import T, ms
from false_state import WAYS, measure
from hypothesis import given
from hypothesis import strategies as st
from simulated_agent import Delivery, Life, SimulatedAgent

from thopter.fleet.evidence_window import admit, clock_offset, is_sign_of_life, prune
from thopter.fleet.truth import fold
from thopter.model.evidence import Evidence, Fact, Source, Verdict

# Close dates, so that ties and near misses of every limit are common.
_dates = st.one_of(st.integers(0, 40), st.integers(0, 40_000), st.sampled_from([0, 2_000, 5_000, 10_000]))
_data = st.fixed_dictionaries(
    {},
    optional={
        "call": st.sampled_from(["a", "b", "c"]),
        "side": st.booleans(),
        "pid": st.sampled_from([1, 2]),
        "code": st.sampled_from([0, 1, -9, "x"]),
        "background": st.sampled_from([0, 1]),
        "prompt": st.booleans(),
        "error": st.sampled_from(["rate_limit", "billing_error", "server_error"]),
    },
)


@st.composite
def _evidence(draw: st.DrawFn) -> Evidence:
    at = draw(_dates)
    return Evidence(
        source=draw(st.sampled_from(list(Source))),
        fact=draw(st.sampled_from(list(Fact))),
        at_ms=T + at,
        seen_ms=T + at + draw(st.sampled_from([0, 0, 3_000, 11_000])),
        data=draw(_data),
    )


histories = st.lists(_evidence(), max_size=24)
moments = st.integers(0, 200_000).map(lambda x: T + x)
seeds = st.integers(0, 100_000)


def lived(seed: int) -> tuple[Life, int, list[Evidence]]:
    """Return a simulated life, a moment in it, and what was heard by then."""
    life = SimulatedAgent(seed, Delivery(lag=4_000, twice=0.2)).live(turns=3)
    now = Random(seed).randrange(life.truth[0][0], life.end)
    return life, now, [e for e in life.heard if e.seen_ms <= now]


@given(histories, moments, st.randoms(use_true_random=False))
def test_order_of_arrival_and_repetition_never_matter(history: list[Evidence], now: int, rng: Random) -> None:
    other = [*history, *rng.choices(history, k=3)] if history else []
    rng.shuffle(other)
    assert fold(other, now) == fold(history, now)


@given(seeds)
def test_order_never_matters_in_a_real_life_either(seed: int) -> None:
    _life, now, heard = lived(seed)
    other = heard * 2
    Random(seed).shuffle(other)
    assert fold(other, now) == fold(heard, now)


@given(histories, histories, moments)
def test_the_window_holds_all_that_truth_looks_at(
    before: list[Evidence], after: list[Evidence], now: int
) -> None:
    assert fold(prune(before), now) == fold(before, now)
    assert prune([*prune(before), *after]) == prune([*before, *after])
    assert fold([*prune(before), *after], now) == fold([*before, *after], now)


@given(seeds)
def test_the_window_is_small_however_long_the_life(seed: int) -> None:
    life = SimulatedAgent(seed, Delivery()).live(turns=40)
    assert len(prune(life.heard)) <= 300


@given(histories, moments, st.integers(0, 10_000_000))
def test_time_alone_leads_to_unknown_at_most(history: list[Evidence], now: int, later: int) -> None:
    first, second = fold(history, now), fold(history, now + later)
    same = (first.state, first.reason, first.since_ms) == (second.state, second.reason, second.since_ms)
    assert second.state == "unknown" or same
    if _only_somebody_ends(first) and not _disputed(history):
        assert same


def _only_somebody_ends(found: Verdict) -> bool:
    return found.state in ("done", "failed", "stopped") or (
        found.state == "waiting" and found.reason != "rate_limit"
    )


def _disputed(history: list[Evidence]) -> bool:
    """Only a status that contradicts a hook may take a finished turn's state away with time."""
    return any(e.fact is Fact.BUSY for e in history)


@given(histories, moments, st.integers(0, 40_000))
def test_heartbeats_never_turn_one_definite_state_into_another(  # T3-076, T3-077
    history: list[Evidence], now: int, at: int
) -> None:
    gone = any(e.fact is Fact.BOX_GONE for e in history)
    beat = Evidence(source=Source.HEARTBEAT, fact=Fact.BOX_ALIVE, at_ms=T + at, seen_ms=T + at)
    before, after = fold(history, now), fold([*history, beat], now)
    if "unknown" not in (before.state, after.state) and not gone:
        assert (after.state, after.reason, after.since_ms) == (before.state, before.reason, before.since_ms)


@given(histories, moments)
def test_every_verdict_can_be_explained_by_evidence_that_was_given(history: list[Evidence], now: int) -> None:
    found = fold(history, now)
    assert all(e in history for e in found.because)
    assert len(set(map(repr, found.because))) == len(found.because)
    if found.state != "queued":
        assert found.because
    if found.state == "unknown":
        assert found.problem or found.contradiction


@given(seeds)
def test_a_prompt_is_working_at_once_in_every_living_agent(seed: int) -> None:  # T3-070
    _life, now, heard = lived(seed)
    ends = (Fact.PROCESS_EXITED, Fact.SESSION_ENDED, Fact.BOX_FROZEN)
    quiet = [e for e in heard if e.fact not in ends]
    prompt = Evidence(source=Source.HOOK, fact=Fact.TURN_STARTED, at_ms=now, seen_ms=now)
    found = fold([*quiet, prompt], now)
    assert (found.state, found.since_ms) == ("working", now)


@given(seeds, st.integers(1, 3_000))
def test_a_finished_turn_stays_finished_through_everything_but_a_new_one(seed: int, more: int) -> None:
    """Whatever old evidence comes in late, and however long the box lives on, waiting stays."""
    _life, now, heard = lived(seed)
    ended = Evidence(source=Source.HOOK, fact=Fact.TURN_ENDED, at_ms=now, seen_ms=now)
    facts = (Fact.PROCESS_EXITED, Fact.SESSION_ENDED, Fact.DECLARED_DONE, Fact.TURN_FAILED)
    old = [e for e in heard if e.fact not in facts and e.at_ms < now]
    beats = [
        Evidence(source=s, fact=f, at_ms=now + 1000 * n, seen_ms=now + 1000 * n)
        for n in range(0, more, 100)
        for s, f in ((Source.HEARTBEAT, Fact.BOX_ALIVE), (Source.PROCESS, Fact.PROCESS_ALIVE))
    ]
    late = [e for n, e in enumerate(old) if n % 3 == 0]
    early = [e for n, e in enumerate(old) if n % 3]
    for known in ([*early, ended], [*early, ended, *late], [*early, ended, *late, *beats]):
        found = fold(known, now + more * 1000)
        assert (found.state, found.reason) == ("waiting", "turn_end")


@pytest.mark.parametrize("way", ["lossless, in time", "lossless, late, reordered, repeated"])
def test_no_state_is_false_when_nothing_is_lost(way: str) -> None:
    found = measure(WAYS[way], lives=120)
    assert found.wrong == 0, found.examples
    assert found.unknown_reached <= found.samples // 200, "an honest answer, but of no use this often"


def test_losses_make_truth_less_sure_but_rarely_false() -> None:
    found = measure(WAYS["1 % lost"], lives=120)
    assert found.wrong <= found.samples // 100, found.examples


@given(
    st.integers(-(10**6), 10**6), st.lists(st.tuples(st.integers(0, 900), st.integers(0, 900)), min_size=1)
)
def test_the_clock_offset_errs_by_at_most_half_of_the_best_round_trip(
    offset: int, trips: list[tuple[int, int]]
) -> None:
    pings = [(ms(n), ms(n) + out - offset, ms(n) + out + back) for n, (out, back) in enumerate(trips)]
    best = min(out + back for out, back in trips)
    assert abs(clock_offset(pings) - offset) <= best // 2 + 1


@given(_evidence(), st.integers(-(10**7), 10**7))
def test_admitted_evidence_is_on_the_hubs_clock_and_never_from_its_future(
    item: Evidence, offset: int
) -> None:
    admitted = admit(item, offset)
    assert admitted.at_ms == min(item.at_ms + offset, item.seen_ms)
    assert is_sign_of_life(admitted) == is_sign_of_life(item)
