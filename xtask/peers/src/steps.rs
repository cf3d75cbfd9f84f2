//! How many instructions a run executes: the checked interpreter counts them.

use ring3::{
    interp::{Checks, MemoryPolicy, Program, TraceStep},
    runtime::{Access, AccessViolation},
};

use crate::{Outcome, native::Frame};

/// Verified programs need no second opinion.
struct Anything;

impl MemoryPolicy for Anything {
    fn check(&self, _: u64, _: u64, _: Access) -> Result<(), AccessViolation> {
        Ok(())
    }
}

/// Instructions of one run over the frame.
pub(crate) fn count(program: &Program, frame: &mut Frame) -> Outcome<usize> {
    let mut steps = 0;
    let mut trace = |_: TraceStep<'_>| steps += 1;
    let mut checks = Checks::new(&Anything);
    checks.trace = Some(&mut trace);
    let args = [frame.context_ptr(), 0, 0, 0, 0];
    // SAFETY: 1. the program was verified over the context that the frame is; 2. it has no maps and calls no helpers.
    let run = unsafe { program.run_checked(args, checks) };
    run.map_err(|error| error.to_string())?;
    Ok(steps)
}
