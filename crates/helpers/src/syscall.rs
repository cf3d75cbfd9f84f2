//! Helpers of syscall programs: bpf(2) from a program, and names of the kernel. What they ask is answered by the [`SyscallHost`] of the run.

use ring3_btf::Kind;
use ring3_runtime::{extable, with_run_extension};
use ring3_uapi::{Cmd, Errno};

use crate::bind::{bytes, implement};

/// Answers of the subsystem that a syscall program runs in.
pub trait SyscallHost {
    /// The id of a type of the kernel.
    fn find_type(&self, name: &str, kind: Kind) -> Option<u32>;

    /// The address of a symbol of the kernel.
    fn find_symbol(&self, name: &str) -> Option<u64>;

    /// Copies memory of the caller of the test run: what a program reads as user memory.
    ///
    /// # Errors
    /// EFAULT: some byte is not there.
    fn read_user(&self, address: u64, into: &mut [u8]) -> Result<(), Errno> {
        read_program_memory(address, into)
    }

    /// bpf(2) for the caller of the test run: descriptors are the caller's, addresses in `attr` this process's.
    ///
    /// # Errors
    /// As bpf(2). ENOTSUPP: the run was not asked for by bpf(2), so that nobody would have the descriptors.
    fn bpf(&self, cmd: u32, attr: &[u8]) -> Result<u64, Errno> {
        let _ = (cmd, attr);
        Err(Errno::ENOTSUPP)
    }

    /// Closes a descriptor of the caller.
    ///
    /// # Errors
    /// EBADF: it is not open.
    fn close(&self, fd: u32) -> Result<(), Errno> {
        let _ = fd;
        Err(Errno::EBADF)
    }
}

/// Reads memory of this process that a program named in attributes of bpf(2).
///
/// # Errors
/// EFAULT: some byte is not there.
pub fn read_program_memory(address: u64, into: &mut [u8]) -> Result<(), Errno> {
    // SAFETY: 1. the slice is writable for its length.
    match unsafe { extable::probe_copy(into.as_mut_ptr(), address, into.len()) } {
        true => Ok(()),
        false => Err(Errno::EFAULT),
    }
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

/// Commands that a program may give. Source: Linux 6.18 answers EINVAL to all others.
const COMMANDS: [Cmd; 9] = [
    Cmd::MapCreate,
    Cmd::MapUpdateElem,
    Cmd::MapDeleteElem,
    Cmd::ProgLoad,
    Cmd::MapGetFdById,
    Cmd::RawTracepointOpen,
    Cmd::BtfLoad,
    Cmd::MapFreeze,
    Cmd::LinkCreate,
];

/// # Errors
/// As the host says; `without` where the run has none.
fn ask_host<T>(
    without: Errno,
    question: impl FnOnce(&dyn SyscallHost) -> Result<T, Errno>,
) -> Result<T, Errno> {
    with_run_extension(|run: Option<&SyscallRun>| question(&*run.ok_or(without)?.0))
}

/// # Errors
/// ENOTSUPP: the run has no host. ENOENT: the host knows none.
fn ask<T>(question: impl FnOnce(&dyn SyscallHost) -> Option<T>) -> Result<T, Errno> {
    ask_host(Errno::ENOTSUPP, |host| question(host).ok_or(Errno::ENOENT))
}

implement! { ROWS:
    SysBpf(cmd: u32, attr: *const u8, size: u32) {
        // SAFETY: 1. ARG_PTR_TO_MEM with its size.
        let attr = unsafe { bytes(attr, size) };
        if COMMANDS.iter().any(|known| known.raw() == cmd) {
            ask_host(Errno::ENOTSUPP, |host| host.bpf(cmd, attr))
        } else {
            Err(Errno::EINVAL)
        }
    }
    SysClose(fd: u32) { ask_host(Errno::EBADF, |host| host.close(fd)) }
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

        fn bpf(&self, cmd: u32, attr: &[u8]) -> Result<u64, Errno> {
            match attr {
                [0, 0, 0, 0] => Ok(u64::from(cmd)),
                _ => Err(Errno::E2BIG),
            }
        }

        fn close(&self, fd: u32) -> Result<(), Errno> {
            (fd == 5).then_some(()).ok_or(Errno::EBADF)
        }
    }

    #[test]
    fn the_host_answers_the_commands_that_programs_may_give() {
        let [sys_bpf, sys_close] =
            [FuncId::SysBpf, FuncId::SysClose].map(|id| crate::find(id).unwrap());
        let sys_bpf = |cmd: u64, attr: &[u8]| {
            let address = attr.as_ptr().expose_provenance() as u64;
            // SAFETY: the attributes live.
            unsafe { sys_bpf(cmd, address, attr.len() as u64, 0, 0) as i64 }
        };
        // SAFETY: plain numbers.
        let sys_close = |fd| unsafe { sys_close(fd, 0, 0, 0, 0) as i64 };
        assert_eq!(sys_bpf(5, &[0; 4]), Errno::ENOTSUPP.negated());
        assert_eq!(sys_close(5), Errno::EBADF.negated());
        let run = SyscallRun(Box::new(Host));
        let context = RunContext {
            extension: Some(&run),
            ..RunContext::default()
        };
        with_run_context(&context, || {
            assert_eq!(sys_bpf(22, &[0; 4]), 22);
            assert_eq!(sys_bpf(22, &[0; 5]), Errno::E2BIG.negated());
            for cmd in [1, 10, 99] {
                assert_eq!(sys_bpf(cmd, &[0; 4]), Errno::EINVAL.negated(), "{cmd}");
            }
            assert_eq!((sys_close(5), sys_close(6)), (0, Errno::EBADF.negated()));
        });
        let mut word = [0; 4];
        let address = [1u8, 2, 3, 4];
        let address = address.as_ptr().expose_provenance() as u64;
        assert_eq!(read_program_memory(address, &mut word), Ok(()));
        assert_eq!(word, [1, 2, 3, 4]);
        assert_eq!(read_program_memory(8, &mut word), Err(Errno::EFAULT));
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
