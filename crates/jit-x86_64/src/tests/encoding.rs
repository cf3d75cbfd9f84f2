//! Compiled code as text, by iced-x86.

use iced_x86::{Decoder, DecoderOptions, Formatter, IntelFormatter};

/// One line per instruction.
pub(super) fn text_of(code: &[u8], address: u64) -> String {
    let mut decoder = Decoder::with_ip(64, code, address, DecoderOptions::NONE);
    let mut formatter = IntelFormatter::new();
    let mut out = String::new();
    while decoder.can_decode() {
        let insn = decoder.decode();
        let mut line = String::new();
        formatter.format(&insn, &mut line);
        out.push_str(&format!("{:5x}  {line}\n", insn.ip()));
    }
    out
}
