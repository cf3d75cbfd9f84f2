//! Rewritten programs beside the kernel's `xlated`, where that is observable.
//!
//! The kernel shows addresses of helpers and pointers of maps, which are masked. Calls of subprograms show their distance in `off`. What ring3
//! leaves to its engines is named by [`Alike::But`] and documented in `ring3_verifier`'s `fixups`; behind it the comparison goes on. Neighbour: `parity`.

use ring3_isa::{NoNames, RawInsn, disasm};
use ring3_uapi::FuncId;

const CALL: u8 = 0x85;
const TAIL_CALL: u8 = 0xf5;
const MAY_GOTO: u8 = 0xe5;
const JAL: u8 = 0x06;
const MOV32: u8 = 0xbc;
const LD_IMM64: u8 = 0x18;

/// What two rewritten programs have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Alike {
    /// Every instruction.
    Equal,
    /// Everything but rewrites that ring3 leaves to its engines.
    But(Vec<&'static str>),
    /// They part.
    No(Difference),
}

/// Where two rewritten programs part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Slot of ours.
    pub at: usize,
    /// The kernel's instruction.
    pub kernel: String,
    /// Ours.
    pub ours: String,
}

/// More instructions than the kernel puts in the place of one.
const REPLACEMENT_MAX: usize = 24;

/// An instruction without what only its own kernel means.
fn masked(insn: RawInsn) -> RawInsn {
    match insn.code {
        TAIL_CALL => RawInsn::new(CALL, 0, 0, 0, FuncId::TailCall.raw() as i32),
        // The address of a helper or kernel function; a subprogram's is compared as a target.
        CALL if insn.src() == 1 => RawInsn::new(CALL, 0, 1, 0, 0),
        CALL if insn.imm != FuncId::TailCall.raw() as i32 => RawInsn::new(CALL, 0, 0, 0, 0),
        // Zero extensions that the kernel adds carry a mark.
        MOV32 if insn.dst() == insn.src() && insn.off == 0 => RawInsn { imm: 0, ..insn },
        JAL => RawInsn { imm: 0, ..insn },
        _ if is_jump(insn) => RawInsn { off: 0, ..insn },
        // Maps, their values, kernel variables and functions: pointers there.
        LD_IMM64 if insn.src() != 0 => RawInsn::new(LD_IMM64, insn.dst(), 1, 0, 0),
        _ => insn,
    }
}

/// A constant that is an address of the kernel's: what describes an object type to a kernel function.
fn names_kernel_memory(kernel: &[RawInsn], at: usize) -> bool {
    kernel[at].is_ld_imm64()
        && kernel[at].src() == 0
        && kernel.get(at + 1).is_some_and(|high| high.imm >> 16 == -1)
}

fn is_jump(insn: RawInsn) -> bool {
    matches!(insn.code & 7, 5 | 6) && !matches!(insn.code & 0xf0, 0x80 | 0x90 | 0xf0)
}

/// The slot that a jump or call leads to.
fn target(insn: RawInsn, at: usize, is_kernel: bool) -> Option<i64> {
    let distance = match insn.code {
        // Distances of calls stand in `off` there.
        CALL if insn.src() == 1 && is_kernel => i64::from(insn.off),
        CALL if insn.src() == 1 => i64::from(insn.imm as i16),
        JAL => i64::from(insn.imm),
        _ if is_jump(insn) => i64::from(insn.off),
        _ => return None,
    };
    Some(at as i64 + 1 + distance)
}

/// Compares a program with what the kernel made of it.
pub fn compare(kernel: &[RawInsn], ours: &[RawInsn]) -> Alike {
    let same = |at: usize, our: usize| match (kernel.get(at), ours.get(our)) {
        (Some(&theirs), Some(&our)) if names_kernel_memory(kernel, at) => {
            our.is_ld_imm64() && theirs.dst() == our.dst()
        }
        (Some(&theirs), Some(&our)) => masked(theirs) == masked(our),
        (None, None) => true,
        _ => false,
    };
    let mut places = vec![usize::MAX; ours.len() + 1];
    let mut causes = Vec::new();
    let (mut at, mut our) = (0, 0);
    while at < kernel.len() || our < ours.len() {
        if at < kernel.len() && same(at, our) {
            places[our] = at;
            let slots = if kernel[at].is_ld_imm64() { 2 } else { 1 };
            (at, our) = (at + slots, our + slots);
            continue;
        }
        let Some((cause, consumed)) = replaced(ours.get(our).copied(), kernel.get(at).copied())
        else {
            return Alike::No(difference(kernel, ours, at, our));
        };
        let resumes = |&count: &usize| {
            let (at, our) = (at + count, our + consumed);
            same(at, our) && same(at + 1, our + 1)
                || replaced(ours.get(our).copied(), kernel.get(at).copied()).is_some()
                    && same(at, our)
        };
        let Some(count) = (1..=REPLACEMENT_MAX).find(resumes) else {
            return Alike::No(difference(kernel, ours, at, our));
        };
        if consumed > 0 {
            places[our] = at;
        }
        if !causes.contains(&cause) {
            causes.push(cause);
        }
        (at, our) = (at + count, our + consumed);
    }
    places[ours.len()] = kernel.len();
    for (our, &place) in places.iter().enumerate().take(ours.len()) {
        let Some(&theirs) = kernel.get(place) else {
            continue;
        };
        let (Some(their_target), Some(our_target)) =
            (target(theirs, place, true), target(ours[our], our, false))
        else {
            continue;
        };
        let expected = usize::try_from(our_target)
            .ok()
            .and_then(|slot| places.get(slot));
        if expected.map(|&slot| slot as i64) != Some(their_target) && causes.is_empty() {
            return Alike::No(difference(kernel, ours, place, our));
        }
    }
    if causes.is_empty() {
        Alike::Equal
    } else {
        Alike::But(causes)
    }
}

