//! SYN cookies of listening sockets: `bpf_tcp_gen_syncookie`, `bpf_tcp_check_syncookie`.
//!
//! A socket makes and takes cookies only while its queue overflows. Nothing queues at a modelled socket, so a call that is well made learns that no
//! cookie is needed: ENOENT, as on a kernel without a flood. (Cookies without a socket are in `crate::syncookie`.)
//!
//! # Source
//! bpf-helpers(7); the order of the errors as BPF_PROG_TEST_RUN of Linux 6.18 shows them for a listener.

use ring3_uapi::Errno;

use super::sock::{PROTOCOL_TCP, Sock, family, state};

const TCP_HEADER_BYTES: usize = 20;
const IPV4_HEADER_BYTES: usize = 20;
const IPV6_HEADER_BYTES: usize = 40;
/// Byte of the flags in a TCP header, and the flags.
const FLAGS: usize = 13;
const FIN: u8 = 1;
const SYN: u8 = 1 << 1;
const RST: u8 = 1 << 2;
const ACK: u8 = 1 << 4;

/// # Errors
/// EINVAL: no listening TCP socket, or less than a TCP header.
fn listener<'a>(sock: Option<&'a Sock>, tcp: &[u8]) -> Result<&'a Sock, Errno> {
    sock.filter(|sock| {
        let spec = sock.spec();
        spec.protocol == PROTOCOL_TCP && spec.state == state::LISTEN
    })
    .filter(|_| tcp.len() >= TCP_HEADER_BYTES)
    .ok_or(Errno::EINVAL)
}

/// # Errors
/// EINVAL: a header that is too short, or of a family that the socket is not of. EPROTONOSUPPORT: neither IPv4 nor IPv6.
fn check_family(sock: &Sock, ip: &[u8]) -> Result<(), Errno> {
    if ip.len() < IPV4_HEADER_BYTES {
        return Err(Errno::EINVAL);
    }
    let spec = sock.spec();
    match ip[0] >> 4 {
        // Bound to an IPv6 address, a socket is of IPv6 only.
        4 if spec.family == family::INET6 && spec.local.0 != [0; 16] => Err(Errno::EINVAL),
        4 => Ok(()),
        6 if ip.len() >= IPV6_HEADER_BYTES && spec.family == family::INET6 => Ok(()),
        6 => Err(Errno::EINVAL),
        _ => Err(Errno::EPROTONOSUPPORT),
    }
}

/// Whether an ACK carries a cookie of the socket's: never.
///
/// # Errors
/// EINVAL: bad socket or header. ENOENT: no ACK, or no cookie was given out.
pub(super) fn check(sock: Option<&Sock>, ip: &[u8], tcp: &[u8]) -> Result<u64, Errno> {
    listener(sock, tcp)?;
    if tcp[FLAGS] & (ACK | RST | SYN) != ACK {
        return Err(Errno::ENOENT);
    }
    if ip.len() < IPV4_HEADER_BYTES {
        return Err(Errno::EINVAL);
    }
    Err(Errno::ENOENT)
}

/// A cookie for a SYN: none is needed.
///
/// # Errors
/// EINVAL: bad socket or header. EPROTONOSUPPORT: neither IPv4 nor IPv6. ENOENT: no cookie is needed.
pub(super) fn generate(sock: Option<&Sock>, ip: &[u8], tcp: &[u8]) -> Result<u64, Errno> {
    let sock = listener(sock, tcp)?;
    let is_syn = tcp[FLAGS] & (SYN | ACK | FIN | RST) == SYN;
    if usize::from(tcp[12] >> 4) * 4 != tcp.len() || !is_syn {
        return Err(Errno::EINVAL);
    }
    check_family(sock, ip)?;
    Err(Errno::ENOENT)
}

#[cfg(test)]
mod tests {
    use super::super::SockSpec;
    use super::*;
    use ring3_uapi::FuncId;

