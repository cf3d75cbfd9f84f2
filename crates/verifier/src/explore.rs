//! Exploration: walks every path through the program, one instruction at a time.
//!
//! A worklist of paths, newest first. The current path goes on until it ends (exit, covered by a checkpoint, stopped by a
//! barrier); then the next one is popped. Where a conditional jump cannot be decided, the other way is pushed. For programs
//! without privilege, ways that only the processor's speculation can take are walked as well; what such a path may not do
//! gets a barrier instead of a rejection.
//!
//! Kernel counterpart: `do_check`, `push_stack`, `pop_stack`. Neighbours: `states` (pruning), `check` (instructions).

use alloc::boxed::Box;

use ring3_isa::{CallTarget, Insn, Operand, Reg};
use ring3_uapi::{Errno, FuncId};

use crate::backtrack::push_jmp_history;
use crate::check;
use crate::env::{Env, InsnFlags, LdImm64, Pending, Slot};
use crate::error::{Check, RejectKind, Violation, reject};
use crate::limits::{JMP_SEQ_MAX, PROCESSED_INSNS_MAX};
use crate::log::insn::{log_insn, log_source_line};
use crate::log::state::{print_full_state, print_insn_state};
use crate::log::{Log, vlog};
use crate::state::{HistFlags, VerifierState};
use crate::states::{Visit, check_state_visited, update_branch_counts};
use crate::stop_points;

/// What an instruction does to the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// The path goes on at `env.insn_idx`.
    Continue,
    /// As `Continue`, in a caller's frame: the log shows the whole state.
    ContinueInCaller,
    /// The path has ended.
    PathEnd,
}

/// Whether a pushed path is one that only speculation can take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Speculation {
    No,
    Yes,
}

/// Pushes a copy of the current path, to be continued at `insn_idx` later.
///
/// # Errors
/// EFAULT: too many paths wait.
pub(crate) fn push_path<'e>(
    env: &'e mut Env<'_>,
    insn_idx: u32,
    prev_insn_idx: u32,
    speculation: Speculation,
) -> Check<&'e mut VerifierState> {
    env.cur.history.seal();
    let mut state = env.cur.clone();
    state.speculative |= speculation == Speculation::Yes;
    let log_position = env.log.position();
    env.worklist.push(Box::new(Pending {
        state,
        insn_idx,
        prev_insn_idx,
        log_position,
    }));
    env.states.note_waiting(env.worklist.len() as u32);
    if env.worklist.len() as u32 > JMP_SEQ_MAX {
        reject!(
            EFAULT,
            "The sequence of {} jumps is too complex.",
            env.worklist.len()
        );
    }
    if let Some(parent) = env.cur.parent {
        env.states.add_branch(parent);
    }
    match env.worklist.last_mut() {
        Some(pending) => Ok(&mut pending.state),
        None => Err(Violation::bug("worklist")),
    }
}

/// Makes the newest waiting path the current one; `false` if none waits.
fn pop_path(env: &mut Env<'_>) -> bool {
    let Some(pending) = env.worklist.pop() else {
        return false;
    };
    env.cur = pending.state;
    env.walked.forget();
    if !env.log.is_level2() {
        env.log.reset_to(pending.log_position);
    }
    env.insn_idx = pending.insn_idx;
    env.prev_insn_idx = pending.prev_insn_idx;
    true
}

