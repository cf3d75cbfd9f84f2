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

/// Every byte of code belongs to an instruction that iced-x86 knows, and each slot's code begins at one.
pub(super) fn assert_decodes(compiled: &crate::Compiled, what: &dyn Fn() -> String) {
    for line in compiled.listing().lines {
        // What follows the last function: padding and jumps with their addresses.
        let Some(slot) = line.slot else { continue };
        let mut decoder = Decoder::with_ip(64, &line.bytes, 0, DecoderOptions::NONE);
        let mut length = 0;
        while decoder.can_decode() {
            let insn = decoder.decode();
            assert!(
                !insn.is_invalid(),
                "{}: slot {slot}: {:x?}",
                what(),
                line.bytes
            );
            length += insn.len();
        }
        assert_eq!(length, line.bytes.len(), "{}: slot {slot}", what());
    }
}
