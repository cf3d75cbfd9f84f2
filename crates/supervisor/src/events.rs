//! epoll on ring buffers and perf events, and perf events that programs write to: epoll_ctl(2), perf_event_open(2), mmap(2), ioctl(2).

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;
use ring3::helpers::{PerfRecord, PerfSink};
use ring3_maps::{MappingAccess, RingBuf, UserRingBuf};
use ring3_os::{
    eventfd::EventFd,
    map::{Prot, Region},
};
use ring3_syscall_shim::{GuestMemory, OpenFile};
use ring3_uapi::Errno;
use rustix::{
    event::epoll,
    fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create},
};

use crate::{
    calls,
    guest::{TaskMemory, copy_fd},
    host::TaskHost,
    pins::errno,
    session::Answer,
};

/// Operations of epoll_ctl(2).
const EPOLL_CTL_ADD: u64 = 1;
const EPOLL_CTL_DEL: u64 = 2;
const EPOLL_CTL_MOD: u64 = 3;

/// epoll_ctl(2) on an object: its eventfd stands in for it.
pub(crate) fn epoll_ctl(host: &TaskHost, memory: &TaskMemory<'_>, args: &[u64; 6]) -> Answer {
    let (epoll_fd, operation, fd) = (args[0] as i32, args[1], args[2] as i32);
    let Some(file) = host.object(fd) else {
        return Answer::Pass;
    };
    let map = match &file {
        OpenFile::Map(map) => Some(map.object().map()),
        _ => None,
    };
    let perf = match &file {
        OpenFile::PerfEvent { event, .. } => event.downcast_ref::<PerfEvent>(),
        _ => None,
    };
    let event = if let Some(ring) = map.and_then(|map| map.downcast::<RingBuf>()) {
        if operation == EPOLL_CTL_ADD && !ring.has_data() {
            ring.event().take();
        }
        ring.event().as_fd()
    } else if let Some(ring) = map.and_then(|map| map.downcast::<UserRingBuf>()) {
        ring.event().as_fd()
    } else if let Some(perf) = perf {
        perf.event.as_fd()
    } else {
        return Answer::Pass;
    };
    Answer::Result(control(host, memory, epoll_fd, operation, event, args[3]).map(|()| 0))
}

fn control(
    host: &TaskHost,
    memory: &TaskMemory<'_>,
    epoll_fd: i32,
    operation: u64,
    event: BorrowedFd<'_>,
    address: u64,
) -> Result<(), Errno> {
    let epoll_fd = copy_fd(host.tid, epoll_fd)?;
    if operation == EPOLL_CTL_DEL {
        return epoll::delete(epoll_fd, event).map_err(errno);
    }
    // `struct epoll_event` is packed on x86-64: events, data.
    let mut raw = [0; 12];
    memory.read(address, &mut raw)?;
    let data = u64::from_ne_bytes(std::array::from_fn(|i| raw[4 + i]));
    let data = epoll::EventData::new_u64(data);
    // Nobody takes the counter down, so each rise is one event.
    let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
    match operation {
        EPOLL_CTL_ADD => epoll::add(epoll_fd, event, data, flags),
        EPOLL_CTL_MOD => epoll::modify(epoll_fd, event, data, flags),
        _ => return Err(Errno::EINVAL),
    }
    .map_err(errno)
}

/// Type and configuration of the events that programs write to, and what samples may hold.
const PERF_TYPE_SOFTWARE: u32 = 1;
const PERF_COUNT_SW_BPF_OUTPUT: u64 = 10;
const SAMPLE_TID: u64 = 1 << 1;
const SAMPLE_TIME: u64 = 1 << 2;
const SAMPLE_CPU: u64 = 1 << 7;
const SAMPLE_RAW: u64 = 1 << 10;
const RECORD_LOST: u32 = 2;
const RECORD_SAMPLE: u32 = 9;
const RECORD_BYTES_MAX: usize = u16::MAX as usize;

/// Offsets in the first page of a perf event's memory.
const DATA_HEAD: usize = 1024;
const DATA_TAIL: usize = 1032;
const DATA_OFFSET: usize = 1040;
const DATA_SIZE: usize = 1048;
/// Most memory of one perf event.
const PERF_BYTES_MAX: usize = 64 << 20;

