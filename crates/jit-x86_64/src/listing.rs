//! `Listing`: which bytes belong to which instruction, for `dump jited`, perf and tests. No disassembler here: the bytes are data, who
//! wants text decodes them.

use crate::emit::FunctionPlace;

/// The machine code of a program, cut at its instructions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// Address of the first byte.
    pub address: u64,
    /// In order of addresses.
    pub lines: Vec<ListingLine>,
}

/// A run of bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListingLine {
    /// Offset from the start of the text.
    pub offset: u32,
    /// The slot these bytes are for; `None` for prologues, stubs, padding.
    pub slot: Option<u32>,
    /// The bytes.
    pub bytes: Vec<u8>,
}

/// Cuts `code` at the offsets where slots begin.
pub(crate) fn cut(
    address: u64,
    code: &[u8],
    slot_offsets: &[u32],
    functions: &[FunctionPlace],
) -> Listing {
    // (offset, slot): a function's prologue lies before its first slot, and what follows the last slot belongs to none.
    let mut marks: Vec<(u32, Option<u32>)> = vec![(0, None)];
    for (slot, &offset) in slot_offsets[..slot_offsets.len() - 1].iter().enumerate() {
        marks.push((offset, Some(slot as u32)));
    }
    marks.push((slot_offsets[slot_offsets.len() - 1], None));
    for &FunctionPlace { start, offset, .. } in functions {
        if offset < slot_offsets[start as usize] {
            marks.push((offset, None));
        }
    }
    marks.sort_by_key(|&(offset, slot)| (offset, slot.is_some(), slot));
    let mut lines = Vec::new();
    for (at, &(offset, slot)) in marks.iter().enumerate() {
        let end = marks.get(at + 1).map_or(code.len() as u32, |next| next.0);
        if end > offset {
            lines.push(ListingLine {
                offset,
                slot,
                bytes: code[offset as usize..end as usize].to_vec(),
            });
        }
    }
    Listing { address, lines }
}
