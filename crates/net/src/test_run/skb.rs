//! Test runs over socket buffers.
//!
//! # Source
//! BPF_PROG_TEST_RUN of Linux 6.18: which context fields are taken, which must be zero, and what comes back.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use ring3_helpers::packet::{Skb, Sock, SockSpec, sock_family, sock_state};
use ring3_objects::{Error, ProgTypeOps, Program, TestRun, TestRunResult};
use ring3_uapi::{Errno, ProgType};

use super::{check_plain, invalid, loopback, over, timed};

/// Bytes of `struct __sk_buff` of 6.18.
const SK_BUFF_BYTES: usize = 192;
/// Byte offsets in `struct __sk_buff` of the fields a test run takes.
const MARK: usize = 8;
const PRIORITY: usize = 32;
const INGRESS_IFINDEX: usize = 36;
const IFINDEX: usize = 40;
const CB: usize = 48;
const CB_BYTES: usize = 20;
const TSTAMP: usize = 152;
const WIRE_LEN: usize = 160;
const GSO_SEGS: usize = 164;
const GSO_SIZE: usize = 176;
const HWTSTAMP: usize = 184;
/// The fields above, with their sizes; every other byte of a context must be zero.
const FIELDS: &[(usize, usize)] = &[
    (MARK, 4),
    (PRIORITY, 4),
    (INGRESS_IFINDEX, 4),
    (IFINDEX, 4),
    (CB, CB_BYTES),
    (TSTAMP, 8),
    (WIRE_LEN, 4),
    (GSO_SEGS, 4),
    (GSO_SIZE, 4),
    (HWTSTAMP, 8),
];
const ETH_HEADER_BYTES: usize = 14;

/// Programs whose context is an `sk_buff`.
pub(crate) struct SkbOps;

impl ProgTypeOps for SkbOps {
    fn test_run(&self, prog: &Program, run: &TestRun) -> Result<TestRunResult, Error> {
        check_plain(prog, run)?;
        let frame_error =
            |errno| Error::new(errno, format!("data_in of {} bytes", run.data_in.len()));
        let mut skb = Skb::received(&run.data_in, loopback()).map_err(frame_error)?;
        check_network_header(&skb).map_err(frame_error)?;
        let socket = test_socket(&skb);
        skb.set_socket(Some(socket));
        let ctx = Context::parse(&run.ctx_in)
            .ok_or_else(|| invalid(prog, "ctx_in: a field that must be 0 is not"))?;
        ctx.apply(&mut skb)
            .map_err(|errno| Error::new(errno, format!("program '{}': ctx_in", prog.name())))?;
        let is_link_layer = matches!(prog.prog_type(), ProgType::SchedCls | ProgType::SchedAct);
        if !is_link_layer {
            skb.pull(ETH_HEADER_BYTES).map_err(frame_error)?;
        }
        let program = over(prog)?;
        let (retval, duration_ns) = timed(run, || program.run(&mut skb))?;
        let data_out = if is_link_layer {
            skb.data().to_owned()
        } else {
            // The link header that was taken off comes back as zeros.
            [&[0; ETH_HEADER_BYTES][..], skb.data()].concat()
        };
        let ctx_out = match (run.wants_ctx, run.ctx_in.len()) {
            (false, 0) => Vec::new(),
            (false, given) => ctx.read_back(&skb, given),
            (true, _) => ctx.read_back(&skb, SK_BUFF_BYTES),
        };
        Ok(TestRunResult {
            retval,
            duration_ns,
            data_out,
            ctx_out,
        })
    }
}

/// The socket that a test run's packet belongs to: fresh for each, closed, owned by root, in no cgroup, with the addresses of the packet.
fn test_socket(skb: &Skb) -> Arc<Sock> {
    static NEXT_COOKIE: AtomicU64 = AtomicU64::new(1);
    let address = |at: usize, len: usize| {
        let mut address = [0; 16];
        address[..len].copy_from_slice(&skb.data()[at..at + len]);
        (address, 0)
    };
    let (family, local, remote) = match skb.protocol() {
        [0x08, 0x00] => (sock_family::INET, address(26, 4), address(30, 4)),
        [0x86, 0xdd] => (sock_family::INET6, address(22, 16), address(38, 16)),
        _ => (0, Default::default(), Default::default()),
    };
    Sock::new(SockSpec {
        family,
        state: sock_state::CLOSE,
        local,
        remote,
        cookie: NEXT_COOKIE.fetch_add(1, Ordering::Relaxed),
        ..SockSpec::default()
    })
}

