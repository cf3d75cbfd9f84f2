//! TAP devices: Ethernet devices of the host whose other end is this process.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use crate::Errno;

/// A TAP device, which lasts as long as the value.
#[derive(Debug)]
pub struct Tap(OwnedFd);

impl Tap {
    /// Creates a device of this name, in the caller's network namespace.
    ///
    /// # Errors
    /// `EPERM`: without CAP_NET_ADMIN. `ENOENT`: the host has no /dev/net/tun. `EBUSY`: the name is taken. `EINVAL`: a name that is empty or longer than
    /// 15 bytes.
    pub fn create(name: &str) -> Result<Self, Errno> {
        if name.is_empty() || name.len() >= libc::IFNAMSIZ || name.contains('\0') {
            return Err(Errno::EINVAL);
        }
        let flags = libc::O_RDWR | libc::O_CLOEXEC | libc::O_NONBLOCK;
        // SAFETY: 1. the path is a NUL-terminated string, read only.
        let fd = unsafe { libc::open(c"/dev/net/tun".as_ptr(), flags) };
        let fd = crate::check(fd.into())?;
        // SAFETY: 1. the call above returned this descriptor to us alone.
        let tap = Tap(unsafe { OwnedFd::from_raw_fd(fd as i32) });
        // SAFETY: 1. all zero is a valid ifreq.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
            *to = from as libc::c_char;
        }
        request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI) as i16;
        // SAFETY: 1. `request` is valid for this ioctl, which reads and writes an ifreq.
        let made = unsafe { libc::ioctl(tap.0.as_raw_fd(), libc::TUNSETIFF, &mut request) };
        crate::check(made.into())?;
        Ok(tap)
    }

    /// Waits until the host has sent a frame, for at most `timeout`; whether it has.
    ///
    /// # Errors
    /// `EINTR`: a signal came first.
    pub fn wait(&self, timeout: Duration) -> Result<bool, Errno> {
        wait_readable(&self.0, timeout)
    }

    /// The next frame that the host sent, cut to the buffer; its length.
    ///
    /// # Errors
    /// `EAGAIN`: none. `EIO`: the device is down.
    pub fn receive(&self, frame: &mut [u8]) -> Result<usize, Errno> {
        // SAFETY: 1. `frame` is writable for its length.
        let read =
            unsafe { libc::read(self.0.as_raw_fd(), frame.as_mut_ptr().cast(), frame.len()) };
        crate::check(read as libc::c_long).map(|len| len as usize)
    }

    /// Gives the host a frame as if it came in on the device.
    ///
    /// # Errors
    /// `EIO`: the device is down. `EINVAL`: shorter than a link header.
    pub fn send(&self, frame: &[u8]) -> Result<(), Errno> {
        // SAFETY: 1. `frame` is readable for its length.
        let written =
            unsafe { libc::write(self.0.as_raw_fd(), frame.as_ptr().cast(), frame.len()) };
        crate::check(written as libc::c_long).map(|_| ())
    }
}

/// Waits until a descriptor is readable, for at most `timeout`; whether it is.
pub(crate) fn wait_readable(fd: &OwnedFd, timeout: Duration) -> Result<bool, Errno> {
    let mut poll = libc::pollfd {
        fd: fd.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    let millis = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: 1. `poll` is one valid pollfd.
    let ready = unsafe { libc::poll(&mut poll, 1, millis) };
    crate::check(ready.into()).map(|ready| ready > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_no_device_can_have_are_refused() {
        for name in ["", "a\0b", "sixteen-letters!"] {
            assert_eq!(Tap::create(name).err(), Some(Errno::EINVAL), "{name:?}");
        }
    }
}
