//! Where functions begin: the targets of calls, of function addresses and of the exception callback; and that control
//! never leaves a function sideways.
//!
//! Key types: [`Subprogs`]. Two passes, as two kinds of rejection: [`find_subprogs`] collects the starts,
//! [`check_subprogs`] looks at every jump. Between them `check_btf` compares the layout with `func_info`.
//! Kernel counterpart: `add_subprog_and_kfunc`, `check_subprogs`. Neighbours: `check_btf` (func_info), `cfg`.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;
use core::cell::Cell;

use ring3_btf::{Btf, FuncLinkage, Kind, TypeId};
use ring3_isa::RawInsn;
use ring3_uapi::{FuncId, limits};

use crate::check_btf::FuncInfo;
use crate::env::Subprog;
use crate::error::{Check, reject};
use crate::log::{Log, vlog};

/// Opcode of calls.
pub(crate) const CODE_CALL: u8 = 0x85;
/// Opcode of returns.
pub(crate) const CODE_EXIT: u8 = 0x95;
/// Opcode of `goto`.
pub(crate) const CODE_JA: u8 = 0x05;
/// Opcode of `gotol`.
pub(crate) const CODE_JAL: u8 = 0x06;
/// Opcode of `may_goto`.
pub(crate) const CODE_JCOND: u8 = 0xe5;

/// A call of a function of this program.
pub(crate) const fn is_pseudo_call(insn: RawInsn) -> bool {
    insn.code == CODE_CALL && insn.src() == 1
}

/// A call of a kernel function.
pub(crate) const fn is_kfunc_call(insn: RawInsn) -> bool {
    insn.code == CODE_CALL && insn.src() == 2
}

/// A call of a helper.
pub(crate) const fn is_helper_call(insn: RawInsn) -> bool {
    insn.code == CODE_CALL && insn.src() == 0
}

/// The first slot of a load of a function's address.
pub(crate) const fn is_pseudo_func(insn: RawInsn) -> bool {
    insn.is_ld_imm64() && insn.src() == 4
}

/// Slots of the instruction: 2 for a 64-bit immediate load.
pub(crate) const fn slot_count(insn: RawInsn) -> u32 {
    if insn.is_ld_imm64() { 2 } else { 1 }
}

/// Distance of a jump of any kind, from the following slot.
pub(crate) const fn jump_distance(insn: RawInsn) -> i32 {
    if insn.code == CODE_JAL {
        insn.imm
    } else {
        insn.off as i32
    }
}

/// Class `JMP` or `JMP32`.
pub(crate) const fn is_jump_class(insn: RawInsn) -> bool {
    matches!(insn.class(), 5 | 6)
}

/// The functions of a program.
#[derive(Clone, Debug)]
pub(crate) struct Subprogs {
    /// In order of their starts.
    pub(crate) list: Vec<Subprog>,
    /// The one that handles exceptions.
    pub(crate) exception_cb: Option<u32>,
}

/// What the search needs of the load request.
pub(crate) struct SubprogInput<'a> {
    pub(crate) insns: &'a [RawInsn],
    pub(crate) func_info: &'a [FuncInfo],
    pub(crate) btf: Option<&'a Btf>,
    pub(crate) bpf_capable: bool,
    /// How many were found so far, also where the search ends early.
    pub(crate) found: &'a Cell<usize>,
}

/// Collects the starts of functions; `on_kfunc` judges calls of kernel functions in program order.
///
/// # Errors
/// EINVAL, E2BIG, EPERM with the kernel's words.
pub(crate) fn find_subprogs(
    input: &SubprogInput<'_>,
    on_kfunc: &mut dyn FnMut(u32, RawInsn) -> Check,
    log: &mut Log,
) -> Check<Subprogs> {
    let mut starts = BTreeSet::from([0u32]);
    input.found.set(1);
    for (idx, &insn) in input.insns.iter().enumerate() {
        let is_local = is_pseudo_func(insn) || is_pseudo_call(insn);
        if !is_local && !is_kfunc_call(insn) {
            continue;
        }
        if !input.bpf_capable {
            reject!(
                EPERM,
                "loading/calling other bpf or kernel functions are allowed for CAP_BPF and CAP_SYS_ADMIN"
            );
        }
        if is_local {
            add_start(
                &mut starts,
                idx as i64 + i64::from(insn.imm) + 1,
                input.insns.len(),
            )?;
        } else {
            on_kfunc(idx as u32, insn)?;
        }
        input.found.set(starts.len());
    }
    let callback = find_exception_callback(input)?;
    if let Some(start) = callback {
        add_start(&mut starts, i64::from(start), input.insns.len())?;
    }
    input.found.set(starts.len());
    let starts: Vec<u32> = starts.into_iter().collect();
    let mut list: Vec<Subprog> = starts
        .iter()
        .map(|&start| Subprog {
            start,
            ..Subprog::default()
        })
        .collect();
    for (idx, subprog) in list.iter_mut().enumerate() {
        subprog.end = starts
            .get(idx + 1)
            .copied()
            .unwrap_or(input.insns.len() as u32);
        subprog.is_exception_cb = callback == Some(subprog.start);
    }
    if log.is_level2() {
        for (idx, subprog) in list.iter().enumerate() {
            vlog!(log, "func#{idx} @{}\n", subprog.start);
        }
    }
    let exception_cb = list
        .iter()
        .position(|subprog| subprog.is_exception_cb)
        .map(|idx| idx as u32);
    Ok(Subprogs { list, exception_cb })
}

