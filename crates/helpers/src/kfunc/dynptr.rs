//! Dynptrs over packets, and what moves, copies, slices and describes any dynptr.

use super::{kfuncs, zero_or};
use crate::dynptr::{DynptrKern, make};
use crate::packet::{Skb, XdpBuff};

/// # Safety
/// `ptr` is a dynptr that the verifier checked.
unsafe fn shared<'a>(ptr: *const DynptrKern) -> &'a DynptrKern {
    // SAFETY: 1. the caller's promise; 2. the program is suspended in the call.
    unsafe { &*ptr }
}

kfuncs! { ROWS(Plain):
    bpf_dynptr_from_skb(skb: *mut Skb, flags: u64, out: *mut DynptrKern) {
        // SAFETY: 1. the context of a program over skbs, or an skb; 2. stack slots that the verifier reserved.
        zero_or(unsafe { make(&mut *out, DynptrKern::skb(&*skb, flags)) })
    }
    bpf_dynptr_from_xdp(xdp: *mut XdpBuff, flags: u64, out: *mut DynptrKern) {
        // SAFETY: as above, for XDP.
        zero_or(unsafe { make(&mut *out, DynptrKern::xdp(&*xdp, flags)) })
    }
    bpf_dynptr_slice(ptr: *const DynptrKern, offset: u32, buffer: *mut u8, size: u32) {
        // SAFETY: 1. a dynptr, by the prototype; 2. a buffer of this size or null.
        unsafe { shared(ptr).slice_or_copy(offset, buffer, size) }
    }
    bpf_dynptr_slice_rdwr(ptr: *const DynptrKern, offset: u32, buffer: *mut u8, size: u32) {
        // SAFETY: as above.
        unsafe {
            if shared(ptr).is_rdonly() {
                std::ptr::null_mut()
            } else {
                shared(ptr).slice_or_copy(offset, buffer, size)
            }
        }
    }
    bpf_dynptr_adjust(ptr: *mut DynptrKern, start: u32, end: u32) {
        // SAFETY: as above; the program is suspended in the call.
        zero_or(unsafe { &mut *ptr }.adjust(start, end))
    }
    bpf_dynptr_is_null(ptr: *const DynptrKern) {
        // SAFETY: as above.
        u64::from(unsafe { shared(ptr) }.is_null())
    }
    bpf_dynptr_is_rdonly(ptr: *const DynptrKern) {
        // SAFETY: as above.
        u64::from(unsafe { shared(ptr) }.is_rdonly())
    }
    bpf_dynptr_size(ptr: *const DynptrKern) {
        // SAFETY: as above.
        let ptr = unsafe { shared(ptr) };
        if ptr.is_null() {
            ring3_uapi::Errno::EINVAL.negated() as u32
        } else {
            ptr.size()
        }
    }
    bpf_dynptr_clone(ptr: *const DynptrKern, out: *mut DynptrKern) {
        // SAFETY: as above; stack slots that the verifier reserved.
        unsafe {
            let from = *shared(ptr);
            let made = if from.is_null() { Err(ring3_uapi::Errno::EINVAL) } else { Ok(from) };
            zero_or(make(&mut *out, made))
        }
    }
    bpf_dynptr_copy(dst: *const DynptrKern, dst_offset: u32, src: *const DynptrKern, src_offset: u32, size: u32) {
        // SAFETY: as above.
        let (dst, src) = unsafe { (shared(dst), shared(src)) };
        zero_or(dst.copy_from(dst_offset, src, src_offset, size))
    }
    bpf_dynptr_memset(ptr: *const DynptrKern, offset: u32, size: u32, byte: u8) {
        // SAFETY: as above.
        let ptr = unsafe { shared(ptr) };
        zero_or(ptr.fill(offset, size, |bytes| {
            bytes.fill(byte);
            Ok(())
        }))
    }
}

/// What programs get that may not write to the packet.
pub(super) const RDONLY_ROWS: &[super::KfuncImpl] = rdonly::ROWS;

mod rdonly {
    use super::{DynptrKern, Skb, kfuncs, make, zero_or};

    kfuncs! { ROWS(Plain):
        bpf_dynptr_from_skb(skb: *mut Skb, flags: u64, out: *mut DynptrKern) {
            // SAFETY: as for the writable one.
            zero_or(unsafe { make(&mut *out, DynptrKern::skb(&*skb, flags).map(DynptrKern::rdonly)) })
        }
    }
}
