//! File descriptors that come as numbers.

#![allow(
    unsafe_code,
    reason = "a number becomes a descriptor that is owned; every block says why it may"
)]

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// A copy of a descriptor that somebody else owns and may close: the copy stays open.
///
/// # Errors
///
/// What `fcntl` says when the number stands for nothing, or there is no room for another one.
pub fn copy_of(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: fcntl takes any number and fails on one that is no descriptor.
    let copy = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 0) };
    if copy < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: fcntl just made it, nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}
