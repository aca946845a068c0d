//! The result of a run, as one JSON object.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use crate::connection::Failure;
use crate::events::StreamStats;
use crate::histogram::Histogram;

/// See the module.
pub(crate) struct Report {
    pub(crate) mode: &'static str,
    pub(crate) target: String,
    pub(crate) connections: usize,
    pub(crate) rate: Option<f64>,
    pub(crate) request_bytes: usize,
    /// From the first request to the last answer.
    pub(crate) elapsed: Duration,
    pub(crate) started: u64,
    /// Answered with 2xx, whole and right.
    pub(crate) completed: u64,
    pub(crate) non_2xx: u64,
    pub(crate) failures: [u64; Failure::NAMES.len()],
    pub(crate) statuses: BTreeMap<u16, u64>,
    pub(crate) reconnects: u64,
    pub(crate) body_bytes: u64,
    /// Nanoseconds from when a request was due to the end of its answer.
    pub(crate) latency: Histogram,
    pub(crate) streams: Option<StreamStats>,
    /// Processor time of the generator itself.
    pub(crate) own_cpu: Option<Duration>,
}

impl Report {
    pub(crate) fn errors(&self) -> u64 {
        self.failures.iter().sum()
    }

    /// Every request was answered, rightly.
    pub(crate) fn clean(&self) -> bool {
        self.errors() == 0 && self.non_2xx == 0 && self.completed == self.started && self.completed > 0
    }

    #[allow(clippy::cast_precision_loss)]
    pub(crate) fn json(&self) -> String {
        let elapsed_s = self.elapsed.as_secs_f64();
        let per_s = |count: u64| if elapsed_s > 0.0 { count as f64 / elapsed_s } else { 0.0 };
        let mut text = format!(
            r#"{{"mode":"{}","target":"{}","connections":{},"rate":{},"request_bytes":{},"elapsed_s":{elapsed_s:.6}"#,
            self.mode,
            self.target,
            self.connections,
            self.rate.map_or("null".to_owned(), |rate| rate.to_string()),
            self.request_bytes,
        );
        let failures = Failure::NAMES
            .iter()
            .zip(self.failures)
            .map(|(name, count)| format!(r#""{name}":{count}"#));
        let statuses = self
            .statuses
            .iter()
            .map(|(status, count)| format!(r#""{status}":{count}"#));
        // Writing to a String does not fail.
        let _ = write!(
            text,
            r#","started":{},"completed":{},"errors":{},"failures":{{{}}},"non_2xx":{},"statuses":{{{}}},"reconnects":{},"body_bytes":{}"#,
            self.started,
            self.completed,
            self.errors(),
            failures.collect::<Vec<_>>().join(","),
            self.non_2xx,
            statuses.collect::<Vec<_>>().join(","),
            self.reconnects,
            self.body_bytes,
        );
        let _ = write!(
            text,
            r#","requests_per_s":{:.1},"latency_us":{}"#,
            per_s(self.completed),
            spread(&self.latency)
        );
        if let Some(streams) = &self.streams {
            let _ = write!(
                text,
                r#","stream":{{"chunks":{},"coalesced":{},"chunks_per_s":{:.1},"gap_us":{},"first_event_us":{},"delay_us":{}}}"#,
                streams.events,
                streams.coalesced,
                per_s(streams.events),
                spread(&streams.gap),
                spread(&streams.first),
                spread(&streams.delay),
            );
        }
        let own = self
            .own_cpu
            .map_or("null".to_owned(), |cpu| format!("{:.3}", cpu.as_secs_f64()));
        let _ = write!(text, r#","own_cpu_s":{own}}}"#);
        text
    }
}

/// A histogram of nanoseconds as microseconds.
#[allow(clippy::cast_precision_loss)]
fn spread(histogram: &Histogram) -> String {
    let at = |percent: f64| histogram.percentile(percent) as f64 / 1e3;
    format!(
        r#"{{"min":{:.1},"mean":{:.1},"p50":{:.1},"p90":{:.1},"p99":{:.1},"p999":{:.1},"max":{:.1}}}"#,
        histogram.min() as f64 / 1e3,
        histogram.mean() / 1e3,
        at(50.0),
        at(90.0),
        at(99.0),
        at(99.9),
        histogram.max() as f64 / 1e3,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let mut latency = Histogram::new();
        latency.record(100_000);
        Report {
            mode: "closed",
            target: "127.0.0.1:1".to_owned(),
            connections: 1,
            rate: None,
            request_bytes: 10,
            elapsed: Duration::from_secs(2),
            started: 1,
            completed: 1,
            non_2xx: 0,
            failures: [0; Failure::NAMES.len()],
            statuses: BTreeMap::from([(200, 1)]),
            reconnects: 0,
            body_bytes: 400,
            latency,
            streams: Some(StreamStats::new()),
            own_cpu: None,
        }
    }

    #[test]
    fn the_report_says_what_was_counted() {
        let text = report().json();
        for part in [
            r#""completed":1,"errors":0,"failures":{"connect":0,"#,
            r#""statuses":{"200":1}"#,
            r#""requests_per_s":0.5,"latency_us":{"min":100.0,"mean":100.0,"p50":100.0"#,
            r#""stream":{"chunks":0,"#,
            r#""own_cpu_s":null}"#,
        ] {
            assert!(text.contains(part), "{part} not in {text}");
        }
    }

    #[test]
    fn anything_short_of_all_right_is_not_clean() {
        assert!(report().clean());
        assert!(!Report { non_2xx: 1, ..report() }.clean());
        assert!(!Report { started: 2, ..report() }.clean());
        assert!(
            !Report {
                failures: [0, 0, 1, 0, 0, 0, 0],
                ..report()
            }
            .clean()
        );
        assert!(
            !Report {
                started: 0,
                completed: 0,
                ..report()
            }
            .clean()
        );
    }
}
