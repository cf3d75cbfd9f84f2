//! seccomp user notification: system calls of other processes, answered here. Key types: [`Filter`], [`Listener`], [`Notification`].
//!
//! A process installs a [`Filter`] on itself and hands the [`Listener`] to a supervisor. Each call that the filter picks comes out of
//! [`Listener::receive`] and waits for an answer; the death of the supervisor answers with ENOSYS.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use crate::Errno;

/// One condition on a 32-bit half of an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// The low half of argument `arg`, masked, is one of the values.
    MaskedIn {
        /// Number of the argument, from 0.
        arg: u8,
        /// Bits that are looked at.
        mask: u32,
        /// Accepted values.
        values: &'static [u32],
    },
    /// The low half of argument `arg`, masked, is not this value.
    MaskedNot {
        /// Number of the argument, from 0.
        arg: u8,
        /// Bits that are looked at.
        mask: u32,
        /// The refused value.
        value: u32,
    },
}

/// A system call of x86-64 that is picked where all conditions hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Number of the call.
    pub nr: u32,
    /// All must hold.
    pub conditions: &'static [Condition],
}

const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;

/// Offsets in `struct seccomp_data`.
const NR: u32 = 0;
const ARCH: u32 = 4;
const ARGS: u32 = 16;

/// A program of classic BPF that picks calls for a listener and lets all others pass.
pub struct Filter {
    insns: Vec<libc::sock_filter>,
}

fn stmt(code: u32, k: u32) -> libc::sock_filter {
    jump(code, k, 0, 0)
}

fn jump(code: u32, k: u32, jt: u8, jf: u8) -> libc::sock_filter {
    libc::sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    }
}

impl Filter {
    /// Compiles rules. Calls of other architectures pass.
    ///
    /// # Errors
    /// `EINVAL`: a rule has more conditions than jumps can skip.
    pub fn new(rules: &[Rule]) -> Result<Filter, Errno> {
        use libc::{BPF_ABS, BPF_ALU, BPF_AND, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W};
        let load = BPF_LD | BPF_W | BPF_ABS;
        let jeq = BPF_JMP | BPF_JEQ | BPF_K;
        let ret = |action: u32| stmt(BPF_RET, action);
        let mut insns = vec![
            stmt(load, ARCH),
            jump(jeq, AUDIT_ARCH_X86_64, 1, 0),
            ret(libc::SECCOMP_RET_ALLOW),
            stmt(load, NR),
        ];
        for rule in rules {
            let mut body = Vec::new();
            for condition in rule.conditions {
                let (arg, mask) = match condition {
                    Condition::MaskedIn { arg, mask, .. }
                    | Condition::MaskedNot { arg, mask, .. } => (*arg, *mask),
                };
                body.push(stmt(load, ARGS + 8 * u32::from(arg)));
                body.push(stmt(BPF_ALU | BPF_AND | BPF_K, mask));
                match condition {
                    Condition::MaskedNot { value, .. } => {
                        body.push(jump(jeq, *value, 0, 1));
                        body.push(ret(libc::SECCOMP_RET_ALLOW));
                    }
                    Condition::MaskedIn { values, .. } => {
                        for (at, value) in values.iter().enumerate() {
                            let skip =
                                u8::try_from(values.len() - at).map_err(|_| Errno::EINVAL)?;
                            body.push(jump(jeq, *value, skip, 0));
                        }
                        body.push(ret(libc::SECCOMP_RET_ALLOW));
                    }
                }
            }
            body.push(ret(libc::SECCOMP_RET_USER_NOTIF));
            let skip = u8::try_from(body.len()).map_err(|_| Errno::EINVAL)?;
            insns.push(jump(jeq, rule.nr, 0, skip));
            insns.append(&mut body);
        }
        insns.push(ret(libc::SECCOMP_RET_ALLOW));
        Ok(Filter { insns })
    }

