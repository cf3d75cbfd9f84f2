//! What is known of a register, as one would say it.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;

use crate::domain::Scalar;
use crate::env::Facts;
use crate::state::{RegBase, RegState, TypeFlags};

/// `a pointer to a value of map 'counts', or null`
pub(super) fn of_reg(facts: &Facts, reg: &RegState) -> String {
    let map = || match reg.map() {
        Some(map) if !facts.map(map).name.is_empty() => format!("map '{}'", facts.map(map).name),
        _ => "a map".to_owned(),
    };
    let value_bytes = || reg.map().map_or(0, |map| facts.map(map).value_size);
    let what = match reg.ty.base {
        RegBase::NotInit => return "without a value: nothing wrote it on this path".to_owned(),
        RegBase::Scalar => return of_number(&reg.scalar),
        RegBase::PtrToCtx => "a pointer to the program's context".to_owned(),
        RegBase::ConstPtrToMap => format!("a pointer to {}", map()),
        RegBase::PtrToMapValue => {
            format!(
                "a pointer to a value of {} ({} bytes)",
                map(),
                value_bytes()
            )
        }
        RegBase::PtrToMapKey => format!("a pointer to a key of {}", map()),
        RegBase::PtrToStack => "a pointer into the stack".to_owned(),
        RegBase::PtrToPacketMeta => "a pointer to the packet's metadata".to_owned(),
        RegBase::PtrToPacket => "a pointer into the packet".to_owned(),
        RegBase::PtrToPacketEnd => "the packet's end".to_owned(),
        RegBase::PtrToFlowKeys => "a pointer to flow keys".to_owned(),
        RegBase::PtrToSocket
        | RegBase::PtrToSockCommon
        | RegBase::PtrToTcpSock
        | RegBase::PtrToXdpSock => "a pointer to a socket".to_owned(),
        RegBase::PtrToTpBuffer => "a pointer to a tracepoint's buffer".to_owned(),
        RegBase::PtrToBtfId => {
            let name = reg.btf().map_or("", |(btf, id)| facts.btf(btf).name(id));
            let trust = if reg.ty.has(TypeFlags::PTR_UNTRUSTED) {
                "an untrusted"
            } else {
                "a"
            };
            format!("{trust} pointer to a {name} of the kernel")
        }
        RegBase::PtrToMem => format!("a pointer to {} bytes of memory", reg.mem_size()),
        RegBase::PtrToArena => "a pointer into the arena".to_owned(),
        RegBase::PtrToBuf => "a pointer to a buffer".to_owned(),
        RegBase::PtrToFunc => "the address of a function".to_owned(),
        RegBase::ConstPtrToDynptr => "a pointer to a dynptr".to_owned(),
    };
    let offset = of_offset(reg);
    let null = if reg.ty.may_be_null() {
        ", or null"
    } else {
        ""
    };
    let range = match (reg.ty.base, reg.range()) {
        (RegBase::PtrToPacket, range) if range > 0 => {
            format!("; up to plus {range} is known to lie in the packet")
        }
        (RegBase::PtrToPacket, _) => "; it was not compared with the packet's end".to_owned(),
        _ => String::new(),
    };
    format!("{what}{offset}{null}{range}")
}

/// ` plus 4 plus a number from 0 to 255`
fn of_offset(reg: &RegState) -> String {
    let fixed = match reg.const_offset() {
        Some(0) => return String::new(),
        Some(off) if off < 0 => return format!(" minus {}", off.unsigned_abs()),
        Some(off) => return format!(" plus {off}"),
        None if reg.off == 0 => String::new(),
        None if reg.off < 0 => format!(" minus {}", reg.off.unsigned_abs()),
        None => format!(" plus {}", reg.off),
    };
    format!("{fixed} plus {}", of_number(&reg.scalar))
}

/// `the number 5`, `a number from 0 to 255`
fn of_number(number: &Scalar) -> String {
    if let Some(value) = number.const_value() {
        return format!("the number {}", value as i64);
    }
    let (is_unsigned_known, is_signed_known) = (
        number.umin != 0 || number.umax != u64::MAX,
        number.smin != i64::MIN || number.smax != i64::MAX,
    );
    match (is_unsigned_known, is_signed_known) {
        _ if number.smin >= 0 => format!("a number from {} to {}", number.umin, number.umax),
        (_, true) if number.smax < 0 => format!("a number from {} to {}", number.smin, number.smax),
        (true, _) if number.umax != u64::MAX => {
            format!("a number of at most {} (negative if signed)", number.umax)
        }
        (_, true) if number.smin == i64::MIN => {
            format!("a number of at most {}, perhaps negative", number.smax)
        }
        (_, true) => format!(
            "a number from {} to {}, perhaps negative",
            number.smin, number.smax
        ),
        (true, false) => format!("a number of at least {} (if unsigned)", number.umin),
        (false, false) => "any number".to_owned(),
    }
}
