//! File descriptors passed as numbers.

#![allow(
    unsafe_code,
    reason = "a number becomes a descriptor that is owned; every block says why it may"
)]

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// Duplicates a descriptor that somebody else owns and may close; the copy stays open.
///
/// # Errors
///
/// The error of `fcntl`, when the number is not an open descriptor or no descriptors are left.
pub fn copy_of(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: fcntl accepts any number, and fails when it is not a descriptor.
    let copy = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 0) };
    if copy < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: fcntl has just created it, and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}