    /// Puts the filter on this thread and what it starts, for good, after giving up the gain of privileges by exec. A call that is being answered
    /// can then be interrupted by death only.
    ///
    /// # Errors
    /// `EBUSY`: a filter before has a listener. `EINVAL`: the host's kernel is older than 5.19. `EACCES`, `EPERM`.
    pub fn install(&self) -> Result<Listener, Errno> {
        // SAFETY: 1. plain numbers.
        crate::check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }.into())?;
        let program = libc::sock_fprog {
            len: u16::try_from(self.insns.len()).map_err(|_| Errno::EINVAL)?,
            filter: self.insns.as_ptr().cast_mut(),
        };
        let flags =
            libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
        // SAFETY: 1. the program outlives the call, which only reads it.
        let fd = crate::check(unsafe {
            libc::syscall(
                libc::SYS_seccomp,
                libc::SECCOMP_SET_MODE_FILTER,
                flags,
                &raw const program,
            )
        })?;
        // SAFETY: 1. the call above returned this descriptor to us alone.
        Ok(Listener(unsafe { OwnedFd::from_raw_fd(fd as i32) }))
    }
}

/// A call that waits for its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notification {
    /// Names it in answers.
    pub id: u64,
    /// Thread that calls; 0 if it is in a PID namespace that cannot be seen.
    pub tid: u32,
    /// Number of the call.
    pub nr: u32,
    /// Arguments.
    pub args: [u64; 6],
}

/// Where calls come out.
#[derive(Debug)]
pub struct Listener(OwnedFd);

/// Requests of the listener's descriptor. Source: linux/seccomp.h.
const IOCTL_RECV: libc::c_ulong = 0xc050_2100;
const IOCTL_SEND: libc::c_ulong = 0xc018_2101;
const IOCTL_ID_VALID: libc::c_ulong = 0x4008_2102;
const IOCTL_ADDFD: libc::c_ulong = 0x4018_2103;
const IOCTL_SET_FLAGS: libc::c_ulong = 0x4008_2104;
const SYNC_WAKE_UP: libc::c_ulong = 1;

impl From<OwnedFd> for Listener {
    fn from(fd: OwnedFd) -> Listener {
        Listener(fd)
    }
}

