//! A relocation in libbpf's words, as it stands in a verifier log where a poisoned instruction was reached.
//!
//! # Source
//! The log of `bpftool prog load` for the fixture core/poisoned, and libbpf.h.

use super::access::Spec;
use super::{POISON_IMM, ReloKind};
use crate::{Btf, CoreRelo, Kind};
use alloc::format;
use alloc::string::String;
use core::fmt::Write;

/// `<byte_off> [5] struct s.a (0:1 @ offset 4)`; `None` for a record that names nothing.
pub fn describe(local: &Btf, relo: &CoreRelo) -> Option<String> {
    let kind = ReloKind::from_raw(relo.kind)?;
    let spec = Spec::parse(local, kind, relo).ok()?;
    let root = local.type_by_id(relo.type_id)?;
    let name = match root.name() {
        "" => "<anon>",
        name => name,
    };
    let word = match root.kind() {
        Kind::Enum64 => "enum64",
        kind => kind.c_word(),
    };
    let mut text = format!("<{}> [{}] {word} {name}", kind.name(), relo.type_id);
    if kind.is_enumval() {
        let step = spec.steps.first()?;
        let ty = local.type_by_id(step.ty)?;
        let value = ty.enum_value(step.index)?;
        // Writing to a String cannot fail.
        let _ = match (ty.kind() == Kind::Enum, ty.kind_flag()) {
            (true, _) => write!(text, "::{} = {}", value.name(), value.bits as u32),
            (false, true) => write!(text, "::{} = {}", value.name(), value.bits as i64),
            (false, false) => write!(text, "::{} = {}", value.name(), value.bits),
        };
    } else if kind.is_field() {
        for (at, step) in spec.steps.iter().enumerate() {
            let _ = match step.name {
                Some(name) => write!(text, ".{name}"),
                None if at > 0 || step.index > 0 => write!(text, "[{}]", step.index),
                None => Ok(()),
            };
        }
        let path = local.str_by_offset(relo.access_str_off)?;
        let _ = write!(text, " ({path} @ offset {}", spec.bit_offset / 8);
        if !spec.bit_offset.is_multiple_of(8) {
            let _ = write!(text, ".{}", spec.bit_offset % 8);
        }
        text.push(')');
    }
    Some(text)
}

/// A verifier log that ends at a poisoned instruction, with what libbpf puts there instead of the verifier's words about an unknown helper;
/// `None` for any other log. `relo_at` tells the relocation of an instruction slot.
pub fn explain_poison(
    local: &Btf,
    log: &str,
    relo_at: impl Fn(u32) -> Option<CoreRelo>,
) -> Option<String> {
    let message = format!("invalid func unknown#{POISON_IMM}\n");
    let at = log.rfind(&message)?;
    let call = format!(": (85) call unknown#{POISON_IMM}\n");
    let before = log[..at].strip_suffix(call.as_str())?;
    let start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let insn: u32 = before[start..].parse().ok()?;
    let relo = relo_at(insn)?;
    Some(format!(
        "{}{insn}: <invalid CO-RE relocation>\nfailed to resolve CO-RE relocation {}\n{}",
        &before[..start],
        describe(local, &relo)?,
        &log[at + message.len()..]
    ))
}