/// Walks all paths from the state in `env.cur` and `env.insn_idx`.
pub(crate) fn explore(env: &mut Env<'_>) -> Check {
    let facts = env.facts;
    let insn_count = facts.raw.len();
    let mut print_state = false;
    let is_logged = env.log.is_level();
    env.prev_insn_idx = u32::MAX;
    loop {
        env.has_hist = false;
        let insn_idx = env.insn_idx;
        if insn_idx as usize >= insn_count {
            reject!(
                EFAULT,
                "invalid insn idx {} insn_cnt {insn_count}",
                insn_idx as i32
            );
        }
        let flags = facts.flags[insn_idx as usize];
        env.insn_processed += 1;
        if env.insn_processed > PROCESSED_INSNS_MAX {
            reject!(
                E2BIG,
                "BPF program is too large. Processed {} insn",
                env.insn_processed
            );
        }
        env.cur.last_insn_idx = env.prev_insn_idx;
        env.cur.insn_idx = insn_idx;
        if env.stop_points.is_some() {
            stop_points::note(env);
        }
        if flags.has(InsnFlags::PRUNE_POINT) && check_state_visited(env)? == Visit::Pruned {
            log_pruned(env, print_state);
            if !end_path(env)? {
                return Ok(());
            }
            print_state = true;
            continue;
        }
        if flags.has(InsnFlags::JMP_POINT) {
            push_jmp_history(env, HistFlags::NONE, 0);
        }
        if is_logged {
            log_before(env, &mut print_state);
        }
        mark_seen(env, insn_idx);
        if env.cur.speculative && env.aux[insn_idx].nospec {
            if !end_path(env)? {
                return Ok(());
            }
            print_state = true;
            continue;
        }
        if let Some(recording) = &mut env.recording {
            recording.push(insn_idx, &env.cur)?;
        }
        let may_write = flags.has(InsnFlags::MAY_WRITE_STACK);
        if may_write {
            env.stack_liveness.begin_insn(facts, &env.cur, insn_idx);
        }
        let result = check_insn(env);
        // Only now: history entries of this instruction name the one before.
        env.prev_insn_idx = insn_idx;
        let next = match result {
            Ok(next) => {
                if may_write {
                    env.stack_liveness.commit_insn();
                }
                next
            }
            Err(violation) => {
                if !is_recoverable(&violation) || !env.cur.speculative {
                    return Err(violation);
                }
                if may_write {
                    env.stack_liveness.commit_insn();
                }
                log_violation(env, &violation);
                let aux = &mut env.aux[insn_idx];
                aux.nospec = true;
                aux.forget_clamp();
                Next::PathEnd
            }
        };
        let stopped =
            env.cur.speculative && env.aux[insn_idx].nospec_result && next != Next::PathEnd;
        if next == Next::PathEnd || stopped {
            if !end_path(env)? {
                return Ok(());
            }
            print_state = true;
        } else if next == Next::ContinueInCaller {
            print_state = true;
        }
    }
}

fn log_pruned(env: &mut Env<'_>, print_state: bool) {
    if env.log.is_level() {
        if print_state {
            vlog!(
                env.log,
                "\nfrom {} to {}{}: safe\n",
                env.prev_insn_idx as i32,
                env.insn_idx,
                speculative_words(env.cur.speculative)
            );
        } else {
            vlog!(env.log, "{}: safe\n", env.insn_idx);
        }
    }
}

fn log_before(env: &mut Env<'_>, print_state: &mut bool) {
    let insn_idx = env.insn_idx;
    if *print_state {
        vlog!(
            env.log,
            "\nfrom {} to {}{}:",
            env.prev_insn_idx as i32,
            insn_idx,
            speculative_words(env.cur.speculative)
        );
        print_full_state(env, env.cur.curframe);
        *print_state = false;
    }
    if env.scratched_regs != 0 || env.scratched_slots != 0 {
        print_insn_state(env, env.cur.curframe);
    }
    log_source_line(env.log, env.facts, &mut env.prev_linfo, insn_idx, "; ");
    let begin = env.log.position();
    vlog!(env.log, "{insn_idx}: ");
    log_insn(env.log, env.facts, insn_idx);
    env.prev_log_position = env.log.position();
    env.prev_insn_print_bytes = env.prev_log_position - begin;
}

fn speculative_words(speculative: bool) -> &'static str {
    if speculative {
        " (speculative execution)"
    } else {
        ""
    }
}

/// Prints what a violation says.
pub(crate) fn log_violation(env: &mut Env<'_>, violation: &Violation) {
    write_violation(env.log, violation);
}

/// As [`log_violation`], where no path is walked.
pub(crate) fn write_violation(log: &mut Log, violation: &Violation) {
    if !violation.text.is_empty() {
        let end = if violation.unterminated { "" } else { "\n" };
        vlog!(log, "{}{end}", violation.text);
    }
}

