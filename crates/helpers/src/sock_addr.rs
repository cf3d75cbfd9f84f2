//! Addresses of socket calls: what bind(2), connect(2) and their kin name, judged by programs of cgroups. Key types: [`SockAddrCall`],
//! [`run_sock_addr`].
//!
//! The socket is the host's model of one, [`Sock`]; programs see it, change the address, may refuse the call, and read the socket's options.
//!
//! # Source
//! bpf-helpers(7); linux/bpf.h, `struct bpf_sock_addr`. No kernel was asked: such programs have no test run.

use std::cell::Cell;
use std::sync::Arc;

use ring3_btf::layout;
use ring3_runtime::{ProgObject, RunContext, run, with_run_context};
use ring3_spec::kinds::{Ctx, Value};
use ring3_uapi::{Errno, ProgType};

use crate::bind::{FromValue, bytes_mut, implement};
use crate::packet::{Endpoint, Sock, sock_family};

/// Words of `struct bpf_sock_addr_kern`.
const KERN_WORDS: usize = 5;
/// Bytes of `struct sockaddr_in6`, which `struct sockaddr_in` is shorter than.
const ADDRESS_BYTES: usize = 28;
/// Where both have the port, and each the address.
const PORT: usize = 2;
const IPV4: usize = 4;
const IPV6: usize = 8;

/// A call that names an address.
#[derive(Clone, Debug)]
pub struct SockAddrCall {
    /// Of this socket, which is of IPv4 or IPv6.
    pub sock: Arc<Sock>,
    /// The address, which a program may change.
    pub address: Endpoint,
    /// Where a message comes from, which a program may change; used by hooks of sendmsg(2).
    pub source: [u8; 16],
}

/// What a program decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SockAddrVerdict {
    /// 0, or the negative errno that the call is to fail with.
    pub errno: i32,
    /// The port may be bound without the capability that it takes.
    pub skips_port_capability: bool,
}

/// The context: the kernel's structure, then what it points to and helpers look at.
#[repr(C)]
pub(crate) struct SockAddrCtx<'a> {
    kern: [u64; KERN_WORDS],
    address: [u8; ADDRESS_BYTES],
    source: [u8; 16],
    sock: &'a Sock,
}

impl SockAddrCtx<'_> {
    /// Tells the structure where all lies; it must not move from here on.
    fn settle(&mut self) -> u64 {
        let pointer = |bytes: &mut [u8]| bytes.as_mut_ptr().expose_provenance() as u64;
        let places = [
            ("sk", self.sock.program_ptr()),
            ("uaddr", pointer(&mut self.address)),
            ("t_ctx", pointer(&mut self.source)),
        ];
        for (field, value) in places {
            if let Some(field) = layout::field(None, "bpf_sock_addr_kern", field) {
                self.kern[field.offset as usize / 8] = value;
            }
        }
        std::ptr::from_mut(self).expose_provenance() as u64
    }
}

impl FromValue<Ctx> for &mut SockAddrCtx<'_> {
    unsafe fn from_value(value: Value<Ctx>) -> Self {
        // SAFETY: 1. rows with this parameter are found only for programs of socket addresses, and these run in `run_sock_addr` only; 2. the context
        // lives for the run, and the program is suspended in the call.
        unsafe { &mut *std::ptr::with_exposed_provenance_mut(value.raw as usize) }
    }
}

