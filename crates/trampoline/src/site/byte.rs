//! Entries of five one-byte nops: the first becomes `e9`, which makes the other four the distance of a jump, -0x6f6f6f70.
//!
//! ```text
//! nop      90 | e9                 the only byte that ever changes
//!          90 90 90 90             nops, or the distance
//! nop + 5 - 0x6f6f6f70:            springboard: jmp [word]
//! word     where the site leads
//! ```
//!
//! A thread between the nops runs the rest of them and the function. Springboards lie in memory mapped at that distance, in chunks, as close
//! to each other as the sites; they are never freed.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use ring3_jit_x86_64::pack::{Class, Text};
use ring3_os::map::TwinRegion;
use ring3_uapi::Errno;

use super::PatchError;

const NOP: u8 = 0x90;
const JUMP: u8 = 0xe9;
/// What four nops are as a distance.
const DISTANCE: i32 = i32::from_le_bytes([NOP; 4]);
const CHUNK_BYTES: usize = 64 << 10;
/// `jmp [rip + distance]`
const SPRINGBOARD_BYTES: usize = 6;
const WORDS_BYTES: usize = 512;
/// Farther than the sites of a library are apart.
const WORDS_DISTANCE: usize = 512 << 20;

/// A site that is patched by one byte. Never freed.
#[derive(Debug)]
pub(super) struct ByteSite {
    first: *mut u8,
    words: &'static Text,
    word: usize,
}

// SAFETY: 1. the pointer is to a byte that lives for ever and is accessed atomically.
unsafe impl Send for ByteSite {}
// SAFETY: as above.
unsafe impl Sync for ByteSite {}

#[derive(Default)]
struct Springboards {
    sites: HashMap<usize, &'static ByteSite>,
    chunks: HashMap<usize, TwinRegion>,
    /// Words that are unused: text, offset of the next.
    words: Option<(&'static Text, usize)>,
}

fn springboards() -> &'static Mutex<Springboards> {
    static SPRINGBOARDS: OnceLock<Mutex<Springboards>> = OnceLock::new();
    SPRINGBOARDS.get_or_init(Mutex::default)
}

impl ByteSite {
    /// # Safety
    /// As `Site::of_function`; the bytes at `nop` are five nops.
    pub(super) unsafe fn at(nop: usize) -> Result<&'static ByteSite, PatchError> {
        let mut all = springboards()
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(site) = all.sites.get(&nop) {
            return Ok(site);
        }
        let springboard = (nop + 5)
            .checked_add_signed(DISTANCE as isize)
            .ok_or(PatchError::NoRoom)?;
        // SAFETY: 1. the caller's contract.
        let first = unsafe { ring3_os::patch::writable(nop) }.map_err(PatchError::Host)?;
        let (words, word) = all.word_near(springboard)?;
        let end = springboard + SPRINGBOARD_BYTES;
        let distance = (words.address() + word) as i64 - end as i64;
        let distance = i32::try_from(distance).map_err(|_| PatchError::TooFar)?;
        let [a, b, c, d] = distance.to_le_bytes();
        for (at, byte) in [0xff, 0x25, a, b, c, d].into_iter().enumerate() {
            all.write(springboard + at, byte)?;
        }
        let site: &ByteSite = Box::leak(Box::new(ByteSite { first, words, word }));
        all.sites.insert(nop, site);
        Ok(site)
    }

    pub(super) fn patch(&self, from: Option<usize>, to: Option<usize>) -> Result<(), PatchError> {
        // SAFETY: 1. writable and alive for ever (`ring3_os::patch`).
        let first = unsafe { AtomicU8::from_ptr(self.first) };
        let byte_for = |jump: Option<usize>| if jump.is_some() { JUMP } else { NOP };
        let (old, new) = (byte_for(from), byte_for(to));
        let word = self.words.quadword(self.word);
        if first.load(Ordering::SeqCst) != old || from.is_some_and(|from| from as u64 != word) {
            return Err(PatchError::Changed);
        }
        // Before the site leads there. Another target of the function finds the word or the byte changed, and its exchange fails.
        if let Some(target) = to {
            self.words
                .patch_quadword(self.word, word, target as u64)
                .map_err(|_| PatchError::Changed)?;
        }
        first
            .compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst)
            .map(drop)
            .map_err(|_| PatchError::Changed)
    }
}

impl Springboards {
    /// An unused word in reach of a springboard.
    fn word_near(&mut self, springboard: usize) -> Result<(&'static Text, usize), PatchError> {
        if let Some((text, offset)) = self.words
            && text.address().abs_diff(springboard) < 1 << 30
            && offset < WORDS_BYTES
        {
            self.words = Some((text, offset + 8));
            return Ok((text, offset));
        }
        // In reach, but not where springboards of other sites have to be.
        let apart = springboard.saturating_sub(WORDS_DISTANCE);
        let text =
            Text::allocate_near(WORDS_BYTES, apart, Class::Plain).map_err(PatchError::Host)?;
        let text: &'static Text = Box::leak(Box::new(text));
        self.words = Some((text, 8));
        Ok((text, 0))
    }

    /// Writes a byte of a springboard that nobody runs yet.
    fn write(&mut self, address: usize, byte: u8) -> Result<(), PatchError> {
        let chunk = address & !(CHUNK_BYTES - 1);
        let region = match self.chunks.entry(chunk) {
            Entry::Occupied(region) => region.into_mut(),
            Entry::Vacant(free) => {
                let region = TwinRegion::create_at("ring3-springboards", CHUNK_BYTES, chunk);
                free.insert(region.map_err(|errno| match errno {
                    Errno::EEXIST => PatchError::NoRoom,
                    other => PatchError::Host(other),
                })?)
            }
        };
        let place = region.write_view().as_ptr().wrapping_add(address - chunk);
        // SAFETY: 1. inside the chunk; 2. sites are at least six bytes apart (five nops and an instruction), so no springboard lies here.
        unsafe { place.write_volatile(byte) };
        Ok(())
    }
}
