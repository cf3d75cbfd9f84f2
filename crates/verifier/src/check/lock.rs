//! Spin locks in map values and allocated objects: plain ones, of which a path holds one, and resilient ones, which nest.
//!
//! Kernel counterpart: `process_spin_lock`. Neighbours: `call::args` (helpers), `call::kfunc` (resilient locks), `refs` (what a
//! path holds), `graph` (what a lock protects).

use ring3_btf::FieldKind;
use ring3_isa::Reg;

use super::alloc_obj::record_of;
use crate::env::Env;
use crate::error::{Check, Violation, reject};
use crate::state::{LockOwner, RefKind, RefState};

/// Which lock a call takes or gives back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LockKind {
    /// `bpf_spin_lock`
    Plain,
    /// `bpf_res_spin_lock`
    Resilient,
    /// `bpf_res_spin_lock_irqsave`
    ResilientIrq,
}

impl LockKind {
    const fn name(self) -> &'static str {
        match self {
            LockKind::Plain => "bpf_spin",
            LockKind::Resilient | LockKind::ResilientIrq => "bpf_res_spin",
        }
    }

    const fn field(self) -> FieldKind {
        match self {
            LockKind::Plain => FieldKind::SpinLock,
            LockKind::Resilient | LockKind::ResilientIrq => FieldKind::ResSpinLock,
        }
    }

    const fn held(self) -> RefKind {
        match self {
            LockKind::Plain => RefKind::LOCK,
            LockKind::Resilient => RefKind::RES_LOCK,
            LockKind::ResilientIrq => RefKind::RES_LOCK_IRQ,
        }
    }
}

/// Takes (or gives back) the lock behind a register: a map value or an allocated object.
pub(crate) fn process_spin_lock(
    env: &mut Env<'_>,
    regno: Reg,
    kind: LockKind,
    is_lock: bool,
) -> Check {
    let reg = *env.cur.reg(regno);
    let (number, lock) = (regno.number(), kind.name());
    let Some(off) = reg.const_offset() else {
        reject!(
            EINVAL,
            "R{number} doesn't have constant offset. {lock}_lock has to be at the constant offset"
        );
    };
    let (owner, what, name) = match (reg.map(), reg.btf()) {
        (Some(map), _) => {
            let info = env.map(map);
            if info.btf.is_none() {
                reject!(
                    EINVAL,
                    "map '{}' has to have BTF in order to use {lock}_lock",
                    info.name
                );
            }
            (LockOwner::Map(map), "map", info.name.as_str())
        }
        (None, Some((btf, _))) => (LockOwner::Btf(btf), "local", "kptr"),
        (None, None) => return Err(Violation::bug("lock in neither map value nor object")),
    };
    let field = record_of(env, &reg).and_then(|record| record.first(kind.field()));
    let Some(field) = field else {
        reject!(EINVAL, "{what} '{name}' has no valid {lock}_lock")
    };
    if off != i64::from(field.offset) {
        reject!(
            EINVAL,
            "off {off} doesn't point to 'struct {lock}_lock' that is at {}",
            field.offset
        );
    }
    if is_lock {
        take(env, reg.id, kind, owner)
    } else {
        give_back(env, reg.id, kind, owner)
    }
}

fn take(env: &mut Env<'_>, id: u32, kind: LockKind, owner: LockOwner) -> Check {
    let insn_idx = env.insn_idx;
    let refs = &mut env.cur.refs;
    let resilient = RefKind(RefKind::RES_LOCK.0 | RefKind::RES_LOCK_IRQ.0);
    match kind {
        LockKind::Plain => {
            if refs.list.iter().any(|held| held.kind == RefKind::LOCK) {
                reject!(EINVAL, "Locking two bpf_spin_locks are not allowed");
            }
        }
        LockKind::Resilient | LockKind::ResilientIrq => {
            let is_same =
                |held: &RefState| held.kind.has(resilient) && held.id == id && held.owner == owner;
            if refs.list.iter().any(is_same) {
                reject!(
                    EINVAL,
                    "Acquiring the same lock again, AA deadlock detected"
                );
            }
        }
    }
    refs.list.push(RefState {
        kind: kind.held(),
        id,
        insn_idx,
        owner,
    });
    refs.active_locks += 1;
    refs.active_lock_id = id;
    refs.active_lock_owner = Some(owner);
    Ok(())
}

fn give_back(env: &mut Env<'_>, id: u32, kind: LockKind, owner: LockOwner) -> Check {
    let refs = &mut env.cur.refs;
    let lock = kind.name();
    if refs.active_locks == 0 {
        reject!(EINVAL, "{lock}_unlock without taking a lock");
    }
    let is_this =
        |held: &RefState| held.kind == kind.held() && held.id == id && held.owner == owner;
    let Some(index) = refs.list.iter().position(is_this) else {
        reject!(EINVAL, "{lock}_unlock of different lock");
    };
    if refs.active_lock_id != id || refs.active_lock_owner != Some(owner) {
        reject!(EINVAL, "{lock}_unlock cannot be out of order");
    }
    refs.remove(index);
    refs.active_locks -= 1;
    let before = refs
        .list
        .iter()
        .rev()
        .find(|held| held.kind.has(RefKind::LOCK_MASK))
        .copied();
    refs.active_lock_id = before.map_or(0, |held| held.id);
    refs.active_lock_owner = before.map(|held| held.owner);
    super::refs::invalidate_non_owning_refs(env);
    Ok(())
}
