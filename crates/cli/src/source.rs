//! Source lines from line info: which line of C an instruction came from.

use ring3::spec::LoadRequest;

/// Bytes of a line info record that are read.
const RECORD_BYTES: usize = 16;

/// A source line.
pub(crate) struct SourceLine {
    /// First instruction slot.
    pub(crate) insn_idx: u32,
    /// File name.
    pub(crate) file: String,
    /// Line number, from 1.
    pub(crate) line: u32,
    /// Column, from 1; 0 if unknown.
    pub(crate) column: u32,
    /// The line's text.
    pub(crate) text: String,
}

/// Every source line of a program, by instruction.
pub(crate) fn source_lines(request: &LoadRequest) -> Vec<SourceLine> {
    let Some(btf) = &request.btf else {
        return Vec::new();
    };
    let rec_size = request.line_info.rec_size as usize;
    if rec_size < RECORD_BYTES {
        return Vec::new();
    }
    let text_at = |offset| btf.str_by_offset(offset).unwrap_or_default().to_owned();
    request
        .line_info
        .bytes
        .chunks_exact(rec_size)
        .map(|record| {
            let word =
                |index: usize| u32::from_le_bytes(std::array::from_fn(|i| record[index * 4 + i]));
            SourceLine {
                insn_idx: word(0),
                file: text_at(word(1)),
                text: text_at(word(2)),
                line: word(3) >> 10,
                column: word(3) & 0x3ff,
            }
        })
        .collect()
}

/// The line an instruction belongs to.
pub(crate) fn line_at(lines: &[SourceLine], insn_idx: u32) -> Option<&SourceLine> {
    lines.iter().rev().find(|line| line.insn_idx <= insn_idx)
}
