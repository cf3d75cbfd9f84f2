//! BPF_PROG_TEST_RUN of packet programs, and single runs over captured frames.

mod live;
mod skb;
mod xdp;

use std::{
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use ring3_helpers::packet::{NetDevice, PacketProgram, Skb, XdpBuff};
use ring3_objects::{Error, Program, TestRun};
use ring3_uapi::{Errno, ProgType};
pub use xdp::LIVE_FRAMES;
pub(crate) use {skb::SkbOps, xdp::XdpOps};

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
    let type_error = |errno| {
        Error::new(
            errno,
            format!("program '{}' does not run over packets", prog.name()),
        )
    };
    if prog.prog_type() == ProgType::Xdp {
        let mut xdp = XdpBuff::received(frame, loopback(), 0).map_err(frame_error)?;
        let retval = PacketProgram::over_xdp(prog)
            .map_err(type_error)?
            .run(&mut xdp);
        return Ok((retval, xdp.frame().into_owned()));
    }
    let program = PacketProgram::over_skb(prog).map_err(type_error)?;
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
