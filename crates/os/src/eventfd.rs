//! Eventfds: a counter that a ring buffer's producer raises and its consumer waits on.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use crate::Errno;

/// A non-blocking, close-on-exec eventfd.
#[derive(Debug)]
pub struct EventFd(OwnedFd);

impl EventFd {
    /// A new eventfd with counter 0.
    ///
    /// # Errors
    /// `EMFILE`, `ENFILE`, `ENOMEM`: out of resources.
    pub fn new() -> Result<Self, Errno> {
        // SAFETY: 1. eventfd takes no pointer.
        let fd = crate::check(
            unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) }.into(),
        )?;
        // SAFETY: 1. the call above returned this descriptor to us alone.
        Ok(EventFd(unsafe { OwnedFd::from_raw_fd(fd as i32) }))
    }

    /// Adds 1 to the counter. A counter at its maximum is left so: whoever waits is awake already.
    pub fn signal(&self) {
        let one = 1u64.to_ne_bytes();
        // SAFETY: 1. the buffer holds the 8 bytes that the call reads.
        let _ = unsafe { libc::write(self.0.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    }

    /// Takes the counter's value and sets it to 0; 0 where nothing was signalled.
    pub fn take(&self) -> u64 {
        let mut counter = [0u8; 8];
        // SAFETY: 1. the buffer holds the 8 bytes that the call writes.
        let read = unsafe {
            libc::read(
                self.0.as_raw_fd(),
                counter.as_mut_ptr().cast(),
                counter.len(),
            )
        };
        if read == 8 {
            u64::from_ne_bytes(counter)
        } else {
            0
        }
    }

    /// Waits until the counter is not 0; `false` after `timeout`.
    pub fn wait(&self, timeout: Duration) -> bool {
        let mut poll = libc::pollfd {
            fd: self.0.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        let millis = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: 1. one valid pollfd.
        let ready = unsafe { libc::poll(&mut poll, 1, millis) };
        ready > 0
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_add_up_until_taken() {
        let event = EventFd::new().unwrap();
        assert!(!event.wait(Duration::ZERO));
        event.signal();
        event.signal();
        assert!(event.wait(Duration::ZERO));
        assert_eq!(event.take(), 2);
        assert_eq!(event.take(), 0);
    }
}
