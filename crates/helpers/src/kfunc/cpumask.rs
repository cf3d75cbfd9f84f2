//! CPU masks: `bpf_cpumask_*`. Bits beyond the possible CPUs stay 0.
//!
//! Masks that a program changes are its own; those that it only looks at may be reached through the memory of kernel objects, and are read as such.

use std::alloc::Layout;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use ring3_os::cpu::possible_cpus;
use ring3_runtime::extable;
use ring3_sync::rcu;
use ring3_uapi::Errno;

use super::{kfuncs, zero_or};

/// Words of the largest `cpumask_t` of a kernel (8,192 CPUs).
const WORDS_MAX: usize = 128;

/// `struct bpf_cpumask`, and its references behind what any kernel's has.
#[repr(C)]
struct Mask {
    words: [AtomicU64; WORDS_MAX],
    references: AtomicU32,
}

/// Words that hold the possible CPUs.
fn word_count() -> usize {
    possible_cpus().div_ceil(64).min(WORDS_MAX)
}

fn cpus() -> u32 {
    (word_count() * 64).min(possible_cpus()) as u32
}

/// The bits of a word that are possible CPUs.
fn valid(word: usize) -> u64 {
    match (cpus() as usize).saturating_sub(word * 64) {
        left @ 0..64 => (1 << left) - 1,
        _ => u64::MAX,
    }
}

/// What a mask holds; nothing where it cannot be read.
fn words(mask: u64) -> [u64; WORDS_MAX] {
    let mut words = [0u64; WORDS_MAX];
    let bytes = word_count() * size_of::<u64>();
    // SAFETY: 1. the array is writable for these bytes.
    if !unsafe { extable::probe_copy(words.as_mut_ptr().cast(), mask, bytes) } {
        return [0; WORDS_MAX];
    }
    for (at, word) in words.iter_mut().enumerate() {
        *word &= valid(at);
    }
    words
}

/// The lowest CPU of these words, the number of CPUs if there is none.
fn first(words: impl IntoIterator<Item = u64>) -> u32 {
    let found = words.into_iter().enumerate().find(|(_, word)| *word != 0);
    found.map_or(cpus(), |(at, word)| at as u32 * 64 + word.trailing_zeros())
}

fn both(a: u64, b: u64, operation: fn(u64, u64) -> u64) -> [u64; WORDS_MAX] {
    let (a, b) = (words(a), words(b));
    std::array::from_fn(|at| operation(a[at], b[at]) & valid(at))
}

/// # Safety
/// `mask` is one that `bpf_cpumask_create` made and that lives.
unsafe fn own<'a>(mask: u64) -> &'a Mask {
    // SAFETY: 1. the caller's promise; 2. everything in it is atomic.
    unsafe { &*std::ptr::with_exposed_provenance(mask as usize) }
}

/// # Safety
/// As [`own`].
unsafe fn store(mask: u64, words: impl Fn(usize) -> u64) {
    for at in 0..word_count() {
        // SAFETY: 1. the caller's promise.
        unsafe { own(mask) }.words[at].store(words(at) & valid(at), Ordering::Relaxed);
    }
}

/// The word and bit of a CPU, `None` if there is no such CPU.
fn place(cpu: u32) -> Option<(usize, u64)> {
    (cpu < cpus()).then(|| (cpu as usize / 64, 1 << (cpu % 64)))
}

/// A new mask with one reference, 0 if there is no memory.
fn create() -> u64 {
    // SAFETY: 1. the layout has bytes.
    let mask = unsafe { std::alloc::alloc_zeroed(Layout::new::<Mask>()) }.cast::<Mask>();
    if !mask.is_null() {
        // SAFETY: 1. zeroes are a mask.
        unsafe { (*mask).references.store(1, Ordering::Relaxed) };
    }
    mask.expose_provenance() as u64
}

/// Gives a reference back, if there is one.
///
/// # Safety
/// `mask` is 0, or the caller owns a reference of it.
pub(super) unsafe fn release(mask: u64) {
    if mask == 0 {
        return;
    }
    // SAFETY: 1. the caller's promise.
    let references = unsafe { &own(mask).references };
    if references.fetch_sub(1, Ordering::AcqRel) != 1 {
        return;
    }
    rcu::call_rcu(move || {
        let mask = std::ptr::with_exposed_provenance_mut(mask as usize);
        // SAFETY: 1. allocated with this layout; the last reference is gone and a grace period has passed.
        unsafe { std::alloc::dealloc(mask, Layout::new::<Mask>()) };
    });
}

/// # Errors
/// EACCES: too few bytes for the CPUs. EINVAL: not in whole words.
fn populate(mask: u64, bytes: &[u8]) -> Result<(), Errno> {
    let needed = (cpus() as usize).div_ceil(8);
    if bytes.len() < needed {
        return Err(Errno::EACCES);
    }
    if !bytes.len().is_multiple_of(8) {
        return Err(Errno::EINVAL);
    }
    let word = |at: usize| {
        let bytes = bytes.get(at * 8..at * 8 + 8).unwrap_or(&[0; 8]);
        u64::from_ne_bytes(std::array::from_fn(|byte| bytes[byte]))
    };
    // SAFETY: 1. KF_RCU and the type: a mask of a program's.
    unsafe { store(mask, word) };
    Ok(())
}