/// Whether a barrier before the instruction would make a speculative path end there.
fn is_recoverable(violation: &Violation) -> bool {
    violation.kind == RejectKind::Rule
        && (violation.errno == Errno::EPERM
            || violation.errno == Errno::EACCES
            || violation.errno == Errno::EINVAL)
}

/// Instructions that only speculation reaches are not "seen": they are removed as dead code if nothing else comes here.
#[inline]
pub(crate) fn mark_seen(env: &mut Env<'_>, insn_idx: u32) {
    if !env.cur.speculative || env.aux[insn_idx].seen != 0 {
        env.aux[insn_idx].seen = env.pass_cnt as u16;
    }
}

/// Ends the current path and takes the next one; `false` if there is none.
fn end_path(env: &mut Env<'_>) -> Check<bool> {
    env.mark_all_scratched();
    update_branch_counts(env)?;
    env.stack_liveness.update(env.log, env.facts, &env.cur);
    Ok(pop_path(env))
}

/// Checks the current instruction and moves on.
fn check_insn(env: &mut Env<'_>) -> Check<Next> {
    let facts = env.facts;
    let insn_idx = env.insn_idx;
    match &facts.slots[insn_idx as usize] {
        Slot::LoadImm64 { dst, value } => {
            check_ld_imm64(env, *dst, value)?;
            env.insn_idx += 1;
            mark_seen(env, env.insn_idx);
        }
        Slot::Insn(insn) => return check_decoded(env, insn),
        Slot::SecondHalf => reject!(EINVAL, "invalid BPF_LD mode"),
        Slot::Bad => {
            let raw = facts.raw[insn_idx as usize];
            // A jump counts before its fields are looked at: on a speculative path the next one may stand at a checkpoint by that.
            if raw.is_jump_class() {
                env.jmps_processed += 1;
            }
            return Err(check::encoding::bad_encoding(env, raw));
        }
    }
    env.insn_idx = env.insn_idx.wrapping_add(1);
    Ok(Next::Continue)
}

fn check_decoded(env: &mut Env<'_>, insn: &Insn) -> Check<Next> {
    match insn {
        Insn::Alu { .. }
        | Insn::Neg { .. }
        | Insn::Movsx { .. }
        | Insn::Endian { .. }
        | Insn::AddrSpaceCast { .. } => check::alu::check_alu_op(env, insn)?,
        Insn::Load { .. } => check::mem::check_load(env, insn)?,
        Insn::Store {
            src: Operand::Reg(_),
            ..
        } => check::mem::check_store_reg(env, insn)?,
        Insn::Store { .. } => check::mem::check_store_imm(env, insn)?,
        Insn::Atomic { .. } => check::atomic::check_atomic(env, insn)?,
        Insn::LoadAbs { .. } | Insn::LoadInd { .. } => check::ld_abs::check_ld_abs(env, insn)?,
        Insn::Jmp { .. } | Insn::MayGoto { .. } => {
            env.jmps_processed += 1;
            check::jmp::check_cond_jmp_op(env, insn)?;
        }
        Insn::Ja { off } => {
            env.jmps_processed += 1;
            env.insn_idx = (env.insn_idx + 1).wrapping_add_signed(i32::from(*off));
            return Ok(Next::Continue);
        }
        Insn::Jal { off } => {
            env.jmps_processed += 1;
            env.insn_idx = (env.insn_idx + 1).wrapping_add_signed(*off);
            return Ok(Next::Continue);
        }
        Insn::Call(target) => {
            env.jmps_processed += 1;
            return check_call(env, *target);
        }
        Insn::Exit => {
            env.jmps_processed += 1;
            return check::exit::check_exit(env, check::exit::ExitKind::Insn);
        }
        Insn::LoadImm64 { .. } | Insn::Internal(_) => {
            reject!(
                EINVAL,
                "unknown opcode {:02x}",
                env.facts.raw[env.insn_idx as usize].code
            )
        }
    }
    env.insn_idx = env.insn_idx.wrapping_add(1);
    Ok(Next::Continue)
}

