//! Work queues in map values: `bpf_wq_*`. A work item is a timer that is always due; its callback runs on the timers' thread.

use ring3_maps::Map;
use ring3_runtime::CallbackRef;
use ring3_uapi::Errno;

use super::{kfuncs, zero_or};
use crate::timer;

kfuncs! { ROWS(Plain):
    bpf_wq_init(work: *mut u64, map: u64, flags: u32) {
        zero_or(if flags != 0 {
            Err(Errno::EINVAL)
        } else {
            // SAFETY: 1. the verifier checked the work item of a live value of this map, which the program holds.
            unsafe { timer::init_work(work, Map::from_program_ptr(map)) }
        })
    }
    bpf_wq_set_callback_impl(work: *mut u64, callback: u64, flags: u32, _prog: u64) {
        let callback = CallbackRef::from_reg(callback).expect("the verifier passes function addresses only");
        zero_or(if flags != 0 {
            Err(Errno::EINVAL)
        } else {
            // SAFETY: as above; the callback is the running program's.
            unsafe { timer::set_callback(work, callback) }
        })
    }
    bpf_wq_start(work: *mut u64, flags: u32) {
        zero_or(if flags != 0 {
            Err(Errno::EINVAL)
        } else {
            // SAFETY: as above.
            unsafe { timer::start_work(work) }
        })
    }
}
