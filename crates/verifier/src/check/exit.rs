//! Leaving a function, a callback, the program: what r0 must hold, what must be given back.

use ring3_isa::Reg;
use ring3_spec::RetRange;
use ring3_uapi::{AttachType, ProgType};

use super::call::subprog::leave_function;
use super::refs::{ExitScope, check_resource_leak};
use super::regs::{RegArg, check_reg_arg};
use crate::backtrack::mark_chain_precision;
use crate::env::Env;
use crate::error::{Check, Violation, reject, unjudged};
use crate::explore::Next;
use crate::log::state::TypeName;
use crate::state::{FrameKind, RegState, RegType, RetvalRange};

/// Why a path leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ExitKind {
    /// `exit`
    Insn,
    /// `bpf_throw`
    Exception,
}

/// Checks an exit and, inside of a call, continues in the caller: `process_bpf_exit_full`.
pub(crate) fn check_exit(env: &mut Env<'_>, kind: ExitKind) -> Check<Next> {
    if kind == ExitKind::Exception {
        check_resource_leak(env, ExitScope::Exception, "bpf_throw")?;
        return Ok(Next::PathEnd);
    }
    let scope = if env.cur.curframe == 0 {
        ExitScope::Program
    } else {
        ExitScope::Function
    };
    check_resource_leak(env, scope, "BPF_EXIT instruction in main prog")?;
    if env.cur.curframe != 0 {
        leave_function(env)?;
        return Ok(Next::ContinueInCaller);
    }
    check_return_code(env, Reg::R0)?;
    Ok(Next::PathEnd)
}

/// Whether all values of a scalar lie in a range: `retval_range_within`.
pub(crate) fn is_within(range: RetvalRange, reg: &RegState, width32: bool) -> bool {
    if width32 {
        range.min <= reg.scalar.s32_min && reg.scalar.s32_max <= range.max
    } else {
        i64::from(range.min) <= reg.scalar.smin && reg.scalar.smax <= i64::from(range.max)
    }
}

/// `verbose_invalid_scalar`
#[cold]
pub(crate) fn invalid_scalar(
    reg: &RegState,
    range: RetvalRange,
    place: &str,
    name: &str,
) -> alloc::boxed::Box<Violation> {
    use core::fmt::Write;
    let mut text = alloc::format!("{place} the register {name} has");
    let s = &reg.scalar;
    // Writing to a String cannot fail.
    if s.smin > i64::MIN {
        let _ = write!(text, " smin={}", s.smin);
    }
    if s.smax < i64::MAX {
        let _ = write!(text, " smax={}", s.smax);
    }
    if s.smin == i64::MIN && s.smax == i64::MAX {
        text.push_str(" unknown scalar value");
    }
    let _ = write!(text, " should have been in [{}, {}]", range.min, range.max);
    Violation::new(ring3_uapi::Errno::EINVAL, text)
}

/// What r0 must hold at the end of a program, a global function or an asynchronous callback: `check_return_code`.
/// `reg` is r1 for the cookie of an exception that nobody handles: it becomes the return value.
pub(crate) fn check_return_code(env: &mut Env<'_>, reg: Reg) -> Check {
    let number = reg.number();
    let frame = env.cur.frame(0);
    let is_subprog = frame.subprogno() != 0;
    let (in_async, in_exception) = (
        frame.kind.is_async(),
        frame.kind == FrameKind::ExceptionCallback,
    );
    let callback_range = frame.kind.result_range();
    let prog_type = env.facts.attach.prog_type;
    if (!is_subprog || in_exception) && returns_void(env) {
        return Ok(());
    }
    check_reg_arg(env, reg, RegArg::Src)?;
    if env.is_pointer_value(env.cur.reg(reg)) {
        reject!(EACCES, "R{number} leaks addr as return value");
    }
    if in_async {
        return enforce(env, reg, callback_range, "At async callback return", false);
    }
    if is_subprog && !in_exception {
        let ty = env.cur.reg(reg).ty;
        if ty != RegType::SCALAR {
            reject!(
                EINVAL,
                "At subprogram exit the register R{number} is not a scalar value ({})",
                TypeName(ty)
            );
        }
        return Ok(());
    }
    // An extension returns what the program it extends may return.
    let attach = env.facts.attach.expected_attach_type;
    let row = env.registry.prog_type(env.facts.attach.prog_type);
    let rule = row.ret.iter().find(|rule| rule.attach.contains(attach));
    match rule.map(|rule| rule.range) {
        None | Some(RetRange::Any) => Ok(()),
        Some(RetRange::In(min, max)) => {
            if prog_type == ProgType::RawTracepoint && env.req.attach_btf_id.0 == 0 {
                return Ok(());
            }
            enforce(env, reg, RetvalRange { min, max }, "At program exit", false)
        }
        Some(RetRange::InEnforcing {
            range: (min, max),
            enforcing,
        }) => {
            enforce(env, reg, RetvalRange { min, max }, "At program exit", false)?;
            let bits = crate::domain::Tnum::range(enforcing.0 as u64, enforcing.1 as u64);
            if bits.contains(env.cur.reg(reg).scalar.var_off) {
                env.enforce_expected_attach_type = true;
            }
            Ok(())
        }
        Some(RetRange::Unsupported) => reject!(ENOTSUPP),
        Some(RetRange::ByHook) => match hook_ret_range(env) {
            HookRet::Any => Ok(()),
            HookRet::In(min, max) => {
                let width32 = prog_type == ProgType::Lsm && attach != AttachType::LsmCgroup.raw();
                enforce(
                    env,
                    reg,
                    RetvalRange { min, max },
                    "At program exit",
                    width32,
                )
            }
            HookRet::VoidHookOfCgroup => enforce(
                env,
                reg,
                RetvalRange { min: 1, max: 1 },
                "At program exit",
                false,
            )
            .map_err(|v| {
                v.and_line(
                    "Note, BPF_LSM_CGROUP that attach to void LSM hooks can't modify return value!",
                )
            }),
            HookRet::Unjudged => unjudged!("the return value of this hook"),
        },
    }
}

