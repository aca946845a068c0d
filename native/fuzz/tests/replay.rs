//! The invariants without a fuzzer: over seeds of ours, the corpora of others where they are, and mutations of both.

use std::io::{Write, stderr};
use std::thread::panicking;

use budgateway_fuzz::corpora::{Corpora, of_others};
use budgateway_fuzz::{CHECKS, Dice, mutated, own};

#[test]
fn json() {
    replay("json", 40_000);
}

#[test]
fn sse() {
    replay("sse", 6_000);
}

#[test]
fn head() {
    replay("head", 120_000);
}

#[test]
fn chunk() {
    replay("chunk", 60_000);
}

#[test]
fn frame() {
    replay("frame", 60_000);
}

#[test]
fn token() {
    replay("token", 60_000);
}

/// Checks all seeds, and as many mutations; the same ones each time.
fn replay(name: &str, mutations: usize) {
    let (_, check) = CHECKS.into_iter().find(|check| check.0 == name).expect("a check");
    let Corpora { texts, absent } = of_others(name);
    for path in &absent {
        // Not `eprintln`, which is heard of only when a test fails.
        let _ = writeln!(
            stderr(),
            "\n{name}: NOT REPLAYED, nothing at {} (set BUDGATEWAY_CORPORA)",
            path.display()
        );
    }
    let ours = own(name);
    let seeds = [ours.clone(), texts].concat();
    for seed in &seeds {
        judge(check, seed);
    }
    let mut dice = Dice::new(mutations as u64);
    for _ in 0..mutations {
        // Corpora are many, and say less of what our parsers look for.
        let from = if dice.below(2) == 0 { &ours } else { &seeds };
        judge(check, &mutated(from, &mut dice));
    }
}

/// Says what the case was, as a literal for `seeds.rs`, when it is a bad one.
fn judge(check: fn(&[u8]), text: &[u8]) {
    struct Case<'a>(&'a [u8]);
    impl Drop for Case<'_> {
        fn drop(&mut self) {
            if panicking() {
                eprintln!("b\"{}\"", self.0.escape_ascii());
            }
        }
    }
    let _case = Case(text);
    check(text);
}
