//! Linked lists and red-black trees of allocated objects: which root and node a call names, and who owns the object.
//!
//! A root lies in a map value or an allocated object, beside the lock that protects it; it says by which member its objects
//! are linked. Adding an object gives it to the root: the registers that held it may go on reading it until the lock is
//! given back (`NON_OWN_REF`). Kernel counterpart: `process_kf_arg_ptr_to_graph_root`, `..._graph_node`,
//! `ref_convert_owning_non_owning`. Neighbours: `lock`, `alloc_obj`, `call::kfunc`.

use ring3_btf::{Field, FieldKind, FieldTarget, TypeId};
use ring3_isa::{CallTarget, Insn, Reg};

use super::alloc_obj::{field_at, record_of};
use crate::env::{Env, Slot};
use crate::error::{Check, Violation, reject};
use crate::state::{
    BtfIdx, Extra, FrameKind, LockOwner, RefKind, RegBase, RegState, RegType, TypeFlags,
};

/// A root that a call names: what it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Root {
    pub(crate) kind: FieldKind,
    pub(crate) btf: BtfIdx,
    /// Type of its objects.
    pub(crate) value: TypeId,
    /// Offset of the node in them.
    pub(crate) node_offset: u32,
}

fn const_offset(reg: &RegState, number: u8, kind: FieldKind) -> Check<i64> {
    match reg.const_offset() {
        Some(off) => Ok(off),
        None => reject!(
            EINVAL,
            "R{number} doesn't have constant offset. {} has to be at the constant offset",
            kind.name()
        ),
    }
}

/// What a field of kind list head or tree root holds; its types are those of the BTF that describes it.
fn root_of(env: &Env<'_>, reg: &RegState, field: &Field) -> Option<Root> {
    let FieldTarget::Graph { value, node_offset } = field.target else {
        return None;
    };
    let btf = match reg.map() {
        Some(map) => env.facts.btf_idx(env.map(map).btf.as_ref()?)?,
        None => reg.btf()?.0,
    };
    Some(Root {
        kind: field.kind,
        btf,
        value,
        node_offset,
    })
}

/// The root behind an argument; its lock must be held.
pub(crate) fn check_root(env: &Env<'_>, regno: Reg, kind: FieldKind) -> Check<Root> {
    let reg = env.cur.reg(regno);
    let off = const_offset(reg, regno.number(), kind)?;
    let name = kind.name();
    let Some(field) = field_at(env, reg, off, kind) else {
        reject!(EINVAL, "{name} not found at offset={off}")
    };
    if let Err(violation) = check_locked(env, reg) {
        let lock = record_of(env, reg)
            .and_then(|record| record.first(FieldKind::SpinLock))
            .map_or(-22, |lock| i64::from(lock.offset));
        return Err(violation.and_line(format_args!(
            "bpf_spin_lock at off={lock} must be held for {name}"
        )));
    }
    match root_of(env, reg, field) {
        Some(root) => Ok(root),
        None => Err(Violation::bug("root without objects")),
    }
}

/// The lock of the object behind a register is held: `check_reg_allocation_locked`.
fn check_locked(env: &Env<'_>, reg: &RegState) -> Check {
    let owner = match (reg.ty.base, reg.map(), reg.btf()) {
        (RegBase::PtrToMapValue, Some(map), _) => LockOwner::Map(map),
        (RegBase::PtrToBtfId, _, Some((btf, _))) => LockOwner::Btf(btf),
        _ => return Err(Violation::bug("unknown reg type for lock check")),
    };
    let refs = &env.cur.refs;
    if refs.active_locks == 0 {
        reject!(EINVAL);
    }
    let is_held = refs
        .list
        .iter()
        .any(|held| held.kind.has(RefKind::LOCK_MASK) && held.id == reg.id && held.owner == owner);
    if !is_held {
        reject!(
            EINVAL,
            "held lock and object are not in the same allocation"
        );
    }
    Ok(())
}

