//! This process's own memory as a caller's: [`OwnMemory`].

use std::marker::PhantomData;

use ring3_syscall_shim::GuestMemory;
use ring3_uapi::Errno;

/// Addresses below are never valid.
const FIRST_ADDRESS: u64 = 4096;

/// Whether an address is one that no object of a process has.
pub(crate) fn is_null(address: u64) -> bool {
    address < FIRST_ADDRESS
}

/// Memory that addresses are taken at their word.
pub(crate) struct OwnMemory(PhantomData<*mut u8>);

impl OwnMemory {
    /// For one call, whose addresses the caller answers for (`crate::bpf`).
    pub(crate) fn new() -> OwnMemory {
        OwnMemory(PhantomData)
    }
}

impl GuestMemory for OwnMemory {
    fn read(&self, address: u64, into: &mut [u8]) -> Result<(), Errno> {
        if into.is_empty() {
            return Ok(());
        }
        if is_null(address) {
            return Err(Errno::EFAULT);
        }
        let from = std::ptr::with_exposed_provenance::<u8>(address as usize);
        // SAFETY: 1. the promise of `crate::bpf`: addresses are valid for what commands read; 2. the destination is a buffer of the shim's.
        unsafe { std::ptr::copy_nonoverlapping(from, into.as_mut_ptr(), into.len()) };
        Ok(())
    }

    fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), Errno> {
        if bytes.is_empty() {
            return Ok(());
        }
        if is_null(address) {
            return Err(Errno::EFAULT);
        }
        let to = std::ptr::with_exposed_provenance_mut::<u8>(address as usize);
        // SAFETY: 1. the promise of `crate::bpf`: addresses are valid for what commands write; 2. the source is a buffer of the shim's.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
        Ok(())
    }
}
