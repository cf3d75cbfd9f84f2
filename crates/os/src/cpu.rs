//! CPUs and pages: how many CPUs are possible, which one runs this thread, the page size.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, Ordering};

/// Bytes of a page.
pub fn page_bytes() -> usize {
    static PAGE_BYTES: OnceLock<usize> = OnceLock::new();
    *PAGE_BYTES.get_or_init(|| {
        // SAFETY: 1. sysconf reads no memory of ours.
        let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        usize::try_from(bytes).unwrap_or(4096)
    })
}

/// The number of possible CPUs, which fixes the size of per-CPU values.
///
/// # Source
/// `/sys/devices/system/cpu/possible`, as libbpf's `libbpf_num_possible_cpus` reads it.
pub fn possible_cpus() -> usize {
    static COUNT: OnceLock<usize> = OnceLock::new();
    *COUNT.get_or_init(|| {
        std::fs::read_to_string("/sys/devices/system/cpu/possible")
            .ok()
            .and_then(|text| parse_cpu_list(text.trim()))
            .or_else(|| std::thread::available_parallelism().ok().map(usize::from))
            .unwrap_or(1)
    })
}

/// One more than the highest CPU of a list such as `0-3,8`.
fn parse_cpu_list(text: &str) -> Option<usize> {
    let mut count = 0;
    for part in text.split(',') {
        let last = part.rsplit('-').next()?;
        count = count.max(last.parse::<usize>().ok()?.checked_add(1)?);
    }
    (1..=65536).contains(&count).then_some(count)
}

/// The offset of glibc's registered `struct rseq` from the thread pointer; 0: not looked up, negative sentinel: absent.
static RSEQ_OFFSET: AtomicI64 = AtomicI64::new(RSEQ_UNKNOWN);
const RSEQ_UNKNOWN: i64 = i64::MAX;
/// The lowest value that is no offset.
const RSEQ_ABSENT: i64 = i64::MAX - 1;
/// Offset of `cpu_id` in `struct rseq`.
const RSEQ_CPU_ID: i64 = 4;

#[cold]
fn find_rseq() -> i64 {
    // SAFETY: 1. both names are NUL-terminated literals; 2. dlsym only looks symbols up.
    let (offset, size) = unsafe {
        (
            libc::dlsym(libc::RTLD_DEFAULT, c"__rseq_offset".as_ptr()).cast::<isize>(),
            libc::dlsym(libc::RTLD_DEFAULT, c"__rseq_size".as_ptr()).cast::<u32>(),
        )
    };
    let mut found = RSEQ_ABSENT;
    if cfg!(target_arch = "x86_64") && !offset.is_null() && !size.is_null() {
        // SAFETY: 1. glibc documents both as initialised constants of these types that live as long as the process.
        let (offset, size) = unsafe { (*offset, *size) };
        // glibc sets the size to 0 where registration failed.
        if size != 0 {
            found = offset as i64;
        }
    }
    RSEQ_OFFSET.store(found, Ordering::Relaxed);
    found
}

/// The CPU that runs this thread, below [`possible_cpus`]. It may change at once.
#[inline]
pub fn current_cpu() -> usize {
    let offset = RSEQ_OFFSET.load(Ordering::Relaxed);
    #[cfg(target_arch = "x86_64")]
    if offset < RSEQ_ABSENT {
        let cpu: u32;
        // SAFETY: 1. glibc registered a `struct rseq` at this offset from the thread pointer of every thread it starts;
        // 2. `cpu_id` is 4 aligned bytes inside it, written by the kernel only.
        unsafe {
            std::arch::asm!(
                "mov {cpu:e}, dword ptr fs:[{offset}]",
                cpu = out(reg) cpu,
                offset = in(reg) offset + RSEQ_CPU_ID,
                options(nostack, preserves_flags, readonly)
            );
        }
        // Negative values say that this thread is not registered.
        if cpu < 1 << 16 {
            return cpu as usize;
        }
    }
    current_cpu_slow(offset)
}

/// Offset from the thread pointer of the u32 that holds this thread's CPU, for code generators. Values of 65,536 and above say that the thread
/// has none and [`current_cpu`] must be asked.
pub fn rseq_cpu_id_offset() -> Option<i32> {
    let mut offset = RSEQ_OFFSET.load(Ordering::Relaxed);
    if offset == RSEQ_UNKNOWN {
        offset = find_rseq();
    }
    if offset == RSEQ_ABSENT {
        None
    } else {
        i32::try_from(offset + RSEQ_CPU_ID).ok()
    }
}

#[cold]
fn current_cpu_slow(offset: i64) -> usize {
    if offset == RSEQ_UNKNOWN && find_rseq() != RSEQ_ABSENT {
        return current_cpu();
    }
    // SAFETY: 1. sched_getcpu takes no argument.
    let cpu = unsafe { libc::sched_getcpu() };
    usize::try_from(cpu).unwrap_or(0)
}

/// A descriptor of this process, as task storage names tasks.
///
/// # Errors
/// `ENOSYS`: the host has no pidfd_open(2). `EMFILE`.
pub fn pidfd_self() -> Result<std::os::fd::OwnedFd, crate::Errno> {
    // SAFETY: 1. plain numbers.
    let fd = crate::check(unsafe { libc::syscall(libc::SYS_pidfd_open, libc::getpid(), 0u32) })?;
    // SAFETY: 1. the call above returned this descriptor to us alone.
    let fd = unsafe { std::os::fd::FromRawFd::from_raw_fd(fd as i32) };
    Ok(fd)
}

/// Binds this thread to one CPU; tests and benches use it.
///
/// # Errors
/// `EINVAL`: the CPU does not exist or is not allowed here.
pub fn bind_to_cpu(cpu: usize) -> Result<(), crate::Errno> {
    // SAFETY: 1. an all-zero cpu_set_t is a valid empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    if cpu >= libc::CPU_SETSIZE as usize {
        return Err(crate::Errno::EINVAL);
    }
    // SAFETY: 1. cpu is below CPU_SETSIZE; 2. the set outlives both calls.
    let result = unsafe {
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set)
    };
    crate::check(result.into()).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_lists_count_to_the_highest_cpu() {
        assert_eq!(parse_cpu_list("0"), Some(1));
        assert_eq!(parse_cpu_list("0-3"), Some(4));
        assert_eq!(parse_cpu_list("0-3,8-11"), Some(12));
        assert_eq!(parse_cpu_list(""), None);
        assert_eq!(parse_cpu_list("0-x"), None);
    }

    #[test]
    fn bound_thread_reads_the_cpu_it_is_bound_to() {
        for cpu in 0..possible_cpus() {
            if bind_to_cpu(cpu).is_ok() {
                assert_eq!(current_cpu(), cpu);
            }
        }
    }

    #[test]
    fn page_is_a_power_of_two() {
        assert!(page_bytes().is_power_of_two());
    }
}
