//! System controls: files that a host reads and writes by name, judged by programs of cgroups. Key types: [`Sysctl`], [`run_sysctl`].
//!
//! A process has no `/proc/sys`; what a control is called and holds is what the host says. Its programs are asked before a read or a write, see the name
//! and both values, and may refuse, or write something else.
//!
//! # Source
//! bpf-helpers(7); Documentation/bpf/prog_cgroup_sysctl.rst.

use std::cell::Cell;

use ring3_btf::layout;
use ring3_runtime::{ProgObject, RunContext, run, with_run_context};
use ring3_spec::kinds::{Ctx, Value};
use ring3_uapi::{AttachType, Errno, ProgType};

use crate::bind::{FromValue, bytes, bytes_mut, implement};

/// Longest new value. Source: `bpf_sysctl_set_new_value`, a page with its NUL.
const VALUE_BYTES_MAX: usize = 4095;
/// `BPF_F_SYSCTL_BASE_NAME`
const BASE_NAME: u64 = 1;
/// Words of `struct bpf_sysctl_kern`.
const KERN_WORDS: usize = 9;

/// What is done to a control.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SysctlAccess {
    /// It is read.
    Read,
    /// This is written.
    Write(Vec<u8>),
}

/// A control that is read or written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sysctl {
    /// Below `/proc/sys`: `net/ipv4/tcp_mem`.
    pub name: String,
    /// What a read gives, newline included; `None` if it cannot be read.
    pub current: Option<Vec<u8>>,
    /// What is done; a program may have other bytes written.
    pub access: SysctlAccess,
    /// Where in the file, which a program may change.
    pub position: u32,
}

/// The context: the kernel's structure, of which programs see `write` and `ppos`, then what helpers look at.
#[repr(C)]
pub(crate) struct SysctlCtx<'a> {
    kern: [u64; KERN_WORDS],
    position: u64,
    sysctl: &'a mut Sysctl,
}

impl SysctlCtx<'_> {
    fn put(&mut self, field: &str, value: u64) {
        if let Some(field) = layout::field(None, "bpf_sysctl_kern", field) {
            let (word, shift) = (field.offset as usize / 8, field.offset % 8 * 8);
            self.kern[word] |= value << shift;
        }
    }

    /// The value that is being written.
    ///
    /// # Errors
    /// EINVAL: nothing is.
    fn new_value(&mut self) -> Result<&mut Vec<u8>, Errno> {
        match &mut self.sysctl.access {
            SysctlAccess::Read => Err(Errno::EINVAL),
            SysctlAccess::Write(value) => Ok(value),
        }
    }
}

impl FromValue<Ctx> for &mut SysctlCtx<'_> {
    unsafe fn from_value(value: Value<Ctx>) -> Self {
        // SAFETY: 1. only programs of system controls are granted the helpers with this parameter, and they run in `run_sysctl` only; 2. the context
        // lives for the run, and the program is suspended in the call.
        unsafe { &mut *std::ptr::with_exposed_provenance_mut(value.raw as usize) }
    }
}

/// Asks a program whether a control may be read or written; 0, or the negative errno that the access is to fail with.
///
/// # Errors
/// EINVAL: a program of another type, or a name that is empty.
pub fn run_sysctl(prog: &dyn ProgObject, sysctl: &mut Sysctl) -> Result<i32, Errno> {
    if prog.prog_type() != ProgType::CgroupSysctl || sysctl.name.is_empty() {
        return Err(Errno::EINVAL);
    }
    let is_write = matches!(sysctl.access, SysctlAccess::Write(_));
    let mut ctx = SysctlCtx {
        kern: [0; KERN_WORDS],
        position: sysctl.position.into(),
        sysctl,
    };
    let position = std::ptr::from_mut(&mut ctx.position).expose_provenance() as u64;
    ctx.put("write", is_write.into());
    ctx.put("ppos", position);
    let context = RunContext {
        attach_type: AttachType::CgroupSysctl.raw(),
        retval: Cell::new(0),
        ..RunContext::default()
    };
    let address = std::ptr::from_mut(&mut ctx).expose_provenance() as u64;
    // SAFETY: 1. the program is borrowed; 2. its type was checked: what it reads and writes of its context is rewritten to `write`, `ppos` and `tmp_reg`
    // of the structure, and to the word that `ppos` points to; 3. all live for the run.
    let allowed = with_run_context(&context, || unsafe { run(&prog.entry(), address) as u32 });
    ctx.sysctl.position = ctx.position as u32;
    let retval = context.retval.get();
    Ok(match allowed & 1 {
        0 if retval >= 0 => Errno::EPERM.negated() as i32,
        _ => retval.min(0),
    })
}

/// A text into a buffer, cut to fit, with a NUL and zeros behind it; its length.
///
/// # Errors
/// E2BIG: it was cut.
fn copy_text(into: &mut [u8], text: &[u8]) -> Result<u64, Errno> {
    let Some(room) = into.len().checked_sub(1) else {
        return Err(Errno::E2BIG);
    };
    let len = text.len().min(room);
    into[..len].copy_from_slice(&text[..len]);
    into[len..].fill(0);
    if len < text.len() {
        return Err(Errno::E2BIG);
    }
    Ok(len as u64)
}