impl From<Listener> for OwnedFd {
    fn from(listener: Listener) -> OwnedFd {
        listener.0
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Listener {
    fn ioctl<T>(&self, request: libc::c_ulong, argument: *mut T) -> Result<i64, Errno> {
        // SAFETY: 1. callers in this file pass the structure of the request, alive and writable.
        crate::check(unsafe { libc::ioctl(self.0.as_raw_fd(), request, argument) }.into())
    }

    /// Asks the kernel to hand the CPU over at each call and answer; without effect before Linux 6.6.
    pub fn wake_in_step(&self) {
        // SAFETY: 1. the argument is a number.
        let _ = unsafe { libc::ioctl(self.0.as_raw_fd(), IOCTL_SET_FLAGS, SYNC_WAKE_UP) };
    }

    /// Waits for a call; `false` once every process under the filter is gone, or after `timeout`.
    pub fn wait(&self, timeout: Option<Duration>) -> bool {
        let mut poll = libc::pollfd {
            fd: self.0.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        let millis = timeout.map_or(-1, |timeout| {
            i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX)
        });
        // SAFETY: 1. one valid pollfd.
        unsafe { libc::poll(&raw mut poll, 1, millis) };
        poll.revents & libc::POLLIN != 0
    }

    /// Whether every process under the filter is gone.
    pub fn is_orphan(&self) -> bool {
        let mut poll = libc::pollfd {
            fd: self.0.as_raw_fd(),
            events: 0,
            revents: 0,
        };
        // SAFETY: 1. one valid pollfd.
        unsafe { libc::poll(&raw mut poll, 1, 0) };
        poll.revents & libc::POLLHUP != 0
    }

    /// Takes the next call, waiting for one.
    ///
    /// # Errors
    /// `ENOENT`: the caller died, or all are gone. `EINTR`.
    pub fn receive(&self) -> Result<Notification, Errno> {
        // SAFETY: 1. a structure of numbers, for which zeros are a value; the kernel demands them.
        let mut raw: libc::seccomp_notif = unsafe { std::mem::zeroed() };
        self.ioctl(IOCTL_RECV, &raw mut raw)?;
        Ok(Notification {
            id: raw.id,
            tid: raw.pid,
            nr: raw.data.nr as u32,
            args: raw.data.args,
        })
    }

    /// Whether the call still waits: after this, what was read of the caller before was the caller's.
    pub fn is_waiting(&self, id: u64) -> bool {
        let mut id = id;
        self.ioctl(IOCTL_ID_VALID, &raw mut id).is_ok()
    }

    fn respond(&self, id: u64, val: i64, error: i32, flags: u32) -> Result<(), Errno> {
        let mut response = libc::seccomp_notif_resp {
            id,
            val,
            error,
            flags,
        };
        self.ioctl(IOCTL_SEND, &raw mut response).map(drop)
    }

    /// Answers a call.
    ///
    /// # Errors
    /// `ENOENT`: the caller died.
    pub fn answer(&self, id: u64, result: Result<i64, Errno>) -> Result<(), Errno> {
        match result {
            Ok(value) => self.respond(id, value, 0, 0),
            Err(errno) => self.respond(id, 0, -errno.raw(), 0),
        }
    }

    /// Lets the kernel carry the call out.
    ///
    /// # Errors
    /// `ENOENT`: the caller died.
    pub fn let_pass(&self, id: u64) -> Result<(), Errno> {
        self.respond(id, 0, 0, libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32)
    }

    /// Puts a descriptor, close-on-exec, into the process that waits and returns its number there.
    ///
    /// # Errors
    /// `ENOENT`: the caller died. `EMFILE`: it has no number left.
    pub fn add_fd(&self, id: u64, fd: BorrowedFd<'_>) -> Result<i32, Errno> {
        let mut request = libc::seccomp_notif_addfd {
            id,
            flags: 0,
            srcfd: fd.as_raw_fd() as u32,
            newfd: 0,
            newfd_flags: libc::O_CLOEXEC as u32,
        };
        self.ioctl(IOCTL_ADDFD, &raw mut request)
            .map(|number| number as i32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a filter over one call.
    fn action(filter: &Filter, arch: u32, nr: u32, args: [u64; 6]) -> u32 {
        let mut data = [0u8; 64];
        data[0..4].copy_from_slice(&nr.to_ne_bytes());
        data[4..8].copy_from_slice(&arch.to_ne_bytes());
        for (i, arg) in args.iter().enumerate() {
            data[16 + 8 * i..24 + 8 * i].copy_from_slice(&arg.to_ne_bytes());
        }
        let (mut pc, mut acc) = (0, 0u32);
        loop {
            let insn = filter.insns[pc];
            pc += 1;
            match u32::from(insn.code) {
                0x20 => {
                    let at = insn.k as usize;
                    acc = u32::from_ne_bytes(data[at..at + 4].try_into().unwrap());
                }
                0x54 => acc &= insn.k,
                0x15 => pc += usize::from(if acc == insn.k { insn.jt } else { insn.jf }),
                0x06 => return insn.k,
                code => panic!("instruction {code:#x}"),
            }
        }
    }

    #[test]
    fn rules_pick_their_calls_only() {
        let filter = Filter::new(&[
            Rule {
                nr: 321,
                conditions: &[],
            },
            Rule {
                nr: 16,
                conditions: &[Condition::MaskedIn {
                    arg: 1,
                    mask: !0,
                    values: &[0x2400, 0x2401],
                }],
            },
            Rule {
                nr: 9,
                conditions: &[
                    Condition::MaskedIn {
                        arg: 3,
                        mask: 3,
                        values: &[1, 3],
                    },
                    Condition::MaskedNot {
                        arg: 4,
                        mask: !0,
                        value: !0,
                    },
                ],
            },
        ])
        .unwrap();
        let picked =
            |nr, args| action(&filter, AUDIT_ARCH_X86_64, nr, args) == libc::SECCOMP_RET_USER_NOTIF;
        assert!(picked(321, [0; 6]));
        assert!(!picked(322, [0; 6]));
        assert!(picked(16, [0, 0x2401, 0, 0, 0, 0]) && picked(16, [0, 0x2400, 0, 0, 0, 0]));
        assert!(!picked(16, [0, 0x2402, 0, 0, 0, 0]));
        assert!(picked(9, [0, 0, 0, 1, 5, 0]) && picked(9, [0, 0, 0, 3, 5, 0]));
        assert!(!picked(9, [0, 0, 0, 2, 5, 0]));
        assert!(!picked(9, [0, 0, 0, 0x21, 0xffff_ffff, 0]));
        assert_eq!(
            action(&filter, 0x4000_0003, 321, [0; 6]),
            libc::SECCOMP_RET_ALLOW
        );
    }
}
