//! Decisions: all or nothing, in one thread and in many.

use super::super::budget::Period;
use super::*;

const SECOND: u64 = 1_000_000_000;

fn rate(unit: Unit, per_minute: u64, burst: u64) -> Rule {
    Rule::Rate(unit, Bucket::new(per_minute, 60, burst).unwrap())
}

fn asker<'a>(user: &'a str, model: &'a str) -> Asker<'a> {
    Asker {
        user: user.as_bytes(),
        model: model.as_bytes(),
        address: b"192.0.2.1",
        ..Asker::default()
    }
}

fn ask(prompt: u64, output: u64, micros: u64) -> Ask {
    Ask {
        prompt,
        output,
        micros: Some(micros),
        is_firm: true,
        now_ns: 100 * SECOND,
        today: 20_780,
    }
}

fn limits(rules: &[(&str, u8, Rule)]) -> Limits {
    Limits::new(Arc::new(Segment::new(2).unwrap()), 0, rules).unwrap()
}

#[test]
fn a_refused_request_consumes_nothing() {
    let budget = Rule::Spend(Budget::new(1000, Period::Day).unwrap());
    let limits = limits(&[
        ("all", 0, rate(Unit::Requests, 60, 10)),
        ("a", by::USER, rate(Unit::Tokens, 600, 100)),
        ("a", by::USER | by::MODEL, Rule::Concurrency(2)),
        ("a", by::USER, budget),
    ]);
    let anna = asker("anna", "m");
    let first = limits.decide(&anna, &ask(10, 40, 400)).unwrap();
    assert_eq!(
        first.requests,
        Some(LimitState {
            limit: 0,
            left: 9,
            reset_ns: SECOND
        })
    );
    assert_eq!(
        first.tokens,
        Some(LimitState {
            limit: 1,
            left: 50,
            reset_ns: 5 * SECOND
        })
    );
    // Too many tokens, too expensive, and both: of several refusals, the longest wait is reported.
    let refused = |prompt, micros| limits.decide(&anna, &ask(prompt, 0, micros)).unwrap_err();
    assert_eq!((refused(51, 10).limit, refused(51, 10).wait_ns), (1, SECOND / 10));
    assert_eq!((refused(1, 601).limit, refused(1, 601).state.left), (3, 600));
    assert_eq!(refused(51, 601).limit, 3);
    let never = limits.decide(&anna, &ask(0, 101, 601)).unwrap_err();
    assert_eq!((never.limit, never.never), (1, true));
    // Everything else is still available.
    let second = limits.decide(&anna, &ask(50, 0, 600)).unwrap();
    assert_eq!(second.requests.unwrap().left, 8);
    let third = limits.decide(&anna, &ask(0, 0, 0)).unwrap_err();
    assert_eq!((third.limit, third.wait_ns), (3, 24 * 3600 * SECOND));
    // Another model has another lease; another user has the full amounts.
    let other = limits.decide(&asker("bob", "m"), &ask(100, 0, 1000)).unwrap();
    assert_eq!(other.requests.unwrap().left, 7);
}

#[test]
fn what_was_taken_before_a_refusal_is_given_back() {
    let limits = limits(&[
        ("a", by::USER, rate(Unit::Requests, 60, 5)),
        ("a", by::USER, rate(Unit::Tokens, 60, 50)),
        ("a", by::USER, Rule::Spend(Budget::new(100, Period::Month).unwrap())),
        ("a", by::USER, Rule::Concurrency(1)),
    ]);
    let anna = asker("anna", "m");
    let held = limits.decide(&anna, &ask(10, 0, 10)).unwrap();
    // Simulates a check that precedes the other's debit.
    let hashes = limits.hashes(&anna);
    for _ in 0..100 {
        assert_eq!(limits.take(&hashes, &ask(10, 0, 10)).unwrap_err().limit, 3);
    }
    limits.settle(&held, 10, 10, 100 * SECOND);
    let next = limits.decide(&anna, &ask(40, 0, 90)).unwrap();
    assert_eq!((next.requests.unwrap().left, next.tokens.unwrap().left), (3, 0));
}

