//! Tests of a selector with unhealthy upstreams.

use super::*;
use crate::health::Signals;
use crate::outlier;

const SECOND: u64 = 1_000_000_000;

/// The names of all policies, and of the example.
fn names() -> impl Iterator<Item = &'static str> {
    POLICIES.iter().map(|(name, _)| *name)
}

fn ejection() -> outlier::Settings {
    outlier::Settings::new(5, 10 * SECOND, 300 * SECOND, 50)
}

fn selector(policy: &str, count: usize) -> Selector {
    let segment = Arc::new(Segment::new(2).unwrap());
    let upstreams: Vec<_> = (0..count)
        .map(|number| (segment.upstream(&format!("http://{number}")).unwrap().get(), 1))
        .collect();
    Selector::new(segment, 0, policy, &upstreams, 1, None)
        .unwrap()
        .ejecting(ejection())
        .panicking_below(50)
}

fn fail(selector: &Selector, index: usize, times: usize, now: u64) {
    for _ in 0..times {
        assert!(selector.enter(&selector.candidates[index]));
        selector.release(index, Verdict::Failure, now).unwrap();
    }
}

/// The upstreams picked, when each one picked answers.
fn picked(selector: &Selector, now: u64) -> Vec<usize> {
    let mut found: Vec<_> = (0..200)
        .filter_map(|_| {
            let index = selector.pick(now, 0)?;
            selector.release(index, Verdict::Neutral, now).unwrap();
            Some(index)
        })
        .collect();
    found.sort_unstable();
    found.dedup();
    found
}

#[test]
fn five_failures_in_a_row_eject_and_time_brings_back() {
    for policy in names() {
        let selector = selector(policy, 4);
        fail(&selector, 2, 4, 100 * SECOND);
        assert_eq!(picked(&selector, 100 * SECOND), [0, 1, 2, 3], "{policy}");
        selector.release(2, Verdict::Success, 100 * SECOND).unwrap();
        fail(&selector, 2, 4, 100 * SECOND);
        assert_eq!(picked(&selector, 100 * SECOND), [0, 1, 2, 3]);
        fail(&selector, 2, 1, 100 * SECOND);
        assert_eq!(picked(&selector, 100 * SECOND), [0, 1, 3]);
        let look = selector.look(2, 100 * SECOND).unwrap();
        assert!((108 * SECOND..=112 * SECOND).contains(&look.out_until_ns));
        assert_eq!(look.ejections, 1);
        assert_eq!(picked(&selector, look.out_until_ns - 1), [0, 1, 3]);
        assert_eq!(picked(&selector, look.out_until_ns), [0, 1, 2, 3]);
    }
}

#[test]
fn half_of_them_may_be_ejected_and_never_the_last() {
    let four = selector("round_robin", 4);
    for index in 0..4 {
        fail(&four, index, 50, SECOND);
    }
    // The third is aside, and is picked nevertheless: nobody else answers.
    assert!(four.look(2, SECOND).unwrap().aside);
    assert_eq!(picked(&four, SECOND), [2, 3]);
    // When the others return, the last one's failures still count.
    assert_eq!(picked(&four, 20 * SECOND), [0, 1, 2, 3]);
    fail(&four, 3, 1, 20 * SECOND);
    assert_eq!(picked(&four, 20 * SECOND), [0, 1, 2]);
    for count in [1, 2] {
        let few = selector("round_robin", count);
        (0..count).for_each(|index| fail(&few, index, 50, SECOND));
        assert_eq!(picked(&few, SECOND), [count - 1]);
    }
}

#[test]
fn below_half_available_all_are_used_but_those_with_open_breakers() {
    let selector = selector("round_robin", 5);
    let judge = |index: usize, healthy| {
        selector
            .segment
            .judge(selector.candidates[index].slot, Some(healthy), false, SECOND);
    };
    judge(0, false);
    judge(1, false);
    assert_eq!(picked(&selector, SECOND), [2, 3, 4]);
    judge(2, false);
    assert_eq!(picked(&selector, SECOND), [0, 1, 2, 3, 4]);
    selector.drain(4, true, SECOND).unwrap();
    // One of the remaining four is healthy.
    assert_eq!(picked(&selector, SECOND), [0, 1, 2, 3]);
    judge(2, true);
    // Two of four: half is enough.
    assert_eq!(picked(&selector, SECOND), [2, 3]);
}

