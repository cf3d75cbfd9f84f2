//! BPF_PROG_TEST_RUN of packet programs, and single runs over captured frames.

mod flow_dissector;
mod live;
mod netfilter;
mod sk_lookup;
mod skb;
mod xdp;

use std::{
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use ring3_helpers::packet::{Context, NetDevice, PacketProgram, Skb, XdpBuff};
use ring3_objects::{Error, Program, TestRun};
use ring3_uapi::{Errno, ProgType};
pub use xdp::LIVE_FRAMES;
pub(crate) use {
    flow_dissector::FlowDissectorOps, netfilter::NetfilterOps, sk_lookup::SkLookupOps, skb::SkbOps,
    xdp::XdpOps,
};

/// The device that test runs take packets from: `lo`, as in a network namespace that has nothing else.
fn loopback() -> &'static Arc<NetDevice> {
    static DEVICE: OnceLock<Arc<NetDevice>> = OnceLock::new();
    DEVICE.get_or_init(|| NetDevice::new(1, "lo", 65536))
}

/// Runs `body` as often as asked; the last result and the mean time in nanoseconds.
///
/// # Errors
/// EINTR: the run was cancelled.
fn timed(run: &TestRun, mut body: impl FnMut() -> u32) -> Result<(u32, u32), Error> {
    /// Runs between two looks at the clock, and time between two questions.
    const RUNS: u32 = 64;
    const INTERVAL: Duration = Duration::from_millis(5);
    let repeat = run.repeat.max(1);
    let begin = Instant::now();
    let mut asked = begin;
    let mut retval = 0;
    for number in 1..=repeat {
        retval = body();
        if number % RUNS == 0 && asked.elapsed() > INTERVAL {
            asked = Instant::now();
            if run.cancel.is_cancelled() {
                let message = format!("cancelled after {number} of {repeat} runs");
                return Err(Error::new(Errno::EINTR, message));
            }
        }
    }
    let mean = begin.elapsed().as_nanos() / u128::from(repeat);
    Ok((retval, u32::try_from(mean).unwrap_or(u32::MAX)))
}

/// Most bytes of a packet that is not taken apart: a page.
const PAGE_BYTES: usize = 4096;

/// The first `N` bytes of a context, zeros where it is shorter.
///
/// # Errors
/// E2BIG: a byte behind them is not 0.
fn context<const N: usize>(prog: &Program, ctx_in: &[u8]) -> Result<[u8; N], Error> {
    let (known, rest) = ctx_in.split_at(ctx_in.len().min(N));
    if rest.iter().any(|&byte| byte != 0) {
        let message = format!(
            "program '{}': ctx_in: bytes behind the first {N} must be 0",
            prog.name()
        );
        return Err(Error::new(Errno::E2BIG, message));
    }
    let mut ctx = [0; N];
    ctx[..known.len()].copy_from_slice(known);
    Ok(ctx)
}

/// # Errors
/// EINVAL: what only runs of other types have is set.
fn check_plain(prog: &Program, run: &TestRun) -> Result<(), Error> {
    if run.flags != 0 || run.cpu != 0 || run.batch_size != 0 {
        return Err(invalid(prog, "flags, cpu and batch_size must be 0"));
    }
    Ok(())
}

/// The program, ready to run over `C`s.
fn over<'a, C: Context>(prog: &'a Program) -> Result<PacketProgram<'a, C>, Error> {
    PacketProgram::over(prog).map_err(|errno| {
        let message = format!(
            "program '{}' of type {} has another context",
            prog.name(),
            prog.prog_type()
        );
        Error::new(errno, message)
    })
}

fn invalid(prog: &Program, what: &str) -> Error {
    Error::new(Errno::EINVAL, format!("program '{}': {what}", prog.name()))
}

/// Runs a packet program once over an Ethernet frame, as its hook on a device would: the return value, and the frame after it.
/// `bpf_redirect` targets are left for [`ring3_helpers::packet::take_redirect`].
///
/// # Errors
/// EINVAL: the program does not run over packets, or the frame is too short.
pub fn run_frame(prog: &Program, frame: &[u8]) -> Result<(u32, Vec<u8>), Error> {
    let frame_error = |errno| Error::new(errno, format!("a frame of {} bytes", frame.len()));
    if prog.prog_type() == ProgType::Xdp {
        let mut xdp = XdpBuff::received(frame, loopback(), 0).map_err(frame_error)?;
        let retval = over(prog)?.run(&mut xdp);
        return Ok((retval, xdp.frame().into_owned()));
    }
    let program = over(prog)?;
    let mut skb = Skb::received(frame, loopback()).map_err(frame_error)?;
    let retval = program.run(&mut skb);
    Ok((retval, skb.frame().to_owned()))
}

/// The name of a return value, as people know it: `XDP_PASS`, `TC_ACT_SHOT`; `None` where it is just a number.
pub fn action_name(prog_type: ProgType, retval: u32) -> Option<&'static str> {
    const XDP: &[&str] = &[
        "XDP_ABORTED",
        "XDP_DROP",
        "XDP_PASS",
        "XDP_TX",
        "XDP_REDIRECT",
    ];
    const TC: &[&str] = &[
        "TC_ACT_OK",
        "TC_ACT_RECLASSIFY",
        "TC_ACT_SHOT",
        "TC_ACT_PIPE",
        "TC_ACT_STOLEN",
        "TC_ACT_QUEUED",
        "TC_ACT_REPEAT",
        "TC_ACT_REDIRECT",
        "TC_ACT_TRAP",
    ];
    match prog_type {
        ProgType::Xdp => XDP.get(retval as usize).copied(),
        ProgType::SchedCls | ProgType::SchedAct if retval == u32::MAX => Some("TC_ACT_UNSPEC"),
        ProgType::SchedCls | ProgType::SchedAct => TC.get(retval as usize).copied(),
        _ => None,
    }
}
