//! Tests of a selector with healthy upstreams.

use super::*;

fn selector(policy: &str, weights: &[u32], breaker: Option<breaker::Settings>) -> Selector {
    let segment = Arc::new(Segment::new(2).unwrap());
    let upstreams: Vec<_> = weights
        .iter()
        .enumerate()
        .map(|(number, &weight)| (segment.upstream(&format!("http://{number}")).unwrap().get(), weight))
        .collect();
    Selector::new(segment, 0, policy, &upstreams, 1, breaker).unwrap()
}

fn try_pick(selector: &Selector, now_ns: u64, tried: u64) -> Result<usize, Refusal> {
    selector.try_pick(&Ask::new(now_ns, tried)).map(|pick| pick.index)
}

fn picks(selector: &Selector, count: usize, tried: u64) -> Vec<usize> {
    let pick = |_| {
        let index = selector.pick(0, tried).unwrap();
        selector.release(index, Verdict::Success, 0).unwrap();
        index
    };
    (0..count).map(pick).collect()
}

#[test]
fn round_robin_takes_turns_and_skips() {
    let selector = selector("round_robin", &[1, 9, 1, 0], None);
    assert_eq!(picks(&selector, 6, 0), [0, 1, 2, 0, 1, 2]);
    selector.drain(1, true, 0).unwrap();
    assert_eq!(picks(&selector, 4, 0), [0, 2, 0, 2]);
    assert_eq!(picks(&selector, 2, 0b001), [2, 2]);
    assert_eq!(selector.pick(0, 0b101), None);
}

#[test]
fn weighted_is_nginxs_sequence() {
    let selector = selector("weighted", &[5, 1, 1], None);
    assert_eq!(picks(&selector, 14, 0), [0, 0, 1, 0, 2, 0, 0, 0, 0, 1, 0, 2, 0, 0]);
    // Without the first, the others share evenly.
    selector.drain(0, true, 0).unwrap();
    let rest = picks(&selector, 100, 0);
    assert_eq!(rest.iter().filter(|&&index| index == 1).count(), 50);
}

#[test]
fn a_further_attempt_takes_no_turn() {
    for (policy, weights) in [("round_robin", [1, 1, 1]), ("weighted", [2, 2, 2])] {
        let selector = selector(policy, &weights, None);
        let mut firsts = vec![];
        let mut seconds = [0; 3];
        for _ in 0..600 {
            let first = picks(&selector, 1, 0)[0];
            firsts.push(first);
            if first == 0 {
                seconds[picks(&selector, 1, 0b001)[0]] += 1;
            }
        }
        assert!((0..3).all(|index| firsts.iter().filter(|&&first| first == index).count() == 200));
        assert!(
            seconds[0] == 0 && seconds[1..].iter().all(|&count| count > 50),
            "{seconds:?}"
        );
    }
}

#[test]
fn workers_take_turns_together() {
    let one = selector("weighted", &[2, 1], None);
    let upstreams: Vec<_> = one
        .candidates
        .iter()
        .map(|each| (each.slot.get(), each.weight))
        .collect();
    let two = Selector::new(one.segment.clone(), 1, "weighted", &upstreams, 1, None).unwrap();
    let alternating: Vec<_> = (0..6)
        .map(|turn| if turn % 2 == 0 { &one } else { &two }.pick(0, 0))
        .collect();
    assert_eq!(alternating, [0, 1, 0, 0, 1, 0].map(Some));
    assert_eq!(one.in_flight(0).unwrap(), 4);
    one.segment.clear(one.segment.worker(1).unwrap());
    assert_eq!((one.in_flight(0).unwrap(), one.in_flight(1).unwrap()), (2, 1));
}

#[test]
fn least_connections_minds_weight() {
    let selector = selector("least_connections", &[1, 3], None);
    assert!((0..40).all(|_| selector.pick(0, 0).is_some()));
    assert_eq!(
        (selector.in_flight(0).unwrap(), selector.in_flight(1).unwrap()),
        (10, 30)
    );
    selector.release(0, Verdict::Neutral, 0).unwrap();
    assert_eq!(selector.pick(0, 0), Some(0));
}

#[test]
fn weights_without_a_small_multiple_are_minded_too() {
    let selector = selector("least_connections", &[4_000_000_007, 2_000_000_011, 65_537], None);
    assert!((0..3_000).all(|_| selector.pick(0, 0).is_some()));
    let in_flight = [0, 1, 2].map(|index| selector.in_flight(index).unwrap());
    assert!(
        in_flight[0].abs_diff(2_000) <= 20 && in_flight[1].abs_diff(1_000) <= 20,
        "{in_flight:?}"
    );
}

#[test]
fn ties_and_random_follow_weight() {
    for policy in ["least_connections", "random"] {
        let selector = selector(policy, &[1, 3, 0], None);
        let second = picks(&selector, 10_000, 0).iter().filter(|&&index| index == 1).count();
        assert!((7_300..7_700).contains(&second), "{policy}: {second}");
    }
}

