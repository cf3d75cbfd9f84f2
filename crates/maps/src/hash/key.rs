//! Keys of hash tables: loading, hashing and comparing, specialised by size.
//!
//! The hash folds 128-bit products of key words and a per-map random seed, so that who does not know the seed cannot choose colliding
//! keys. With `BPF_F_ZERO_SEED` the seed is a constant.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::mem;

const MULTIPLIER_A: u64 = 0x9e37_79b9_7f4a_7c15;
const MULTIPLIER_B: u64 = 0xd1b5_4a32_d192_ed03;

#[inline(always)]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product >> 64) as u64 ^ product as u64
}

/// Another hash of what has a hash.
#[inline(always)]
pub(crate) fn mix(hash: u64) -> u64 {
    fold(hash ^ MULTIPLIER_A, MULTIPLIER_B)
}

/// One way to treat keys of some size.
pub(crate) trait Key {
    /// A key in hand.
    type Loaded: Copy;

    /// Takes a key from memory.
    ///
    /// # Safety
    /// `key` is readable for `bytes` and stays so while the result is used.
    unsafe fn load(key: *const u8, bytes: usize) -> Self::Loaded;

    /// Its hash.
    ///
    /// # Safety
    /// The key is still readable.
    unsafe fn hash(key: Self::Loaded, seed: u64) -> u64;

    /// Whether the 8-aligned, zero-padded key of an element equals it.
    ///
    /// # Safety
    /// `element` is valid for the padded key; the key is still readable.
    unsafe fn eq(element: *const u8, key: Self::Loaded) -> bool;
}

/// Reads a word of an element that another thread may be reusing.
///
/// # Safety
/// `at` is 8-aligned and valid.
#[inline(always)]
unsafe fn shared_word(at: *const u8) -> u64 {
    // SAFETY: 1. the caller's promise; 2. all accesses to keys in elements are atomic words.
    unsafe { AtomicU64::from_ptr(at.cast_mut().cast()) }.load(Ordering::Relaxed)
}

/// Keys of 4 bytes.
pub(crate) struct Key4;

impl Key for Key4 {
    type Loaded = u64;

    #[inline(always)]
    unsafe fn load(key: *const u8, _bytes: usize) -> u64 {
        // SAFETY: 1. the caller's promise, 4 bytes.
        u64::from(unsafe { key.cast::<u32>().read_unaligned() })
    }

    #[inline(always)]
    unsafe fn hash(key: u64, seed: u64) -> u64 {
        fold(key ^ seed, MULTIPLIER_A)
    }

    #[inline(always)]
    unsafe fn eq(element: *const u8, key: u64) -> bool {
        // SAFETY: 1. the caller's promise; the padding is zero.
        unsafe { shared_word(element) == key }
    }
}

/// Keys of 8 bytes.
pub(crate) struct Key8;

impl Key for Key8 {
    type Loaded = u64;

