//! Helpers of programs on a function's trampoline. Their context is the array of arguments, with more below it:
//!
//! ```text
//! ctx + 8 * slots   return value
//! ctx               arguments
//! ctx -  8          number of slots
//! ctx - 16          address of the function
//! ctx - 24          cookie of the program
//! ```
//! In programs of type `tracing` the verifier writes most of these in place; here are those that calls remain of (`lsm`, cookies).
//! Neighbour: `ring3-trampoline`, which lays the frame out.

use ring3_spec::kinds::{Ctx, Value};
use ring3_uapi::Errno;

use crate::bind::{FromValue, implement};

/// The context of a program on a trampoline.
#[derive(Clone, Copy)]
pub(crate) struct Frame(*const u64);

impl FromValue<Ctx> for Frame {
    unsafe fn from_value(value: Value<Ctx>) -> Self {
        Frame(std::ptr::with_exposed_provenance(value.raw as usize))
    }
}

impl Frame {
    /// # Safety
    /// The word lies in the frame: -3 to the number of slots.
    unsafe fn word(self, index: isize) -> u64 {
        // SAFETY: 1. the caller's promise.
        unsafe { self.0.offset(index).read() }
    }

    fn slots(self) -> u64 {
        // SAFETY: 1. rows with a `Frame` are found only for programs on a trampoline, whose frame has this word.
        unsafe { self.word(-1) }
    }
}

implement! { ROWS:
    GetFuncArg(ctx: Frame, n: u32, value: *mut u64) {
        if u64::from(n) >= ctx.slots() {
            Err(Errno::EINVAL)
        } else {
            // SAFETY: 1. an argument's slot; 2. ARG_PTR_TO_FIXED_SIZE_MEM of 8 bytes, aligned.
            unsafe { value.write(ctx.word(n as isize)) };
            Ok(())
        }
    }
    GetFuncRet(ctx: Frame, value: *mut u64) {
        // SAFETY: 1. the return value's slot lies behind the arguments'; 2. as above.
        unsafe { value.write(ctx.word(ctx.slots() as isize)) };
        Ok::<(), Errno>(())
    }
    GetFuncArgCnt(ctx: Frame) { ctx.slots() }
}

implement! { VARIANTS:
    GetFuncIp(ctx: Frame) {
        // SAFETY: 1. as for the number of slots.
        unsafe { ctx.word(-2) }
    }
    GetAttachCookie(ctx: Frame) {
        // SAFETY: as above.
        unsafe { ctx.word(-3) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ring3_uapi::{AttachType, FuncId, ProgType};

    #[test]
    fn the_frame_is_read_within_its_slots() {
        let frame = [0xc00c1eu64, 0xf00, 2, 10, 20, 99];
        let ctx = frame[3..].as_ptr().expose_provenance() as u64;
        let ctx = ctx.max(frame.as_ptr().expose_provenance() as u64 + 24);
        let call = |id, n: u64, value: &mut u64| {
            let code =
                crate::find_for(ProgType::Tracing, Some(AttachType::TraceFexit), id).unwrap();
            let value = std::ptr::from_mut(value).expose_provenance() as u64;
            let second = if id == FuncId::GetFuncArg { n } else { value };
            // SAFETY: the frame and the value live.
            unsafe { code(ctx, second, value, 0, 0) as i64 }
        };
        let mut value = 0;
        assert_eq!(call(FuncId::GetFuncArgCnt, 0, &mut value), 2);
        assert_eq!(call(FuncId::GetFuncArg, 1, &mut value), 0);
        assert_eq!(value, 20);
        assert_eq!(
            call(FuncId::GetFuncArg, 2, &mut value),
            Errno::EINVAL.negated()
        );
        assert_eq!(value, 20);
        assert_eq!(call(FuncId::GetFuncRet, 0, &mut value), 0);
        assert_eq!(value, 99);
        assert_eq!(call(FuncId::GetFuncIp, 0, &mut value), 0xf00);
        assert_eq!(call(FuncId::GetAttachCookie, 0, &mut value), 0xc00c1e);
        assert!(crate::find_for(ProgType::Kprobe, None, FuncId::GetFuncIp).is_none());
    }
}
