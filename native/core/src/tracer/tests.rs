//! The choice of the exchanges that are kept, and their number.

#![allow(clippy::unwrap_used, reason = "a failed test may panic")]

use super::*;

const SAMPLED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

fn sampling() -> Sampling {
    Sampling {
        ratio: 0.0,
        parent: ParentRule::Follow,
        keep_errors: true,
        slow_ns: 0,
        max_per_second: 1e6,
        keeps_all: false,
        propagates: true,
    }
}

fn tracer(sampling: Sampling) -> Tracer {
    Tracer::new(Arc::new(Segment::new(1).unwrap()), sampling, [1, 2], 1 << 20)
}

fn head(lines: &str) -> (RequestHead, Vec<u8>) {
    let bytes = format!("POST /v1/x HTTP/1.1\r\nhost: a\r\n{lines}\r\n").into_bytes();
    let head = RequestHead::parse(&bytes).unwrap().unwrap();
    (head, bytes)
}

fn with_parent(value: &str) -> (RequestHead, Vec<u8>) {
    head(&format!("traceparent: {value}\r\n"))
}

#[test]
fn only_valid_parents_count() {
    let parse = |value: &str| Parent::parse(value.as_bytes());
    let parent = parse(SAMPLED).unwrap();
    assert_eq!(
        (parent.trace_id, parent.span_id, parent.is_sampled),
        (0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c, 0xb7ad_6b71_6920_3331, true)
    );
    assert!(!parse(&SAMPLED.replace("-01", "-00")).unwrap().is_sampled);
    // A later version may say more.
    assert!(parse(&format!("fe{}-more", &SAMPLED[2..])).is_some());
    for wrong in [
        "",
        "00",
        &SAMPLED[..54],
        &format!("{SAMPLED}-more"),
        &format!("ff{}", &SAMPLED[2..]),
        &SAMPLED.to_uppercase(),
        &SAMPLED.replace("-b7ad6b7169203331-", "-0000000000000000-"),
        &SAMPLED.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)),
        &SAMPLED.replacen('-', "_", 1),
    ] {
        assert_eq!(parse(wrong), None, "{wrong}");
    }
}

#[test]
fn a_parents_flag_decides_and_its_trace_goes_on() {
    let mut tracer = tracer(sampling());
    let (head, bytes) = with_parent(SAMPLED);
    assert!(!tracer.passes(&head, &bytes, 0));
    let mut trace = tracer.decide(&head, &bytes, 0).unwrap();
    let number = trace.begin(7, "a", 0, true);
    assert_eq!(
        trace.traceparent(number).unwrap(),
        "00-0af7651916cd43dd8448eb211c80319c-0000000000000007-01"
    );
    assert_eq!(trace.tracestate(), None);
    let (head, bytes) = with_parent(&SAMPLED.replace("-01", "-00"));
    assert!(tracer.passes(&head, &bytes, 0) && tracer.decide(&head, &bytes, 0).is_none());
}

#[test]
fn strangers_begin_a_new_trace() {
    for (parent, links) in [(ParentRule::Link, true), (ParentRule::Ignore, false)] {
        let mut tracer = tracer(Sampling {
            ratio: 1.0,
            parent,
            ..sampling()
        });
        let (head, bytes) = with_parent(SAMPLED);
        let trace = tracer.decide(&head, &bytes, 0).unwrap();
        assert_eq!((trace.parent, trace.link.is_some()), (0, links));
        assert_ne!(trace.trace_id, 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c);
    }
}

#[test]
fn the_ratio_holds_on_both_paths_together() {
    let mut tracer = tracer(Sampling {
        ratio: 0.1,
        ..sampling()
    });
    let (head, bytes) = head("");
    let mut sampled = 0;
    for exchange in 0..20_000 {
        // Every third exchange would take the ordinary path anyway.
        if exchange % 3 == 0 || !tracer.passes(&head, &bytes, 0) {
            sampled += u32::from(tracer.decide(&head, &bytes, 0).is_some());
        }
    }
    assert!((1_800..2_200).contains(&sampled), "{sampled}");
}

#[test]
fn ids_agree_with_the_threshold_that_is_told() {
    let mut tracer = tracer(Sampling {
        ratio: 0.25,
        ..sampling()
    });
    let (head, bytes) = head("");
    let traces = std::iter::repeat_with(|| tracer.decide(&head, &bytes, 0)).flatten();
    for mut trace in traces.take(100) {
        assert_eq!(trace.tracestate().unwrap(), "ot=th:c");
        assert!(trace.trace_id as u64 & ((1 << 56) - 1) >= 0xc0_0000_0000_0000);
        trace.begin(1, "a", 0, false);
        assert!(trace.traceparent(0).unwrap().ends_with("-03"));
    }
}

#[test]
fn no_client_makes_us_keep_more_than_the_most() {
    let mut tracer = tracer(Sampling {
        max_per_second: 10.0,
        ..sampling()
    });
    let (head, bytes) = with_parent(SAMPLED);
    let sampled = (0..1_000).filter(|_| !tracer.passes(&head, &bytes, 1) && tracer.decide(&head, &bytes, 1).is_some());
    assert_eq!(sampled.count(), 9);
    // The reserve is for what failed.
    let failed = Entry {
        status: 502,
        outcome: Outcome::UpstreamFailed,
        ended_ns: 1,
        ..Entry::default()
    };
    for _ in 0..5 {
        tracer.enter(&failed, &Charge::default());
    }
    let drained = tracer.drain();
    assert_eq!((drained.kept, drained.dropped), (1, 991 + 4));
    assert!(tracer.decide(&head, &bytes, 1_000_000_001).is_some());
}

#[test]
fn what_ends_badly_or_begins_late_is_kept() {
    let mut tracer = tracer(Sampling {
        slow_ns: 100,
        ..sampling()
    });
    let mut keeps = |entry: Entry<'_>| {
        tracer.enter(&entry, &Charge::default());
        tracer.drain().kept == 1
    };
    let good = Entry {
        status: 200,
        first_ns: 100,
        ended_ns: 1_000,
        ..Entry::default()
    };
    assert!(!keeps(good));
    assert!(keeps(Entry { first_ns: 101, ..good }));
    assert!(keeps(Entry { status: 500, ..good }));
    let truncated = Outcome::Truncated;
    assert!(keeps(Entry {
        outcome: truncated,
        ..good
    }));
    assert!(!keeps(Entry { status: 404, ..good }));
    let mut late = Tracer::late();
    late.begin(0, "a", 5, true);
    late.failed(0, 6, 503, 2);
    assert!(!keeps(Entry {
        trace: Some(&late),
        ..good
    }));
    assert!(late.traceparent(0).is_none());
}

#[test]
fn a_full_buffer_drops_and_counts() {
    let mut full = tracer(Sampling {
        keeps_all: true,
        ..sampling()
    });
    full.capacity = 1;
    let (head, bytes) = head("");
    let trace = full.decide(&head, &bytes, 0).unwrap();
    let entry = Entry {
        trace: Some(&trace),
        ..Entry::default()
    };
    for _ in 0..3 {
        full.enter(&entry, &Charge::default());
    }
    let drained = full.drain();
    assert_eq!((drained.kept, drained.dropped), (1, 2));
    assert_eq!(drained.records[..4], ((drained.records.len() - 4) as u32).to_le_bytes());
}
