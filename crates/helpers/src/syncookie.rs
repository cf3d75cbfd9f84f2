//! SYN cookies made and checked from bare headers: `bpf_tcp_raw_gen_syncookie_*`, `bpf_tcp_raw_check_syncookie_*`.
//!
//! A cookie is a keyed hash of the connection with a clock of minutes and one of four segment sizes hidden in it. The reference kernel's hash is keyed at
//! boot, so only what a cookie says can be compared: the segment size it answers with, and which cookies pass.

use std::hash::{BuildHasher, RandomState};
use std::sync::OnceLock;

use ring3_os::time;
use ring3_uapi::Errno;

use crate::bind::{bytes, implement};

const TCP_HEADER_BYTES: u32 = 20;
const MINUTE_NS: u64 = 60_000_000_000;
/// Bits of a cookie's counter; the hash fills the low bits.
const COUNT_BITS: u32 = 8;
const HASH_MASK: u32 = (1 << (32 - COUNT_BITS)) - 1;
/// A cookie is good for so many minutes. Source: `MAX_SYNCOOKIE_AGE`.
const AGE_MAX: u32 = 2;
/// Segment sizes a cookie can say, largest last. Source: the tables of Documentation and of answers of Linux 6.18.
const SIZES_IPV4: [u16; 4] = [536, 1300, 1440, 1460];
const SIZES_IPV6: [u16; 4] = [1220, 1420, 1440, 8940];
const DEFAULT_IPV4: u16 = 536;
const DEFAULT_IPV6: u16 = 1220;

/// What a cookie is made for: addresses, ports and the peer's sequence number, as they stand in the headers.
struct Flow<'a> {
    addresses: &'a [u8],
    ports: &'a [u8],
    sequence: u32,
}

fn minutes() -> u32 {
    (time::monotonic_ns() / MINUTE_NS) as u32
}

fn keyed(flow: &Flow<'_>, count: Option<u32>) -> u32 {
    static KEY: OnceLock<RandomState> = OnceLock::new();
    KEY.get_or_init(RandomState::new)
        .hash_one((flow.addresses, flow.ports, count)) as u32
}

fn cookie(flow: &Flow<'_>, size_index: u32, count: u32) -> u32 {
    let hidden = keyed(flow, Some(count)).wrapping_add(size_index) & HASH_MASK;
    keyed(flow, None)
        .wrapping_add(flow.sequence)
        .wrapping_add(count << (32 - COUNT_BITS))
        .wrapping_add(hidden)
}

/// The index of the segment size that a cookie says, if it is a good one.
fn read_back(flow: &Flow<'_>, cookie: u32, now: u32) -> Option<u32> {
    let rest = cookie
        .wrapping_sub(keyed(flow, None))
        .wrapping_sub(flow.sequence);
    let age = now.wrapping_sub(rest >> (32 - COUNT_BITS)) & ((1 << COUNT_BITS) - 1);
    if age >= AGE_MAX {
        return None;
    }
    let index = rest.wrapping_sub(keyed(flow, Some(now.wrapping_sub(age)))) & HASH_MASK;
    (index < SIZES_IPV4.len() as u32).then_some(index)
}

/// The maximum segment size that the options of a TCP header state.
fn stated_size(options: &[u8]) -> Option<u16> {
    const END: u8 = 0;
    const NOTHING: u8 = 1;
    const SEGMENT_SIZE: u8 = 2;
    let mut rest = options;
    loop {
        match *rest {
            [] | [END, ..] => return None,
            [NOTHING, ..] => rest = &rest[1..],
            [SEGMENT_SIZE, 4, high, low, ..] => return Some(u16::from_be_bytes([high, low])),
            [_, len, ..] if len >= 2 => rest = rest.get(usize::from(len)..)?,
            _ => return None,
        }
    }
}

/// The cookie for a SYN, with the segment size in the upper half.
///
/// # Errors
/// EINVAL: the length is not that of the header.
fn generate(addresses: &[u8], tcp: &[u8], sizes: [u16; 4], default: u16) -> Result<u64, Errno> {
    let Some((header, options)) = tcp.split_first_chunk::<{ TCP_HEADER_BYTES as usize }>() else {
        return Err(Errno::EINVAL);
    };
    if usize::from(header[12] >> 4) * 4 != tcp.len() {
        return Err(Errno::EINVAL);
    }
    let wanted = stated_size(options)
        .filter(|size| *size != 0)
        .unwrap_or(default);
    let index = sizes.iter().rposition(|size| *size <= wanted).unwrap_or(0);
    let flow = Flow {
        addresses,
        ports: &header[..4],
        sequence: u32::from_be_bytes([header[4], header[5], header[6], header[7]]),
    };
    let cookie = cookie(&flow, index as u32, minutes() & ((1 << COUNT_BITS) - 1));
    Ok(u64::from(cookie) | u64::from(sizes[index]) << 32)
}

