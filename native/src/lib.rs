//! `budgateway._native`: translates between Python and `budgateway-core`, and nothing more. The exception is `engine`,
//! which does I/O and has a folder of its own.

mod access;
mod chunk;
mod coding;
mod credentials;
mod dialect;
mod engine;
mod error;
mod frame;
mod head;
mod ids;
mod jose;
mod json;
mod latency;
mod ledger;
mod limits;
mod metrics;
mod number;
mod pump;
mod queue;
mod rate_limit;
mod redact;
mod retry;
mod route;
mod segment;
mod select;
mod shape;
mod sse;
mod trace;
mod transform;
mod usage;

use pyo3::prelude::*;

/// Incremented whenever a signature in `_native.pyi` changes; `native.py` holds the other copy.
const ABI: u32 = 26;

#[pymodule(gil_used = false)]
mod _native {
    use budgateway_core::entry::Outcome;

    use super::*;

    // Hot state: one shared mapping.
    #[pymodule_export]
    use crate::access::AccessLog;
    #[pymodule_export]
    use crate::engine::fastpath::{FastPath, Resumable};
    #[pymodule_export]
    use crate::engine::sockets::{Idle, Listener, Sockets, Transport};
    #[pymodule_export]
    use crate::latency::LatencyHistogram;
    #[pymodule_export]
    use crate::ledger::Ledger;
    #[pymodule_export]
    use crate::limits::{LimitLedger, LimitSet, Price, Refusal, Reservation};
    #[pymodule_export]
    use crate::metrics::{Metrics, Series, Times};
    #[pymodule_export]
    use crate::queue::{Queue, WaitingCount};
    #[pymodule_export]
    use crate::rate_limit::RateLimit;
    #[pymodule_export]
    use crate::retry::RetryBudget;
    #[pymodule_export]
    use crate::segment::Segment;
    #[pymodule_export]
    use crate::select::{Selector, UpstreamHealth};
    #[pymodule_export]
    use crate::shape::Split;
    #[pymodule_export]
    use crate::trace::{Trace, Tracer};
    #[pymodule_export]
    use crate::usage::UsageTable;

    // Gauges have no meaning in the core; the numbers are their order in a worker's row.
    #[pymodule_export]
    const GAUGE_CONNECTIONS: u8 = 0;
    #[pymodule_export]
    const GAUGE_EXCHANGES: u8 = 1;
    #[pymodule_export]
    const GAUGE_POOL_IDLE: u8 = 2;
    #[pymodule_export]
    const GAUGE_POOL_BUSY: u8 = 3;
    #[pymodule_export]
    const GAUGE_TICK: u8 = budgateway_core::segment::GAUGE_TICK as u8;
    #[pymodule_export]
    const GAUGE_SOCKETS: u8 = 5;
    #[pymodule_export]
    const GAUGE_SOCKET_FRAMES_IN: u8 = 8;
    #[pymodule_export]
    const GAUGE_SOCKET_FRAMES_OUT: u8 = 9;
    #[pymodule_export]
    const GAUGE_SOCKET_BYTES_IN: u8 = 10;
    #[pymodule_export]
    const GAUGE_SOCKET_BYTES_OUT: u8 = 11;
    #[pymodule_export]
    const GAUGE_STORE_AWAY: u8 = 12;
    #[pymodule_export]
    const GAUGE_STORE_CALLS: u8 = 13;
    #[pymodule_export]
    const GAUGE_STORE_FALLBACKS: u8 = 14;
    #[pymodule_export]
    const GAUGE_STORE_LOST: u8 = 15;
    #[pymodule_export]
    const GAUGE_MIRRORED: u8 = 16;
    #[pymodule_export]
    const GAUGE_MIRRORS_FAILED: u8 = 17;
    #[pymodule_export]
    const GAUGE_MIRRORS_SKIPPED: u8 = 18;
    #[pymodule_export]
    const GAUGE_LINES_LOST: u8 = 19;

    #[pymodule_export]
    const WAIT_SERVED: u8 = crate::queue::WAIT_SERVED;
    #[pymodule_export]
    const WAIT_TIMED_OUT: u8 = crate::queue::WAIT_TIMED_OUT;
    #[pymodule_export]
    const WAIT_GONE: u8 = crate::queue::WAIT_GONE;

    #[pymodule_export]
    const BY_USER: u8 = budgateway_core::limit::by::USER;
    #[pymodule_export]
    const BY_KEY: u8 = budgateway_core::limit::by::KEY;
    #[pymodule_export]
    const BY_TENANT: u8 = budgateway_core::limit::by::TENANT;
    #[pymodule_export]
    const BY_MODEL: u8 = budgateway_core::limit::by::MODEL;
    #[pymodule_export]
    const BY_ROUTE: u8 = budgateway_core::limit::by::ROUTE;
    #[pymodule_export]
    const BY_ADDRESS: u8 = budgateway_core::limit::by::ADDRESS;

    #[pymodule_export]
    const VERDICT_NEUTRAL: u8 = crate::select::VERDICT_NEUTRAL;
    #[pymodule_export]
    const VERDICT_SUCCESS: u8 = crate::select::VERDICT_SUCCESS;
    #[pymodule_export]
    const VERDICT_FAILURE: u8 = crate::select::VERDICT_FAILURE;

    #[pymodule_export]
    const OUTCOME_COMPLETE: u8 = Outcome::Complete as u8;
    #[pymodule_export]
    const OUTCOME_REFUSED: u8 = Outcome::Refused as u8;
    #[pymodule_export]
    const OUTCOME_UPSTREAM_FAILED: u8 = Outcome::UpstreamFailed as u8;
    #[pymodule_export]
    const OUTCOME_TRUNCATED: u8 = Outcome::Truncated as u8;
    #[pymodule_export]
    const OUTCOME_CLIENT_GONE: u8 = Outcome::ClientGone as u8;