/// A test run refuses IP packets without a whole header.
fn check_network_header(skb: &Skb) -> Result<(), Errno> {
    let header = match skb.protocol() {
        [0x08, 0x00] => 20,
        [0x86, 0xdd] => 40,
        _ => 0,
    };
    if skb.data().len() < ETH_HEADER_BYTES + header {
        Err(Errno::EINVAL)
    } else {
        Ok(())
    }
}

/// `struct __sk_buff` as given.
struct Context([u8; SK_BUFF_BYTES]);

impl Context {
    /// `None` if a byte that is no field of [`FIELDS`] is set.
    fn parse(bytes: &[u8]) -> Option<Context> {
        let known = bytes.len().min(SK_BUFF_BYTES);
        let is_field = |at: usize| {
            FIELDS
                .iter()
                .any(|&(start, size)| (start..start + size).contains(&at))
        };
        if bytes
            .iter()
            .enumerate()
            .any(|(at, &byte)| byte != 0 && (at >= SK_BUFF_BYTES || !is_field(at)))
        {
            return None;
        }
        let mut ctx = [0; SK_BUFF_BYTES];
        ctx[..known].copy_from_slice(&bytes[..known]);
        Some(Context(ctx))
    }

    fn u32(&self, at: usize) -> u32 {
        u32::from_ne_bytes(std::array::from_fn(|i| self.0[at + i]))
    }

    fn u64(&self, at: usize) -> u64 {
        u64::from_ne_bytes(std::array::from_fn(|i| self.0[at + i]))
    }

    /// # Errors
    /// EINVAL: a wire length or segment count out of range. ENODEV: an ifindex of no device. ENOTSUPP: segmentation offload.
    fn apply(&self, skb: &mut Skb) -> Result<(), Errno> {
        const GSO_MAX_SEGS: u32 = 65535;
        const GSO_MAX_BYTES: u32 = 65536;
        let wire_len = self.u32(WIRE_LEN);
        if wire_len != 0 && ((wire_len as usize) < skb.data().len() || wire_len > GSO_MAX_BYTES) {
            return Err(Errno::EINVAL);
        }
        if self.u32(GSO_SEGS) > GSO_MAX_SEGS {
            return Err(Errno::EINVAL);
        }
        if self.u32(GSO_SEGS) != 0 || self.u32(GSO_SIZE) != 0 || self.u64(HWTSTAMP) != 0 {
            return Err(Errno::ENOTSUPP);
        }
        if !matches!(self.u32(IFINDEX), 0 | 1) {
            return Err(Errno::ENODEV);
        }
        skb.set_mark(self.u32(MARK));
        skb.set_priority(self.u32(PRIORITY));
        skb.set_ingress_ifindex(self.u32(INGRESS_IFINDEX));
        skb.set_tstamp(self.u64(TSTAMP));
        skb.set_cb(&std::array::from_fn(|i| self.0[CB + i]));
        Ok(())
    }

    fn read_back(&self, skb: &Skb, size: usize) -> Vec<u8> {
        let mut out = self.0;
        let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
        put(MARK, &skb.mark().to_ne_bytes());
        put(PRIORITY, &skb.priority().to_ne_bytes());
        put(INGRESS_IFINDEX, &skb.ingress_ifindex().to_ne_bytes());
        put(IFINDEX, &skb.device().ifindex().to_ne_bytes());
        put(TSTAMP, &skb.tstamp().to_ne_bytes());
        put(CB, &skb.cb());
        let wire_len = match self.u32(WIRE_LEN) {
            0 => skb.data().len() as u32,
            given => given,
        };
        put(WIRE_LEN, &wire_len.to_ne_bytes());
        out[..size.min(SK_BUFF_BYTES)].to_owned()
    }
}
