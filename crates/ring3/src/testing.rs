//! What tests of BPF programs import: verifier logs as snapshots. Feature `testing`.

use std::sync::Arc;

pub use insta;
use ring3_objects::{LoadError, Program, Verification};

/// Something that has a verifier log.
pub trait VerifierLog {
    /// The level-2 log, without what differs between two runs: times and addresses.
    fn stable_log(&self) -> String;
}

impl VerifierLog for Verification {
    fn stable_log(&self) -> String {
        stable(&self.log)
    }
}

impl VerifierLog for LoadError {
    fn stable_log(&self) -> String {
        stable(&self.log)
    }
}

impl VerifierLog for Arc<Program> {
    fn stable_log(&self) -> String {
        self.verify_again(2)
            .map_or_else(String::new, |verification| stable(&verification.log))
    }
}

impl<T: VerifierLog> VerifierLog for &T {
    fn stable_log(&self) -> String {
        (*self).stable_log()
    }
}

fn stable(log: &str) -> String {
    let mut out = String::with_capacity(log.len());
    for line in log.lines() {
        if line.starts_with("verification time ") {
            continue;
        }
        out.push_str(line);
        out.push('\n');
    }
    out
}

/// Compares the verifier's log of a program, a rejected load or a [`Verification`] with a committed snapshot (`cargo insta review`, or
/// `INSTA_UPDATE=always`, accepts a change).
#[macro_export]
macro_rules! assert_verifier_log {
    ($program:expr) => {
        $crate::testing::insta::assert_snapshot!($crate::testing::VerifierLog::stable_log(
            &$program
        ))
    };
    ($name:expr, $program:expr) => {
        $crate::testing::insta::assert_snapshot!(
            $name,
            $crate::testing::VerifierLog::stable_log(&$program)
        )
    };
}
