//! Test runs of socket look-ups: `struct bpf_sk_lookup` in, the cookie of the chosen socket out.
//!
//! # Source
//! BPF_PROG_TEST_RUN of Linux 6.18 (fixtures/oracle/syscall/sk_lookup.txt).

use ring3_helpers::packet::{SkLookup, SockQuery, sock_family};
use ring3_objects::{Error, ProgTypeOps, Program, TestRun, TestRunResult};
use ring3_uapi::Errno;

use super::{check_plain, context, invalid, over, timed};

/// Bytes of `struct bpf_sk_lookup`, and where its fields begin.
const BYTES: usize = 72;
const COOKIE: usize = 0;
const FAMILY: usize = 8;
const PROTOCOL: usize = 12;
const REMOTE_IP4: usize = 16;
const REMOTE_IP6: usize = 20;
const REMOTE_PORT: usize = 36;
const LOCAL_IP4: usize = 40;
const LOCAL_IP6: usize = 44;
const LOCAL_PORT: usize = 60;
/// First byte behind what a test run takes.
const REST: usize = 64;

/// Socket look-ups.
pub(crate) struct SkLookupOps;

impl ProgTypeOps for SkLookupOps {
    fn test_run(&self, prog: &Program, run: &TestRun) -> Result<TestRunResult, Error> {
        check_plain(prog, run)?;
        if !run.data_in.is_empty() {
            return Err(invalid(prog, "data_in: a socket look-up has no packet"));
        }
        if run.ctx_in.is_empty() && !run.wants_ctx {
            return Err(invalid(prog, "ctx_in: a socket look-up needs a context"));
        }
        let mut ctx: [u8; BYTES] = context(prog, &run.ctx_in)?;
        let query = parse(prog, &ctx)?;
        let mut lookup = SkLookup::new(&query).map_err(|errno| {
            let message = format!(
                "program '{}': ctx_in: family {}",
                prog.name(),
                u32_at(&ctx, FAMILY)
            );
            Error::new(errno, message)
        })?;
        let program = over(prog)?;
        let (retval, duration_ns) = timed(run, || {
            lookup.begin();
            program.run(&mut lookup)
        })?;
        // A program that drops has chosen nothing.
        let chosen = lookup.selected().filter(|_| retval == PASS);
        let cookie = chosen.map_or(0, |sock| sock.spec().cookie);
        ctx[COOKIE..COOKIE + 8].copy_from_slice(&cookie.to_ne_bytes());
        Ok(TestRunResult {
            retval,
            duration_ns,
            data_out: Vec::new(),
            ctx_out: ctx.to_vec(),
        })
    }
}

/// `SK_PASS`
const PASS: u32 = 1;

fn u32_at(ctx: &[u8; BYTES], at: usize) -> u32 {
    u32::from_ne_bytes(std::array::from_fn(|i| ctx[at + i]))
}

/// # Errors
/// EINVAL: a cookie, or something behind the local port, is set. ERANGE: the local port is no port.
fn parse(prog: &Program, ctx: &[u8; BYTES]) -> Result<SockQuery, Error> {
    let is_set = |bytes: &[u8]| bytes.iter().any(|&byte| byte != 0);
    if is_set(&ctx[COOKIE..FAMILY]) || is_set(&ctx[REST..]) {
        let what = "ctx_in: cookie and ingress_ifindex must be 0";
        return Err(invalid(prog, what));
    }
    let port = u32_at(ctx, LOCAL_PORT);
    let local_port = u16::try_from(port).map_err(|_| {
        let message = format!("program '{}': ctx_in: local port {port}", prog.name());
        Error::new(Errno::ERANGE, message)
    })?;
    // Programs see the low halves of both.
    let family = u32_at(ctx, FAMILY) as u16;
    let address = |ip4: usize, ip6: usize| {
        let (from, bytes) = match family {
            sock_family::INET => (ip4, 4),
            _ => (ip6, 16),
        };
        let mut address = [0; 16];
        address[..bytes].copy_from_slice(&ctx[from..from + bytes]);
        address
    };
    let remote_port = u16::from_be_bytes([ctx[REMOTE_PORT], ctx[REMOTE_PORT + 1]]);
    Ok(SockQuery {
        family,
        protocol: u32_at(ctx, PROTOCOL) as u16,
        source: (address(REMOTE_IP4, REMOTE_IP6), remote_port),
        destination: (address(LOCAL_IP4, LOCAL_IP6), local_port),
    })
}
