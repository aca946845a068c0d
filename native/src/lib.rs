//! `budgateway._native`: translates between Python and `budgateway-core`, and nothing more.

mod chunk;
mod error;
mod head;
mod json;
mod route;
mod sse;

use pyo3::prelude::*;

/// Bumped whenever a signature in `_native.pyi` changes; `native.py` holds the other copy.
const ABI: u32 = 1;

#[pymodule(gil_used = false)]
mod _native {
    use super::*;

    // Hot state: one shared mapping.

    // HTTP/1.1 heads.
    #[pymodule_export]
    use crate::chunk::ChunkScanner;
    #[pymodule_export]
    use crate::head::{RequestHead, RequestHeadWriter, ResponseHead, ResponseHeadWriter};

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

    // Bodies.
    #[pymodule_export]
    use crate::json::{BodyPeek, Peeker};
    #[pymodule_export]
    use crate::sse::{ModelRewriter, UsageScanner};

    // Routing.
    #[pymodule_export]
    use crate::route::RouteTable;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("ABI", ABI)?;
        module.add(
            "BUILD_PROFILE",
            if cfg!(debug_assertions) { "debug" } else { "release" },
        )
    }
}
