//! Ring buffer helpers: the functions of `ring3_maps::abi` behind their ids, and draining a user ring buffer through a callback.

use std::ops::ControlFlow;

use ring3_maps::{Map, UserRingBuf, abi};
use ring3_runtime::{CallbackRef, exception};
use ring3_spec::helpers as h;
use ring3_uapi::Errno;

use crate::Row;
use crate::bind::implement;
use crate::dynptr::{self, DynptrKern};

/// `ring3_maps::abi` states the ABI of these itself; here they get their ids.
pub(crate) const MAP_ROWS: &[Row] = &[
    Row::of::<h::RingbufOutput>(abi::ringbuf_output),
    Row::of::<h::RingbufReserve>(abi::ringbuf_reserve),
    Row::of::<h::RingbufSubmit>(abi::ringbuf_submit),
    Row::of::<h::RingbufDiscard>(abi::ringbuf_discard),
    Row::of::<h::RingbufQuery>(abi::ringbuf_query),
];

fn drain(map: &Map, callback: CallbackRef, ctx: u64, flags: u64) -> Result<u64, Errno> {
    let ring = map.downcast::<UserRingBuf>().ok_or(Errno::EINVAL)?;
    let mut is_too_big = false;
    let samples = ring.drain(flags, |sample, len| {
        if len > dynptr::SIZE_MAX {
            is_too_big = true;
            return ControlFlow::Break(());
        }
        let mut ptr = DynptrKern::local(sample, len);
        let address = (&raw mut ptr).expose_provenance() as u64;
        // SAFETY: 1. the verifier walked the callback with (dynptr, ctx); 2. the sample stays in the ring until the callback is done; 3. the
        // helper runs inside the program's read section.
        let stop = unsafe { callback.call([address, ctx, 0, 0, 0]) };
        if stop != 0 || exception::is_pending() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    })?;
    if is_too_big {
        return Err(Errno::E2BIG);
    }
    Ok(u64::from(samples))
}

implement! { ROWS:
    UserRingbufDrain(map: &Map, callback: CallbackRef, ctx: u64, flags: u64) {
        drain(map, callback, ctx, flags)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ring3_maps::{Access, MapAttr, MapType, MappingAccess, RingBuf};
    use ring3_runtime::Callback;
    use ring3_uapi::FuncId;

    fn helper(id: FuncId) -> ring3_runtime::HelperFn {
        crate::find(id).unwrap()
    }

    #[test]
    fn records_pass_through_the_helpers() {
        let map = Map::create(&MapAttr::new(MapType::Ringbuf, 0, 0, 4096)).unwrap();
        let ring = map.downcast::<RingBuf>().unwrap();
        let data = 0x1122_3344_5566_7788u64;
        let data_ptr = (&raw const data).expose_provenance() as u64;
        let map_ptr = map.program_ptr();
        // SAFETY: the map and 8 bytes of data live; records are ended once.
        unsafe {
            let output = helper(FuncId::RingbufOutput);
            assert_eq!(output(map_ptr, data_ptr, 8, 0, 0), 0);
            assert_eq!(
                output(map_ptr, data_ptr, 8, 8, 0) as i64,
                Errno::EINVAL.negated()
            );
            let reserve = helper(FuncId::RingbufReserve);
            assert_eq!(reserve(map_ptr, 5000, 0, 0, 0), 0);
            for (end, value) in [(FuncId::RingbufSubmit, 1u64), (FuncId::RingbufDiscard, 2)] {
                let record = reserve(map_ptr, 8, 0, 0, 0);
                std::ptr::with_exposed_provenance_mut::<u64>(record as usize).write(value);
                helper(end)(record, 0, 0, 0, 0);
            }
            let query = helper(FuncId::RingbufQuery);
            assert_eq!(
                [0, 1, 2, 3, 4].map(|what| query(map_ptr, what, 0, 0, 0)),
                [48, 4096, 0, 48, 0]
            );
        }
        let mut records = Vec::new();
        ring.consume(|record| records.push(u64::from_ne_bytes(record.try_into().unwrap())));
        assert_eq!(records, [data, 1]);
    }

    /// Reads the sample's first word through the dynptr helpers and adds it to the context; stops at 7.
    unsafe extern "C" fn add_sample(
        ptr: u64,
        ctx: u64,
        _: u64,
        _: u64,
        _: u64,
        _: *const Callback,
    ) -> u64 {
        let mut word = 0u64;
        let word_ptr = (&raw mut word).expose_provenance() as u64;
        // SAFETY: 8 bytes to fill, a dynptr, and the test's u64 as context.
        unsafe {
            assert_eq!(
                helper(FuncId::DynptrRead)(word_ptr, 8, ptr, 0, 0),
                0,
                "samples hold 8 bytes"
            );
            *std::ptr::with_exposed_provenance_mut::<u64>(ctx as usize) += word;
        }
        u64::from(word == 7)
    }

    #[test]
    fn a_drain_hands_over_samples_as_dynptrs() {
        let map = Map::create(&MapAttr::new(MapType::UserRingbuf, 0, 0, 4096)).unwrap();
        let client = map
            .mmap(Access::ReadWrite, 4096, 8192, MappingAccess::Write)
            .unwrap();
        let put = |offset: usize, word: u64| {
            // SAFETY: inside the two mapped pages, aligned.
            unsafe {
                client
                    .as_ptr()
                    .add(offset)
                    .cast::<u64>()
                    .write_volatile(word)
            };
        };
        for (at, word) in [5u64, 7, 9].into_iter().enumerate() {
            put(4096 + 16 * at, 8);
            put(4096 + 16 * at + 8, word);
        }
        put(0, 48);
        let record = Callback::new(add_sample);
        let callback = std::ptr::from_ref(&record).expose_provenance() as u64;
        let mut sum = 0u64;
        let sum_ptr = (&raw mut sum).expose_provenance() as u64;
        let run = |flags| {
            // SAFETY: map, callback and sum live.
            unsafe {
                helper(FuncId::UserRingbufDrain)(map.program_ptr(), callback, sum_ptr, flags, 0)
                    as i64
            }
        };
        assert_eq!(run(4), Errno::EINVAL.negated());
        assert_eq!(run(0), 2);
        assert_eq!(run(0), 1);
        assert_eq!(run(0), 0);
        assert_eq!(sum, 21);
    }
}
