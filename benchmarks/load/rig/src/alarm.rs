//! One timer with microsecond grain: epoll's own timeout counts milliseconds, and chunks are 2.5 ms apart.

use std::io;
use std::time::{Duration, Instant};

use mio::{Registry, Token};

/// Wakes a poll at an instant. On Linux a timerfd; elsewhere poll's timeout, rounded up to its grain.
pub(crate) struct Alarm {
    due: Option<Instant>,
    #[cfg(target_os = "linux")]
    fd: std::os::fd::OwnedFd,
}

impl Alarm {
    /// Registers the alarm: its events carry `token` and mean nothing else than "look at the clock".
    #[cfg(target_os = "linux")]
    pub(crate) fn register(registry: &Registry, token: Token) -> io::Result<Self> {
        use std::os::fd::AsRawFd;

        use mio::Interest;
        use mio::unix::SourceFd;
        use rustix::time::{TimerfdClockId, TimerfdFlags, timerfd_create};

        let fd = timerfd_create(
            TimerfdClockId::Monotonic,
            TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC,
        )?;
        registry.register(&mut SourceFd(&fd.as_raw_fd()), token, Interest::READABLE)?;
        Ok(Self { due: None, fd })
    }

    #[cfg(not(target_os = "linux"))]
    pub(crate) fn register(_registry: &Registry, _token: Token) -> io::Result<Self> {
        Ok(Self { due: None })
    }

    /// Sets the one instant to wake at; costs a system call only when it changes or has passed.
    #[cfg(target_os = "linux")]
    pub(crate) fn set(&mut self, due: Instant, now: Instant) -> io::Result<()> {
        use rustix::time::{Itimerspec, TimerfdTimerFlags, Timespec, timerfd_settime};

        if self.due == Some(due) && due > now {
            return Ok(());
        }
        // Zero would disarm it.
        let wait = due.saturating_duration_since(now).max(Duration::from_nanos(1));
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        let value = Timespec {
            tv_sec: wait.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: wait.subsec_nanos().into(),
        };
        let spec = Itimerspec {
            it_interval: zero,
            it_value: value,
        };
        // Setting it again also forgets an expiry that nobody read, so the descriptor is never read.
        timerfd_settime(&self.fd, TimerfdTimerFlags::empty(), &spec)?;
        self.due = Some(due);
        Ok(())
    }

    #[cfg(not(target_os = "linux"))]
    pub(crate) fn set(&mut self, due: Instant, _now: Instant) -> io::Result<()> {
        self.due = Some(due);
        Ok(())
    }

    /// The timeout to pass to poll.
    pub(crate) fn timeout(&self, now: Instant) -> Option<Duration> {
        if cfg!(target_os = "linux") {
            return None;
        }
        self.due.map(|due| due.saturating_duration_since(now))
    }
}
