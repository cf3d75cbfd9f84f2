//! Perf event arrays: records to sinks (`bpf_perf_event_output`) and values of counters (`bpf_perf_event_read*`). Key types: [`PerfSink`],
//! [`PerfRecord`], [`PerfCounter`].
//!
//! The kernel's events belong to processes and CPUs; here a host puts a [`PerfSink`] or a [`PerfCounter`] into a slot
//! (`ring3_maps::PerfEventArray::set`), one a CPU by custom. Programs over packets may append the packet's first bytes.

use ring3_maps::{Map, PerfEventArray};
use ring3_uapi::Errno;

use crate::bind::{AnyCtx, bytes, bytes_mut, implement};
use crate::packet::{Skb, XdpBuff};

/// `BPF_F_INDEX_MASK`; the value itself is `BPF_F_CURRENT_CPU`.
const INDEX_MASK: u64 = 0xffff_ffff;
/// `BPF_F_CTXLEN_MASK`
const CTXLEN_MASK: u64 = 0xf_ffff << 32;

/// What a program sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PerfRecord<'a> {
    /// CPU the program ran on.
    pub cpu: u32,
    /// The program's bytes.
    pub data: &'a [u8],
    /// The first bytes of its packet, as many as it asked for.
    pub packet: &'a [u8],
}

type Deliver = Box<dyn Fn(&PerfRecord<'_>) + Send + Sync>;

/// Takes the records of one slot.
pub struct PerfSink {
    cpu: Option<u32>,
    deliver: Deliver,
}

impl std::fmt::Debug for PerfSink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PerfSink")
            .field("cpu", &self.cpu)
            .finish_non_exhaustive()
    }
}

impl PerfSink {
    /// A sink for one CPU's records, or for any's. `deliver` runs inside of programs: it does not block.
    pub fn new(cpu: Option<u32>, deliver: Deliver) -> Self {
        PerfSink { cpu, deliver }
    }
}

/// A counter's value and for how long it counted: `struct bpf_perf_event_value`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PerfValue {
    /// Events.
    pub counter: u64,
    /// Nanoseconds since it was enabled.
    pub enabled: u64,
    /// Nanoseconds that it counted.
    pub running: u64,
}

type Read = Box<dyn Fn() -> PerfValue + Send + Sync>;

/// A counter that the host offers to programs.
pub struct PerfCounter {
    read: Read,
}

impl std::fmt::Debug for PerfCounter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PerfCounter").finish_non_exhaustive()
    }
}

impl PerfCounter {
    /// A counter; `read` runs inside of programs: it does not block.
    pub fn new(read: Read) -> Self {
        PerfCounter { read }
    }
}

/// # Errors
/// EINVAL: unknown flags, or the slot holds no counter. E2BIG: beyond the array. ENOENT: an empty slot.
fn read(map: &Map, flags: u64) -> Result<PerfValue, Errno> {
    if flags & !INDEX_MASK != 0 {
        return Err(Errno::EINVAL);
    }
    let index = match flags & INDEX_MASK {
        INDEX_MASK => ring3_sync::rcu::section_cpu(),
        index => index as u32,
    };
    if index >= map.max_entries() {
        return Err(Errno::E2BIG);
    }
    let events = map.downcast::<PerfEventArray>().ok_or(Errno::EINVAL)?;
    let event = events.event(index).ok_or(Errno::ENOENT)?;
    let counter = event.downcast_ref::<PerfCounter>().ok_or(Errno::EINVAL)?;
    Ok((counter.read)())
}

fn output(map: &Map, flags: u64, data: &[u8], packet: &[u8]) -> Result<(), Errno> {
    let cpu = ring3_sync::rcu::section_cpu();
    let index = match flags & INDEX_MASK {
        INDEX_MASK => cpu,
        index => index as u32,
    };
    if index >= map.max_entries() {
        return Err(Errno::E2BIG);
    }
    let events = map.downcast::<PerfEventArray>().ok_or(Errno::EINVAL)?;
    let event = events.event(index).ok_or(Errno::ENOENT)?;
    let sink = event.downcast_ref::<PerfSink>().ok_or(Errno::EINVAL)?;
    if sink.cpu.is_some_and(|own| own != cpu) {
        return Err(Errno::EOPNOTSUPP);
    }
    (sink.deliver)(&PerfRecord { cpu, data, packet });
    Ok(())
}

/// Without a packet.
fn output_plain(map: &Map, flags: u64, data: &[u8]) -> Result<(), Errno> {
    if flags & !INDEX_MASK != 0 {
        return Err(Errno::EINVAL);
    }
    output(map, flags, data, &[])
}

/// With the first bytes of a packet.
///
/// # Errors
/// EINVAL: unknown flags. EFAULT: more bytes than the packet has.
pub(crate) fn output_packet(
    map: &Map,
    flags: u64,
    data: &[u8],
    packet: &[u8],
) -> Result<(), Errno> {
    if flags & !(INDEX_MASK | CTXLEN_MASK) != 0 {
        return Err(Errno::EINVAL);
    }
    let len = ((flags & CTXLEN_MASK) >> 32) as usize;
    output(map, flags, data, packet.get(..len).ok_or(Errno::EFAULT)?)
}