/// A perf event of type BPF output.
pub(crate) struct PerfEvent {
    memfd: OwnedFd,
    event: EventFd,
    sample_type: u64,
    wakeup_events: u32,
    is_enabled: AtomicBool,
    since_wakeup: AtomicU32,
    ring: Mutex<PerfRing>,
}

#[derive(Default)]
struct PerfRing {
    memory: Option<Region>,
    /// Position behind the last record; what the page says is for the client, who may write to it.
    head: u64,
    lost: u64,
}

impl PerfEvent {
    /// The memory gets its size when a client maps it.
    fn set_memory(&self, len_bytes: usize) -> Result<(), Errno> {
        let page = ring3_os::cpu::page_bytes();
        let data = len_bytes.checked_sub(page).ok_or(Errno::EINVAL)?;
        if !data.is_power_of_two() || data < page || len_bytes > PERF_BYTES_MAX {
            return Err(Errno::EINVAL);
        }
        let mut ring = self.ring.lock();
        if let Some(memory) = &ring.memory {
            return if memory.len_bytes() == len_bytes {
                Ok(())
            } else {
                Err(Errno::EINVAL)
            };
        }
        ftruncate(&self.memfd, len_bytes as u64).map_err(errno)?;
        // A client that cut the memory would take it from under the daemon.
        let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
        fcntl_add_seals(&self.memfd, seals).map_err(errno)?;
        let memory = Region::shared(self.memfd.as_fd(), 0, len_bytes, Prot::ReadWrite)?;
        word(&memory, DATA_OFFSET).store(page as u64, Ordering::Relaxed);
        word(&memory, DATA_SIZE).store(data as u64, Ordering::Release);
        ring.memory = Some(memory);
        Ok(())
    }

    fn deliver(&self, record: &PerfRecord<'_>) {
        if !self.is_enabled.load(Ordering::Relaxed) {
            return;
        }
        let sample = self.sample(record);
        let mut guard = self.ring.lock();
        let ring = &mut *guard;
        let lost = ring.lost;
        let Some(memory) = &ring.memory else {
            return;
        };
        let mut bytes = Vec::new();
        if lost > 0 {
            put_header(&mut bytes, RECORD_LOST, 16);
            bytes.extend_from_slice(&0u64.to_ne_bytes());
            bytes.extend_from_slice(&lost.to_ne_bytes());
        }
        bytes.extend_from_slice(&sample);
        let is_written = sample.len() <= RECORD_BYTES_MAX && append(memory, &mut ring.head, &bytes);
        ring.lost = if is_written { 0 } else { lost + 1 };
        drop(guard);
        if is_written && self.since_wakeup.fetch_add(1, Ordering::Relaxed) + 1 >= self.wakeup_events
        {
            self.since_wakeup.store(0, Ordering::Relaxed);
            self.event.signal();
        }
    }

    fn sample(&self, record: &PerfRecord<'_>) -> Vec<u8> {
        let mut body = Vec::new();
        if self.sample_type & SAMPLE_TID != 0 {
            let task = ring3_runtime::current_task();
            body.extend_from_slice(&task.tgid.to_ne_bytes());
            body.extend_from_slice(&task.pid.to_ne_bytes());
        }
        if self.sample_type & SAMPLE_TIME != 0 {
            body.extend_from_slice(&ring3_os::time::monotonic_ns().to_ne_bytes());
        }
        if self.sample_type & SAMPLE_CPU != 0 {
            body.extend_from_slice(&u64::from(record.cpu).to_ne_bytes());
        }
        if self.sample_type & SAMPLE_RAW != 0 {
            // The size is such that the next record is aligned.
            let len = record.data.len() + record.packet.len();
            let padded = (len + 4).next_multiple_of(8) - 4;
            body.extend_from_slice(&(padded as u32).to_ne_bytes());
            body.extend_from_slice(record.data);
            body.extend_from_slice(record.packet);
            body.resize(body.len() + padded - len, 0);
        }
        let mut sample = Vec::with_capacity(8 + body.len());
        put_header(&mut sample, RECORD_SAMPLE, body.len());
        sample.extend_from_slice(&body);
        sample
    }
}

