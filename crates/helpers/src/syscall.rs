//! `bpf(2)` from programs.

use ring3_uapi::Errno;

use crate::bind::implement;

implement! { ROWS:
    // DIVERGES: programs that load programs are not run: every command is refused with ENOTSUPP.
    SysBpf(_cmd: u32, _attr: *const u8, _attr_size: u32) { Err::<(), _>(Errno::ENOTSUPP) }
    /// As `bpf_sys_bpf` opens no descriptors, none that a program could name is open.
    SysClose(_fd: u32) { Err::<(), _>(Errno::EBADF) }
}
