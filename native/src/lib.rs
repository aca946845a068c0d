//! `budgateway._native`: translates between Python and `budgateway-core`, and nothing more.

use pyo3::prelude::*;

/// Bumped whenever a signature in `_native.pyi` changes; `native.py` holds the other copy.
const ABI: u32 = 1;

#[pymodule(gil_used = false)]
mod _native {
    use super::*;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("ABI", ABI)?;
        module.add("BUILD_PROFILE", if cfg!(debug_assertions) { "debug" } else { "release" })
    }
}
