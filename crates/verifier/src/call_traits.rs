//! What the passes before exploration must know of calls: arguments in registers, callbacks, effects.
//!
//! Key types: [`CallTraits`], [`KernelCalls`], which answers from the registry of helpers and the kernel's BTF. Nothing is
//! rejected here: a call that this program may not make has traits without a [`CallSummary`], and exploration rejects
//! it if a path reaches it.
//! Kernel counterpart: `get_call_summary`, `is_sync_callback_calling_insn` and its siblings. Neighbours: `cfg`,
//! `liveness::regs`, `fastcall`.

use alloc::collections::BTreeMap;
use core::cell::RefCell;

use ring3_btf::{Btf, Kind, TypeId};
use ring3_isa::RawInsn;
use ring3_spec::kfunc::KfuncFlags;
use ring3_spec::{ArgBase, Caller, FuncProto, HelperLookup, Registry, RetBase};
use ring3_uapi::FuncId;

use crate::subprogs::{is_helper_call, is_kfunc_call};

/// Whether a call hands a function of the program to someone who calls it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum CallsBack {
    /// No.
    #[default]
    Never,
    /// Before it returns, any number of times.
    Sync,
    /// Later, on its own.
    Async,
}

/// What passes before exploration ask about a call of a helper or kernel function.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CallTraits {
    /// `None` if this program may not call it or nobody knows it.
    pub(crate) summary: Option<CallSummary>,
    pub(crate) might_sleep: bool,
    pub(crate) changes_pkt_data: bool,
    pub(crate) calls_back: CallsBack,
    /// Advances an open-coded iterator.
    pub(crate) iter_next: bool,
}

/// Which registers a call touches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CallSummary {
    /// r1 to r5, how many.
    pub(crate) params: u8,
    /// Gives nothing back.
    pub(crate) is_void: bool,
    /// Inlined, and leaves caller-saved registers alone that are not arguments.
    pub(crate) fastcall: bool,
}

/// Answers [`CallTraits`] for a call instruction.
pub(crate) type CallLookup<'a> = dyn Fn(RawInsn) -> CallTraits + 'a;

/// The reference kernel's calls.
pub(crate) struct KernelCalls<'a> {
    pub(crate) registry: &'a Registry,
    /// The program; for an extension, as its target.
    pub(crate) caller: Caller,
    pub(crate) kernel_btf: Option<&'a Btf>,
    /// Answers given before, by the call's immediate, of helpers.
    pub(crate) known: RefCell<BTreeMap<i32, CallTraits>>,
}

impl KernelCalls<'_> {
    /// The traits of a call instruction; none for a call of a function of the program.
    pub(crate) fn traits(&self, insn: RawInsn) -> CallTraits {
        if is_helper_call(insn) {
            *self
                .known
                .borrow_mut()
                .entry(insn.imm)
                .or_insert_with(|| self.helper(insn.imm))
        } else if is_kfunc_call(insn) {
            self.kfunc(insn)
        } else {
            CallTraits::default()
        }
    }

    fn helper(&self, imm: i32) -> CallTraits {
        let mut traits = CallTraits {
            calls_back: helper_calls_back(imm),
            ..CallTraits::default()
        };
        // Whether packet data changes is asked of the number alone, allowed or not.
        traits.changes_pkt_data = self
            .registry
            .helper_rows()
            .any(|row| row.id.raw() as i32 == imm && row.changes_pkt_data);
        if let HelperLookup::Found(proto) = self.registry.helper(self.caller, imm) {
            traits.might_sleep = proto.might_sleep;
            traits.summary = Some(helper_summary(proto));
        }
        traits
    }

    fn kfunc(&self, insn: RawInsn) -> CallTraits {
        let mut traits = CallTraits::default();
        // Functions of modules have an index into fd_array, and no effect that these passes know.
        let (Some(btf), 0) = (self.kernel_btf, insn.off) else {
            return traits;
        };
        let Some(func) = btf
            .type_by_id(TypeId(insn.imm as u32))
            .filter(|ty| ty.kind() == Kind::Func)
        else {
            return traits;
        };
        traits.calls_back = kfunc_calls_back(func.name());
        let row = self
            .registry
            .kfunc(func.name())
            .filter(|row| row.is_for(self.caller.prog_type, self.caller.expected_attach_type));
        let (Some(row), Some(proto)) = (row, func.referent()) else {
            return traits;
        };
        traits.might_sleep = row.flags.contains(KfuncFlags::SLEEPABLE);
        traits.changes_pkt_data = row.name == "bpf_xdp_pull_data";
        traits.iter_next = row.flags.contains(KfuncFlags::ITER_NEXT);
        traits.summary = Some(CallSummary {
            params: u8::try_from(proto.params().len()).unwrap_or(u8::MAX),
            is_void: proto.type_id().is_void(),
            fastcall: row.flags.contains(KfuncFlags::FASTCALL),
        });
        traits
    }
}

