//! Packets as programs see them that trace packet programs: `bpf_skb_output`, `bpf_xdp_output`.
//!
//! Such a program has a typed pointer, which need not be to a packet that is alive: everything is read as `bpf_probe_read_kernel` reads, so that a
//! bad pointer is an error and not a fault.

use ring3_maps::Map;
use ring3_runtime::extable;
use ring3_uapi::Errno;

use super::{
    layout::{sk_buff, skb_shared_info as shared, xdp_buff},
    xdp::{FLAG_HAS_FRAGS, SHARED_INFO_BYTES},
};
use crate::bind::{bytes, implement};
use crate::perf::output_packet;

/// Longest packet that is copied.
const PACKET_BYTES_MAX: usize = u16::MAX as usize + 1;

fn read(address: u64, out: &mut [u8]) -> Result<(), Errno> {
    // SAFETY: 1. the slice is writable for its length.
    match unsafe { extable::probe_copy(out.as_mut_ptr(), address, out.len()) } {
        true => Ok(()),
        false => Err(Errno::EFAULT),
    }
}

fn read_u64(object: u64, offset: usize) -> Result<u64, Errno> {
    let mut word = [0; 8];
    read(object.wrapping_add(offset as u64), &mut word)?;
    Ok(u64::from_ne_bytes(word))
}

fn read_u32(object: u64, offset: usize) -> Result<u32, Errno> {
    let mut word = [0; 4];
    read(object.wrapping_add(offset as u64), &mut word)?;
    Ok(u32::from_ne_bytes(word))
}

/// The first `wanted` bytes from `data` of an `sk_buff`.
///
/// # Errors
/// EFAULT: it has less, or cannot be read.
fn skb_bytes(skb: u64, wanted: usize) -> Result<Vec<u8>, Errno> {
    if wanted > (read_u32(skb, sk_buff::LEN)? as usize).min(PACKET_BYTES_MAX) {
        return Err(Errno::EFAULT);
    }
    let mut out = vec![0; wanted];
    read(read_u64(skb, sk_buff::DATA)?, &mut out)?;
    Ok(out)
}

/// The first `wanted` bytes of an `xdp_buff`, fragments included.
///
/// # Errors
/// As [`skb_bytes`].
fn xdp_bytes(xdp: u64, wanted: usize) -> Result<Vec<u8>, Errno> {
    if wanted > PACKET_BYTES_MAX {
        return Err(Errno::EFAULT);
    }
    let (data, end) = (
        read_u64(xdp, xdp_buff::DATA)?,
        read_u64(xdp, xdp_buff::DATA_END)?,
    );
    let mut out = vec![0; wanted];
    let linear = usize::try_from(end.wrapping_sub(data)).map_err(|_| Errno::EFAULT)?;
    let (now, mut later) = out.split_at_mut(linear.min(wanted));
    read(data, now)?;
    if later.is_empty() {
        return Ok(out);
    }
    if read_u32(xdp, xdp_buff::FLAGS)? & FLAG_HAS_FRAGS == 0 {
        return Err(Errno::EFAULT);
    }
    let frame_bytes = u64::from(read_u32(xdp, xdp_buff::FRAME_SZ)?);
    let info = read_u64(xdp, xdp_buff::DATA_HARD_START)?
        .wrapping_add(frame_bytes)
        .wrapping_sub(SHARED_INFO_BYTES as u64);
    let mut count = [0];
    read(info.wrapping_add(shared::NR_FRAGS as u64), &mut count)?;
    for index in 0..usize::from(count[0]).min(shared::FRAGS_MAX) {
        let at = shared::FRAGS + index * shared::FRAG_BYTES;
        let len = read_u32(info, at + shared::FRAG_LEN)? as usize;
        let (now, rest) = later.split_at_mut(len.min(later.len()));
        read(read_u64(info, at)?, now)?;
        later = rest;
    }
    match later {
        [] => Ok(out),
        _ => Err(Errno::EFAULT),
    }
}

/// Bytes of the packet that flags ask for.
fn wanted(flags: u64) -> usize {
    (flags >> 32 & 0xf_ffff) as usize
}

implement! { ROWS:
    SkbOutput(skb: u64, map: &Map, flags: u64, data: *const u8, size: u32) {
        skb_bytes(skb, wanted(flags)).and_then(|packet| {
            // SAFETY: 1. ARG_PTR_TO_MEM with its size.
            output_packet(map, flags, unsafe { bytes(data, size) }, &packet)
        })
    }
    XdpOutput(xdp: u64, map: &Map, flags: u64, data: *const u8, size: u32) {
        xdp_bytes(xdp, wanted(flags)).and_then(|packet| {
            // SAFETY: 1. ARG_PTR_TO_MEM with its size.
            output_packet(map, flags, unsafe { bytes(data, size) }, &packet)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::{NetDevice, Skb, XdpBuff};

    #[test]
    fn packets_are_read_through_their_objects() {
        let frame: Vec<u8> = (0..6000u32).map(|at| (at * 7 % 251) as u8).collect();
        let dev = NetDevice::new(1, "lo", 65535);
        let mut skb = Skb::received(&frame, &dev).unwrap();
        let mut xdp = XdpBuff::received(&frame, &dev, 0).unwrap();
        for len in [0, 1, 6000] {
            assert_eq!(skb_bytes(skb.program_ptr(), len), Ok(frame[..len].to_vec()));
            assert_eq!(xdp_bytes(xdp.program_ptr(), len), Ok(frame[..len].to_vec()));
        }
        assert_eq!(skb_bytes(skb.program_ptr(), 6001), Err(Errno::EFAULT));
        assert_eq!(xdp_bytes(xdp.program_ptr(), 6001), Err(Errno::EFAULT));
        xdp.refill_split(&frame, 100, &dev, 0).unwrap();
        for len in [99, 101, 4196, 4197, 6000] {
            assert_eq!(xdp_bytes(xdp.program_ptr(), len), Ok(frame[..len].to_vec()));
        }
        assert_eq!(xdp_bytes(xdp.program_ptr(), 6001), Err(Errno::EFAULT));
    }

    #[test]
    fn what_is_no_packet_is_an_error() {
        for pointer in [0, 8, u64::MAX - 100, 1 << 62] {
            assert_eq!(skb_bytes(pointer, 1), Err(Errno::EFAULT));
            assert_eq!(xdp_bytes(pointer, 1), Err(Errno::EFAULT));
        }
    }
}
