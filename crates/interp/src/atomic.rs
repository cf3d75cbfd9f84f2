//! Atomic instructions as atomic operations of the host. Same meaning as `ring3_isa::eval_atomic`, which the tests compare with.

use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

use ring3_isa::{AtomicOp, MemSize};

use crate::program::AtomicSite;

/// Does the operation at `address`; the value that goes to a register where one does (see `AtomicOp`), else of no meaning.
///
/// # Safety
/// `address` is a multiple of the size and valid for it: readable, and writable for all but load-acquire.
pub(crate) unsafe fn atomic(site: AtomicSite, address: u64, src: u64, r0: u64) -> u64 {
    let pointer = std::ptr::with_exposed_provenance_mut::<u8>(address as usize);
    macro_rules! plain {
        ($atomic:ident, $int:ty) => {{
            // SAFETY: 1. the caller's contract: aligned and valid; others access it atomically or by the program's own risk.
            let cell = unsafe { $atomic::from_ptr(pointer.cast()) };
            match site.op {
                AtomicOp::StoreRelease => {
                    cell.store(src as $int, Ordering::Release);
                    0
                }
                // The one other operation of these sizes.
                _ => u64::from(cell.load(Ordering::Acquire)),
            }
        }};
    }
    macro_rules! full {
        ($atomic:ident, $int:ty) => {{
            // SAFETY: 1. as above.
            let cell = unsafe { $atomic::from_ptr(pointer.cast()) };
            let (src, r0) = (src as $int, r0 as $int);
            let old = match site.op {
                AtomicOp::Add { .. } => cell.fetch_add(src, Ordering::SeqCst),
                AtomicOp::Or { .. } => cell.fetch_or(src, Ordering::SeqCst),
                AtomicOp::And { .. } => cell.fetch_and(src, Ordering::SeqCst),
                AtomicOp::Xor { .. } => cell.fetch_xor(src, Ordering::SeqCst),
                AtomicOp::Xchg => cell.swap(src, Ordering::SeqCst),
                AtomicOp::Cmpxchg => {
                    match cell.compare_exchange(r0, src, Ordering::SeqCst, Ordering::SeqCst) {
                        Ok(old) | Err(old) => old,
                    }
                }
                AtomicOp::LoadAcquire => cell.load(Ordering::Acquire),
                AtomicOp::StoreRelease => {
                    cell.store(src, Ordering::Release);
                    0
                }
            };
            u64::from(old)
        }};
    }
    match site.size {
        MemSize::B => plain!(AtomicU8, u8),
        MemSize::H => plain!(AtomicU16, u16),
        MemSize::W => full!(AtomicU32, u32),
        MemSize::Dw => full!(AtomicU64, u64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ring3_isa::eval_atomic;

    #[test]
    fn the_host_does_what_the_instruction_set_says() {
        let edges = [
            0,
            1,
            5,
            0x80,
            0xffff,
            0x7fff_ffff,
            0x8000_0000,
            0xffff_ffff,
            0x1_0000_0005,
            u64::MAX,
            1 << 63,
        ];
        for &op in AtomicOp::ALL {
            for &size in op.sizes() {
                for old in edges {
                    for src in edges {
                        for r0 in [old, src, 5] {
                            let mut memory = old;
                            let address = (&raw mut memory).expose_provenance() as u64;
                            // SAFETY: 1. the address of a live, aligned u64.
                            let register =
                                unsafe { atomic(AtomicSite { op, size }, address, src, r0) };
                            let expected = eval_atomic(op, size, old, src, r0);
                            if let Some(value) = expected.register {
                                assert_eq!(register, value, "{op:?} {size:?}");
                            }
                            let mask = u64::MAX >> (64 - size.bits());
                            let memory_expected =
                                expected.memory.unwrap_or(old) & mask | old & !mask;
                            assert_eq!(
                                memory, memory_expected,
                                "{op:?} {size:?} {old:#x} {src:#x}"
                            );
                        }
                    }
                }
            }
        }
    }
}