/// R12: no request goes to a failing upstream while another one answers, whatever the cap; and they return when their
/// time is over.
#[test]
fn with_three_of_four_failing_the_fourth_gets_everything() {
    for policy in names() {
        let selector = selector(policy, 4);
        (0..3).for_each(|index| fail(&selector, index, 5, SECOND));
        let aside: Vec<_> = (0..4)
            .map(|index| selector.look(index, SECOND).unwrap().aside)
            .collect();
        assert_eq!(aside, [false, false, true, false], "{policy}");
        assert_eq!(picked(&selector, SECOND), [3], "{policy}");
        // It cannot carry the load: then half may be missing, and no more.
        fail(&selector, 3, 5, SECOND);
        assert_eq!(picked(&selector, SECOND), [2, 3], "{policy}");
        selector.release(3, Verdict::Success, SECOND).unwrap();
        assert_eq!(picked(&selector, SECOND), [3], "{policy}");
        let back = (0..3)
            .map(|index| selector.look(index, SECOND).unwrap().out_until_ns)
            .max();
        assert_eq!(picked(&selector, back.unwrap()), [0, 1, 2, 3], "{policy}");
    }
}

/// The possible conditions of an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ill {
    Well,
    Failing,
    Ejected,
    Aside,
    Resting,
    Unhealthy,
    Silent,
    Open,
    Drained,
}

const ILLS: [Ill; 9] = [
    Ill::Well,
    Ill::Failing,
    Ill::Ejected,
    Ill::Aside,
    Ill::Resting,
    Ill::Unhealthy,
    Ill::Silent,
    Ill::Open,
    Ill::Drained,
];

impl Ill {
    fn put_on(self, selector: &Selector, index: usize) {
        let vitals = selector.vitals(&selector.candidates[index]);
        let slot = selector.candidates[index].slot;
        vitals.outlier.store(0, Ordering::Relaxed);
        vitals.breaker.store(0, Ordering::Relaxed);
        vitals.standing.store(0, Ordering::Relaxed);
        let out = |leave: fn() -> outlier::Leave, times| {
            (0..times).for_each(|_| {
                outlier::failed(&vitals.outlier, ejection(), SECOND, 0, leave);
            });
        };
        match self {
            Self::Well => {}
            Self::Failing => out(|| outlier::Leave::Stay, 7),
            Self::Ejected => out(|| outlier::Leave::Out, 5),
            Self::Aside => out(|| outlier::Leave::Aside, 5),
            Self::Resting => assert!(outlier::rest(&vitals.outlier, SECOND, SECOND, || outlier::Leave::Out)),
            Self::Unhealthy => selector.segment.judge(slot, Some(false), false, SECOND),
            Self::Silent => selector.segment.judge(slot, Some(false), true, SECOND),
            Self::Open => {
                breaker::record(
                    &vitals.breaker,
                    &vitals.window,
                    selector.breaker.unwrap(),
                    Verdict::Failure,
                    SECOND,
                );
            }
            Self::Drained => vitals.drain(true, SECOND),
        }
    }
}

/// Checks every state of four upstreams against the documented table.
#[test]
fn every_state_of_four_upstreams_is_the_pages() {
    use Ill::*;
    let mut selector = selector("round_robin", 4);
    selector.breaker = Some(breaker::Settings::new(1, 10 * SECOND, 1));
    let mut seen = 0;
    for code in 0..ILLS.len().pow(4) {
        let ills: Vec<_> = (0..4)
            .map(|place| ILLS[code / ILLS.len().pow(place) % ILLS.len()])
            .collect();
        ills.iter()
            .enumerate()
            .for_each(|(index, ill)| ill.put_on(&selector, index));
        let those = |which: &[Ill]| -> Vec<usize> { (0..4).filter(|&at| which.contains(&ills[at])).collect() };
        let there = 4 - those(&[Drained]).len();
        let available = those(&[Well, Failing, Aside]);
        let some_answer = !those(&[Well]).is_empty();
        let expected = if available.len() * 2 >= there {
            if some_answer {
                those(&[Well, Failing])
            } else {
                available
            }
        } else if some_answer {
            those(&[Well, Failing, Resting, Unhealthy])
        } else {
            those(&[Well, Failing, Ejected, Aside, Resting, Unhealthy, Silent])
        };
        let (left, _) = selector.available(SECOND, 0);
        assert_eq!(left.iter().collect::<Vec<_>>(), expected, "{ills:?}");
        // A further attempt goes to any other permitted upstream.
        let (left, _) = selector.available(SECOND, 0b1);
        let mut further: Vec<_> = expected.into_iter().filter(|&index| index != 0).collect();
        if further.is_empty() {
            further = (1..4).filter(|&at| ills[at] != Open && ills[at] != Drained).collect();
        }
        assert_eq!(left.iter().collect::<Vec<_>>(), further, "{ills:?}");
        seen += 1;
    }
    assert_eq!(seen, 6561);
}

