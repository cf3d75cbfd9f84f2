//! Unwinding through generated code: tells the process's unwinder (libgcc's) how frames of a range of code look.
//!
//! One description serves all code that keeps a frame pointer: at every call, `rbp` points to the caller's `rbp`, the return address lies above it and
//! the caller's `rbx` below it.
//!
//! # Source
//! DWARF 5, section 6.4 (call frame information); Linux Standard Base Core, `.eh_frame`; System V ABI for x86-64, section 3.6.2 (register numbers).

#[cfg(target_env = "gnu")]
unsafe extern "C" {
    /// libgcc: an `.eh_frame` section that ends with a zero length.
    fn __register_frame(section: *const u8);
}

const RBX: u8 = 3;
const RBP: u8 = 6;
const RETURN_ADDRESS: u8 = 16;
const DEF_CFA: u8 = 0x0c;
const OFFSET: u8 = 0x80;
/// -8 as SLEB128: saved registers lie at multiples of it from the frame's address.
const DATA_ALIGN: u8 = 0x78;

/// Describes the code in `start..start + len_bytes` for the rest of the process's life. Does nothing where the unwinder takes no descriptions: an
/// unwinding thread ends the process there.
pub fn describe_frame_pointer_code(start: usize, len_bytes: usize) {
    let section: &'static [u8] = Box::leak(section(start, len_bytes).into_boxed_slice());
    #[cfg(target_env = "gnu")]
    // SAFETY: 1. the section lives for ever; 2. it is well-formed and ends with a zero length.
    unsafe {
        __register_frame(section.as_ptr());
    }
    #[cfg(not(target_env = "gnu"))]
    let _ = section;
}

fn section(start: usize, len_bytes: usize) -> Vec<u8> {
    // Common information: version 1, no augmentation; the frame's address is rbp + 16.
    let mut common = vec![0, 0, 0, 0, 1, 0, 1, DATA_ALIGN, RETURN_ADDRESS];
    common.extend([DEF_CFA, RBP, 16]);
    common.extend([OFFSET | RETURN_ADDRESS, 1, OFFSET | RBP, 2, OFFSET | RBX, 3]);
    let mut section = Vec::new();
    push_entry(&mut section, common);
    // The distance from its own field to the common information, then the range.
    let mut frame = (section.len() as u32 + 4).to_le_bytes().to_vec();
    frame.extend((start as u64).to_le_bytes());
    frame.extend((len_bytes as u64).to_le_bytes());
    push_entry(&mut section, frame);
    section.extend([0; 4]);
    section
}

/// An entry with its length, padded with no-operations.
fn push_entry(section: &mut Vec<u8>, mut entry: Vec<u8>) {
    entry.resize((entry.len() + 4).next_multiple_of(8) - 4, 0);
    section.extend((entry.len() as u32).to_le_bytes());
    section.extend(entry);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_holds_both_entries_and_an_end() {
        let section = section(0x1000, 0x200);
        let word = |at: usize| {
            u32::from_le_bytes([
                section[at],
                section[at + 1],
                section[at + 2],
                section[at + 3],
            ])
        };
        let common = 4 + word(0) as usize;
        assert_eq!((common % 8, word(4)), (0, 0));
        assert_eq!(word(common + 4) as usize, common + 4);
        assert_eq!(section[common + 8..common + 16], 0x1000u64.to_le_bytes());
        assert_eq!(section[common + 16..common + 24], 0x200u64.to_le_bytes());
        let end = common + 4 + word(common) as usize;
        assert_eq!((section.len(), word(end)), (end + 4, 0));
    }
}
