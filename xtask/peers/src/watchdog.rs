//! How late the watchdog stops a run that would go on.

use std::time::{Duration, Instant};

use ring3::{
    ProgAttr, Program,
    isa::{NoNames, parse_asm},
    runtime::Limit,
    uapi::{Errno, ProgType},
};

use crate::{Outcome, report::Report};

const RUNS: usize = 100;
const LIMIT: Duration = Duration::from_millis(2);
/// Far more rounds than the limit leaves time for.
const LOOP: &str = "
        r6 = 0
outer:  may_goto out
        r7 = 0
inner:  r7 += 1
        if r7 < 4000 goto inner
        goto outer
out:    r0 = 7
        exit";

/// A note of how long after its limit a run had ended: the median of many, and the latest.
pub(crate) fn measure(report: &mut Report) -> Outcome<()> {
    let mut attr = ProgAttr::new(ProgType::SchedCls, parse_asm(LOOP, &NoNames)?.insns);
    attr.limit = Limit {
        jumps_back: None,
        time: Some(LIMIT),
    };
    // A program whose system is gone does not run.
    let system = ring3::system();
    let program = Program::load(&system, attr).map_err(|error| error.to_string())?;
    let mut late = Vec::with_capacity(RUNS);
    for _ in 0..RUNS {
        let begin = Instant::now();
        let ended = program.test_run(&[0; 64]);
        late.push(begin.elapsed().saturating_sub(LIMIT));
        if !matches!(&ended, Err(error) if error.errno == Errno::ETIME) {
            let how = ended.map_or_else(|error| error.to_string(), |run| run.retval.to_string());
            return Err(format!("a run beyond its limit ended with {how}").into());
        }
    }
    late.sort_unstable();
    report.note(format!(
        "watchdog: {RUNS} runs with a limit of {LIMIT:?} ended {:?} after it (median), the latest {:?}",
        late[RUNS / 2],
        late[RUNS - 1]
    ));
    Ok(())
}