// SAFETY of the bodies: a `struct bpf_cpumask` argument is a mask that a program made and that is owned or protected by the read section; all other
// masks are only read, by `words`.
kfuncs! { ROWS(Plain):
    bpf_cpumask_create() { create() }
    bpf_cpumask_acquire(mask: u64) {
        // SAFETY: 1. trusted: somebody owns a reference.
        unsafe { own(mask) }.references.fetch_add(1, Ordering::Relaxed);
        mask
    }
    bpf_cpumask_release(mask: u64) {
        // SAFETY: 1. KF_RELEASE.
        unsafe { release(mask) }
    }
    bpf_cpumask_first(mask: u64) { first(words(mask)) }
    bpf_cpumask_first_zero(mask: u64) {
        let words = words(mask);
        first((0..WORDS_MAX).map(|at| !words[at] & valid(at)))
    }
    bpf_cpumask_first_and(a: u64, b: u64) { first(both(a, b, |a, b| a & b)) }
    bpf_cpumask_set_cpu(cpu: u32, mask: u64) {
        if let Some((word, bit)) = place(cpu) {
            // SAFETY: see above.
            unsafe { own(mask) }.words[word].fetch_or(bit, Ordering::Relaxed);
        }
    }
    bpf_cpumask_clear_cpu(cpu: u32, mask: u64) {
        if let Some((word, bit)) = place(cpu) {
            // SAFETY: see above.
            unsafe { own(mask) }.words[word].fetch_and(!bit, Ordering::Relaxed);
        }
    }
    bpf_cpumask_test_cpu(cpu: u32, mask: u64) {
        u64::from(place(cpu).is_some_and(|(word, bit)| words(mask)[word] & bit != 0))
    }
    bpf_cpumask_test_and_set_cpu(cpu: u32, mask: u64) {
        u64::from(place(cpu).is_some_and(|(word, bit)| {
            // SAFETY: see above.
            unsafe { own(mask) }.words[word].fetch_or(bit, Ordering::SeqCst) & bit != 0
        }))
    }
    bpf_cpumask_test_and_clear_cpu(cpu: u32, mask: u64) {
        u64::from(place(cpu).is_some_and(|(word, bit)| {
            // SAFETY: see above.
            unsafe { own(mask) }.words[word].fetch_and(!bit, Ordering::SeqCst) & bit != 0
        }))
    }
    bpf_cpumask_setall(mask: u64) {
        // SAFETY: see above.
        unsafe { store(mask, |_| u64::MAX) }
    }
    bpf_cpumask_clear(mask: u64) {
        // SAFETY: see above.
        unsafe { store(mask, |_| 0) }
    }
    bpf_cpumask_and(to: u64, a: u64, b: u64) {
        let result = both(a, b, |a, b| a & b);
        // SAFETY: see above.
        unsafe { store(to, |at| result[at]) };
        u64::from(result != [0; WORDS_MAX])
    }
    bpf_cpumask_or(to: u64, a: u64, b: u64) {
        let result = both(a, b, |a, b| a | b);
        // SAFETY: see above.
        unsafe { store(to, |at| result[at]) }
    }
    bpf_cpumask_xor(to: u64, a: u64, b: u64) {
        let result = both(a, b, |a, b| a ^ b);
        // SAFETY: see above.
        unsafe { store(to, |at| result[at]) }
    }
    bpf_cpumask_copy(to: u64, from: u64) {
        let from = words(from);
        // SAFETY: see above.
        unsafe { store(to, |at| from[at]) }
    }
    bpf_cpumask_equal(a: u64, b: u64) { u64::from(words(a) == words(b)) }
    bpf_cpumask_intersects(a: u64, b: u64) { u64::from(both(a, b, |a, b| a & b) != [0; WORDS_MAX]) }
    bpf_cpumask_subset(a: u64, b: u64) { u64::from(both(a, b, |a, b| a & !b) == [0; WORDS_MAX]) }
    bpf_cpumask_empty(mask: u64) { u64::from(words(mask) == [0; WORDS_MAX]) }
    bpf_cpumask_full(mask: u64) {
        let words = words(mask);
        u64::from((0..WORDS_MAX).all(|at| words[at] == valid(at)))
    }
    bpf_cpumask_weight(mask: u64) { words(mask).iter().map(|word| word.count_ones()).sum::<u32>() }
    bpf_cpumask_any_distribute(mask: u64) { first(words(mask)) }
    bpf_cpumask_any_and_distribute(a: u64, b: u64) { first(both(a, b, |a, b| a & b)) }
    bpf_cpumask_populate(mask: u64, from: *const u8, bytes: u64) {
        // SAFETY: 1. memory and its size, by the prototype.
        zero_or(populate(mask, unsafe { crate::bind::bytes(from, bytes as u32) }))
    }
}