/// Asks a program about a call. The host asks programs of the hook that the call and the family of the socket have.
///
/// # Errors
/// EINVAL: a program of another type. EAFNOSUPPORT: a socket of neither IPv4 nor IPv6.
pub fn run_sock_addr(
    prog: &dyn ProgObject,
    call: &mut SockAddrCall,
) -> Result<SockAddrVerdict, Errno> {
    if prog.prog_type() != ProgType::CgroupSockAddr {
        return Err(Errno::EINVAL);
    }
    let sock = Arc::clone(&call.sock);
    let family = sock.spec().family;
    let (at, len) = match family {
        sock_family::INET => (IPV4, 4),
        sock_family::INET6 => (IPV6, 16),
        _ => return Err(Errno::EAFNOSUPPORT),
    };
    let mut ctx = SockAddrCtx {
        kern: [0; KERN_WORDS],
        address: [0; ADDRESS_BYTES],
        source: call.source,
        sock: &sock,
    };
    ctx.address[..PORT].copy_from_slice(&family.to_ne_bytes());
    ctx.address[PORT..PORT + 2].copy_from_slice(&call.address.1.to_be_bytes());
    ctx.address[at..at + len].copy_from_slice(&call.address.0[..len]);
    let address = ctx.settle();
    let context = RunContext {
        retval: Cell::new(0),
        ..RunContext::default()
    };
    // SAFETY: 1. the program is borrowed; 2. its type was checked: what it reads and writes of its context is rewritten to fields of the structure, of the
    // socket, and of the two addresses, which are as long as the longest that it may take them for; 3. all live for the run.
    let retval = with_run_context(&context, || unsafe { run(&prog.entry(), address) as u32 });
    call.address.1 = u16::from_be_bytes([ctx.address[PORT], ctx.address[PORT + 1]]);
    call.address.0[..len].copy_from_slice(&ctx.address[at..at + len]);
    call.source = ctx.source;
    let set = context.retval.get();
    Ok(SockAddrVerdict {
        errno: match retval & 1 {
            0 if set >= 0 => Errno::EPERM.negated() as i32,
            _ => set.min(0),
        },
        skips_port_capability: retval & 2 != 0,
    })
}

implement! { VARIANTS:
    Getsockopt(ctx: &mut SockAddrCtx<'_>, level: i32, option: i32, value: *mut u8, size: u32) {
        // SAFETY: 1. ARG_PTR_TO_UNINIT_MEM with its size.
        let out = unsafe { bytes_mut(value, size) };
        let result = ctx.sock.spec().read_option(level, option, out);
        if result.is_err() {
            out.fill(0);
        }
        result
    }
    GetSocketCookie(ctx: &mut SockAddrCtx<'_>) { ctx.sock.spec().cookie }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::{SockOption, SockOptionValue, SockSpec};
    use ring3_uapi::FuncId;

    /// What a read answers, and what it leaves of a buffer of 0xaa.
    fn read(sock: &Sock, level: i32, option: i32, size: usize) -> (i64, Vec<u8>) {
        let mut out = vec![0xaa; size];
        let mut ctx = SockAddrCtx {
            kern: [0; KERN_WORDS],
            address: [0; ADDRESS_BYTES],
            source: [0; 16],
            sock,
        };
        let address = ctx.settle();
        let row = VARIANTS
            .iter()
            .find(|row| row.id == FuncId::Getsockopt)
            .unwrap();
        let at = out.as_mut_ptr().expose_provenance() as u64;
        let (level, option) = (level as u32, option as u32);
        // SAFETY: the context and the buffer live.
        let result = unsafe { (row.code)(address, level.into(), option.into(), at, size as u64) };
        (result as i64, out)
    }

    #[test]
    fn options_are_numbers_and_texts() {
        let option = |level, name, value| SockOption { level, name, value };
        let sock = Sock::new(SockSpec {
            family: sock_family::INET6,
            mark: 0x1234,
            priority: 6,
            bound_ifindex: 2,
            options: vec![
                option(1, 8, SockOptionValue::Int(212_992)),
                option(6, 13, SockOptionValue::Text("cubic".into())),
            ],
            ..SockSpec::default()
        });
        let int = |number: i32| (0, number.to_ne_bytes().to_vec());
        assert_eq!(read(&sock, 1, 36, 4), int(0x1234));
        assert_eq!(read(&sock, 1, 12, 4), int(6));
        assert_eq!(read(&sock, 1, 62, 4), int(2));
        assert_eq!(read(&sock, 1, 8, 4), int(212_992));
        assert_eq!(read(&sock, 6, 13, 7), (0, b"cubic\0\0".to_vec()));
        assert_eq!(read(&sock, 6, 13, 3), (0, b"cub".to_vec()));
        let invalid = Errno::EINVAL.negated();
        for (level, option, size) in [(1, 36, 8), (1, 36, 3), (1, 7, 4), (41, 67, 4), (6, 8, 4)] {
            assert_eq!(read(&sock, level, option, size), (invalid, vec![0; size]));
        }
    }
}