/// As [`copy_text`].
///
/// # Errors
/// EINVAL: there is no value; the buffer is zeros then. As [`copy_text`].
fn copy_value(into: &mut [u8], value: Option<&[u8]>) -> Result<u64, Errno> {
    match value.filter(|value| !value.is_empty()) {
        Some(value) => copy_text(into, value),
        None => {
            into.fill(0);
            Err(Errno::EINVAL)
        }
    }
}

implement! { ROWS:
    SysctlGetName(ctx: &mut SysctlCtx<'_>, buf: *mut u8, size: u32, flags: u64) {
        // SAFETY: 1. ARG_PTR_TO_MEM with its size.
        let buf = unsafe { bytes_mut(buf, size) };
        let name = ctx.sysctl.name.as_str();
        let base = name.rsplit_once('/').map_or(name, |(_, base)| base);
        copy_text(buf, if flags & BASE_NAME != 0 { base } else { name }.as_bytes())
    }
    SysctlGetCurrentValue(ctx: &mut SysctlCtx<'_>, buf: *mut u8, size: u32) {
        // SAFETY: 1. ARG_PTR_TO_UNINIT_MEM with its size.
        let buf = unsafe { bytes_mut(buf, size) };
        copy_value(buf, ctx.sysctl.current.as_deref())
    }
    SysctlGetNewValue(ctx: &mut SysctlCtx<'_>, buf: *mut u8, size: u32) {
        // SAFETY: 1. as above.
        let buf = unsafe { bytes_mut(buf, size) };
        copy_value(buf, ctx.new_value().ok().map(|value| value.as_slice()))
    }
    SysctlSetNewValue(ctx: &mut SysctlCtx<'_>, buf: *const u8, size: u32) {
        // SAFETY: 1. ARG_PTR_TO_MEM with its size.
        let new = unsafe { bytes(buf, size) };
        ctx.new_value().and_then(|value| {
            if new.len() > VALUE_BYTES_MAX {
                return Err(Errno::E2BIG);
            }
            new.clone_into(value);
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ring3_uapi::FuncId;

    fn sysctl(access: SysctlAccess) -> Sysctl {
        Sysctl {
            name: "net/ipv4/tcp_mem".into(),
            current: Some(b"1 2 3\n".to_vec()),
            access,
            position: 0,
        }
    }

    /// What a helper answers, and what it leaves of a buffer of 0xaa.
    fn call(of: &mut Sysctl, id: FuncId, size: usize, flags: u64) -> (i64, Vec<u8>) {
        let mut buf = vec![0xaa; size];
        let at = buf.as_mut_ptr().expose_provenance() as u64;
        let mut ctx = SysctlCtx {
            kern: [0; KERN_WORDS],
            position: 0,
            sysctl: of,
        };
        let address = std::ptr::from_mut(&mut ctx).expose_provenance() as u64;
        // SAFETY: the context and the buffer live.
        let result = unsafe { crate::find(id).unwrap()(address, at, size as u64, flags, 0) };
        (result as i64, buf)
    }

    #[test]
    fn names_and_values_are_cut_to_their_buffers() {
        let read = &mut sysctl(SysctlAccess::Read);
        let [too_big, invalid] = [Errno::E2BIG, Errno::EINVAL].map(Errno::negated);
        let name = call(read, FuncId::SysctlGetName, 18, 0);
        assert_eq!(name, (16, b"net/ipv4/tcp_mem\0\0".to_vec()));
        let name = call(read, FuncId::SysctlGetName, 9, 0);
        assert_eq!(name, (too_big, b"net/ipv4\0".to_vec()));
        let name = call(read, FuncId::SysctlGetName, 8, BASE_NAME);
        assert_eq!(name, (7, b"tcp_mem\0".to_vec()));
        let value = call(read, FuncId::SysctlGetCurrentValue, 7, 0);
        assert_eq!(value, (6, b"1 2 3\n\0".to_vec()));
        let value = call(read, FuncId::SysctlGetCurrentValue, 6, 0);
        assert_eq!(value, (too_big, b"1 2 3\0".to_vec()));
        read.current = None;
        let value = call(read, FuncId::SysctlGetCurrentValue, 3, 0);
        assert_eq!(value, (invalid, vec![0; 3]));
    }

    #[test]
    fn new_values_are_those_of_writes() {
        let [too_big, invalid] = [Errno::E2BIG, Errno::EINVAL].map(Errno::negated);
        let read = &mut sysctl(SysctlAccess::Read);
        let value = call(read, FuncId::SysctlGetNewValue, 4, 0);
        assert_eq!(value, (invalid, vec![0; 4]));
        assert_eq!(call(read, FuncId::SysctlSetNewValue, 4, 0).0, invalid);
        let write = &mut sysctl(SysctlAccess::Write(b"7\n".to_vec()));
        let value = call(write, FuncId::SysctlGetNewValue, 4, 0);
        assert_eq!(value, (2, b"7\n\0\0".to_vec()));
        assert_eq!(call(write, FuncId::SysctlSetNewValue, 4096, 0).0, too_big);
        assert_eq!(write.access, SysctlAccess::Write(b"7\n".to_vec()));
        assert_eq!(call(write, FuncId::SysctlSetNewValue, 4095, 0).0, 0);
        assert_eq!(write.access, SysctlAccess::Write(vec![0xaa; 4095]));
    }
}