fn enforce(env: &mut Env<'_>, base: Reg, range: RetvalRange, place: &str, width32: bool) -> Check {
    let ty = env.cur.reg(base).ty;
    let number = base.number();
    if ty != RegType::SCALAR {
        reject!(
            EINVAL,
            "{place} the register R{number} is not a known value ({})",
            TypeName(ty)
        );
    }
    mark_chain_precision(env, base)?;
    let reg = env.cur.reg(base);
    if !is_within(range, reg, width32) {
        return Err(invalid_scalar(
            reg,
            range,
            place,
            if base == Reg::R1 { "R1" } else { "R0" },
        ));
    }
    Ok(())
}

/// What the function that a program attaches to says of the return value.
enum HookRet {
    Any,
    In(i32, i32),
    VoidHookOfCgroup,
    Unjudged,
}

/// Return type of the function the program attaches to, `void` as `None`.
fn hook_returns(env: &Env<'_>) -> Option<Option<ring3_btf::Kind>> {
    let target = env.facts.attach.target.as_ref()?;
    let proto = target.btf.type_by_id(target.proto?)?;
    let ret = target.btf.skip_mods_and_typedefs(proto.type_id());
    Some(if ret.is_void() {
        None
    } else {
        target.btf.kind(ret)
    })
}

/// Hooks of LSM and struct_ops may return nothing.
fn returns_void(env: &Env<'_>) -> bool {
    let asks = match env.req.prog_type {
        ProgType::Lsm => env.req.expected_attach_type != AttachType::LsmCgroup.raw(),
        ProgType::StructOps => true,
        _ => false,
    };
    asks && hook_returns(env) == Some(None)
}

/// LSM hooks that answer yes or no; all others return an error number.
const BOOL_LSM_HOOKS: &[&str] = &["bpf_lsm_inode_xattr_skipcap", "bpf_lsm_audit_rule_known"];

fn hook_ret_range(env: &Env<'_>) -> HookRet {
    let Some(ret) = hook_returns(env) else {
        return HookRet::Unjudged;
    };
    match env.req.prog_type {
        ProgType::Lsm if ret.is_none() => HookRet::VoidHookOfCgroup,
        ProgType::Lsm if env.req.expected_attach_type == AttachType::LsmCgroup.raw() => {
            HookRet::In(0, 1)
        }
        ProgType::Lsm => {
            let name = env
                .facts
                .attach
                .target
                .as_ref()
                .map_or("", |target| target.name.as_str());
            let name = name.strip_prefix("bpf_lsm_").unwrap_or(name);
            if BOOL_LSM_HOOKS
                .iter()
                .any(|hook| hook.strip_prefix("bpf_lsm_") == Some(name))
            {
                HookRet::In(0, 1)
            } else {
                HookRet::In(-4095, 0)
            }
        }
        ProgType::StructOps if ret == Some(ring3_btf::Kind::Ptr) => HookRet::Unjudged,
        _ => HookRet::Any,
    }
}
