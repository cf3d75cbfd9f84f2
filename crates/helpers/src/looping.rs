//! Helpers that call back into the program: `bpf_loop`.

use ring3_runtime::CallbackRef;
use ring3_uapi::Errno;

use crate::bind::implement;

/// Most rounds of one `bpf_loop`. Source: `BPF_MAX_LOOPS`.
const LOOPS_MAX: u32 = 8 << 20;

implement! { ROWS:
    Loop(iterations: u32, callback: CallbackRef, ctx: u64, flags: u64) {
        if flags != 0 {
            Err(Errno::EINVAL)
        } else if iterations > LOOPS_MAX {
            Err(Errno::E2BIG)
        } else {
            let mut rounds = 0;
            for index in 0..iterations {
                // SAFETY: 1. the verifier walked the callback with (index, ctx); 2. the helper runs inside the program's read section.
                let stop = unsafe { callback.call([u64::from(index), ctx, 0, 0, 0]) };
                rounds += 1;
                if stop != 0 || ring3_runtime::exception::is_pending() {
                    break;
                }
            }
            Ok(rounds)
        }
    }
}
