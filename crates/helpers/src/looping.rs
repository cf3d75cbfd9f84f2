//! Helpers that call back into the program for every round or element: `bpf_loop`, `bpf_for_each_map_elem`.

use std::ops::ControlFlow;

use ring3_maps::Map;
use ring3_runtime::{CallbackRef, exception};
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
                if stop != 0 || exception::is_pending() {
                    break;
                }
            }
            Ok(rounds)
        }
    }

    ForEachMapElem(map: &Map, callback: CallbackRef, ctx: u64, flags: u64) {
        if flags != 0 {
            Err(Errno::EINVAL)
        } else {
            let mut visit = |key: *const u8, value: *mut u8| {
                let args = [
                    map.program_ptr(),
                    key.expose_provenance() as u64,
                    value.expose_provenance() as u64,
                    ctx,
                    0,
                ];
                // SAFETY: 1. the verifier walked the callback with (map, key, value, ctx); 2. the helper runs inside the program's read
                // section, which keeps the element.
                let stop = unsafe { callback.call(args) };
                if stop != 0 || exception::is_pending() {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            };
            // SAFETY: 1. the helper runs inside the program's read section.
            unsafe { map.for_each(&mut visit) }.map(u64::from)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ring3_maps::{MapAttr, MapType, TypedMap};
    use ring3_runtime::Callback;
    use ring3_uapi::FuncId;

    /// Adds the value to the sum behind the context; stops when the sum reaches 100.
    unsafe extern "C" fn sum(
        _: u64,
        _: u64,
        value: u64,
        ctx: u64,
        _: u64,
        _: *const Callback,
    ) -> u64 {
        // SAFETY: the test passes a value of 8 bytes and a u64 as context.
        unsafe {
            let ctx: *mut u64 = std::ptr::with_exposed_provenance_mut(ctx as usize);
            *ctx += *std::ptr::with_exposed_provenance::<u64>(value as usize);
            u64::from(*ctx >= 100)
        }
    }

    #[test]
    fn no_rounds_need_no_callback() {
        let run = crate::find(FuncId::Loop).unwrap();
        // SAFETY: 0 stands for a function that was removed.
        let rounds =
            [0, u64::from(LOOPS_MAX) + 1].map(|rounds| unsafe { run(rounds, 0, 0, 0, 0) as i64 });
        assert_eq!(rounds, [0, Errno::E2BIG.negated()]);
    }

    #[test]
    fn elements_are_visited_until_the_callback_stops() {
        let map = Map::create(&MapAttr::new(MapType::Array, 4, 8, 5)).unwrap();
        let typed = TypedMap::<u32, u64>::new(map.clone()).unwrap();
        for index in 0..5 {
            typed.insert(&index, &(10 * u64::from(index))).unwrap();
        }
        let record = Callback::new(sum);
        let callback = std::ptr::from_ref(&record).expose_provenance() as u64;
        let for_each = crate::find(FuncId::ForEachMapElem).unwrap();
        let walk = |start: u64, flags: u64| {
            let mut total = start;
            let ctx = (&raw mut total).expose_provenance() as u64;
            let _section = ring3_sync::rcu::read();
            // SAFETY: the map, the callback and the sum live.
            let visited = unsafe { for_each(map.program_ptr(), callback, ctx, flags, 0) };
            (visited as i64, total)
        };
        assert_eq!(walk(0, 0), (5, 100));
        assert_eq!(walk(70, 0), (3, 100));
        assert_eq!(walk(0, 1), (Errno::EINVAL.negated(), 0));
    }
}