fn put_header(to: &mut Vec<u8>, kind: u32, body_bytes: usize) {
    to.extend_from_slice(&kind.to_ne_bytes());
    to.extend_from_slice(&0u16.to_ne_bytes());
    to.extend_from_slice(&((8 + body_bytes) as u16).to_ne_bytes());
}

/// A word of a perf event's first page.
fn word(memory: &Region, at: usize) -> &AtomicU64 {
    debug_assert!(at.is_multiple_of(8) && at + 8 <= memory.len_bytes());
    // SAFETY: 1. the page is mapped for as long as the region; 2. `at` is one of the constants above, aligned and within a page; 3. the other
    // side uses whole words as well.
    unsafe { AtomicU64::from_ptr(memory.as_ptr().add(at).cast()) }
}

/// Appends bytes to the ring; `false` if they do not fit.
fn append(memory: &Region, head: &mut u64, bytes: &[u8]) -> bool {
    let page = ring3_os::cpu::page_bytes();
    let room = (memory.len_bytes() - page) as u64;
    // The client's: any number.
    let tail = word(memory, DATA_TAIL).load(Ordering::Acquire);
    let used = head.wrapping_sub(tail);
    if used > room || bytes.len() as u64 > room - used {
        return false;
    }
    let at = (*head & (room - 1)) as usize;
    let first = bytes.len().min(room as usize - at);
    // SAFETY: 1. the data begins behind the first page and has `room` bytes; 2. `at` is below `room`, and the second part is shorter than `at`, since
    // all of it fits.
    unsafe {
        let data = memory.as_ptr().add(page);
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), data.add(at), first);
        std::ptr::copy_nonoverlapping(bytes.as_ptr().add(first), data, bytes.len() - first);
    }
    *head = head.wrapping_add(bytes.len() as u64);
    word(memory, DATA_HEAD).store(*head, Ordering::Release);
    true
}

/// perf_event_open(2): events that programs write to are ours, all others the kernel's.
pub(crate) fn perf_event_open(host: &TaskHost, memory: &TaskMemory<'_>, args: &[u64; 6]) -> Answer {
    let mut attr = [0; 64];
    if memory.read(args[0], &mut attr).is_err() {
        return Answer::Pass;
    }
    let word = |at: usize| u64::from_ne_bytes(std::array::from_fn(|i| attr[at + i]));
    let (kind, config) = (word(0) as u32, word(8));
    if kind != PERF_TYPE_SOFTWARE || config != PERF_COUNT_SW_BPF_OUTPUT {
        return Answer::Pass;
    }
    let (sample_type, is_disabled, wakeup_events) = (word(24), word(40) & 1 != 0, word(48) as u32);
    let known = SAMPLE_TID | SAMPLE_TIME | SAMPLE_CPU | SAMPLE_RAW;
    let cpu = args[2] as i32;
    if sample_type & !known != 0 || cpu >= ring3_os::cpu::possible_cpus() as i32 {
        return Answer::Result(Err(Errno::EINVAL));
    }
    let open = || {
        let event = Arc::new(PerfEvent {
            memfd: memfd_create(
                "[perf_event]",
                MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING,
            )
            .map_err(errno)?,
            event: EventFd::new()?,
            sample_type,
            wakeup_events,
            is_enabled: AtomicBool::new(!is_disabled),
            since_wakeup: AtomicU32::new(0),
            ring: Mutex::default(),
        });
        let sink = Arc::clone(&event);
        let sink = PerfSink::new(
            u32::try_from(cpu).ok(),
            Box::new(move |record| sink.deliver(record)),
        );
        let file = OpenFile::PerfEvent {
            sink: Arc::new(sink),
            event: Arc::clone(&event) as _,
        };
        let keep = host.account(0)?;
        let daemon = &host.session.daemon;
        let fd = daemon
            .files
            .open_memory(file, event.memfd.as_fd(), Some(keep))?;
        host.give(&fd)
    };
    Answer::Result(open().map(i64::from))
}

