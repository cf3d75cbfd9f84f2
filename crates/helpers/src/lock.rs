//! Spin locks of map values.

use ring3_maps::fields;

use crate::bind::implement;

implement! { ROWS:
    SpinLock(lock: *mut u32) {
        // SAFETY: 1. ARG_PTR_TO_SPIN_LOCK: the lock word of a live value; 2. the verifier lets a program hold one lock and end only without it.
        unsafe { fields::spin_lock(lock) };
    }
    SpinUnlock(lock: *mut u32) {
        // SAFETY: 1. as above; 2. the verifier lets only the holder give it back.
        unsafe { fields::spin_unlock(lock) };
    }
}

#[cfg(test)]
mod tests {
    use ring3_uapi::FuncId;

    #[test]
    fn two_threads_do_not_lose_an_addition() {
        #[repr(C)]
        struct Guarded {
            lock: u32,
            count: u64,
        }
        let mut value = Guarded { lock: 0, count: 0 };
        let address = (&raw mut value).expose_provenance();
        let [lock, unlock] =
            [FuncId::SpinLock, FuncId::SpinUnlock].map(|id| crate::find(id).unwrap());
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for _ in 0..10_000 {
                        // SAFETY: the lock lies first in the value; the count is touched under it only.
                        unsafe {
                            lock(address as u64, 0, 0, 0, 0);
                            let value = std::ptr::with_exposed_provenance_mut::<Guarded>(address);
                            let count = (&raw mut (*value).count).read_volatile();
                            (&raw mut (*value).count).write_volatile(count + 1);
                            unlock(address as u64, 0, 0, 0, 0);
                        }
                    }
                });
            }
        });
        assert_eq!((value.lock, value.count), (0, 20_000));
    }
}