fn difference(kernel: &[RawInsn], ours: &[RawInsn], at: usize, our: usize) -> Difference {
    let text = |insns: &[RawInsn], at: usize| match insns.get(at..) {
        Some(rest) if !rest.is_empty() => disasm(&rest[..rest.len().min(2)], &NoNames)
            .to_string()
            .lines()
            .next()
            .unwrap_or_default()
            .to_owned(),
        Some(_) | None => "the end".to_owned(),
    };
    Difference {
        at: our,
        kernel: text(kernel, at),
        ours: text(ours, our),
    }
}

/// The rewrite that ring3 leaves to its engines, and how many of our slots it replaces.
fn replaced(ours: Option<RawInsn>, theirs: Option<RawInsn>) -> Option<(&'static str, usize)> {
    // The count and the time of a function's may_goto are set where it begins.
    if theirs.is_some_and(|insn| insn.code == 0x7a && insn.dst() == 10) {
        return Some(("may_goto, expanded by the kernel", 0));
    }
    let ours = ours?;
    let is_legacy_load = ours.code & 7 == 0 && matches!(ours.code & 0xe0, 0x20 | 0x40);
    if ours.code == CALL && ours.src() == 0 {
        Some(("a helper that the kernel inlines", 1))
    } else if ours.code == CALL && ours.src() == 2 {
        Some(("a kernel function that the kernel inlines", 1))
    } else if ours.code == MAY_GOTO {
        Some(("may_goto, expanded by the kernel", 1))
    } else if is_legacy_load {
        Some(("a legacy packet load, expanded by the kernel", 1))
    } else if ours.code == TAIL_CALL {
        Some(("a tail call", 1))
    } else if theirs.is_some_and(|insn| matches!((insn.code, insn.dst()), (0x15 | 0x07, 0))) {
        // The element's address, behind the call: 0 stays 0, else the value's offset is added.
        Some(("a helper that the kernel inlines", 0))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXIT: RawInsn = RawInsn::new(0x95, 0, 0, 0, 0);

    #[test]
    fn addresses_are_masked_and_operations_are_not() {
        let kernel = [RawInsn::new(CALL, 0, 0, 0, -12_345), EXIT];
        let ours = [RawInsn::new(CALL, 0, 0, 0, 5), EXIT];
        assert_eq!(compare(&kernel, &ours), Alike::Equal);
        assert!(matches!(compare(&kernel, &[EXIT, EXIT]), Alike::No(_)));
        assert!(matches!(compare(&kernel, &ours[..1]), Alike::No(_)));
    }

    #[test]
    fn distances_of_calls_stand_in_off() {
        let kernel = [RawInsn::new(CALL, 0, 1, 0, 1), EXIT];
        assert_eq!(
            compare(&kernel, &[RawInsn::new(CALL, 0, 1, 0, 0), EXIT]),
            Alike::Equal
        );
        assert!(matches!(
            compare(&kernel, &[RawInsn::new(CALL, 0, 1, 0, 1), EXIT]),
            Alike::No(_)
        ));
    }

    #[test]
    fn addresses_of_the_kernel_are_constants_of_ours() {
        let load = |imm| RawInsn::new(LD_IMM64, 2, 0, 0, imm);
        let high = |imm| RawInsn::new(0, 0, 0, 0, imm);
        let ours = [load(0), high(0), EXIT];
        let kernel = [load(0x4de4c08), high(-30_591), EXIT];
        assert_eq!(compare(&kernel, &ours), Alike::Equal);
        let number = [load(0x4de4c08), high(1), EXIT];
        assert!(matches!(compare(&number, &ours), Alike::No(_)));
    }

    #[test]
    fn inlined_helpers_are_passed_over() {
        let add = RawInsn::new(0x07, 1, 0, 0, 8);
        let kernel = [add, add, add, EXIT, EXIT];
        let ours = [RawInsn::new(CALL, 0, 0, 0, 1), EXIT, EXIT];
        assert_eq!(
            compare(&kernel, &ours),
            Alike::But(vec!["a helper that the kernel inlines"])
        );
    }
}
