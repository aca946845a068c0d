//! The metrics of a segment in Prometheus' text format (version 0.0.4): what grows with routes and models is rendered
//! here, because a general library takes seconds for a full table.

use std::fmt::Write as _;

use crate::entry::Outcome;
use crate::metrics::{
    DURATION_BOUNDS_NS, FIRST_BOUNDS_NS, Metrics, OVERHEAD_BOUNDS_NS, PER_TOKEN_BOUNDS_NS, RETRY_REASONS, Series,
    TOKEN_BOUNDS, Tally, Times,
};
use crate::segment::{LABELS, LATENCIES, LabelId, REFUSALS, SERIES, Segment};

/// The reasons of retries, by their number.
pub const REASONS: [&str; RETRY_REASONS] = [
    "connect", "stale", "broken", "timeout", "pressure", "status", "hedge", "fallback",
];

const NS_PER_S: f64 = 1e9;

/// Renders every family of the segment's tables.
#[must_use]
pub fn render(segment: &Segment, metrics: &Metrics) -> String {
    let series = metrics.collect();
    let times = metrics.times();
    let mut out = Text {
        text: String::with_capacity(4096 + series.len() * 1024 + times.len() * 8192),
    };
    let counted: Vec<(String, &Series)> = series.iter().map(|series| (four(segment, series), series)).collect();
    out.counters(&counted);
    out.family(
        "budgateway_refusals_total",
        "counter",
        "Requests refused by the gateway.",
    );
    for (route, code, count) in metrics.refusals() {
        let labels = format!("route=\"{}\",code=\"{}\"", name(segment, route), name(segment, code));
        out.sample("budgateway_refusals_total", &labels, count);
    }
    let timed: Vec<(String, &Times)> = times.iter().map(|times| (three(segment, times), times)).collect();
    out.times(&timed);
    out.family(
        "budgateway_overhead_seconds",
        "histogram",
        "The gateway's own share of the duration.",
    );
    for (route, tally) in metrics.overheads() {
        let labels = format!("route=\"{}\"", name(segment, route));
        out.histogram(
            "budgateway_overhead_seconds",
            &labels,
            &tally,
            &OVERHEAD_BOUNDS_NS,
            NS_PER_S,
        );
    }
    out.tables(&[
        ("series", series.len(), SERIES),
        ("times", times.len(), LATENCIES),
        ("refusals", metrics.refusals().len(), REFUSALS),
        ("labels", segment.labels(), LABELS),
    ]);
    out.text
}

/// The labels of a series, without braces.
fn four(segment: &Segment, series: &Series) -> String {
    format!(
        "route=\"{}\",provider=\"{}\",model=\"{}\",status=\"{}\"",
        name(segment, series.route),
        name(segment, series.provider),
        name(segment, series.model),
        series.status
    )
}

fn three(segment: &Segment, times: &Times) -> String {
    format!(
        "route=\"{}\",provider=\"{}\",model=\"{}\"",
        name(segment, times.route),
        name(segment, times.provider),
        name(segment, times.model)
    )
}

