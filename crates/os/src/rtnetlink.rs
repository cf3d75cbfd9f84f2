//! The one request to rtnetlink(7) that no tool has words for: IPv4 forwarding of a single device, of the caller's network namespace.

use std::mem::size_of;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use crate::Errno;

/// Bytes of the header, of `struct ifinfomsg` and of the nested attributes.
const HEADER_BYTES: usize = 16;
const IFINFO_BYTES: usize = 16;
const MESSAGE_BYTES: usize = HEADER_BYTES + IFINFO_BYTES + 20;

/// Lets a device forward IPv4 packets.
///
/// # Errors
/// `EPERM`: without CAP_NET_ADMIN. `ENODEV`: no such device.
pub fn forward_ipv4(ifindex: u32) -> Result<(), Errno> {
    /// Nested attributes, outermost first: IFLA_AF_SPEC, AF_INET, IFLA_INET_CONF, IPV4_DEVCONF_FORWARDING.
    const NESTED: [u16; 4] = [26, 2, 1, 1];
    let mut message = Vec::with_capacity(MESSAGE_BYTES);
    message.extend((MESSAGE_BYTES as u32).to_ne_bytes());
    message.extend(libc::RTM_NEWLINK.to_ne_bytes());
    message.extend(((libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16).to_ne_bytes());
    message.extend([0; 8]);
    message.extend([0; 4]);
    message.extend(ifindex.to_ne_bytes());
    message.extend([0; 8]);
    for (depth, kind) in NESTED.iter().enumerate() {
        message.extend(((20 - depth * 4) as u16).to_ne_bytes());
        message.extend(kind.to_ne_bytes());
    }
    message.extend(1u32.to_ne_bytes());
    ask(&message)
}

/// Sends a request and reads its acknowledgement.
fn ask(message: &[u8]) -> Result<(), Errno> {
    // SAFETY: 1. socket takes no pointer.
    let fd = unsafe {
        libc::socket(
            libc::AF_NETLINK,
            libc::SOCK_RAW | libc::SOCK_CLOEXEC,
            libc::NETLINK_ROUTE,
        )
    };
    let fd = crate::check(fd.into())?;
    // SAFETY: 1. the call above returned this descriptor to us alone.
    let socket = unsafe { OwnedFd::from_raw_fd(fd as i32) };
    // SAFETY: 1. `message` is readable for its length.
    let sent = unsafe {
        libc::send(
            socket.as_raw_fd(),
            message.as_ptr().cast(),
            message.len(),
            0,
        )
    };
    crate::check(sent as libc::c_long)?;
    let mut answer = [0u8; 1024];
    // SAFETY: 1. `answer` is writable for its length.
    let received = unsafe {
        libc::recv(
            socket.as_raw_fd(),
            answer.as_mut_ptr().cast(),
            answer.len(),
            0,
        )
    };
    crate::check(received as libc::c_long)?;
    let error = i32::from_ne_bytes(std::array::from_fn(|i| answer[HEADER_BYTES + i]));
    debug_assert!(received as usize >= HEADER_BYTES + size_of::<i32>());
    match error {
        0 => Ok(()),
        error => Err(Errno::from_raw(error.wrapping_neg())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_is_not_there_is_refused() {
        let refused = forward_ipv4(0x7fff_fff0).err();
        assert!(
            matches!(refused, Some(Errno::ENODEV | Errno::EPERM)),
            "{refused:?}"
        );
    }
}
