"""What is said to be wrong is wrong, and what is right is not."""

from __future__ import annotations

import json

from tests.chaos.judging import Arrival, Hand, Life, Verdict, judge, text_of


def hand_of(*arrivals: Arrival) -> Hand:
    hand = Hand()
    for arrival in arrivals:
        event = {"message": text_of(arrival.source, arrival.number), "@pid": arrival.pid}
        hand.take(json.dumps(event).encode())
    return hand


def test_judge_finds_what_is_wrong() -> None:
    a = [Arrival("a", number, 1) for number in range(6)]
    b = [Arrival("b", number, 7) for number in range(3)]
    lives = {"a": [Life(1, 0, 10, 5)]}

    def verdict(*hands: Hand) -> Verdict:
        return judge(lives, {"b": 3}, hands)

    good = verdict(hand_of(*a[0::2], *b, Arrival("b", 1, 8)), hand_of(*a[1::2]))
    assert good.is_good
    assert (good.arrived, good.repeated_by_rsyslog) == (10, 1)
    assert verdict(hand_of(*a[:5], *b)).is_good
    assert verdict(hand_of(*a[:4], *b)).lost == [("a", 4)]
    assert verdict(hand_of(*a[:2], *a[3:], *b[:2])).lost == [("a", 2), ("b", 2)]
    assert verdict(hand_of(*a, *b), hand_of(a[1], b[2])).repeated == [a[1], b[2]]
    assert verdict(hand_of(*a, b[1], b[0], b[2])).disordered == [b[0]]
    other = Arrival("a", 2, 9)
    assert verdict(hand_of(*a, *b, other)).changed == [other]
    assert verdict(hand_of(*a[:2], other, *a[3:], *b)).changed == [other]


def test_rsyslog_may_give_a_message_again_for_each_program_that_was_killed() -> None:
    b = [Arrival("b", number, 7) for number in range(3)]
    c = [Arrival("c", number, 9) for number in range(3)]

    def verdict(*hands: Hand, killed: int) -> Verdict:
        return judge({"c": [Life(9, 0, 3, 3)]}, {"b": 3}, hands, killed)

    again = [hand_of(*b, b[0], *c)]
    assert verdict(*again, killed=0).repeated == [b[0]]
    assert verdict(*again, killed=1).is_good
    assert verdict(*again, killed=1).repeated_by_rsyslog == 1
    two_hands = [hand_of(*b[1:], b[0], *c), hand_of(b[0])]
    assert verdict(*two_hands, killed=0).disordered == [b[0]]
    assert verdict(*two_hands, killed=1).is_good
    assert not verdict(hand_of(*b, *b[:2], *c), killed=1).is_good
    assert verdict(hand_of(*b, *c, c[0]), killed=5).repeated == [c[0]]
    assert verdict(hand_of(*b[1:], *c), killed=5).lost == [("b", 0)]


def test_what_was_read_before_is_journaled_when_it_reads_on() -> None:
    life = Life(1, 100, 100, 100)
    journaled = []
    for given, left in ((10, 1000), (10, 500), (10, 500), (20, 1450), (20, 0), (20, 0), (30, 1)):
        life.stop = 100 + given
        life.observe(left)
        journaled.append(life.journaled)
    assert journaled == [100, 100, 100, 100, 105, 105, 120]
    life.found([99, 124, 125, 130])
    assert life.journaled == 126