#[test]
fn power_of_two_never_picks_the_busiest() {
    let selector = selector("power_of_two", &[1, 1, 1], None);
    (0..5).for_each(|_| assert!(selector.enter(&selector.candidates[2])));
    let picked = picks(&selector, 1_000, 0);
    assert!(!picked.contains(&2) && picked.contains(&0) && picked.contains(&1));
    assert_eq!(picks(&selector, 1, 0b011), [2]);
}

#[test]
fn an_open_breaker_rests_the_upstream() {
    let second = 1_000_000_000;
    let settings = breaker::Settings::new(1, 10 * second, 1);
    let selector = selector("round_robin", &[1, 1], Some(settings));
    assert_eq!(selector.pick(0, 0), Some(0));
    selector.release(0, Verdict::Failure, 0).unwrap();
    assert_eq!(selector.state(0, 0).unwrap(), Some(State::Open));
    assert_eq!(picks(&selector, 3, 0), [1, 1, 1]);
    assert_eq!(selector.pick(0, 0b10), None);
    // Half open: one probe, and no second one at the same time.
    assert_eq!(selector.state(0, 10 * second).unwrap(), Some(State::HalfOpen));
    assert_eq!(selector.pick(10 * second, 0b10), Some(0));
    assert_eq!(selector.pick(10 * second, 0b10), None);
    selector.release(0, Verdict::Success, 10 * second).unwrap();
    assert_eq!(selector.state(0, 10 * second).unwrap(), Some(State::Closed));
}

#[test]
fn the_full_are_left_out_and_said_to_be() {
    let selector = selector("round_robin", &[1, 1], None).limited(&[2, 0]);
    let only_first = |_| try_pick(&selector, 0, 0b10);
    assert_eq!([0, 1, 2].map(only_first), [Ok(0), Ok(0), Err(Refusal::Full)]);
    assert_eq!(try_pick(&selector, 0, 0b11), Err(Refusal::Nobody));
    // The other one has no limit, and takes the overflow of the first.
    assert!((0..20).all(|_| try_pick(&selector, 0, 0) == Ok(1)));
    selector.release(0, Verdict::Neutral, 0).unwrap();
    assert_eq!(only_first(0), Ok(0));
}

#[test]
fn a_full_upstream_keeps_its_probes() {
    let settings = breaker::Settings::new(1, 10, 1);
    let selector = selector("round_robin", &[1], Some(settings)).limited(&[1]);
    assert_eq!(try_pick(&selector, 0, 0), Ok(0));
    selector.release(0, Verdict::Failure, 0).unwrap();
    let other = Segment::attach(selector.segment.fd()).unwrap();
    assert!(in_flight::enter(
        &other,
        other.worker(1).unwrap(),
        selector.candidates[0].slot,
        0
    ));
    let later = 1_000_000_000;
    assert_eq!(try_pick(&selector, later, 0), Err(Refusal::Full));
    other.clear(other.worker(1).unwrap());
    assert_eq!(try_pick(&selector, later, 0), Ok(0));
}

#[test]
fn many_upstreams_are_all_used() {
    let weights = vec![1; 200];
    for policy in ["round_robin", "weighted", "least_connections"] {
        let selector = selector(policy, &weights, None);
        let mut picked: Vec<_> = (0..200).filter_map(|_| selector.pick(0, 0)).collect();
        picked.sort_unstable();
        assert_eq!(picked, (0..200).collect::<Vec<_>>(), "{policy}");
    }
}

/// Four upstreams with names, and pins.
fn pinned() -> Selector {
    selector("round_robin", &[1, 2, 1, 1], None).pinning(["a", "b", "c", "d"])
}

fn pick_pinned(selector: &Selector, pin: &str, tried: u64) -> Result<usize, Refusal> {
    let ask = Ask::new(0, tried).pinned(Some(pin.as_bytes()));
    selector.try_pick(&ask).map(|pick| pick.index)
}