    #[inline(always)]
    unsafe fn load(key: *const u8, _bytes: usize) -> u64 {
        // SAFETY: 1. the caller's promise, 8 bytes.
        unsafe { key.cast::<u64>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn hash(key: u64, seed: u64) -> u64 {
        fold(key ^ seed, MULTIPLIER_A)
    }

    #[inline(always)]
    unsafe fn eq(element: *const u8, key: u64) -> bool {
        // SAFETY: 1. the caller's promise.
        unsafe { shared_word(element) == key }
    }
}

/// Keys of 16 bytes.
pub(crate) struct Key16;

impl Key for Key16 {
    type Loaded = [u64; 2];

    #[inline(always)]
    unsafe fn load(key: *const u8, _bytes: usize) -> [u64; 2] {
        // SAFETY: 1. the caller's promise, 16 bytes.
        unsafe { key.cast::<[u64; 2]>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn hash(key: [u64; 2], seed: u64) -> u64 {
        fold(fold(key[0] ^ seed, MULTIPLIER_A) ^ key[1], MULTIPLIER_B)
    }

    #[inline(always)]
    unsafe fn eq(element: *const u8, key: [u64; 2]) -> bool {
        // SAFETY: 1. the caller's promise.
        unsafe { (shared_word(element) ^ key[0]) | (shared_word(element.add(8)) ^ key[1]) == 0 }
    }
}

/// Keys of any size.
pub(crate) struct KeyAny;

impl Key for KeyAny {
    type Loaded = (*const u8, usize);

    #[inline(always)]
    unsafe fn load(key: *const u8, bytes: usize) -> (*const u8, usize) {
        (key, bytes)
    }

    #[inline]
    unsafe fn hash((key, bytes): (*const u8, usize), seed: u64) -> u64 {
        let mut hash = seed ^ bytes as u64;
        // SAFETY: 1. the caller's promise; 2. words and tail lie inside `bytes`.
        unsafe {
            for word in 0..bytes / 8 {
                hash = fold(
                    hash ^ key.cast::<u64>().add(word).read_unaligned(),
                    MULTIPLIER_A,
                );
            }
            if !bytes.is_multiple_of(8) {
                hash = fold(hash ^ tail_word(key, bytes), MULTIPLIER_B);
            }
        }
        hash
    }

    #[inline]
    unsafe fn eq(element: *const u8, (key, bytes): (*const u8, usize)) -> bool {
        // SAFETY: 1. the caller's promise; 2. words and tail lie inside `bytes`; the element's padding is zero.
        unsafe {
            for word in 0..bytes / 8 {
                if shared_word(element.add(word * 8))
                    != key.cast::<u64>().add(word).read_unaligned()
                {
                    return false;
                }
            }
            bytes.is_multiple_of(8)
                || shared_word(element.add(bytes / 8 * 8)) == tail_word(key, bytes)
        }
    }
}

/// The last, incomplete word of a key, zero-padded.
///
/// # Safety
/// `key` is readable for `bytes`.
#[inline]
unsafe fn tail_word(key: *const u8, bytes: usize) -> u64 {
    let mut word = [0u8; 8];
    let start = bytes / 8 * 8;
    // SAFETY: 1. the tail is 1 to 7 bytes inside `bytes`.
    unsafe { std::ptr::copy_nonoverlapping(key.add(start), word.as_mut_ptr(), bytes - start) };
    u64::from_ne_bytes(word)
}

/// Writes a key into an element, zero-padded.
///
/// # Safety
/// `element` is 8-aligned and valid for the padded key; `key` is readable for `bytes`.
#[inline]
pub(crate) unsafe fn store_key(element: *mut u8, key: *const u8, bytes: usize) {
    // SAFETY: 1. the caller's promise.
    unsafe {
        mem::copy_words(element, key, bytes / 8 * 8);
        if !bytes.is_multiple_of(8) {
            AtomicU64::from_ptr(element.add(bytes / 8 * 8).cast())
                .store(tail_word(key, bytes), Ordering::Relaxed);
        }
    }
}

/// How keys of some size are treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyKind {
    Four,
    Eight,
    Sixteen,
    Any,
}

impl KeyKind {
    pub(crate) fn of(key_bytes: usize) -> KeyKind {
        match key_bytes {
            4 => KeyKind::Four,
            8 => KeyKind::Eight,
            16 => KeyKind::Sixteen,
            _ => KeyKind::Any,
        }
    }
}

/// Runs an expression with `$K` as the key treatment of a table.
macro_rules! with_key {
    ($table:expr, $K:ident => $body:expr) => {
        match $table.key_kind {
            $crate::hash::key::KeyKind::Four => {
                type $K = $crate::hash::key::Key4;
                $body
            }
            $crate::hash::key::KeyKind::Eight => {
                type $K = $crate::hash::key::Key8;
                $body
            }
            $crate::hash::key::KeyKind::Sixteen => {
                type $K = $crate::hash::key::Key16;
                $body
            }
            $crate::hash::key::KeyKind::Any => {
                type $K = $crate::hash::key::KeyAny;
                $body
            }
        }
    };
}
pub(crate) use with_key;

/// A random seed.
pub(crate) fn random_seed() -> u64 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    // The standard library draws its keys from the host's random source.
    let mut hasher = RandomState::new().build_hasher();
    hasher.write_u64(MULTIPLIER_B);
    hasher.finish()
}