    #[pymodule_export]
    use crate::pump::BodyPump;
    #[pymodule_export]
    const SCAN_DOCUMENT: u8 = crate::pump::SCAN_DOCUMENT;
    #[pymodule_export]
    const SCAN_EVENTS: u8 = crate::pump::SCAN_EVENTS;

    #[pymodule_export]
    const SEEN_EVENT: u8 = crate::pump::SEEN_EVENT;
    #[pymodule_export]
    const SEEN_ERROR_FIRST: u8 = crate::pump::SEEN_ERROR_FIRST;
    #[pymodule_export]
    const SEEN_OTHER_FIRST: u8 = crate::pump::SEEN_OTHER_FIRST;
    #[pymodule_export]
    const SEEN_END: u8 = crate::pump::SEEN_END;
    #[pymodule_export]
    const SEEN_ERROR: u8 = crate::pump::SEEN_ERROR;
    #[pymodule_export]
    const SEEN_PROMISE: u8 = crate::pump::SEEN_PROMISE;
    #[pymodule_export]
    const SEEN_CONTENT: u8 = crate::pump::SEEN_CONTENT;

    // HTTP/1.1 heads.
    #[pymodule_export]
    use crate::chunk::ChunkScanner;
    #[pymodule_export]
    use crate::coding::BodyDecoder;
    #[pymodule_export]
    use crate::head::{HeadEdits, HeadReader, RequestHead, RequestHeadWriter, ResponseHead, ResponseHeadWriter};
    #[pymodule_export]
    use crate::ids::RequestIds;
    #[pymodule_export]
    use crate::redact::Redactor;

    #[pymodule_export]
    const FACTS: usize = crate::head::FACTS;

    // Limits that Python code repeats: `tests/unit/native/test_native_numbers.py` compares them.
    #[pymodule_export]
    const MAX_HEAD_BYTES: usize = budgateway_core::head::MAX_HEAD;
    #[pymodule_export]
    const MAX_CACHED_PLANS: usize = crate::engine::fastpath::MAX_CACHED_PLANS;
    #[pymodule_export]
    const JOINED_BYTES: usize = crate::engine::fastpath::JOINED_BYTES;

    #[pymodule_export]
    const KEEP_ALIVE: u16 = crate::head::flag::KEEP_ALIVE;
    #[pymodule_export]
    const CHUNKED: u16 = crate::head::flag::CHUNKED;
    #[pymodule_export]
    const EXPECT_CONTINUE: u16 = crate::head::flag::EXPECT_CONTINUE;
    #[pymodule_export]
    const UPGRADE: u16 = crate::head::flag::UPGRADE;
    #[pymodule_export]
    const HTTP_10: u16 = crate::head::flag::HTTP_10;
    #[pymodule_export]
    const JSON: u16 = crate::head::flag::JSON;
    #[pymodule_export]
    const MULTIPART: u16 = crate::head::flag::MULTIPART;
    #[pymodule_export]
    const EVENT_STREAM: u16 = crate::head::flag::EVENT_STREAM;
    #[pymodule_export]
    const ENCODED: u16 = crate::head::flag::ENCODED;
    #[pymodule_export]
    const NO_BODY: u16 = crate::head::flag::NO_BODY;
    #[pymodule_export]
    const NAMED: u16 = crate::head::flag::NAMED;
    #[pymodule_export]
    const TIMED: u16 = crate::head::flag::TIMED;
    #[pymodule_export]
    const DOUBTFUL: u16 = crate::head::flag::DOUBTFUL;
    #[pymodule_export]
    const ASKING: u16 = crate::head::flag::ASKING;
    #[pymodule_export]
    const TARGET_MODEL: u16 = crate::head::flag::TARGET_MODEL;
    #[pymodule_export]
    const LOCATED: u16 = crate::head::flag::LOCATED;

    // Bodies.
    #[pymodule_export]
    use crate::frame::FrameScanner;
    #[pymodule_export]
    use crate::json::{BodyPeek, Peeker};
    #[pymodule_export]
    use crate::sse::{ModelRewriter, UsageScanner};
    #[pymodule_export]
    use crate::transform::{EventTransform, Transform};

    // Dialects.
    #[pymodule_export]
    use crate::dialect::{AnswerTranslation, Translation, Translator};

    // Routing.
    #[pymodule_export]
    use crate::route::RouteTable;

    // Tokens.
    #[pymodule_export]
    use crate::credentials::CredentialCache;
    #[pymodule_export]
    use crate::jose::TokenVerifier;
    #[pymodule_export]
    const TOKEN_REFUSED: u8 = crate::jose::TOKEN_REFUSED;
    #[pymodule_export]
    const TOKEN_UNKNOWN_KEY: u8 = crate::jose::TOKEN_UNKNOWN_KEY;
    #[pymodule_export]
    const TOKEN_REJECTED: u8 = crate::jose::TOKEN_REJECTED;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        crate::metrics::add_bounds(module)?;
        module.add("ABI", ABI)?;
        module.add("POLICIES", crate::select::policies(module.py())?)?;
        module.add(
            "BUILD_PROFILE",
            if cfg!(debug_assertions) { "debug" } else { "release" },
        )?;
        // pyo3 adds one; the stub has none, because nobody star-imports this module.
        module.delattr("__all__")
    }
}