#[test]
fn settling_debits_what_it_came_to() {
    let limits = limits(&[
        ("a", by::USER, rate(Unit::Tokens, 60, 100)),
        ("a", by::USER, Rule::Concurrency(1)),
        ("a", by::USER, Rule::Spend(Budget::new(1000, Period::Day).unwrap())),
    ]);
    let anna = asker("anna", "m");
    let left = || {
        let reservation = limits.decide(&anna, &ask(0, 0, 0)).unwrap();
        limits.settle(&reservation, 0, 0, 100 * SECOND);
        reservation.tokens.unwrap().left
    };
    let reservation = limits.decide(&anna, &ask(10, 90, 500)).unwrap();
    assert_eq!(limits.decide(&anna, &ask(0, 0, 0)).unwrap_err().limit, 1);
    limits.settle(&reservation, 30, 100, 100 * SECOND);
    assert_eq!(left(), 70);
    // More than was reserved becomes a debt.
    let reservation = limits.decide(&anna, &ask(10, 10, 200)).unwrap();
    limits.settle(&reservation, 120, 900, 100 * SECOND);
    let refused = limits.decide(&anna, &ask(1, 0, 0)).unwrap_err();
    assert_eq!((refused.limit, refused.wait_ns), (2, 24 * 3600 * SECOND));
    // A request without a cost is not refused.
    let free = Ask {
        micros: None,
        ..ask(0, 0, 0)
    };
    let reservation = limits.decide(&anna, &free).unwrap();
    assert_eq!(reservation.tokens.unwrap().left, 0);
    limits.settle(&reservation, 0, 0, 100 * SECOND);
    let tomorrow = Ask {
        today: 20_781,
        ..ask(1, 0, 1)
    };
    let refused = limits.decide(&anna, &tomorrow).unwrap_err();
    // 70 - 120 is a debt of 50; one more token.
    assert_eq!(
        (refused.limit, refused.wait_ns, refused.state.left),
        (0, 51 * SECOND, 0)
    );
}

#[test]
fn what_counts_along_empties_a_bucket_at_most() {
    let limits = limits(&[
        ("all", 0, rate(Unit::Requests, 60, 2)),
        ("all", 0, rate(Unit::Tokens, 60, 100)),
        ("all", 0, Rule::Concurrency(1)),
    ]);
    let anna = asker("anna", "m");
    let along: Vec<_> = (0..5).map(|_| limits.follow(&anna, &ask(10, 20, 0))).collect();
    // 30, 30, 30, the remaining 10, nothing; of requests two.
    let amounts: Vec<Vec<u64>> = along
        .iter()
        .map(|reservation| reservation.debits().map(|(_, amount, _)| amount).collect())
        .collect();
    assert_eq!(amounts, [vec![1, 30], vec![1, 30], vec![30], vec![10], vec![]]);
    let refused = limits.decide(&anna, &ask(1, 0, 0)).unwrap_err();
    assert_eq!((refused.limit, refused.wait_ns), (0, SECOND));
    // No lease was taken; unused tokens are returned, and excess usage makes no debt.
    limits.settle(&along[0], 5, 0, 100 * SECOND);
    limits.settle(&along[3], 5000, 0, 100 * SECOND);
    let later = Ask {
        now_ns: 101 * SECOND,
        ..ask(26, 0, 0)
    };
    assert!(limits.decide(&anna, &later).is_ok());
}

#[test]
fn a_guess_is_no_reason_to_refuse_for_ever() {
    let limits = limits(&[
        ("a", by::USER, rate(Unit::Tokens, 60, 100)),
        ("a", by::USER, Rule::Spend(Budget::new(10, Period::Day).unwrap())),
    ]);
    let anna = asker("anna", "m");
    let guess = |prompt| Ask {
        is_firm: false,
        ..ask(prompt, 5000, 70)
    };
    let reservation = limits.decide(&anna, &guess(101)).unwrap();
    assert_eq!(reservation.tokens.unwrap().left, 0);
    assert!(!limits.decide(&anna, &guess(101)).unwrap_err().never);
    limits.settle(&reservation, 0, 0, 100 * SECOND);
    // The client's own maximum may be too much.
    assert!(limits.decide(&anna, &ask(0, 101, 0)).unwrap_err().never);
    let reservation = limits.decide(&anna, &guess(20)).unwrap();
    assert_eq!(reservation.tokens.unwrap().left, 0);
    limits.settle(&reservation, 25, 3, 100 * SECOND);
    assert!(limits.decide(&anna, &ask(75, 0, 7)).is_ok());
}

