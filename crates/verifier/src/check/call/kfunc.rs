//! Calls of kernel functions by BTF id. Not judged yet: every call that a path reaches is rejected, saying so.

use crate::env::Env;
use crate::error::{Check, unjudged};
use crate::explore::Next;

/// Whether a kernel function may be called while a spin lock is held.
pub(crate) fn is_allowed_under_spin_lock(_env: &Env<'_>, _id: i32) -> bool {
    true
}

/// Checks a call; `Some` if the call ends the path.
pub(crate) fn check_kfunc_call(env: &mut Env<'_>, id: i32, btf_idx: i16) -> Check<Option<Next>> {
    let name = match (btf_idx, &env.req.kernel_btf) {
        (0, Some(btf)) => btf.name(ring3_btf::TypeId(id as u32)),
        _ => "of a module",
    };
    unjudged!("kernel function {name}");
}