/// ioctl(2) on perf events, and on sockets for the numbers of devices.
pub(crate) fn ioctl(host: &TaskHost, memory: &mut TaskMemory<'_>, args: &[u64; 6]) -> Answer {
    let request = args[1] as u32;
    if matches!(
        request,
        calls::ioctl::SIOCGIFINDEX | calls::ioctl::SIOCGIFNAME
    ) {
        return device_number(host, memory, request, args[2]);
    }
    let Some(OpenFile::PerfEvent { event, .. }) = host.object(args[0] as i32) else {
        return Answer::Pass;
    };
    let Some(event) = event.downcast_ref::<PerfEvent>() else {
        return Answer::Pass;
    };
    Answer::Result(match request {
        calls::ioctl::PERF_ENABLE => {
            event.is_enabled.store(true, Ordering::Relaxed);
            Ok(0)
        }
        calls::ioctl::PERF_DISABLE => {
            event.is_enabled.store(false, Ordering::Relaxed);
            Ok(0)
        }
        calls::ioctl::PERF_ID => memory.write(args[2], &1u64.to_ne_bytes()).map(|()| 0),
        _ => Err(Errno::ENOTTY),
    })
}

/// Devices of the model have names and numbers of their own; all others are the kernel's.
fn device_number(
    host: &TaskHost,
    memory: &mut TaskMemory<'_>,
    request: u32,
    address: u64,
) -> Answer {
    /// `struct ifreq`: a name, then the number.
    const NAME_BYTES: usize = 16;
    let net = host.session.daemon.shim.net();
    let mut ifreq = [0; NAME_BYTES + 4];
    if memory.read(address, &mut ifreq).is_err() {
        return Answer::Pass;
    }
    let (name, number) = ifreq.split_at(NAME_BYTES);
    let end = name.iter().position(|&byte| byte == 0);
    let name = std::str::from_utf8(&name[..end.unwrap_or(NAME_BYTES)]).unwrap_or_default();
    let number = u32::from_ne_bytes(std::array::from_fn(|i| number[i]));
    let written = if request == calls::ioctl::SIOCGIFINDEX {
        let Ok(device) = net.device_by_name(name) else {
            return Answer::Pass;
        };
        let at = address.wrapping_add(NAME_BYTES as u64);
        memory.write(at, &device.ifindex().to_ne_bytes())
    } else {
        let Some(device) = net.device(number) else {
            return Answer::Pass;
        };
        let mut name = [0; NAME_BYTES];
        for (to, from) in name
            .iter_mut()
            .take(NAME_BYTES - 1)
            .zip(device.name().bytes())
        {
            *to = from;
        }
        memory.write(address, &name)
    };
    Answer::Result(written.map(|()| 0))
}

/// mmap(2), shared, of a descriptor: the rules of maps, then the kernel maps the memory.
pub(crate) fn mmap(host: &TaskHost, args: &[u64; 6]) -> Answer {
    const PROT_WRITE: u64 = 2;
    let (len, fd, offset) = (args[1] as usize, args[4] as i32, args[5] as usize);
    let judged = match host.object(fd) {
        None => return Answer::Pass,
        Some(OpenFile::PerfEvent { event, .. }) => match event.downcast_ref::<PerfEvent>() {
            Some(event) if offset == 0 => event.set_memory(len),
            _ => Err(Errno::EINVAL),
        },
        Some(OpenFile::Map(file)) => {
            let mode = if args[2] & PROT_WRITE != 0 {
                MappingAccess::Write
            } else {
                MappingAccess::Read
            };
            let map = file.object().map();
            // Nobody says when the mapping ends, so it is not counted, only judged.
            map.count_mmap(file.access(), offset, len, mode).map(|()| {
                map.count_unmap(mode);
                host.session.daemon.mappings.expect(map);
            })
        }
        Some(_) => Err(Errno::ENODEV),
    };
    match judged {
        Ok(()) => Answer::Pass,
        Err(errno) => Answer::Result(Err(errno)),
    }
}
