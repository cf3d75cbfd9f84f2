//! Test runs of netfilter programs: a packet that leaves the host, or a frame that came in, at a hook of the IP stack.
//!
//! # Source
//! BPF_PROG_TEST_RUN of Linux 6.18 (fixtures/oracle/syscall/netfilter.txt).

use ring3_helpers::packet::{NetfilterRun, Skb};
use ring3_objects::{Error, ProgTypeOps, Program, TestRun, TestRunResult};
use ring3_uapi::Errno;

use super::{PAGE_BYTES, check_plain, context, invalid, loopback, over, timed};

/// Longest packet: a page without headroom and shared info.
const PACKET_BYTES_MAX: usize = PAGE_BYTES - 64 - 320;
const ETH_HEADER_BYTES: usize = 14;
const IPV4_HEADER_BYTES: usize = 20;
const IPV6_HEADER_BYTES: usize = 40;

/// Bytes of the context, `struct nf_hook_state`, and where its pointers begin.
const STATE_BYTES: usize = 48;
const POINTERS: usize = 8;
/// `NF_INET_LOCAL_OUT`
const LOCAL_OUT: u8 = 3;
/// `NFPROTO_*`
const IPV4: u8 = 2;
const IPV6: u8 = 10;
const ETH_P_IPV4: [u8; 2] = [0x08, 0x00];
const ETH_P_IPV6: [u8; 2] = [0x86, 0xdd];

/// Netfilter programs.
pub(crate) struct NetfilterOps;

impl ProgTypeOps for NetfilterOps {
    fn test_run(&self, prog: &Program, run: &TestRun) -> Result<TestRunResult, Error> {
        check_plain(prog, run)?;
        let len = run.data_in.len();
        if !(IPV4_HEADER_BYTES..=PACKET_BYTES_MAX).contains(&len) {
            return Err(invalid(prog, &format!("data_in of {len} bytes")));
        }
        let has_state = run.wants_ctx || !run.ctx_in.is_empty();
        let (hook, family) = if has_state {
            parse(prog, &context(prog, &run.ctx_in)?)?
        } else {
            (LOCAL_OUT, IPV4)
        };
        let skb = packet(prog, &run.data_in, hook, family)?;
        // Whatever the hook, a state that was given is of packets to `lo`.
        let output = has_state.then(|| loopback().clone());
        let mut at_hook = NetfilterRun::new(skb, hook, family, [None, output]);
        let program = over(prog)?;
        let (retval, duration_ns) = timed(run, || program.run(&mut at_hook))?;
        Ok(TestRunResult {
            retval,
            duration_ns,
            ..TestRunResult::default()
        })
    }
}

/// Hook and family of a state.
///
/// # Errors
/// EINVAL: a pointer is set, or the family is neither IPv4 nor IPv6.
fn parse(prog: &Program, state: &[u8; STATE_BYTES]) -> Result<(u8, u8), Error> {
    let [hook, family, ..] = *state;
    if state[POINTERS..].iter().any(|&byte| byte != 0) {
        return Err(invalid(prog, "ctx_in: pointers must be 0"));
    }
    if !matches!(family, IPV4 | IPV6) {
        return Err(invalid(prog, &format!("ctx_in: family {family}")));
    }
    Ok((hook, family))
}

/// What the hook sees: data of a packet going out, or a frame behind its link header.
///
/// # Errors
/// EINVAL: a frame without a whole header, or of the other family. EPROTO: a frame that is not of IP.
fn packet(prog: &Program, data: &[u8], hook: u8, family: u8) -> Result<Box<Skb>, Error> {
    let error = |errno| {
        let message = format!("program '{}': hook {hook}, family {family}", prog.name());
        Error::new(errno, message)
    };
    if hook == LOCAL_OUT {
        let protocol = if family == IPV4 {
            ETH_P_IPV4
        } else {
            ETH_P_IPV6
        };
        return Skb::outgoing(data, protocol, loopback()).map_err(error);
    }
    if data.len() < ETH_HEADER_BYTES + IPV4_HEADER_BYTES {
        return Err(error(Errno::EINVAL));
    }
    let mut skb = Skb::received(data, loopback()).map_err(error)?;
    skb.pull(ETH_HEADER_BYTES).map_err(error)?;
    let is_whole = match skb.protocol() {
        ETH_P_IPV4 => family == IPV4,
        ETH_P_IPV6 => family == IPV6 && skb.data().len() >= IPV6_HEADER_BYTES,
        _ => return Err(error(Errno::EPROTO)),
    };
    if is_whole {
        Ok(skb)
    } else {
        Err(error(Errno::EINVAL))
    }
}
