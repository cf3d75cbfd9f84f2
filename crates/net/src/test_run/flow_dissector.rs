//! Test runs of flow dissectors: a frame in, `struct bpf_flow_keys` out.
//!
//! # Source
//! BPF_PROG_TEST_RUN of Linux 6.18 (fixtures/oracle/syscall/flow_dissector.txt).

use ring3_helpers::packet::FlowDissection;
use ring3_objects::{Error, ProgTypeOps, Program, TestRun, TestRunResult};
use ring3_uapi::Errno;

use super::{PAGE_BYTES, check_plain, context, invalid, over, timed};

/// Where the context, `struct bpf_flow_keys`, has the flags, its only field that may be set.
const FLAGS: std::ops::Range<usize> = 48..52;

/// Flow dissectors.
pub(crate) struct FlowDissectorOps;

impl ProgTypeOps for FlowDissectorOps {
    fn test_run(&self, prog: &Program, run: &TestRun) -> Result<TestRunResult, Error> {
        check_plain(prog, run)?;
        let frame_error =
            |errno| Error::new(errno, format!("data_in of {} bytes", run.data_in.len()));
        if run.data_in.len() > PAGE_BYTES {
            return Err(frame_error(Errno::EINVAL));
        }
        let mut dissection = FlowDissection::of(&run.data_in).map_err(frame_error)?;
        let ctx: [u8; FlowDissection::KEYS_BYTES] = context(prog, &run.ctx_in)?;
        let is_field = |at: usize| FLAGS.contains(&at);
        if (0..ctx.len()).any(|at| !is_field(at) && ctx[at] != 0) {
            return Err(invalid(prog, "ctx_in: only flags may be set"));
        }
        let flags = u32::from_ne_bytes(std::array::from_fn(|i| ctx[FLAGS.start + i]));
        let program = over(prog)?;
        let (retval, duration_ns) = timed(run, || {
            dissection.begin(flags);
            let retval = program.run(&mut dissection);
            dissection.end();
            retval
        })?;
        Ok(TestRunResult {
            retval,
            duration_ns,
            data_out: dissection.keys().to_vec(),
            ctx_out: ctx.to_vec(),
        })
    }
}
