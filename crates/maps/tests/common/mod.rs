//! A program that no test runs, for slots that hold programs.

use std::any::Any;
use std::sync::Arc;

use ring3_maps::fd::Object;
use ring3_runtime::{Entry, ProgObject, ProgRef};
use ring3_uapi::ProgType;

struct TestProg(
    #[expect(dead_code, reason = "held, so that tests see who holds the program")] Object,
);

impl ProgObject for TestProg {
    fn id(&self) -> u32 {
        0
    }

    fn entry(&self) -> Entry {
        unreachable!("tests do not run it")
    }

    fn tail_target(&self) -> usize {
        0
    }

    fn prog_type(&self) -> ProgType {
        ProgType::Xdp
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// A program that holds `object`.
pub(crate) fn prog_holding(object: Object) -> ProgRef {
    Arc::new(TestProg(object))
}