#[test]
fn panic_floods_no_breaker() {
    let settings = breaker::Settings::new(1, 10 * SECOND, 3);
    let mut selector = selector("round_robin", 1);
    selector.breaker = Some(settings);
    fail(&selector, 0, 1, SECOND);
    assert_eq!(selector.pick(2 * SECOND, 0), None);
    let let_through = (0..1000).filter(|_| selector.pick(20 * SECOND, 0).is_some()).count();
    assert_eq!(let_through, 3);
}

#[test]
fn trials_that_begin_to_answer_close_a_breaker() {
    let mut selector = selector("round_robin", 1);
    selector.breaker = Some(breaker::Settings::new(1, 10 * SECOND, 2));
    assert!(!selector.answered(0, SECOND).unwrap());
    fail(&selector, 0, 1, SECOND);
    for _ in 0..2 {
        assert_eq!(selector.pick(20 * SECOND, 0), Some(0));
    }
    assert!(selector.answered(0, 21 * SECOND).unwrap());
    assert_eq!(selector.state(0, 21 * SECOND).unwrap(), Some(State::HalfOpen));
    assert!(selector.answered(0, 21 * SECOND).unwrap());
    assert_eq!(selector.state(0, 21 * SECOND).unwrap(), Some(State::Closed));
    // One of them breaks off: a failure like any other.
    selector.release(0, Verdict::Failure, 22 * SECOND).unwrap();
    assert_eq!(selector.state(0, 22 * SECOND).unwrap(), Some(State::Open));
}

#[test]
fn a_doubtful_upstream_is_better_than_one_that_was_tried() {
    let selector = selector("least_connections", 2);
    fail(&selector, 0, 5, SECOND);
    assert_eq!(picked(&selector, SECOND), [1]);
    assert_eq!(selector.pick(SECOND, 0b10), Some(0));
    assert_eq!(selector.pick(SECOND, 0b11), None);
}

#[test]
fn who_asks_for_a_rest_gets_it_while_others_are_left() {
    let selector = selector("random", 2);
    assert!(selector.rest(0, 3 * SECOND, SECOND).unwrap());
    assert!(!selector.rest(1, 3 * SECOND, SECOND).unwrap());
    assert_eq!(picked(&selector, SECOND), [1]);
    assert_eq!(picked(&selector, 4 * SECOND), [0, 1]);
    assert_eq!(selector.look(0, 2 * SECOND).unwrap().ejections, 0);
}

#[test]
fn what_the_engine_has_to_do_counts() {
    let selector = selector("least_load", 3);
    let tell = |index: usize, running, waiting, kv_per_mille| {
        let said = Signals {
            running,
            waiting,
            kv_per_mille,
            at_ns: SECOND,
        };
        selector.segment.signal(selector.candidates[index].slot, said);
    };
    // Requests from outside this gateway keep it busy.
    tell(0, 8, 0, 0);
    tell(1, 2, 1, 0);
    tell(2, 3, 0, 900);
    assert_eq!(picked(&selector, SECOND), [2]);
    // Equal except for the cache.
    tell(2, 4, 0, 900);
    assert_eq!(picked(&selector, SECOND), [1]);
    // This gateway's own requests are not counted twice.
    (0..3).for_each(|_| assert!(selector.enter(&selector.candidates[0])));
    tell(0, 3, 0, 0);
    assert_eq!(picked(&selector, SECOND), [0]);
}

