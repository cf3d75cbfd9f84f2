//! The log buffer of BPF_PROG_LOAD and BPF_BTF_LOAD: what of the text reaches the caller. Key type: [`LogBuf`].
//!
//! By default the buffer keeps the last bytes of the text; with `BPF_LOG_FIXED` the first ones. Either way it ends in a NUL, and a text that
//! does not fit makes the command fail with ENOSPC, whatever its outcome was. The true size is that of the whole text with its NUL.

use ring3_uapi::Errno;
use ring3_verifier::{Log, LogKeep};

use crate::memory::GuestMemory;

/// Keep the start instead of the end. Source: `BPF_LOG_FIXED`.
const FIXED: u32 = 8;
/// Bits a caller may set. Source: `BPF_LOG_MASK`.
const LEVEL_MASK: u32 = 15;
/// Largest buffer. Source: `UINT_MAX >> 2`.
const SIZE_MAX: u32 = u32::MAX >> 2;

/// A caller's log buffer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LogBuf {
    level: u32,
    size: u32,
    address: u64,
}

impl LogBuf {
    /// # Errors
    /// EINVAL: unknown level bits, a size without a buffer or the reverse, a buffer without a level, a size above 2^30.
    pub(crate) fn new(level: u32, size: u32, address: u64) -> Result<LogBuf, Errno> {
        let has_buffer = address != 0;
        let is_valid = has_buffer == (size != 0)
            && !(has_buffer && level == 0)
            && level & !LEVEL_MASK == 0
            && size <= SIZE_MAX;
        if is_valid {
            Ok(LogBuf {
                level,
                size,
                address,
            })
        } else {
            Err(Errno::EINVAL)
        }
    }

    /// Whether a log is wanted.
    pub(crate) fn is_on(&self) -> bool {
        self.level != 0
    }

    /// The level for the verifier; with `BPF_LOG_FIXED` alone it says what it says at every level.
    pub(crate) fn verifier_level(&self) -> u32 {
        self.level
    }

    /// A log for the verifier that keeps no more than the buffer will hold.
    pub(crate) fn verifier_log(&self) -> Log {
        let bytes = self.size as usize;
        let keep = if self.level & FIXED != 0 {
            LogKeep::First(bytes)
        } else {
            LogKeep::Last(bytes)
        };
        Log::keeping(self.level, keep)
    }

    /// Writes the text, of `whole_bytes` in all if not everything was kept; the true size, and how that went.
    pub(crate) fn finish(
        &self,
        text: &str,
        whole_bytes: u64,
        memory: &mut dyn GuestMemory,
    ) -> (u32, Result<(), Errno>) {
        if self.level == 0 || whole_bytes == 0 {
            return (0, Ok(()));
        }
        let text = text.as_bytes();
        let true_size = u32::try_from(whole_bytes + 1).unwrap_or(u32::MAX);
        if self.size == 0 {
            return (true_size, Ok(()));
        }
        let room = text.len().min(self.size as usize - 1);
        let kept = if self.level & FIXED != 0 {
            &text[..room]
        } else {
            &text[text.len() - room..]
        };
        let written = memory
            .write(self.address, kept)
            .and_then(|()| memory.write(self.address + room as u64, &[0]));
        let outcome = match written {
            Err(errno) => Err(errno),
            Ok(()) if true_size > self.size => Err(Errno::ENOSPC),
            Ok(()) => Ok(()),
        };
        (true_size, outcome)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::VecMemory;

    #[test]
    fn the_end_of_the_text_is_kept_unless_the_start_is_wanted() {
        for (level, kept) in [(1, b"fgh\0"), (9, b"abc\0")] {
            let mut memory = VecMemory::new();
            let address = memory.add(&[9; 4]);
            let log = LogBuf::new(level, 4, address).unwrap();
            assert_eq!(
                log.finish("abcdefgh", 8, &mut memory),
                (9, Err(Errno::ENOSPC))
            );
            assert_eq!(memory.bytes_at(address), Some(&kept[..]));
        }
        assert!(LogBuf::new(1, 0, 0).is_ok());
        for (level, size, address) in [(0, 4, 4), (1, 4, 0), (1, 0, 4), (16, 0, 0)] {
            assert_eq!(LogBuf::new(level, size, address).err(), Some(Errno::EINVAL));
        }
    }
}
