//! AF_PACKET sockets: whole Ethernet frames from and to a device of the host.

use std::ffi::CString;
use std::mem::size_of;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use crate::Errno;

/// A socket that sends and receives the frames of one device.
#[derive(Debug)]
pub struct PacketSocket(OwnedFd);

impl PacketSocket {
    /// A socket on the device with this name. It does not hear what it or the host sends there.
    ///
    /// # Errors
    /// `EPERM`: without CAP_NET_RAW. `ENODEV`: no such device. `EINVAL`: a name with a NUL byte.
    pub fn open(device: &str) -> Result<Self, Errno> {
        const ALL_PROTOCOLS: u16 = (libc::ETH_P_ALL as u16).to_be();
        let name = CString::new(device).map_err(|_| Errno::EINVAL)?;
        // SAFETY: 1. `name` is a NUL-terminated string, read only.
        let ifindex = unsafe { libc::if_nametoindex(name.as_ptr()) };
        if ifindex == 0 {
            return Err(Errno::ENODEV);
        }
        // SAFETY: 1. socket takes no pointer.
        let fd = unsafe {
            libc::socket(
                libc::AF_PACKET,
                libc::SOCK_RAW | libc::SOCK_CLOEXEC,
                i32::from(ALL_PROTOCOLS),
            )
        };
        let fd = crate::check(fd.into())?;
        // SAFETY: 1. the call above returned this descriptor to us alone.
        let socket = PacketSocket(unsafe { OwnedFd::from_raw_fd(fd as i32) });
        socket.set_option(libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, &1i32)?;
        // SAFETY: 1. all zero is a valid sockaddr_ll.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = ALL_PROTOCOLS;
        address.sll_ifindex = ifindex as i32;
        // SAFETY: 1. `address` is valid for the length given, read only.
        let bound = unsafe {
            libc::bind(
                socket.0.as_raw_fd(),
                std::ptr::from_ref(&address).cast(),
                size_of::<libc::sockaddr_ll>() as u32,
            )
        };
        crate::check(bound.into())?;
        Ok(socket)
    }

    /// How long [`PacketSocket::receive`] waits; `None` is for ever.
    ///
    /// # Errors
    /// `EDOM`: out of range.
    pub fn set_timeout(&self, timeout: Option<Duration>) -> Result<(), Errno> {
        let timeout = timeout.unwrap_or_default();
        let time = libc::timeval {
            tv_sec: timeout.as_secs() as i64,
            tv_usec: i64::from(timeout.subsec_micros()),
        };
        self.set_option(libc::SOL_SOCKET, libc::SO_RCVTIMEO, &time)
    }

    /// Waits until a frame is there, for at most `timeout`; whether one is.
    ///
    /// # Errors
    /// `EINTR`: a signal came first.
    pub fn wait(&self, timeout: Duration) -> Result<bool, Errno> {
        crate::tap::wait_readable(&self.0, timeout)
    }

    fn set_option<T>(&self, level: i32, option: i32, value: &T) -> Result<(), Errno> {
        // SAFETY: 1. `value` is valid for its size, read only.
        let result = unsafe {
            libc::setsockopt(
                self.0.as_raw_fd(),
                level,
                option,
                std::ptr::from_ref(value).cast(),
                size_of::<T>() as u32,
            )
        };
        crate::check(result.into()).map(|_| ())
    }

    /// The next frame, cut to the buffer; its length.
    ///
    /// # Errors
    /// `EAGAIN`: none within the timeout. `ENETDOWN`: the device went down.
    pub fn receive(&self, frame: &mut [u8]) -> Result<usize, Errno> {
        // SAFETY: 1. `frame` is writable for its length.
        let received = unsafe {
            libc::recv(
                self.0.as_raw_fd(),
                frame.as_mut_ptr().cast(),
                frame.len(),
                0,
            )
        };
        crate::check(received as libc::c_long).map(|len| len as usize)
    }

    /// Sends a frame.
    ///
    /// # Errors
    /// `ENETDOWN`: the device is down. `EMSGSIZE`: longer than it takes.
    pub fn send(&self, frame: &[u8]) -> Result<(), Errno> {
        // SAFETY: 1. `frame` is readable for its length.
        let sent = unsafe { libc::send(self.0.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        crate::check(sent as libc::c_long).map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_is_not_there_is_refused() {
        assert_eq!(PacketSocket::open("none-such").err(), Some(Errno::ENODEV));
        assert_eq!(PacketSocket::open("a\0b").err(), Some(Errno::EINVAL));
    }
}
