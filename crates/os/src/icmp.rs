//! ICMP echo: asking whether an address answers, through the host's own stack.

use std::mem::size_of;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use crate::Errno;

/// Bytes of an ICMP echo header.
const HEADER_BYTES: usize = 8;
const ECHO_REQUEST: u8 = 8;
const ECHO_REPLY: u8 = 0;

/// A socket for echo requests.
#[derive(Debug)]
pub struct EchoSocket(OwnedFd);

impl EchoSocket {
    /// A raw ICMP socket.
    ///
    /// # Errors
    /// `EPERM`: without CAP_NET_RAW.
    pub fn open() -> Result<Self, Errno> {
        // SAFETY: 1. socket takes no pointer.
        let fd = unsafe {
            libc::socket(
                libc::AF_INET,
                libc::SOCK_RAW | libc::SOCK_CLOEXEC,
                libc::IPPROTO_ICMP,
            )
        };
        let fd = crate::check(fd.into())?;
        // SAFETY: 1. the call above returned this descriptor to us alone.
        Ok(EchoSocket(unsafe { OwnedFd::from_raw_fd(fd as i32) }))
    }

    /// Sends an echo request with a payload and waits for the reply with the same; whether it came from that address within `timeout`.
    ///
    /// # Errors
    /// `ENETUNREACH`: no route to the address.
    pub fn ping(
        &self,
        address: Ipv4Addr,
        sequence: u16,
        payload: &[u8],
        timeout: Duration,
    ) -> Result<bool, Errno> {
        self.send(address, &echo(ECHO_REQUEST, sequence, payload))?;
        let expected = echo(ECHO_REPLY, sequence, payload);
        let begin = Instant::now();
        while let Some(left) = timeout.checked_sub(begin.elapsed()) {
            if !crate::tap::wait_readable(&self.0, left)? {
                return Ok(false);
            }
            if self
                .receive()?
                .is_some_and(|(from, message)| from == address && message == expected)
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn send(&self, address: Ipv4Addr, message: &[u8]) -> Result<(), Errno> {
        // SAFETY: 1. all zero is a valid sockaddr_in.
        let mut to: libc::sockaddr_in = unsafe { std::mem::zeroed() };
        to.sin_family = libc::AF_INET as u16;
        to.sin_addr.s_addr = u32::from_ne_bytes(address.octets());
        // SAFETY: 1. `message` is readable for its length; 2. `to` is valid for the length given.
        let sent = unsafe {
            libc::sendto(
                self.0.as_raw_fd(),
                message.as_ptr().cast(),
                message.len(),
                0,
                std::ptr::from_ref(&to).cast(),
                size_of::<libc::sockaddr_in>() as u32,
            )
        };
        crate::check(sent as libc::c_long).map(|_| ())
    }

    /// The next ICMP message and who sent it; `None` where it is none.
    fn receive(&self) -> Result<Option<(Ipv4Addr, Vec<u8>)>, Errno> {
        let mut packet = vec![0u8; 2048];
        // SAFETY: 1. `packet` is writable for its length.
        let received = unsafe {
            libc::recv(
                self.0.as_raw_fd(),
                packet.as_mut_ptr().cast(),
                packet.len(),
                0,
            )
        };
        packet.truncate(crate::check(received as libc::c_long)? as usize);
        let header = packet
            .first()
            .map_or(0, |first| usize::from(first & 0xf) * 4);
        let from: Option<[u8; 4]> = packet.get(12..16).and_then(|from| from.try_into().ok());
        Ok(from
            .zip(packet.get(header..))
            .map(|(from, message)| (from.into(), message.to_owned())))
    }
}

/// An echo message with its checksum.
fn echo(kind: u8, sequence: u16, payload: &[u8]) -> Vec<u8> {
    const IDENTIFIER: u16 = 0x5233;
    let mut message = vec![0; HEADER_BYTES];
    message[0] = kind;
    message[4..6].copy_from_slice(&IDENTIFIER.to_be_bytes());
    message[6..8].copy_from_slice(&sequence.to_be_bytes());
    message.extend_from_slice(payload);
    let mut sum: u32 = message
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)])))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    message[2..4].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_sums_to_all_ones() {
        let message = echo(ECHO_REQUEST, 7, b"odd");
        let mut sum = 0u32;
        for pair in message.chunks(2) {
            sum += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
        }
        assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff);
    }
}