#[test]
fn a_pin_stays_at_its_upstream_and_moves_only_when_that_is_out() {
    let selector = pinned();
    let oracle = crate::rendezvous::Rendezvous::new([("a", 1), ("b", 2), ("c", 1), ("d", 1)]);
    let best = |pin: &str, without: usize| {
        oracle
            .best(crate::rendezvous::hash(pin.as_bytes()), |index| index != without)
            .unwrap()
    };
    let pins: Vec<_> = (0..100).map(|number| format!("session-{number}")).collect();
    for pin in &pins {
        assert_eq!(pick_pinned(&selector, pin, 0), Ok(best(pin, 9)));
        assert_eq!(pick_pinned(&selector, pin, 0b10), Ok(best(pin, 1)));
    }
    type Change = fn(&Selector);
    let tries: [(Change, Change); 2] = [
        (|to| to.drain(1, true, 0).unwrap(), |to| to.drain(1, false, 0).unwrap()),
        (
            |to| to.segment.judge(to.candidates[1].slot, Some(false), false, 0),
            |to| to.segment.judge(to.candidates[1].slot, Some(true), false, 0),
        ),
    ];
    for (out, back) in tries {
        out(&selector);
        assert!(
            pins.iter()
                .all(|pin| pick_pinned(&selector, pin, 0) == Ok(best(pin, 1)))
        );
        back(&selector);
        assert!(
            pins.iter()
                .all(|pin| pick_pinned(&selector, pin, 0) == Ok(best(pin, 9)))
        );
    }
    // Without a pin, and where all are in doubt, the policy chooses.
    let turns: Vec<_> = (0..4).map(|_| try_pick(&selector, 0, 0).unwrap()).collect();
    assert_eq!(turns, [0, 1, 2, 3]);
    for candidate in &selector.candidates {
        selector.segment.judge(candidate.slot, Some(false), false, 0);
    }
    let turns: Vec<_> = (0..4).map(|_| pick_pinned(&selector, "k", 0).unwrap()).collect();
    assert_eq!(turns, [0, 1, 2, 3]);
}

#[test]
fn a_pin_whose_upstream_is_full_moves_on_and_waits_when_all_are() {
    let selector = pinned().limited(&[1, 1, 1, 1]);
    let mut picked: Vec<_> = (0..4).map(|_| pick_pinned(&selector, "k", 0).unwrap()).collect();
    picked.sort_unstable();
    assert_eq!(picked, [0, 1, 2, 3]);
    assert_eq!(pick_pinned(&selector, "k", 0), Err(Refusal::Full));
}

#[test]
fn pins_reach_beyond_the_first_64_upstreams() {
    let weights = vec![1; 200];
    let names: Vec<_> = (0..200).map(|number| number.to_string()).collect();
    let selector = selector("random", &weights, None).pinning(names.iter().map(String::as_str));
    let mut used: Vec<_> = (0..2_000)
        .map(|number| {
            let pin = format!("session-{number}");
            let index = pick_pinned(&selector, &pin, 0).unwrap();
            assert_eq!(pick_pinned(&selector, &pin, 0), Ok(index));
            index
        })
        .collect();
    used.sort_unstable();
    used.dedup();
    assert!(used.len() > 190);
}

#[test]
fn a_policy_is_told_of_each_request_from_its_start_to_its_end() {
    let selector = selector("noted", &[1, 1], None);
    let ask = Ask {
        model: b"llama",
        prompt_bytes: 300,
        prefix: &[Chunk { hash: 1, tokens: 64 }],
        ..Ask::new(5, 0b01)
    };
    let pick = selector.try_pick(&ask).unwrap();
    let other = selector.try_pick(&Ask::new(6, 0b10)).unwrap();
    assert_eq!((pick, other), (Pick { index: 1, note: 1 }, Pick { index: 0, note: 2 }));
    selector.begun(1, pick.note, 9).unwrap();
    let usage = crate::sse::Usage {
        tokens_out: 7,
        ..Default::default()
    };
    let observation = Observation {
        note: pick.note,
        first_byte_ns: Some(4),
        usage: Some(usage),
        ..Observation::new(Verdict::Success, 20)
    };
    selector.complete(1, &observation).unwrap();
    let lost = Observation {
        note: other.note,
        ..Observation::new(Verdict::Failure, 30)
    };
    selector.complete(0, &lost).unwrap();
    assert_eq!((selector.in_flight(0).unwrap(), selector.in_flight(1).unwrap()), (0, 0));
    let policies::Chosen::Noted(policy) = &selector.policy else {
        panic!("another policy")
    };
    assert_eq!(
        *policy.told.lock().unwrap(),
        [
            "sent 1: llama, 300 bytes, 1 chunks",
            "sent 0: , 0 bytes, 0 chunks",
            "begun 1: note 1 at 9",
            "ended 1: note 1, Success, Some(4), Some(7)",
            "ended 0: note 2, Failure, None, None",
        ]
    );
}

#[test]
fn the_example_of_the_documentation_prefers_the_fastest() {
    let selector = selector("first_byte", &[1, 1, 1], None);
    for (index, ms) in [(0, 30), (1, 5), (2, 20)] {
        for _ in 0..20 {
            assert_eq!(try_pick(&selector, 0, !(1 << index)), Ok(index));
            let observation = Observation {
                first_byte_ns: Some(ms * 1_000_000),
                ..Observation::new(Verdict::Success, 0)
            };
            selector.complete(index, &observation).unwrap();
        }
    }
    assert_eq!(picks(&selector, 3, 0), [1, 1, 1]);
    assert_eq!(picks(&selector, 3, 0b010), [2, 2, 2]);
}