fn check_call(env: &mut Env<'_>, target: CallTarget) -> Check<Next> {
    if env.cur.refs.active_locks != 0 {
        let allowed = match target {
            CallTarget::Helper(id) => id == FuncId::SpinUnlock.raw() as i32,
            CallTarget::Subprog(_) => true,
            CallTarget::Kfunc { id, btf_idx } => {
                btf_idx == 0 && check::call::kfunc::is_allowed_under_spin_lock(env, id)
            }
        };
        if !allowed {
            reject!(
                EINVAL,
                "function calls are not allowed while holding a lock"
            );
        }
    }
    match target {
        CallTarget::Subprog(distance) => check::call::subprog::check_func_call(env, distance)?,
        CallTarget::Kfunc { id, btf_idx } => {
            if let Some(next) = check::call::kfunc::check_kfunc_call(env, id, btf_idx)? {
                return Ok(next);
            }
        }
        CallTarget::Helper(id) => check::call::helper::check_helper_call(env, id)?,
    }
    env.mark_scratched(Reg::R0);
    env.insn_idx = env.insn_idx.wrapping_add(1);
    Ok(Next::Continue)
}

/// A two-slot load: a number, a map, an address in a map's value, a kernel variable, a function.
fn check_ld_imm64(env: &mut Env<'_>, dst: Reg, value: &LdImm64) -> Check {
    use crate::state::{Extra, RegBase, RegState, RegType, TypeFlags};
    check::regs::check_reg_arg(env, dst, check::regs::RegArg::DstNoMark)?;
    let facts = env.facts;
    let subreg_def = env.cur.reg(dst).subreg_def;
    let mut reg = match *value {
        LdImm64::Value(low, high) => {
            let precise = !env.permits.bpf_capable;
            let old = env.cur.reg_mut(dst);
            old.set_known(u64::from(high) << 32 | u64::from(low));
            old.ty = RegType::SCALAR;
            // As for a move, the mark of the register that is overwritten stays where precision is always on.
            old.precise |= precise;
            return Ok(());
        }
        LdImm64::Map(map) => RegState::pointer(
            RegType::of(RegBase::ConstPtrToMap),
            Extra::Map { map, uid: 0 },
        ),
        LdImm64::MapValue { map, off } => {
            let info = facts.map(map);
            if info.map_type == ring3_uapi::MapType::Arena {
                RegState {
                    // An address in an arena is a number until it is cast.
                    precise: !env.permits.bpf_capable,
                    ..RegState::UNKNOWN_SCALAR
                }
            } else {
                let mut reg = RegState::pointer(RegType::MAP_VALUE, Extra::Map { map, uid: 0 });
                reg.off = off as i32;
                if info.max_entries != 1 {
                    return Err(Violation::bug(
                        "ldimm64 of a map value with more than one entry",
                    ));
                }
                // `id` stays 0: a spin lock in a global variable has no id of its own.
                reg
            }
        }
        LdImm64::BtfVar { btf, id, percpu } => {
            let flags = if percpu {
                TypeFlags::MEM_PERCPU
            } else {
                TypeFlags::NONE
            };
            RegState::pointer(
                RegType::of(RegBase::PtrToBtfId).with(flags),
                Extra::Btf { btf, id },
            )
        }
        LdImm64::KernelMem { size } => RegState::pointer(
            RegType::of(RegBase::PtrToMem).with(TypeFlags::MEM_RDONLY),
            Extra::Mem { size, dynptr_id: 0 },
        ),
        LdImm64::Func { subprog } => {
            if let Some(btf) = &facts.prog_btf {
                let info = &facts.subprogs[subprog as usize];
                let _ = btf;
                if info.func_type_id.0 == 0 {
                    reject!(EINVAL, "missing btf func_info");
                }
                if info.linkage != crate::env::Linkage::Static {
                    reject!(EINVAL, "callback function not static");
                }
            } else {
                reject!(EINVAL, "missing btf func_info");
            }
            RegState::pointer(RegType::of(RegBase::PtrToFunc), Extra::Subprog(subprog))
        }
    };
    reg.subreg_def = subreg_def;
    *env.cur.reg_mut(dst) = reg;
    Ok(())
}