#[test]
fn who_lacks_what_is_counted_by_is_not_counted() {
    let limits = limits(&[
        ("t", by::TENANT, rate(Unit::Requests, 60, 1)),
        ("tm", by::TENANT | by::MODEL, rate(Unit::Requests, 60, 1)),
        ("u", by::USER | by::MODEL, rate(Unit::Requests, 60, 2)),
    ]);
    let reservation = limits.decide(&asker("anna", "m"), &ask(0, 0, 0)).unwrap();
    assert_eq!(reservation.requests.unwrap().limit, 2);
    let in_a = |user, model| Asker {
        tenant: b"a",
        ..asker(user, model)
    };
    assert_eq!(
        limits
            .decide(&in_a("bob", ""), &ask(0, 0, 0))
            .unwrap()
            .requests
            .unwrap()
            .limit,
        0
    );
    assert_eq!(limits.decide(&in_a("anna", "m"), &ask(0, 0, 0)).unwrap_err().limit, 0);
    // Lengths keep parts apart: "anna" + "m" is not "ann" + "am".
    assert_eq!(
        limits
            .decide(&asker("ann", "am"), &ask(0, 0, 0))
            .unwrap()
            .requests
            .unwrap()
            .left,
        1
    );
}

#[test]
fn limits_are_the_same_in_every_worker_and_a_raised_budget_forgets_nothing() {
    let segment = Arc::new(Segment::new(2).unwrap());
    let with = |worker, micros| {
        let budget = Rule::Spend(Budget::new(micros, Period::Day).unwrap());
        let rules = [("a", by::USER, Rule::Concurrency(2)), ("a", by::USER, budget)];
        Limits::new(segment.clone(), worker, &rules).unwrap()
    };
    let (one, two, raised) = (with(0, 100), with(1, 100), with(1, 200));
    let anna = asker("anna", "m");
    let held = one.decide(&anna, &ask(0, 0, 60)).unwrap();
    assert_eq!(two.decide(&anna, &ask(0, 0, 60)).unwrap_err().limit, 1);
    let more = raised.decide(&anna, &ask(0, 0, 60)).unwrap();
    assert_eq!(raised.decide(&anna, &ask(0, 0, 60)).unwrap_err().limit, 0);
    one.settle(&held, 0, 60, SECOND);
    raised.settle(&more, 0, 60, SECOND);
    assert!(raised.decide(&anna, &ask(0, 0, 80)).is_ok());
}

/// Threads debit several limits at once; refusals leave no trace, and no limit is exceeded.
#[test]
fn threads_take_all_or_nothing() {
    let segment = Arc::new(Segment::new(4).unwrap());
    let rules = [
        ("a", by::USER, rate(Unit::Requests, 60, 300)),
        ("a", by::USER | by::MODEL, rate(Unit::Requests, 60, 120)),
        ("a", 0, rate(Unit::Tokens, 60, 2000)),
        ("a", by::USER, Rule::Concurrency(3)),
    ];
    let admitted: [u64; 4] = std::thread::scope(|scope| {
        [0, 1, 2, 3]
            .map(|number| {
                let limits = Limits::new(segment.clone(), number, &rules).unwrap();
                scope.spawn(move || {
                    let mut admitted = 0;
                    for step in 0..4000_usize {
                        let model = ["m", "n", "o"][step % 3];
                        if let Ok(reservation) = limits.decide(&asker("anna", model), &ask(5, 5, 0)) {
                            admitted += 1;
                            limits.settle(&reservation, 10, 0, 100 * SECOND);
                        }
                    }
                    admitted
                })
            })
            .map(|thread| thread.join().unwrap())
    });
    // 10 tokens each of 2000 are the tightest limit.
    assert_eq!(admitted.iter().sum::<u64>(), 200);
    let left = |rules: &[(&str, u8, Rule)]| {
        let limits = Limits::new(segment.clone(), 0, rules).unwrap();
        limits
            .decide(&asker("anna", "m"), &ask(0, 0, 0))
            .unwrap()
            .requests
            .unwrap()
            .left
    };
    assert_eq!(left(&rules[..1]), 99);
    let limits = Limits::new(segment.clone(), 0, &rules[3..]).unwrap();
    assert!(
        [(); 3]
            .map(|()| limits.decide(&asker("anna", "m"), &ask(0, 0, 0)))
            .iter()
            .all(Result::is_ok)
    );
}
