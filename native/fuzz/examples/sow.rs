//! Writes what the replay begins with into folders, one for each target, for a fuzzer to begin with: `sow FOLDER`.

use std::io;
use std::path::PathBuf;

use budgateway_fuzz::corpora::of_others;
use budgateway_fuzz::{CHECKS, own};

/// libFuzzer makes none longer than the longest that it is given: long ones slow down all others.
const LONGEST: usize = 2 * 1024;

fn main() -> io::Result<()> {
    let root = PathBuf::from(std::env::args_os().nth(1).ok_or(io::ErrorKind::InvalidInput)?);
    for (name, _) in CHECKS {
        let folder = root.join(name);
        std::fs::create_dir_all(&folder)?;
        let seeds = own(name).into_iter().chain(of_others(name).texts);
        for (at, seed) in seeds.filter(|seed| seed.len() <= LONGEST).enumerate() {
            std::fs::write(folder.join(at.to_string()), seed)?;
        }
    }
    Ok(())
}
