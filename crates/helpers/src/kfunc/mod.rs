//! Kernel functions that programs may call (kfuncs), as far as they mean something in a process.
//!
//! `ring3_spec::kfunc` says who may call which, the verifier checks calls by the BTF prototype, and a row here says what runs. What has no row is
//! verified, and refused before it starts. Functions of allocated objects get from the verifier's rewrites, in registers that the
//! prototype leaves open, the [`ObjectKind`](object::ObjectKind) and the place of the node.
//!
//! Neighbours: `object` (allocation), `list` and `tree` (what links objects), `fields` (what values own).

mod cpumask;
mod dynptr;
pub(crate) mod fields;
mod iter;
mod list;
mod lock;
pub(crate) mod object;
mod section;
mod string;
mod task;
mod text;
mod tree;
mod workqueue;

use ring3_runtime::{CallKind, HelperFn};
use ring3_uapi::{Errno, ProgType};

/// One implemented kernel function.
#[derive(Clone, Copy, Debug)]
pub struct KfuncImpl {
    /// Its name.
    pub name: &'static str,
    /// Arguments in its prototype.
    pub params: usize,
    /// What programs call.
    pub code: HelperFn,
    /// What more a call may do.
    pub kind: CallKind,
}

const TABLES: &[&[KfuncImpl]] = &[
    cpumask::ROWS,
    dynptr::ROWS,
    iter::ROWS,
    list::ROWS,
    lock::ROWS,
    object::ROWS,
    section::ROWS,
    section::THROWS,
    string::ROWS,
    task::ROWS,
    text::ROWS,
    tree::ROWS,
    tree::CALLING_ROWS,
    workqueue::ROWS,
];

/// Kernel functions that the verifier replaces by a move.
const INLINED: &[&str] = &["bpf_cast_to_kern_ctx", "bpf_rdonly_cast"];

/// The implementation of a kernel function, `None` if there is none.
pub fn find(name: &str) -> Option<&'static KfuncImpl> {
    TABLES
        .iter()
        .copied()
        .flatten()
        .find(|row| row.name == name)
}

/// Program types that may write to the packets they see.
const PACKET_WRITERS: &[ProgType] = &[
    ProgType::SchedCls,
    ProgType::SchedAct,
    ProgType::LwtXmit,
    ProgType::SkSkb,
];

/// The implementation of a kernel function for programs of a type.
pub fn find_for(prog_type: ProgType, name: &str) -> Option<&'static KfuncImpl> {
    let variants = if PACKET_WRITERS.contains(&prog_type) {
        &[]
    } else {
        dynptr::RDONLY_ROWS
    };
    let variant = variants.iter().find(|row| row.name == name);
    variant.or_else(|| find(name))
}

/// Whether programs that call a kernel function run.
pub fn runs(name: &str) -> bool {
    INLINED.contains(&name) || find(name).is_some()
}

/// A result that r0 carries back.
pub(crate) trait IntoReg {
    /// The register.
    fn into_reg(self) -> u64;
}

impl<T: ring3_runtime::AbiRet> IntoReg for T {
    fn into_reg(self) -> u64 {
        ring3_runtime::AbiRet::into_reg(self)
    }
}

/// A result or a negated errno.
pub(crate) struct OrErrno(pub(crate) Result<u64, Errno>);

impl ring3_runtime::AbiRet for OrErrno {
    fn into_reg(self) -> u64 {
        self.0.unwrap_or_else(|errno| errno.negated() as u64)
    }
}

/// 0 or a negated errno.
pub(crate) fn zero_or(result: Result<(), Errno>) -> OrErrno {
    OrErrno(result.map(|()| 0))
}

/// `kfuncs! { NAME(KIND): function(arg: Type, ...) { body } ... }`: a table `NAME` of functions that take their arguments from registers. The body
/// runs in an unsafe function: it may rely on what the verifier checks by the kernel's prototype.
macro_rules! kfuncs {
    ($table:ident($kind:ident): $($(#[$meta:meta])* $name:ident($($arg:ident: $ty:ty),*) $body:block)*) => {
        pub(crate) const $table: &[$crate::kfunc::KfuncImpl] = &[$({
            $(#[$meta])*
            unsafe extern "C" fn thunk(r1: u64, r2: u64, r3: u64, r4: u64, r5: u64) -> u64 {
                let ($($arg,)*) =
                    <($($ty,)*) as ring3_runtime::AbiArgs>::from_regs([r1, r2, r3, r4, r5]);
                $crate::kfunc::IntoReg::into_reg($body)
            }
            $crate::kfunc::KfuncImpl {
                name: stringify!($name),
                params: const { <[&str]>::len(&[$(stringify!($arg)),*]) },
                code: thunk,
                kind: ring3_runtime::CallKind::$kind,
            }
        }),*];
    };
}
pub(crate) use kfuncs;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_a_kernel_function_and_stands_once() {
        let names: Vec<&str> = TABLES
            .iter()
            .copied()
            .flatten()
            .map(|row| row.name)
            .collect();
        for (at, name) in names.iter().enumerate() {
            assert!(ring3_spec::kfunc::find(name).is_some(), "{name}");
            assert!(!names[at + 1..].contains(name), "{name}");
        }
        assert!(runs("bpf_rdonly_cast") && !runs("bpf_crypto_encrypt"));
    }
}
