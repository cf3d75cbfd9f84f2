//! Copying bytes that programs may be reading or writing: word by word with relaxed atomics, so that no aligned word is torn.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

/// `bytes` rounded up to the next multiple of 8.
pub(crate) const fn round_up_8(bytes: usize) -> usize {
    bytes.next_multiple_of(8)
}

/// Copies to an 8-aligned `dst` from anywhere.
///
/// # Safety
/// Both are valid for `bytes`; they do not overlap, or are the same.
#[inline]
pub(crate) unsafe fn copy_words(dst: *mut u8, src: *const u8, bytes: usize) {
    debug_assert!((dst as usize).is_multiple_of(8));
    // SAFETY: 1. the caller's promise; 2. words are whole inside `bytes`; 3. every access to shared memory here is atomic, the other side is
    // the caller's own memory or a program's.
    unsafe {
        if bytes == 8 {
            // The most common value by far.
            let value = src.cast::<u64>().read_unaligned();
            AtomicU64::from_ptr(dst.cast()).store(value, Ordering::Relaxed);
            return;
        }
        let words = bytes / 8;
        for word in 0..words {
            let value = src.cast::<u64>().add(word).read_unaligned();
            AtomicU64::from_ptr(dst.cast::<u64>().add(word)).store(value, Ordering::Relaxed);
        }
        for at in words * 8..bytes {
            AtomicU8::from_ptr(dst.add(at)).store(src.add(at).read(), Ordering::Relaxed);
        }
    }
}

/// Copies between any addresses, by words where both sides are aligned alike.
///
/// # Safety
/// As [`copy_words`], without the alignment.
#[inline]
pub(crate) unsafe fn copy_bytes(dst: *mut u8, src: *const u8, bytes: usize) {
    // SAFETY: 1. the caller's promise, handed on.
    unsafe {
        if bytes == 8 && (src as usize).is_multiple_of(8) {
            // The most common value by far.
            let value = AtomicU64::from_ptr(src.cast_mut().cast()).load(Ordering::Relaxed);
            dst.cast::<u64>().write_unaligned(value);
        } else if (src as usize).is_multiple_of(8) {
            // Reads of shared memory by whole words; the destination is the reader's own.
            let words = bytes / 8;
            for word in 0..words {
                let value = AtomicU64::from_ptr(src.cast_mut().cast::<u64>().add(word))
                    .load(Ordering::Relaxed);
                dst.cast::<u64>().add(word).write_unaligned(value);
            }
            for at in words * 8..bytes {
                dst.add(at)
                    .write(AtomicU8::from_ptr(src.cast_mut().add(at)).load(Ordering::Relaxed));
            }
        } else if (dst as usize).is_multiple_of(8) {
            copy_words(dst, src, bytes);
        } else {
            for at in 0..bytes {
                AtomicU8::from_ptr(dst.add(at)).store(src.add(at).read(), Ordering::Relaxed);
            }
        }
    }
}

/// Brings a cache line near.
#[inline(always)]
pub(crate) fn prefetch(at: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: 1. a prefetch never faults, whatever the address.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(at.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// Zeroes bytes.
///
/// # Safety
/// `dst` is valid for `bytes`.
#[inline]
pub(crate) unsafe fn zero_bytes(dst: *mut u8, bytes: usize) {
    // SAFETY: 1. the caller's promise.
    unsafe {
        if (dst as usize).is_multiple_of(8) {
            for word in 0..bytes / 8 {
                AtomicU64::from_ptr(dst.cast::<u64>().add(word)).store(0, Ordering::Relaxed);
            }
            for at in bytes / 8 * 8..bytes {
                AtomicU8::from_ptr(dst.add(at)).store(0, Ordering::Relaxed);
            }
        } else {
            for at in 0..bytes {
                AtomicU8::from_ptr(dst.add(at)).store(0, Ordering::Relaxed);
            }
        }
    }
}

/// Bytes of memory that the host has; a map whose elements are allocated up front cannot have more.
pub(crate) fn host_memory_bytes() -> u64 {
    static BYTES: std::sync::OnceLock<u64> = std::sync::OnceLock::new();
    *BYTES.get_or_init(|| {
        let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        text.lines()
            .find_map(|line| {
                line.strip_prefix("MemTotal:")?
                    .trim()
                    .strip_suffix("kB")?
                    .trim()
                    .parse::<u64>()
                    .ok()
            })
            .map_or(u64::MAX, |kilobytes| kilobytes.saturating_mul(1024))
    })
}