/// The node behind an argument must be the one by which `root` links its objects.
pub(crate) fn check_node(env: &Env<'_>, regno: Reg, kind: FieldKind, root: Root) -> Check {
    let reg = env.cur.reg(regno);
    let off = const_offset(reg, regno.number(), kind)?;
    let name = kind.name();
    let (Some(_), Some((btf, id))) = (field_at(env, reg, off, kind), reg.btf()) else {
        reject!(EINVAL, "{name} not found at offset={off}")
    };
    let expected = env.facts.btf(root.btf).name(root.value);
    if btf != root.btf || id != root.value {
        reject!(
            EINVAL,
            "operation on {} expects arg#1 {name} at offset={} in struct {expected}, but arg is at offset={off} in struct {}",
            root.kind.name(),
            root.node_offset,
            env.facts.btf(btf).name(id)
        );
    }
    if off != i64::from(root.node_offset) {
        reject!(
            EINVAL,
            "arg#1 offset={off}, but expected {name} at offset={} in struct {expected}",
            root.node_offset
        );
    }
    Ok(())
}

/// A pointer to the node of one of the root's objects.
pub(crate) fn node_reg(root: Root) -> RegState {
    let ty = RegType::of(RegBase::PtrToBtfId).with(TypeFlags::MEM_ALLOC);
    let extra = Extra::Btf {
        btf: root.btf,
        id: root.value,
    };
    RegState {
        off: root.node_offset as i32,
        ..RegState::pointer(ty, extra)
    }
}

/// A register becomes one of an object that somebody else owns: `ref_set_non_owning`.
pub(crate) fn set_non_owning(env: &Env<'_>, reg: &mut RegState) -> Check {
    if env.cur.refs.active_locks == 0 {
        return Err(Violation::bug("non-owning reference without a lock"));
    }
    let is_refcounted = record_of(env, reg).is_some_and(|record| record.has(FieldKind::Refcount));
    reg.ty = reg.ty.with(TypeFlags::NON_OWN_REF);
    if is_refcounted {
        reg.ty = reg.ty.with(TypeFlags::MEM_RCU);
    }
    Ok(())
}

/// The object in `regno` now belongs to a root; registers that held it may read it while the lock is held.
pub(crate) fn give_to_root(env: &mut Env<'_>, id: u32) -> Check {
    if id == 0 {
        return Err(Violation::bug("did not find owning ref with id 0"));
    }
    let owned = |reg: &RegState| reg.ref_obj_id == id;
    let sample = {
        let mut found = None;
        for frameno in 0..=env.cur.curframe {
            let frame = env.cur.frame(frameno);
            let spilled = frame
                .stack
                .iter()
                .filter(|slot| slot.is_spilled_reg())
                .map(|slot| slot.spilled());
            found = found.or_else(|| {
                frame
                    .regs
                    .iter()
                    .map(|reg| &**reg)
                    .chain(spilled)
                    .find(|reg| owned(reg))
                    .copied()
            });
        }
        found
    };
    // All registers of one reference have one type.
    let Some(mut sample) = sample else {
        return Err(Violation::bug("reference that no register holds"));
    };
    set_non_owning(env, &mut sample)?;
    let added = sample.ty.flags;
    env.cur.change_regs(owned, |reg| {
        reg.ref_obj_id = 0;
        reg.ty = reg.ty.with(added);
    });
    Ok(())
}

/// Whether the path is inside the comparison that an insertion into a tree calls, under the tree's lock.
pub(crate) fn in_tree_callback(env: &Env<'_>) -> bool {
    let frame = env.cur.cur_frame();
    if env.cur.curframe == 0 || frame.kind != FrameKind::Callback {
        return false;
    }
    let Some(Slot::Insn(Insn::Call(CallTarget::Kfunc { id, btf_idx: 0 }))) =
        env.facts.slots.get(frame.callsite as usize)
    else {
        return false;
    };
    env.req
        .kernel_btf
        .as_ref()
        .is_some_and(|btf| btf.name(TypeId(*id as u32)) == "bpf_rbtree_add_impl")
}