fn add_start(starts: &mut BTreeSet<u32>, start: i64, insn_count: usize) -> Check {
    if start < 0 || start >= insn_count as i64 {
        reject!(EINVAL, "call to invalid destination");
    }
    let start = start as u32;
    if starts.contains(&start) {
        return Ok(());
    }
    if starts.len() >= limits::SUBPROGS_MAX {
        reject!(E2BIG, "too many subprograms");
    }
    starts.insert(start);
    Ok(())
}

/// The start of the function that a declaration tag of the main program names as its exception callback.
fn find_exception_callback(input: &SubprogInput<'_>) -> Check<Option<u32>> {
    let (Some(main), Some(btf)) = (input.func_info.first(), input.btf) else {
        return Ok(None);
    };
    const TAG: &str = "exception_callback:";
    let mut names = btf
        .decl_tags(main.type_id, -1)
        .filter_map(|tag| tag.strip_prefix(TAG));
    let Some(name) = names.next() else {
        return Ok(None);
    };
    if names.next().is_some() {
        reject!(EEXIST, "multiple exception callback tags for main subprog");
    }
    let Some(id) = btf.find_by_name_kind(name, Kind::Func) else {
        reject!(
            ENOENT,
            "exception callback '{name}' could not be found in BTF"
        );
    };
    if btf.type_by_id(id).and_then(|ty| ty.func_linkage()) != Some(FuncLinkage::Global) {
        reject!(
            EINVAL,
            "exception callback '{name}' must have global linkage"
        );
    }
    // The last record that names it decides; only the main program's can be at 0.
    let Some(info) = input.func_info.iter().rfind(|info| info.type_id == id) else {
        reject!(EINVAL, "exception callback type id not found in func_info");
    };
    if info.insn_off == 0 {
        reject!(
            EINVAL,
            "invalid exception callback insn_off in func_info: 0"
        );
    }
    Ok(Some(info.insn_off))
}

/// Checks that jumps stay in their function and that functions do not fall into the next one; notes tail calls and legacy
/// packet loads.
///
/// # Errors
/// EINVAL.
pub(crate) fn check_subprogs(insns: &[RawInsn], subprogs: &mut [Subprog]) -> Check {
    for subprog in subprogs {
        for idx in subprog.start..subprog.end {
            let Some(&insn) = insns.get(idx as usize) else {
                continue;
            };
            note_special(insn, subprog);
            if is_jump_class(insn) && !matches!(insn.code & 0xf0, 0x80 | 0x90) {
                let target = i64::from(idx) + i64::from(jump_distance(insn)) + 1;
                if target < i64::from(subprog.start) || target >= i64::from(subprog.end) {
                    // The kernel computes in 32 bits.
                    reject!(
                        EINVAL,
                        "jump out of range from insn {idx} to {}",
                        target as i32
                    );
                }
            }
            if idx + 1 == subprog.end && !matches!(insn.code, CODE_EXIT | CODE_JA | CODE_JAL) {
                reject!(EINVAL, "last insn is not an exit or jmp");
            }
        }
    }
    Ok(())
}

fn note_special(insn: RawInsn, subprog: &mut Subprog) {
    if is_helper_call(insn) && insn.imm as u32 == FuncId::TailCall.raw() {
        subprog.has_tail_call = true;
    }
    if insn.class() == 0 && matches!(insn.code & 0xe0, 0x20 | 0x40) {
        subprog.has_ld_abs = true;
    }
}