/// Whether the acknowledgement of a header carries a good cookie.
///
/// # Errors
/// EACCES: it does not.
fn check(addresses: &[u8], header: &[u8]) -> Result<(), Errno> {
    let word = |at: usize| u32::from_be_bytes(std::array::from_fn(|i| header[at + i]));
    let flow = Flow {
        addresses,
        ports: &header[..4],
        sequence: word(4).wrapping_sub(1),
    };
    let now = minutes() & ((1 << COUNT_BITS) - 1);
    match read_back(&flow, word(8).wrapping_sub(1), now) {
        Some(_) => Ok(()),
        None => Err(Errno::EACCES),
    }
}

implement! { ROWS:
    TcpRawGenSyncookieIpv4(iph: *const u8, th: *const u8, th_len: u32) {
        // SAFETY: 1. ARG_PTR_TO_FIXED_SIZE_MEM of 20 bytes; 2. ARG_PTR_TO_MEM with its size.
        let (ip, tcp) = unsafe { (bytes(iph, 20), bytes(th, th_len)) };
        generate(&ip[12..20], tcp, SIZES_IPV4, DEFAULT_IPV4)
    }
    TcpRawGenSyncookieIpv6(iph: *const u8, th: *const u8, th_len: u32) {
        // SAFETY: as above, of 40 bytes.
        let (ip, tcp) = unsafe { (bytes(iph, 40), bytes(th, th_len)) };
        generate(&ip[8..40], tcp, SIZES_IPV6, DEFAULT_IPV6)
    }
    TcpRawCheckSyncookieIpv4(iph: *const u8, th: *const u8) {
        // SAFETY: 1. ARG_PTR_TO_FIXED_SIZE_MEM of 20 bytes, twice.
        let (ip, tcp) = unsafe { (bytes(iph, 20), bytes(th, TCP_HEADER_BYTES)) };
        check(&ip[12..20], tcp)
    }
    TcpRawCheckSyncookieIpv6(iph: *const u8, th: *const u8) {
        // SAFETY: as above, of 40 and 20 bytes.
        let (ip, tcp) = unsafe { (bytes(iph, 40), bytes(th, TCP_HEADER_BYTES)) };
        check(&ip[8..40], tcp)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(sequence: u32, ack: u32, options: &[u8]) -> Vec<u8> {
        let mut tcp = vec![0u8; 20];
        tcp[..4].copy_from_slice(&[0x12, 0x34, 0, 80]);
        tcp[4..8].copy_from_slice(&sequence.to_be_bytes());
        tcp[8..12].copy_from_slice(&ack.to_be_bytes());
        tcp.extend_from_slice(options);
        tcp[12] = (tcp.len() as u8 / 4) << 4;
        tcp
    }

    #[test]
    fn a_cookie_passes_for_its_own_connection_only() {
        let addresses = [10, 0, 0, 1, 10, 0, 0, 2];
        let syn = header(1000, 0, &[2, 4, 5, 0xb4, 1, 1, 1, 0]);
        let answer = generate(&addresses, &syn, SIZES_IPV4, DEFAULT_IPV4).unwrap();
        assert_eq!(answer >> 32, 1460);
        let ack = header(1001, (answer as u32).wrapping_add(1), &[]);
        assert_eq!(check(&addresses, &ack), Ok(()));
        assert_eq!(check(&[10, 0, 0, 1, 10, 0, 0, 3], &ack), Err(Errno::EACCES));
        let later = header(1101, (answer as u32).wrapping_add(1), &[]);
        assert_eq!(check(&addresses, &later), Err(Errno::EACCES));
    }

    #[test]
    fn sizes_are_rounded_down_to_what_a_cookie_can_say() {
        let of = |options: &[u8]| {
            let answer = generate(&[1; 8], &header(1, 0, options), SIZES_IPV4, DEFAULT_IPV4);
            answer.unwrap() >> 32
        };
        assert_eq!(of(&[]), 536);
        assert_eq!(of(&[2, 4, 0x05, 0x14]), 1300);
        assert_eq!(of(&[2, 4, 0x05, 0x9f]), 1300);
        assert_eq!(of(&[1, 2, 4, 0xff, 0xff, 0, 0, 0]), 1460);
        assert_eq!(of(&[2, 4, 0, 100]), 536);
        assert_eq!(of(&[8, 0, 1, 1]), 536);
    }

    #[test]
    fn a_header_of_another_length_is_refused() {
        let mut tcp = header(1, 0, &[]);
        tcp[12] = 6 << 4;
        let refused = generate(&[1; 8], &tcp, SIZES_IPV4, DEFAULT_IPV4);
        assert_eq!(refused, Err(Errno::EINVAL));
        assert_eq!(
            generate(&[1; 8], &tcp[..19], SIZES_IPV4, DEFAULT_IPV4),
            Err(Errno::EINVAL)
        );
    }

    #[test]
    fn old_cookies_do_not_pass() {
        let flow = Flow {
            addresses: &[1; 8],
            ports: &[2; 4],
            sequence: 77,
        };
        let made = cookie(&flow, 3, 255);
        assert_eq!(read_back(&flow, made, 255), Some(3));
        assert_eq!(read_back(&flow, made, 256), Some(3));
        assert_eq!(read_back(&flow, made, 257), None);
        assert_eq!(read_back(&flow, made, 254), None);
    }
}