    fn tcp(flags: u8) -> [u8; 20] {
        let mut header = [0; 20];
        header[12] = 5 << 4;
        header[FLAGS] = flags;
        header
    }

    #[test]
    fn a_listener_needs_no_cookies() {
        let any = ([0; 16], 0);
        let of = |family, state| super::super::Sock::new(SockSpec::tcp(family, state, any, any));
        let (four, six) = (
            of(family::INET, state::LISTEN),
            of(family::INET6, state::LISTEN),
        );
        let bound = ([1; 16], 80);
        let bound =
            super::super::Sock::new(SockSpec::tcp(family::INET6, state::LISTEN, bound, any));
        let connected = of(family::INET, state::ESTABLISHED);
        let ip = |version: u8| {
            let mut header = [0u8; 40];
            header[0] = version << 4 | 5;
            header
        };
        let call = |id, sock: u64, ip: &[u8], tcp: &[u8]| {
            let code = crate::find(id).unwrap();
            let [ip_at, tcp_at] = [ip, tcp].map(|bytes| bytes.as_ptr().expose_provenance() as u64);
            // SAFETY: 0 or a live socket, and the headers.
            let answer =
                unsafe { code(sock, ip_at, ip.len() as u64, tcp_at, tcp.len() as u64) as i64 };
            Errno::from_raw(-answer as i32)
        };
        let [four, six, bound, connected] =
            [&four, &six, &bound, &connected].map(|sock| sock.program_ptr());
        let mut wrong_length = tcp(SYN);
        wrong_length[12] = 6 << 4;
        for (sock, ip, tcp, answer) in [
            (four, &ip(4)[..20], &tcp(SYN)[..], Errno::ENOENT),
            (six, &ip(4)[..20], &tcp(SYN)[..], Errno::ENOENT),
            (six, &ip(6)[..], &tcp(SYN)[..], Errno::ENOENT),
            (bound, &ip(6)[..], &tcp(SYN)[..], Errno::ENOENT),
            (bound, &ip(4)[..20], &tcp(SYN)[..], Errno::EINVAL),
            (four, &ip(6)[..], &tcp(SYN)[..], Errno::EINVAL),
            (six, &ip(6)[..39], &tcp(SYN)[..], Errno::EINVAL),
            (four, &ip(5)[..], &tcp(SYN)[..], Errno::EPROTONOSUPPORT),
            (four, &ip(4)[..19], &tcp(SYN)[..], Errno::EINVAL),
            (four, &ip(4)[..20], &tcp(SYN | ACK)[..], Errno::EINVAL),
            (four, &ip(4)[..20], &tcp(SYN)[..19], Errno::EINVAL),
            (four, &ip(4)[..20], &wrong_length[..], Errno::EINVAL),
            (connected, &ip(4)[..20], &tcp(SYN)[..], Errno::EINVAL),
            (0, &ip(4)[..20], &tcp(SYN)[..], Errno::EINVAL),
        ] {
            let found = call(FuncId::TcpGenSyncookie, sock, ip, tcp);
            assert_eq!(found, answer, "{ip:x?} {tcp:x?}");
        }
        for (sock, ip, tcp, answer) in [
            (four, &ip(4)[..20], &tcp(ACK)[..], Errno::ENOENT),
            (four, &ip(4)[..20], &tcp(SYN)[..], Errno::ENOENT),
            (four, &ip(4)[..19], &tcp(SYN)[..], Errno::ENOENT),
            (four, &ip(4)[..19], &tcp(ACK)[..], Errno::EINVAL),
            (four, &ip(4)[..20], &tcp(ACK)[..19], Errno::EINVAL),
            (connected, &ip(4)[..20], &tcp(ACK)[..], Errno::EINVAL),
            (0, &ip(4)[..20], &tcp(ACK)[..], Errno::EINVAL),
        ] {
            let found = call(FuncId::TcpCheckSyncookie, sock, ip, tcp);
            assert_eq!(found, answer, "{ip:x?} {tcp:x?}");
        }
    }
}
