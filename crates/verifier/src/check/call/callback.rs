//! Functions of the program that a helper or kernel function calls: in a frame on top of the caller (before the call
//! returns, any number of times), or later on their own (timers and work).

use alloc::boxed::Box;

use ring3_btf::Kind;
use ring3_isa::Reg;

use super::subprog::{check_args_match, new_frame};
use crate::check::dynptr::const_dynptr;
use crate::check::graph::{self, Root};
use crate::env::{Env, Pending};
use crate::error::{Check, RejectKind, Violation, reject, unjudged};
use crate::explore::{Speculation, log_violation, push_path};
use crate::state::{
    BtfIdx, DynptrType, Extra, FrameKind, FuncState, MAIN_CALLSITE, MapIdx, RegBase, RegState,
    RegType, VerifierState,
};

/// Who calls back, and with what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CallbackKind {
    /// `bpf_loop`: `fn(u64 index, void *ctx)`
    Loop,
    /// `bpf_for_each_map_elem`: `fn(map, key, value, ctx)`
    MapElem,
    /// `bpf_timer_set_callback`: `fn(map, key, value)`, asynchronous
    Timer,
    /// `bpf_find_vma`: `fn(task, vma, ctx)`
    FindVma,
    /// `bpf_user_ringbuf_drain`: `fn(dynptr, ctx)`
    UserRingbuf,
    /// `bpf_rbtree_add`: `fn(node, node)`, nodes of this tree
    TreeLess(Root),
    /// `bpf_wq_set_callback`: `fn(map, key, value)`, asynchronous; may sleep
    Workqueue,
    /// `bpf_task_work_schedule_*`: `fn(map, key, value)`, asynchronous; may sleep
    TaskWork { map: MapIdx, uid: u32 },
}

impl CallbackKind {
    const fn is_async(self) -> bool {
        matches!(
            self,
            CallbackKind::Timer | CallbackKind::Workqueue | CallbackKind::TaskWork { .. }
        )
    }

    const fn may_sleep(self) -> bool {
        matches!(
            self,
            CallbackKind::Workqueue | CallbackKind::TaskWork { .. }
        )
    }
}

/// Pushes the path into a callback; the current path goes on behind the call as if no callback were left.
pub(crate) fn push_callback_call(env: &mut Env<'_>, subprog: u32, kind: CallbackKind) -> Check {
    let insn_idx = env.insn_idx;
    let start = env.facts.subprogs[subprog as usize].start;
    if let Err(violation) = check_args_match(env, subprog) {
        if violation.errno == ring3_uapi::Errno::EFAULT {
            return Err(violation);
        }
        if violation.kind == RejectKind::Rule {
            log_violation(env, &violation);
        }
    }
    env.subprog_aux[subprog as usize].is_cb = true;
    let caller = env.cur.cur_frame().clone();
    if kind.is_async() {
        env.subprog_aux[subprog as usize].is_async_cb = true;
        return push_async(env, subprog, start, &caller, kind);
    }
    push_path(env, start, insn_idx, Speculation::No)?;
    let Some(pending) = env.worklist.last() else {
        return Err(Violation::bug("worklist"));
    };
    let mut callee = new_frame(env, &pending.state, subprog, insn_idx)?;
    set_callback_args(env, &caller, &mut callee, kind)?;
    let Some(pending) = env.worklist.last_mut() else {
        return Err(Violation::bug("worklist"));
    };
    let state = &mut pending.state;
    state.cur_frame_mut().stack.callbacks_mut().depth += 1;
    state.push_frame(callee);
    state.callback_unroll_depth += 1;
    env.cur.end_callbacks();
    env.mark_all_scratched();
    Ok(())
}