implement! { ROWS:
    PerfEventOutput(_ctx: AnyCtx, map: &Map, flags: u64, data: *const u8, size: u32) {
        // SAFETY: 1. ARG_PTR_TO_MEM with its size.
        output_plain(map, flags, unsafe { bytes(data, size) })
    }
}

implement! { COUNTER_ROWS:
    PerfEventRead(map: &Map, flags: u64) { read(map, flags).map(|value| value.counter) }
    PerfEventReadValue(map: &Map, flags: u64, buf: *mut u8, size: u32) {
        // SAFETY: 1. ARG_PTR_TO_UNINIT_MEM with its size.
        let out = unsafe { bytes_mut(buf, size) };
        let value = if out.len() == size_of::<PerfValue>() {
            read(map, flags)
        } else {
            Err(Errno::EINVAL)
        };
        match value {
            Ok(PerfValue { counter, enabled, running }) => {
                let words = [counter, enabled, running].map(u64::to_ne_bytes);
                out.copy_from_slice(words.as_flattened());
            }
            Err(_) => out.fill(0),
        }
        value.map(drop)
    }
}

implement! { SKB_VARIANTS:
    PerfEventOutput(skb: &mut Skb, map: &Map, flags: u64, data: *const u8, size: u32) {
        // SAFETY: 1. ARG_PTR_TO_MEM with its size.
        output_packet(map, flags, unsafe { bytes(data, size) }, skb.data())
    }
}

implement! { XDP_VARIANTS:
    PerfEventOutput(xdp: &mut XdpBuff, map: &Map, flags: u64, data: *const u8, size: u32) {
        // SAFETY: 1. ARG_PTR_TO_MEM with its size.
        output_packet(map, flags, unsafe { bytes(data, size) }, &xdp.frame())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ring3_maps::{MapAttr, MapType};
    use std::sync::{Arc, Mutex};

    #[test]
    fn counters_are_read_where_the_host_put_them() {
        let map = Map::create(&MapAttr::new(MapType::PerfEventArray, 4, 4, 2)).unwrap();
        let events = map.downcast::<PerfEventArray>().unwrap();
        let value = PerfValue {
            counter: 5,
            enabled: 70,
            running: 60,
        };
        let counter = PerfCounter::new(Box::new(move || value));
        events.set(1, Arc::new(counter)).unwrap();
        let _section = ring3_sync::rcu::read();
        assert_eq!(read(&map, 1), Ok(value));
        assert_eq!(read(&map, 0), Err(Errno::ENOENT));
        assert_eq!(read(&map, 2), Err(Errno::E2BIG));
        assert_eq!(read(&map, 1 << 32), Err(Errno::EINVAL));
        assert_eq!(output_plain(&map, 1, b"ab"), Err(Errno::EINVAL));
        let code = crate::find(ring3_uapi::FuncId::PerfEventReadValue).unwrap();
        let mut out = [9u64; 3];
        let buf = (&raw mut out).expose_provenance() as u64;
        // SAFETY: the map and the words live.
        unsafe {
            assert_eq!(code(map.program_ptr(), 1, buf, 24, 0), 0);
            assert_eq!(out, [5, 70, 60]);
            let short = code(map.program_ptr(), 1, buf, 16, 0) as i64;
            assert_eq!((short, out), (Errno::EINVAL.negated(), [0, 0, 60]));
        }
    }

    #[test]
    fn records_reach_the_slot_that_flags_name() {
        let map = Map::create(&MapAttr::new(MapType::PerfEventArray, 4, 4, 4)).unwrap();
        let events = map.downcast::<PerfEventArray>().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let copy = seen.clone();
        let sink = PerfSink::new(
            None,
            Box::new(move |record| {
                copy.lock()
                    .unwrap()
                    .push((record.data.to_vec(), record.packet.to_vec()));
            }),
        );
        events.set(1, Arc::new(sink)).unwrap();
        events.set(2, Arc::new("no sink")).unwrap();
        let elsewhere = PerfSink::new(Some(u32::MAX), Box::new(|_| ()));
        events.set(3, Arc::new(elsewhere)).unwrap();
        let _section = ring3_sync::rcu::read();
        assert_eq!(output_plain(&map, 1, b"ab"), Ok(()));
        assert_eq!(output_plain(&map, 0, b"ab"), Err(Errno::ENOENT));
        assert_eq!(output_plain(&map, 2, b"ab"), Err(Errno::EINVAL));
        assert_eq!(output_plain(&map, 3, b"ab"), Err(Errno::EOPNOTSUPP));
        assert_eq!(output_plain(&map, 4, b"ab"), Err(Errno::E2BIG));
        assert_eq!(output_plain(&map, 1 | 1 << 32, b"ab"), Err(Errno::EINVAL));
        assert_eq!(output_packet(&map, 1 | 3 << 32, b"cd", b"packet"), Ok(()));
        assert_eq!(
            output_packet(&map, 1 | 7 << 32, b"cd", b"packet"),
            Err(Errno::EFAULT)
        );
        assert_eq!(
            output_packet(&map, 1 | 1 << 52, b"cd", b"packet"),
            Err(Errno::EINVAL)
        );
        assert_eq!(
            *seen.lock().unwrap(),
            [(b"ab".to_vec(), vec![]), (b"cd".to_vec(), b"pac".to_vec())]
        );
    }
}
