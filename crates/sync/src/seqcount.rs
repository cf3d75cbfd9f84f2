//! `SeqCount`: readers notice that a writer was there and try again.

use std::sync::atomic::{AtomicU32, Ordering, fence};

/// A sequence counter; odd while a writer is inside. Writers take turns by other means.
#[derive(Debug, Default)]
#[repr(transparent)]
pub struct SeqCount(AtomicU32);

impl SeqCount {
    /// A counter that no writer has touched.
    pub const fn new() -> Self {
        SeqCount(AtomicU32::new(0))
    }

    /// Begins a read; `None` while a writer is inside.
    #[inline]
    pub fn read_begin(&self) -> Option<u32> {
        let seq = self.0.load(Ordering::Acquire);
        seq.is_multiple_of(2).then_some(seq)
    }

    /// Whether no writer was there since `seq` was read. The reader's loads are atomic ones or of memory that may be racy.
    #[inline]
    pub fn read_is_valid(&self, seq: u32) -> bool {
        fence(Ordering::Acquire);
        self.0.load(Ordering::Relaxed) == seq
    }

    /// Enters as the only writer.
    #[inline]
    pub fn write_begin(&self) {
        let seq = self.0.load(Ordering::Relaxed);
        debug_assert!(seq.is_multiple_of(2), "two writers");
        self.0.store(seq.wrapping_add(1), Ordering::Relaxed);
        fence(Ordering::Release);
    }

    /// Leaves.
    #[inline]
    pub fn write_end(&self) {
        let seq = self.0.load(Ordering::Relaxed);
        self.0.store(seq.wrapping_add(1), Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU64;

    #[test]
    fn readers_see_pairs_that_belong_together() {
        let seq = SeqCount::new();
        let pair = [AtomicU64::new(0), AtomicU64::new(0)];
        let done = AtomicU32::new(0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for value in 1..20_000 {
                    seq.write_begin();
                    pair[0].store(value, Ordering::Relaxed);
                    pair[1].store(value * 2, Ordering::Relaxed);
                    seq.write_end();
                }
                done.store(1, Ordering::Release);
            });
            let mut valid = 0;
            while done.load(Ordering::Acquire) == 0 || valid == 0 {
                if let Some(begin) = seq.read_begin() {
                    let seen = (
                        pair[0].load(Ordering::Relaxed),
                        pair[1].load(Ordering::Relaxed),
                    );
                    if seq.read_is_valid(begin) {
                        assert_eq!(seen.0 * 2, seen.1);
                        valid += 1;
                    }
                }
            }
        });
    }
}
