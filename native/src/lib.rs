//! `budgateway._native`: translates between Python and `budgateway-core`, and nothing more.

mod error;
mod json;

use pyo3::prelude::*;

/// Bumped whenever a signature in `_native.pyi` changes; `native.py` holds the other copy.
const ABI: u32 = 1;

#[pymodule(gil_used = false)]
mod _native {
    use super::*;

    // Hot state: one shared mapping.

    // HTTP/1.1 heads.

    // Bodies.
    #[pymodule_export]
    use crate::json::{BodyPeek, Peeker};

    // Routing.

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("ABI", ABI)?;
        module.add(
            "BUILD_PROFILE",
            if cfg!(debug_assertions) { "debug" } else { "release" },
        )
    }
}