fn push_async(
    env: &mut Env<'_>,
    subprog: u32,
    start: u32,
    caller: &FuncState,
    kind: CallbackKind,
) -> Check {
    let mut frame = FuncState::new(MAIN_CALLSITE, 0, subprog);
    frame.stack.callbacks_mut().async_entries = caller.stack.callbacks().async_entries + 1;
    set_callback_args(env, caller, &mut frame, kind)?;
    let mut state = VerifierState::new(frame);
    state.in_sleepable = kind.may_sleep();
    let log_position = env.log.position();
    env.worklist.push(Box::new(Pending {
        state,
        insn_idx: start,
        prev_insn_idx: env.insn_idx,
        log_position,
    }));
    if env.worklist.len() as u32 > crate::limits::JMP_SEQ_MAX {
        reject!(
            EFAULT,
            "The sequence of {} jumps is too complex for async cb.",
            env.worklist.len()
        );
    }
    env.mark_all_scratched();
    Ok(())
}

fn set_callback_args(
    env: &mut Env<'_>,
    caller: &FuncState,
    callee: &mut FuncState,
    kind: CallbackKind,
) -> Check {
    let arg = |reg: Reg| *caller.reg(reg);
    let map_arg = |base: RegBase, map: Extra| RegState::pointer(RegType::of(base), map);
    match kind {
        CallbackKind::Loop => {
            *callee.reg_mut(Reg::R1) = RegState {
                precise: !env.permits.bpf_capable,
                ..RegState::UNKNOWN_SCALAR
            };
            *callee.reg_mut(Reg::R2) = arg(Reg::R3);
        }
        CallbackKind::MapElem => {
            let map = arg(Reg::R1);
            *callee.reg_mut(Reg::R1) = map;
            *callee.reg_mut(Reg::R2) = map_arg(RegBase::PtrToMapKey, map.extra);
            *callee.reg_mut(Reg::R3) = map_arg(RegBase::PtrToMapValue, map.extra);
            *callee.reg_mut(Reg::R4) = arg(Reg::R3);
        }
        CallbackKind::TreeLess(root) => {
            for reg in [Reg::R1, Reg::R2] {
                let mut node = graph::node_reg(root);
                graph::set_non_owning(env, &mut node)?;
                *callee.reg_mut(reg) = node;
            }
        }
        CallbackKind::Timer | CallbackKind::Workqueue => {
            let map = arg(Reg::R1).extra;
            *callee.reg_mut(Reg::R1) = map_arg(RegBase::ConstPtrToMap, map);
            *callee.reg_mut(Reg::R2) = map_arg(RegBase::PtrToMapKey, map);
            *callee.reg_mut(Reg::R3) = map_arg(RegBase::PtrToMapValue, map);
            callee.kind = FrameKind::AsyncCallback;
            return Ok(());
        }
        CallbackKind::TaskWork { map, uid } => {
            let map = Extra::Map { map, uid };
            *callee.reg_mut(Reg::R1) = map_arg(RegBase::ConstPtrToMap, map);
            *callee.reg_mut(Reg::R2) = map_arg(RegBase::PtrToMapKey, map);
            *callee.reg_mut(Reg::R3) = map_arg(RegBase::PtrToMapValue, map);
            callee.kind = FrameKind::TaskWork;
            return Ok(());
        }
        CallbackKind::FindVma => {
            let vma = env
                .req
                .kernel_btf
                .as_ref()
                .and_then(|btf| btf.find_by_name_kind("vm_area_struct", Kind::Struct));
            let Some(id) = vma else {
                unjudged!("struct vm_area_struct of the kernel: no kernel BTF was given")
            };
            *callee.reg_mut(Reg::R1) = arg(Reg::R1);
            let extra = Extra::Btf { btf: BtfIdx(0), id };
            *callee.reg_mut(Reg::R2) = RegState::pointer(RegType::of(RegBase::PtrToBtfId), extra);
            *callee.reg_mut(Reg::R3) = arg(Reg::R4);
        }
        CallbackKind::UserRingbuf => {
            *callee.reg_mut(Reg::R1) = const_dynptr(env, DynptrType::Local);
            *callee.reg_mut(Reg::R2) = arg(Reg::R3);
        }
    }
    callee.kind = FrameKind::Callback;
    Ok(())
}
