//! Helpers of syscall programs: bpf(2) from a program, and names of the kernel. What they ask is answered by the [`SyscallHost`] of the run.

use ring3_btf::Kind;
use ring3_runtime::with_run_extension;
use ring3_uapi::Errno;

use crate::bind::{bytes, implement};

/// Answers of the subsystem that a syscall program runs in.
pub trait SyscallHost {
    /// The id of a type of the kernel.
    fn find_type(&self, name: &str, kind: Kind) -> Option<u32>;

    /// The address of a symbol of the kernel.
    fn find_symbol(&self, name: &str) -> Option<u64>;
}

/// The run extension that carries the host.
pub struct SyscallRun(pub Box<dyn SyscallHost>);

/// A name argument: text with its NUL.
///
/// # Errors
/// EINVAL: flags, an empty name, or no NUL at the end. ENOENT: not text.
fn checked_name(name: &[u8], flags: u64) -> Result<&str, Errno> {
    match name.split_last() {
        Some((0, text)) if flags == 0 && !text.is_empty() => {
            let end = text
                .iter()
                .position(|&byte| byte == 0)
                .unwrap_or(text.len());
            std::str::from_utf8(&text[..end]).map_err(|_| Errno::ENOENT)
        }
        _ => Err(Errno::EINVAL),
    }
}

/// # Errors
/// ENOTSUPP: the run has no host. ENOENT: the host knows none.
fn ask<T>(question: impl FnOnce(&dyn SyscallHost) -> Option<T>) -> Result<T, Errno> {
    with_run_extension(|run: Option<&SyscallRun>| {
        let run = run.ok_or(Errno::ENOTSUPP)?;
        question(&*run.0).ok_or(Errno::ENOENT)
    })
}

implement! { ROWS:
    // DIVERGES: programs that load programs are not run: every known command is refused with ENOTSUPP.
    SysBpf(cmd: u32, _attr: *const u8, _attr_size: u32) {
        /// One more than the last command a program may give. Source: answers of Linux 6.18.
        const COMMANDS: [u32; 8] = [0, 1, 2, 3, 5, 18, 22, 28];
        Err::<(), _>(if COMMANDS.contains(&cmd) { Errno::ENOTSUPP } else { Errno::EINVAL })
    }
    /// As `bpf_sys_bpf` opens no descriptors, none that a program could name is open.
    SysClose(_fd: u32) { Err::<(), _>(Errno::EBADF) }
    BtfFindByNameKind(name: *const u8, size: u32, kind: u32, flags: u32) {
        // SAFETY: 1. ARG_PTR_TO_MEM with its size.
        let name = checked_name(unsafe { bytes(name, size) }, flags.into());
        name.and_then(|name| {
            let kind = Kind::from_raw(kind).ok_or(Errno::ENOENT)?;
            ask(|host| host.find_type(name, kind)).map(u64::from)
        })
    }
    KallsymsLookupName(name: *const u8, size: u32, flags: u32, result: *mut u64) {
        // SAFETY: 1. ARG_PTR_TO_MEM with its size.
        let name = checked_name(unsafe { bytes(name, size) }, flags.into());
        let address = name.and_then(|name| ask(|host| host.find_symbol(name)));
        // SAFETY: 1. ARG_PTR_TO_FIXED_SIZE_MEM of 8 bytes, aligned.
        unsafe { result.write(address.unwrap_or(0)) };
        address.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ring3_runtime::{RunContext, with_run_context};
    use ring3_uapi::FuncId;

    struct Host;

    impl SyscallHost for Host {
        fn find_type(&self, name: &str, kind: Kind) -> Option<u32> {
            (name == "task_struct" && kind == Kind::Struct).then_some(7)
        }

        fn find_symbol(&self, name: &str) -> Option<u64> {
            (name == "jiffies").then_some(0xf00)
        }
    }

    #[test]
    fn the_host_is_asked_for_names() {
        let [find, lookup] = [FuncId::BtfFindByNameKind, FuncId::KallsymsLookupName]
            .map(|id| crate::find(id).unwrap());
        let find = |name: &[u8], kind: u64, flags: u64| {
            let text = name.as_ptr().expose_provenance() as u64;
            // SAFETY: the name lives.
            unsafe { find(text, name.len() as u64, kind, flags, 0) as i64 }
        };
        let lookup = |name: &[u8]| {
            let mut address = 9u64;
            let text = name.as_ptr().expose_provenance() as u64;
            let result = (&raw mut address).expose_provenance() as u64;
            // SAFETY: the name and the result live.
            let ret = unsafe { lookup(text, name.len() as u64, 0, result, 0) as i64 };
            (ret, address)
        };
        assert_eq!(find(b"task_struct\0", 4, 0), Errno::ENOTSUPP.negated());
        let run = SyscallRun(Box::new(Host));
        let context = RunContext {
            extension: Some(&run),
            ..RunContext::default()
        };
        with_run_context(&context, || {
            assert_eq!(find(b"task_struct\0", 4, 0), 7);
            for (name, kind, flags, errno) in [
                (&b"task_struct\0"[..], 5, 0, Errno::ENOENT),
                (b"task_struct\0", 99, 0, Errno::ENOENT),
                (b"task_struct\0", 4, 1, Errno::EINVAL),
                (b"task_struct", 4, 0, Errno::EINVAL),
                (b"\0", 4, 0, Errno::EINVAL),
            ] {
                assert_eq!(find(name, kind, flags), errno.negated(), "{name:?} {kind}");
            }
            assert_eq!(lookup(b"jiffies\0"), (0, 0xf00));
            assert_eq!(lookup(b"hz\0"), (Errno::ENOENT.negated(), 0));
        });
    }
}