/// A label's value, escaped.
fn name(segment: &Segment, id: LabelId) -> String {
    let name = segment.label(id).unwrap_or_else(|| String::from("other"));
    name.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

struct Text {
    text: String,
}

impl Text {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a string never fails.
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &str, value: u64) {
        let _ = writeln!(self.text, "{name}{{{labels}}} {value}");
    }

    fn counters(&mut self, counted: &[(String, &Series)]) {
        self.family("budgateway_requests_total", "counter", "Requests answered.");
        for (labels, series) in counted {
            self.sample("budgateway_requests_total", labels, series.outcomes.iter().sum());
        }
        self.family("budgateway_errors_total", "counter", "Exchanges that failed.");
        for (labels, series) in counted {
            for (outcome, &count) in Outcome::ALL.iter().zip(&series.outcomes).skip(1) {
                self.labelled("budgateway_errors_total", labels, "outcome", outcome.name(), count);
            }
        }
        self.family(
            "budgateway_tokens_total",
            "counter",
            "Tokens, as upstreams report them, or estimated.",
        );
        for (labels, series) in counted {
            for (kind, count) in [
                ("in", series.tokens_in),
                ("out", series.tokens_out),
                ("cached", series.tokens_cached),
                ("reasoning", series.tokens_reasoning),
            ] {
                self.labelled("budgateway_tokens_total", labels, "kind", kind, count);
            }
        }
        self.family(
            "budgateway_cost_usd_total",
            "counter",
            "Cost of tokens with a known price.",
        );
        for (labels, series) in counted {
            if series.cost_micros > 0 {
                let cost = series.cost_micros as f64 / 1e6;
                let _ = writeln!(self.text, "budgateway_cost_usd_total{{{labels}}} {cost:?}");
            }
        }
        self.family("budgateway_body_bytes_total", "counter", "Body bytes.");
        for (labels, series) in counted {
            for (direction, count) in [("in", series.bytes_in), ("out", series.bytes_out)] {
                self.labelled("budgateway_body_bytes_total", labels, "direction", direction, count);
            }
        }
        self.family("budgateway_retries_total", "counter", "Further attempts, by reason.");
        for (labels, series) in counted {
            for (reason, &count) in REASONS.iter().zip(&series.retries) {
                self.labelled("budgateway_retries_total", labels, "reason", reason, count);
            }
        }
    }

    fn times(&mut self, timed: &[(String, &Times)]) {
        let name = "budgateway_request_duration_seconds";
        self.family(
            name,
            "histogram",
            "From the request's head to the response's last byte.",
        );
        for (labels, times) in timed {
            for (stream, tally) in ["false", "true"].iter().zip(&times.duration) {
                let labels = format!("{labels},stream=\"{stream}\"");
                self.histogram(name, &labels, tally, &DURATION_BOUNDS_NS, NS_PER_S);
            }
        }
        let name = "budgateway_first_byte_seconds";
        self.family(
            name,
            "histogram",
            "From the request's head to a plain answer's first byte.",
        );
        for (labels, times) in timed {
            self.histogram(name, labels, &times.first_byte, &FIRST_BOUNDS_NS, NS_PER_S);
        }
        let name = "budgateway_time_to_first_token_seconds";
        self.family(name, "histogram", "From the request's head to a stream's first token.");
        for (labels, times) in timed {
            self.histogram(name, labels, &times.first_token, &FIRST_BOUNDS_NS, NS_PER_S);
        }
        let name = "budgateway_time_per_output_token_seconds";
        self.family(name, "histogram", "Of a stream, after its first token.");
        for (labels, times) in timed {
            self.histogram(name, labels, &times.per_token, &PER_TOKEN_BOUNDS_NS, NS_PER_S);
        }
        let name = "budgateway_request_tokens";
        self.family(name, "histogram", "Tokens of one exchange.");
        for (labels, times) in timed {
            for (kind, tally) in ["in", "out"].iter().zip(&times.tokens) {
                self.histogram(name, &format!("{labels},kind=\"{kind}\""), tally, &TOKEN_BOUNDS, 1.0);
            }
        }
    }

    /// Writes how full the tables are: what finds no place is counted as `other`.
    fn tables(&mut self, tables: &[(&str, usize, usize)]) {
        self.family("budgateway_table_rows", "gauge", "Rows in use.");
        for (table, rows, _) in tables {
            self.sample("budgateway_table_rows", &format!("table=\"{table}\""), *rows as u64);
        }
        self.family("budgateway_table_capacity", "gauge", "Rows that there are.");
        for (table, _, capacity) in tables {
            self.sample(
                "budgateway_table_capacity",
                &format!("table=\"{table}\""),
                *capacity as u64,
            );
        }
    }

    /// Writes a count with one more label, unless nothing was counted.
    fn labelled(&mut self, name: &str, labels: &str, key: &str, value: &str, count: u64) {
        if count > 0 {
            let _ = writeln!(self.text, "{name}{{{labels},{key}=\"{value}\"}} {count}");
        }
    }

    /// Writes a histogram, unless nothing was observed. `scale` units are one of the metric's.
    fn histogram<const N: usize>(&mut self, name: &str, labels: &str, tally: &Tally<N>, bounds: &[u64], scale: f64) {
        let (buckets, sum) = tally;
        let count: u64 = buckets.iter().sum();
        if count == 0 {
            return;
        }
        let mut running = 0;
        for (bound, bucket) in bounds.iter().zip(buckets) {
            running += bucket;
            let le = Bound(*bound as f64 / scale);
            let _ = writeln!(self.text, "{name}_bucket{{{labels},le=\"{le}\"}} {running}");
        }
        let _ = writeln!(
            self.text,
            "{name}_bucket{{{labels},le=\"+Inf\"}} {count}\n{name}_count{{{labels}}} {count}\n{name}_sum{{{labels}}} {:?}",
            *sum as f64 / scale
        );
    }
}

/// A bucket's bound as Go and Python write it: `1.0`, `0.005`, `1e-05`.
struct Bound(f64);

impl std::fmt::Display for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0 >= 1e-4 {
            return write!(f, "{:?}", self.0);
        }
        let text = format!("{:e}", self.0);
        let (digits, exponent) = text.split_once("e-").unwrap_or((&text, "0"));
        write!(f, "{digits}e-{exponent:0>2}")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::entry::{Charge, Consumer, Entry};

    #[test]
    fn bounds_are_written_as_elsewhere() {
        let text = |bound: f64| Bound(bound).to_string();
        assert_eq!(
            [1.0, 0.005, 0.0001, 1.5e-5, 600.0, 1_048_576.0].map(text),
            ["1.0", "0.005", "0.0001", "1.5e-05", "600.0", "1048576.0"]
        );
    }

    #[test]
    fn labels_are_escaped_and_buckets_add_up() {
        let segment = Arc::new(Segment::new(1).unwrap());
        let mut metrics = Metrics::new(segment.clone());
        let entry = Entry {
            route: segment.intern("a\"b\\c\nd"),
            status: 200,
            ended_ns: 3_000_000,
            ..Entry::default()
        };
        metrics.enter(&entry, &Charge::default());
        let text = render(&segment, &metrics);
        let labels = "route=\"a\\\"b\\\\c\\nd\",provider=\"other\",model=\"other\"";
        for line in [
            format!("budgateway_requests_total{{{labels},status=\"200\"}} 1"),
            format!("budgateway_request_duration_seconds_bucket{{{labels},stream=\"false\",le=\"0.002\"}} 0"),
            format!("budgateway_request_duration_seconds_bucket{{{labels},stream=\"false\",le=\"0.005\"}} 1"),
            format!("budgateway_request_duration_seconds_sum{{{labels},stream=\"false\"}} 0.003"),
        ] {
            assert!(text.lines().any(|written| written == line), "{line} in {text}");
        }
        assert!(!text.contains("budgateway_retries_total{"));
    }
}
