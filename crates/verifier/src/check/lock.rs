//! Spin locks in map values and allocated objects: taken once, given back in order.
//!
//! Kernel counterpart: `process_spin_lock`. Neighbours: `call::args` (helpers), `refs` (what a path holds).

use ring3_btf::FieldKind;
use ring3_isa::Reg;

use crate::env::Env;
use crate::error::{Check, Violation, reject, unjudged};
use crate::state::{LockOwner, RefKind, RefState, RegBase};

/// Takes (or gives back) the `bpf_spin_lock` behind a register.
pub(crate) fn process_spin_lock(env: &mut Env<'_>, regno: Reg, is_lock: bool) -> Check {
    let reg = *env.cur.reg(regno);
    let number = regno.number();
    let Some(var_off) = reg.scalar.const_value() else {
        reject!(
            EINVAL,
            "R{number} doesn't have constant offset. bpf_spin_lock has to be at the constant offset"
        );
    };
    if !reg.ty.is(RegBase::PtrToMapValue) {
        unjudged!("spin lock in an allocated object");
    }
    let Some(map) = reg.map() else {
        return Err(Violation::bug("map value without map"));
    };
    let info = env.map(map);
    if info.btf.is_none() {
        reject!(
            EINVAL,
            "map '{}' has to have BTF in order to use bpf_spin_lock",
            info.name
        );
    }
    let field = info
        .record
        .as_ref()
        .and_then(|record| record.first(FieldKind::SpinLock));
    let Some(field) = field else {
        reject!(EINVAL, "map '{}' has no valid bpf_spin_lock", info.name)
    };
    let off = (var_off as i64).wrapping_add(i64::from(reg.off));
    if off != i64::from(field.offset) {
        reject!(
            EINVAL,
            "off {off} doesn't point to 'struct bpf_spin_lock' that is at {}",
            field.offset
        );
    }
    let owner = LockOwner::Map(map);
    if is_lock {
        take(env, reg.id, owner)
    } else {
        give_back(env, reg.id, owner)
    }
}

fn take(env: &mut Env<'_>, id: u32, owner: LockOwner) -> Check {
    let insn_idx = env.insn_idx;
    let refs = &mut env.cur.refs;
    if refs.active_locks != 0 && refs.list.iter().any(|held| held.kind == RefKind::LOCK) {
        reject!(EINVAL, "Locking two bpf_spin_locks are not allowed");
    }
    refs.list.push(RefState {
        kind: RefKind::LOCK,
        id,
        insn_idx,
        owner,
    });
    refs.active_locks += 1;
    refs.active_lock_id = id;
    refs.active_lock_owner = Some(owner);
    Ok(())
}

fn give_back(env: &mut Env<'_>, id: u32, owner: LockOwner) -> Check {
    let refs = &mut env.cur.refs;
    if refs.active_locks == 0 {
        reject!(EINVAL, "bpf_spin_unlock without taking a lock");
    }
    let is_this =
        |held: &RefState| held.kind == RefKind::LOCK && held.id == id && held.owner == owner;
    let Some(index) = refs.list.iter().position(is_this) else {
        reject!(EINVAL, "bpf_spin_unlock of different lock");
    };
    if refs.active_lock_id != id || refs.active_lock_owner != Some(owner) {
        reject!(EINVAL, "bpf_spin_unlock cannot be out of order");
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
