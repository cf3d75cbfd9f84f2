//! Instructions with the names this program gives them, and source lines.

use core::fmt;

use ring3_btf::TypeId;
use ring3_isa::{Names, RawInsn, disasm};
use ring3_uapi::FuncId;

use super::sink::{Log, vlog};
use crate::env::{Facts, LdImm64, LineInfo, Slot};

/// Names from the program's facts. A map's address is printed as 0: pointers of the kernel have no equal here.
pub(crate) struct ProgramNames<'a> {
    pub(crate) facts: &'a Facts<'a>,
    pub(crate) insn_idx: u32,
}

impl Names for ProgramNames<'_> {
    fn helper(&self, f: &mut fmt::Formatter<'_>, id: i32) -> fmt::Result {
        match u32::try_from(id).ok().and_then(FuncId::from_raw) {
            Some(func) => write!(f, "bpf_{}", func.name()),
            None => f.write_str("unknown"),
        }
    }

    fn kfunc(&self, f: &mut fmt::Formatter<'_>, id: i32, btf_idx: i16) -> fmt::Result {
        let name = match (btf_idx, self.facts.btfs.first()) {
            (0, Some(btf)) => btf.name(TypeId(id as u32)),
            _ => "<error>",
        };
        // Id 0, which a loader leaves where it found no function, has an empty name.
        f.write_str(name)
    }

    fn imm64(&self, f: &mut fmt::Formatter<'_>, first: RawInsn, imm: u64) -> fmt::Result {
        if first.src() == 0 {
            return write!(f, "{imm:#x}");
        }
        match self.facts.slots.get(self.insn_idx as usize) {
            Some(Slot::LoadImm64 {
                value: LdImm64::Func { .. },
                ..
            }) => write!(f, "{imm:#x}"),
            Some(Slot::LoadImm64 {
                value: LdImm64::Map(_) | LdImm64::MapValue { .. },
                ..
            }) if self.facts.hides_pointers => f.write_str("0x0"),
            _ => write!(f, "{:#x}", 0xffff_8880_0000_0000u64),
        }
    }
}

/// Writes an instruction and a line end.
pub(crate) fn log_insn(log: &mut Log, facts: &Facts, insn_idx: u32) {
    if log.is_on()
        && let Some(slots) = facts.raw.get(insn_idx as usize..)
    {
        let names = ProgramNames { facts, insn_idx };
        vlog!(log, "{}\n", disasm(slots, &names));
    }
}

/// The record that covers a slot: the last one that begins at or before it.
pub(crate) fn find_line_info<'a>(
    facts: &'a Facts<'_>,
    insn_idx: u32,
) -> Option<(u32, &'a LineInfo)> {
    let after = facts
        .line_info
        .partition_point(|info| info.insn_off <= insn_idx);
    let index = after.checked_sub(1)?;
    Some((index as u32, &facts.line_info[index]))
}

/// Writes `; source @ file.c:12` unless it is the line written last (`prev` is its record).
pub(crate) fn log_source_line(
    log: &mut Log,
    facts: &Facts,
    prev: &mut Option<u32>,
    insn_idx: u32,
    prefix: &str,
) {
    if !log.is_on() {
        return;
    }
    let Some((index, info)) = find_line_info(facts, insn_idx) else {
        return;
    };
    if *prev == Some(index) {
        return;
    }
    if let Some(last) = prev.and_then(|last| facts.line_info.get(last as usize))
        && last.file_name_off == info.file_name_off
        && last.line_col >> 10 == info.line_col >> 10
    {
        return;
    }
    let Some(btf) = &facts.prog_btf else { return };
    let line = btf
        .str_by_offset(info.line_off)
        .unwrap_or("")
        .trim_start_matches([' ', '\t', '\n', '\r', '\x0b', '\x0c']);
    let file = btf.str_by_offset(info.file_name_off).unwrap_or("");
    let base = file.rsplit('/').next().unwrap_or(file);
    vlog!(log, "{prefix}{line} @ {base}:{}\n", info.line_col >> 10);
    *prev = Some(index);
}