/// R11: the share of a recovering upstream follows the ramp, idle and under load, for every policy.
#[test]
fn a_recovering_upstreams_share_follows_the_ramp() {
    const PICKS: usize = 20_000;
    for policy in names() {
        for (count, busy) in [(4, 1), (4, 40), (4, 400), (2, 16)] {
            let selector = selector(policy, count).starting_slowly(10 * SECOND);
            let back = 1000 * SECOND;
            selector.drain(1, true, 0).unwrap();
            selector.drain(1, false, back).unwrap();
            for tenths in [1_u64, 3, 5, 8, 10] {
                let now = back + tenths * SECOND;
                let mut under_way = Vec::new();
                let mut taken = 0;
                for _ in 0..PICKS {
                    if under_way.len() == busy {
                        // Answers take varying times: now and then, one upstream has more to do than the other.
                        let index = under_way.swap_remove(selector.random.below(busy as u64) as usize);
                        selector.release(index, Verdict::Success, now).unwrap();
                    }
                    let index = selector.pick(now, 0).unwrap();
                    taken += usize::from(index == 1);
                    under_way.push(index);
                }
                under_way
                    .into_iter()
                    .for_each(|index| selector.release(index, Verdict::Success, now).unwrap());
                let ramp = tenths as f64 / 10.0;
                let expected = ramp / (count as f64 - 1.0 + ramp);
                let share = taken as f64 / PICKS as f64;
                assert!(
                    (share / expected - 1.0).abs() < 0.1,
                    "{policy}, {busy} at once at {count}, {tenths}0 %: {share:.4}, not {expected:.4}"
                );
            }
        }
    }
}

#[test]
fn slow_together_is_not_slow() {
    for policy in names() {
        let selector = selector(policy, 2).starting_slowly(10 * SECOND);
        for candidate in &selector.candidates {
            selector.segment.welcome(candidate.slot, 50 * SECOND);
        }
        let first = (0..1000)
            .filter(|_| {
                let index = selector.pick(51 * SECOND, 0).unwrap();
                selector.release(index, Verdict::Success, 51 * SECOND).unwrap();
                index == 0
            })
            .count();
        assert!((400..600).contains(&first), "{policy}: {first}");
    }
}

#[test]
fn recovery_begins_the_ramp() {
    let settings = breaker::Settings::new(1, 10 * SECOND, 1);
    let mut selector = selector("random", 2).starting_slowly(10 * SECOND);
    let ramp = |selector: &Selector, now| selector.look(0, now).unwrap().ramp_per_mille;
    assert_eq!(ramp(&selector, 0), 1000);
    // After an ejection.
    fail(&selector, 0, 5, SECOND);
    let until = selector.look(0, SECOND).unwrap().out_until_ns;
    assert_eq!(ramp(&selector, until + 5 * SECOND), 500);
    // After a probe's result.
    let slot = selector.candidates[0].slot;
    selector.segment.judge(slot, Some(true), false, 50 * SECOND);
    assert_eq!(ramp(&selector, 50 * SECOND), 1000);
    selector.segment.judge(slot, Some(false), false, 50 * SECOND);
    selector.segment.judge(slot, Some(true), false, 60 * SECOND);
    assert_eq!(ramp(&selector, 62 * SECOND), 200);
    // After a breaker.
    selector.breaker = Some(settings);
    fail(&selector, 0, 1, 100 * SECOND);
    assert_eq!(selector.pick(110 * SECOND, 0b10), Some(0));
    selector.release(0, Verdict::Success, 111 * SECOND).unwrap();
    assert_eq!(ramp(&selector, 115 * SECOND), 400);
    assert_eq!(ramp(&selector, 121 * SECOND), 1000);
    assert!(selector.all_well(122 * SECOND));
}

#[test]
fn who_lists_models_gets_no_others() {
    let selector = selector("round_robin", 3);
    let slot = |index: usize| selector.candidates[index].slot;
    let version = selector.segment.models_version();
    selector.segment.set_models(slot(0), &["llama", "qwen"]);
    selector.segment.set_models(slot(1), &["qwen"]);
    assert_eq!(selector.segment.models_version(), version + 2);
    assert_eq!(
        (
            selector.lacking(b"llama"),
            selector.lacking(b"qwen"),
            selector.lacking(b"phi")
        ),
        (0b010, 0, 0b011)
    );
    // No upstream lists it: any may serve it nevertheless.
    selector.segment.set_models(slot(2), &["gemma"]);
    assert_eq!(selector.lacking(b"phi"), 0);
    let many: Vec<String> = (0..300).map(|number| number.to_string()).collect();
    selector
        .segment
        .set_models(slot(0), &many.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(selector.lacking(b"llama"), 0b110);
}
