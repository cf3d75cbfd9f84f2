//! `Net::run_live`: test runs of XDP programs whose verdicts are carried out (`BPF_F_TEST_XDP_LIVE_FRAMES`).
//!
//! # Source
//! BPF_PROG_TEST_RUN of Linux 6.18 over veth devices.

use ring3_objects::{Error, Program, TestRun, TestRunResult};
use ring3_runtime::take_stopped;
use ring3_uapi::{Errno, ProgType};

use super::{
    invalid, timed,
    xdp::{LIVE_FRAMES, split},
};
use crate::{Net, PacketPath};

/// More packets than a batch may have.
const BATCH_PACKETS_MAX: u32 = 256;
/// More bytes than a live frame may have, metadata apart: a page without what the kernel keeps in it.
const FRAME_BYTES_MAX: usize = 3408;

impl Net {
    /// Runs an XDP program over frames that arrive at a device, `lo` if the context names none, and does what each verdict says: a frame that passes goes
    /// to the stack, one that is sent or redirected to its device. `path` carries them. The device's own program is not run. Every repetition begins
    /// with the given frame; the result is its bytes as they were given, and a return value of 0.
    ///
    /// # Errors
    /// As BPF_PROG_TEST_RUN: EINVAL, E2BIG: a batch of more than 256. ENODEV: no device has the index. EINTR: cancelled. ETIME: a run was stopped by its limit.
    pub fn run_live(
        &self,
        path: &mut PacketPath,
        prog: &Program,
        run: &TestRun,
    ) -> Result<TestRunResult, Error> {
        if prog.prog_type() != ProgType::Xdp || run.flags != LIVE_FRAMES {
            return Err(invalid(
                prog,
                "live frames are for XDP programs, without other flags",
            ));
        }
        if run.batch_size > BATCH_PACKETS_MAX {
            let message = format!(
                "program '{}': batch_size {}, at most {BATCH_PACKETS_MAX}",
                prog.name(),
                run.batch_size
            );
            return Err(Error::new(Errno::E2BIG, message));
        }
        if run.wants_ctx {
            return Err(invalid(prog, "live frames have no context to give back"));
        }
        let found = |ifindex| self.device(ifindex).is_some();
        let split = split(prog, run, &found)?;
        let is_whole = split.metadata_bytes + split.linear_bytes == run.data_in.len();
        if !is_whole || split.linear_bytes > FRAME_BYTES_MAX {
            let what = "a live frame is linear, and at most 3408 bytes without its metadata";
            return Err(invalid(prog, what));
        }
        let device = self.device(split.ifindex).ok_or_else(|| {
            Error::new(
                Errno::ENODEV,
                format!("no device with ifindex {}", split.ifindex),
            )
        })?;
        let (metadata, frame) = run.data_in.split_at(split.metadata_bytes);
        take_stopped();
        let mut outcome = Ok(());
        let (_, duration_ns) = timed(run, || {
            if outcome.is_ok() {
                outcome = path.inject_through(&device, prog, metadata, frame);
            }
            0
        })?;
        outcome?;
        if take_stopped() {
            let message = format!("program '{}': a run reached its limit", prog.name());
            return Err(Error::new(Errno::ETIME, message));
        }
        Ok(TestRunResult {
            retval: 0,
            duration_ns,
            data_out: run.data_in.clone(),
            ctx_out: Vec::new(),
        })
    }
}