/// Names, type ids and linkage of functions from `func_info`, once both layouts agree.
pub(crate) fn name_subprogs(subprogs: &mut [Subprog], func_info: &[FuncInfo], btf: Option<&Btf>) {
    let Some(btf) = btf else { return };
    for (subprog, info) in subprogs.iter_mut().zip(func_info) {
        subprog.func_type_id = info.type_id;
        subprog.name = btf.name(info.type_id).into();
        subprog.linkage = linkage(btf, info.type_id);
    }
}

fn linkage(btf: &Btf, func: TypeId) -> crate::env::Linkage {
    use crate::env::Linkage;
    match btf.type_by_id(func).and_then(|ty| ty.func_linkage()) {
        Some(FuncLinkage::Global) => Linkage::Global,
        Some(FuncLinkage::Extern) => Linkage::Extern,
        Some(FuncLinkage::Static) | None => Linkage::Static,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::String;
    use alloc::vec;

    fn insn(code: u8, src: u8, off: i16, imm: i32) -> RawInsn {
        RawInsn::new(code, 0, src, off, imm)
    }

    const EXIT: RawInsn = RawInsn::new(CODE_EXIT, 0, 0, 0, 0);
    const MOV: RawInsn = RawInsn::new(0xb7, 0, 0, 0, 0);

    fn run(insns: &[RawInsn], bpf_capable: bool) -> Result<Vec<Subprog>, String> {
        let input = SubprogInput {
            insns,
            func_info: &[],
            btf: None,
            bpf_capable,
            found: &Cell::new(0),
        };
        let mut subprogs = find_subprogs(&input, &mut |_, _| Ok(()), &mut Log::off())
            .map_err(|violation| violation.text)?;
        check_subprogs(insns, &mut subprogs.list).map_err(|violation| violation.text)?;
        Ok(subprogs.list)
    }

    #[test]
    fn functions_are_split_at_call_targets() {
        let list = run(&[insn(CODE_CALL, 1, 0, 1), EXIT, MOV, EXIT], true).unwrap();
        assert_eq!(
            list.iter().map(|s| (s.start, s.end)).collect::<Vec<_>>(),
            [(0, 2), (2, 4)]
        );
    }

    #[test]
    fn calls_need_the_capability() {
        assert_eq!(
            run(&[insn(CODE_CALL, 1, 0, 1), EXIT, MOV, EXIT], false).unwrap_err(),
            "loading/calling other bpf or kernel functions are allowed for CAP_BPF and CAP_SYS_ADMIN"
        );
    }

    #[test]
    fn jumps_into_another_function_are_refused() {
        let program = [
            insn(CODE_JA, 0, 2, 0),
            insn(CODE_CALL, 1, 0, 1),
            EXIT,
            MOV,
            EXIT,
        ];
        assert_eq!(
            run(&program, true).unwrap_err(),
            "jump out of range from insn 0 to 3"
        );
        assert_eq!(
            run(&[insn(0x15, 0, -2, 0), EXIT], true).unwrap_err(),
            "jump out of range from insn 0 to -1"
        );
        assert_eq!(
            run(&[insn(CODE_JAL, 0, 0, 7), EXIT], true).unwrap_err(),
            "jump out of range from insn 0 to 8"
        );
    }

    #[test]
    fn functions_end_with_exit_or_jump() {
        assert_eq!(
            run(&[EXIT, MOV], true).unwrap_err(),
            "last insn is not an exit or jmp"
        );
        assert!(run(&[MOV, insn(CODE_JA, 0, -2, 0)], true).is_ok());
    }

    #[test]
    fn call_targets_are_slots_of_the_program() {
        assert_eq!(
            run(&[insn(CODE_CALL, 1, 0, 5), EXIT], true).unwrap_err(),
            "call to invalid destination"
        );
        assert_eq!(
            run(&[insn(CODE_CALL, 1, 0, -2), EXIT], true).unwrap_err(),
            "call to invalid destination"
        );
    }

    #[test]
    fn at_most_256_functions() {
        let mut program = vec![];
        for at in 0..256 {
            // Call i targets slot 257 + i.
            program.push(insn(CODE_CALL, 1, 0, 256));
            let _ = at;
        }
        program.push(EXIT);
        program.resize(257 + 256, EXIT);
        assert_eq!(run(&program, true).unwrap_err(), "too many subprograms");
        program[0] = MOV;
        assert_eq!(run(&program, true).unwrap().len(), 256);
    }

    #[test]
    fn tail_calls_and_packet_loads_are_noted() {
        let list = run(
            &[insn(CODE_CALL, 0, 0, 12), insn(0x30, 0, 0, 0), EXIT],
            true,
        )
        .unwrap();
        assert!(list[0].has_tail_call && list[0].has_ld_abs);
    }
}
