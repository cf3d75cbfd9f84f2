//! BPF_PROG_TEST_RUN: the request, the result, and what a program type implements of it.

use std::sync::Arc;

use ring3_uapi::Errno;

use crate::{Error, Program};

/// A test run, as BPF_PROG_TEST_RUN takes it.
#[derive(Clone, Debug, Default)]
pub struct TestRun {
    /// Packet.
    pub data_in: Vec<u8>,
    /// Context, in the program's own layout; empty for none.
    pub ctx_in: Vec<u8>,
    /// Runs; 0 is 1.
    pub repeat: u32,
    /// `BPF_F_TEST_*`
    pub flags: u32,
    /// CPU to run on, for raw tracepoints.
    pub cpu: u32,
    /// Packets per batch of a live XDP run.
    pub batch_size: u32,
    /// The whole context of a packet program comes back, also if none or a part of it was given.
    pub wants_ctx: bool,
    /// Asked between runs that repeat.
    pub cancel: Cancel,
}

/// Whether a test run that repeats shall end: its caller is gone, for example.
#[derive(Clone, Default)]
pub struct Cancel(Option<Arc<dyn Fn() -> bool + Send + Sync>>);

impl Cancel {
    /// Asks `is_cancelled`, every few milliseconds.
    pub fn when(is_cancelled: impl Fn() -> bool + Send + Sync + 'static) -> Cancel {
        Cancel(Some(Arc::new(is_cancelled)))
    }

    /// Whether the run shall end now.
    pub fn is_cancelled(&self) -> bool {
        self.0.as_ref().is_some_and(|is_cancelled| is_cancelled())
    }
}

impl std::fmt::Debug for Cancel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Cancel").field(&self.0.is_some()).finish()
    }
}

impl TestRun {
    /// One run over this packet.
    pub fn packet(data: &[u8]) -> TestRun {
        TestRun {
            data_in: data.to_owned(),
            ..TestRun::default()
        }
    }
}

/// What a test run gives back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TestRunResult {
    /// The program's return value, of the last run.
    pub retval: u32,
    /// Mean time of a run, in nanoseconds.
    pub duration_ns: u32,
    /// The packet after the last run.
    pub data_out: Vec<u8>,
    /// The context after the last run, empty if none was given or wanted.
    pub ctx_out: Vec<u8>,
}

/// What programs of a type can do, implemented by the floor that owns their hooks.
pub trait ProgTypeOps: Send + Sync {
    /// Runs a program once or several times outside of any hook.
    ///
    /// # Errors
    /// As BPF_PROG_TEST_RUN: ENOTSUPP where the type has no test run, EINVAL for a bad packet or context.
    fn test_run(&self, prog: &Program, run: &TestRun) -> Result<TestRunResult, Error>;
}

impl Program {
    /// Runs the program as BPF_PROG_TEST_RUN does.
    ///
    /// # Errors
    /// As [`ProgTypeOps::test_run`]. ETIME: a run, on this thread, was stopped by its limit.
    pub fn test_run_with(&self, run: &TestRun) -> Result<TestRunResult, Error> {
        match self
            .system()
            .and_then(|system| system.prog_type_ops(self.prog_type()))
        {
            Some(ops) => {
                ring3_runtime::take_stopped();
                let result = ops.test_run(self, run)?;
                if ring3_runtime::take_stopped() {
                    return Err(Error::new(
                        Errno::ETIME,
                        format!("program '{}': a run reached its limit", self.name()),
                    ));
                }
                Ok(result)
            }
            None => Err(Error::new(
                Errno::ENOTSUPP,
                format!(
                    "program '{}': test runs of type {} are not supported",
                    self.name(),
                    self.prog_type()
                ),
            )),
        }
    }

    /// One run over a packet.
    ///
    /// # Errors
    /// As [`Program::test_run_with`].
    pub fn test_run(&self, packet: &[u8]) -> Result<TestRunResult, Error> {
        self.test_run_with(&TestRun::packet(packet))
    }
}