fn helper_summary(proto: &FuncProto) -> CallSummary {
    let params = proto
        .args
        .iter()
        .take_while(|arg| arg.base != ArgBase::DontCare)
        .count();
    CallSummary {
        params: params as u8,
        is_void: proto.ret.base == RetBase::Void,
        fastcall: proto.allow_fastcall && proto.func_id().is_some_and(is_inlined),
    }
}

/// Helpers that become instructions on x86-64 whatever their arguments are.
pub(crate) fn is_inlined(id: FuncId) -> bool {
    id == FuncId::GetSmpProcessorId
}

fn helper_calls_back(imm: i32) -> CallsBack {
    match u32::try_from(imm).ok().and_then(FuncId::from_raw) {
        Some(
            FuncId::ForEachMapElem | FuncId::FindVma | FuncId::Loop | FuncId::UserRingbufDrain,
        ) => CallsBack::Sync,
        Some(FuncId::TimerSetCallback) => CallsBack::Async,
        _ => CallsBack::Never,
    }
}

fn kfunc_calls_back(name: &str) -> CallsBack {
    match name {
        "bpf_rbtree_add_impl" => CallsBack::Sync,
        "bpf_wq_set_callback_impl"
        | "bpf_task_work_schedule_signal_impl"
        | "bpf_task_work_schedule_resume_impl" => CallsBack::Async,
        _ => CallsBack::Never,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ring3_spec::Privilege;
    use ring3_uapi::ProgType;

    fn traits(prog_type: ProgType, imm: i32) -> CallTraits {
        let registry = Registry::linux_6_18();
        let caller = Caller {
            prog_type,
            expected_attach_type: 0,
            sleepable: false,
            privilege: Privilege::FULL,
        };
        let calls = KernelCalls {
            registry: &registry,
            caller,
            kernel_btf: None,
            known: RefCell::default(),
        };
        calls.traits(RawInsn::new(0x85, 0, 0, 0, imm))
    }

    #[test]
    fn helpers_of_other_program_types_have_no_summary() {
        let summary = traits(ProgType::Xdp, 44).summary.unwrap();
        assert_eq!((summary.params, summary.is_void), (2, false));
        assert!(traits(ProgType::Kprobe, 44).summary.is_none());
        assert!(traits(ProgType::Kprobe, 44).changes_pkt_data);
    }

    #[test]
    fn only_inlined_helpers_are_fast() {
        assert!(traits(ProgType::Xdp, 8).summary.unwrap().fastcall);
        assert!(!traits(ProgType::Xdp, 5).summary.unwrap().fastcall);
    }

    #[test]
    fn loops_call_back() {
        assert_eq!(traits(ProgType::Xdp, 181).calls_back, CallsBack::Sync);
        assert_eq!(traits(ProgType::Xdp, 170).calls_back, CallsBack::Async);
    }
}
