//! `bpf_find_vma`: the mapping of this process that an address lies in, as a `vm_area_struct` whose `vm_start`, `vm_end` and `vm_flags` are set.

use std::sync::OnceLock;

use ring3_btf::layout;
use ring3_runtime::CallbackRef;
use ring3_uapi::Errno;

use crate::bind::implement;
use crate::task_object;
use crate::vma::{Vma, vmas};

/// Longer than the struct of any kernel.
const BYTES: usize = 1024;

#[repr(C, align(64))]
struct VmaObject([u8; BYTES]);

impl VmaObject {
    fn new(vma: &Vma) -> VmaObject {
        static OFFSETS: OnceLock<[usize; 3]> = OnceLock::new();
        let offsets = OFFSETS.get_or_init(|| {
            ["vm_start", "vm_end", "vm_flags"].map(|field| {
                layout::field(None, "vm_area_struct", field).map_or(0, |at| at.offset as usize)
            })
        });
        let mut object = VmaObject([0; BYTES]);
        for (&offset, word) in offsets.iter().zip([vma.start, vma.end, vma.flags]) {
            object.0[offset..offset + 8].copy_from_slice(&word.to_ne_bytes());
        }
        object
    }
}

implement! { ROWS:
    FindVma(task: u64, address: u64, callback: CallbackRef, ctx: u64, flags: u64) {
        if flags != 0 {
            Err(Errno::EINVAL)
        } else if task == 0 || task != task_object::current() {
            // DIVERGES: mappings of other tasks are not modelled.
            Err(Errno::ENOENT)
        } else {
            let found = vmas().into_iter().find(|vma| (vma.start..vma.end).contains(&address));
            found.ok_or(Errno::ENOENT).map(|vma| {
                let object = VmaObject::new(&vma);
                let object = (&raw const object).expose_provenance() as u64;
                // SAFETY: 1. the verifier walked the callback with (task, vma, ctx); 2. the helper runs inside the program's read section; 3. the
                // object lives until the callback has returned, and what the callback keeps of it is untrusted.
                unsafe { callback.call([task, object, ctx, 0, 0]) };
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ring3_runtime::Callback;
    use ring3_uapi::FuncId;

    /// Keeps what the object says.
    unsafe extern "C" fn keep(
        _: u64,
        vma: u64,
        ctx: u64,
        _: u64,
        _: u64,
        _: *const Callback,
    ) -> u64 {
        let vma = std::ptr::with_exposed_provenance::<[u64; 5]>(vma as usize);
        let ctx = std::ptr::with_exposed_provenance_mut::<[u64; 3]>(ctx as usize);
        // SAFETY: the object is longer than five words; the test passes three as context.
        unsafe { *ctx = [(*vma)[0], (*vma)[1], (*vma)[4]] };
        0
    }

    #[test]
    fn the_callback_sees_the_mapping_and_misses_are_errors() {
        let record = Callback::new(keep);
        let callback = std::ptr::from_ref(&record).expose_provenance() as u64;
        let find = crate::find(FuncId::FindVma).unwrap();
        let text = find as *const () as u64;
        let mut seen = [0u64; 3];
        let ctx = (&raw mut seen).expose_provenance() as u64;
        let task = task_object::current();
        let _section = ring3_sync::rcu::read();
        // SAFETY: the callback and its context live.
        let call =
            |task, address, flags| unsafe { find(task, address, callback, ctx, flags) as i64 };
        assert_eq!(call(task, text, 0), 0);
        assert_eq!(call(task, 8, 0), Errno::ENOENT.negated());
        assert_eq!(call(task, text, 1), Errno::EINVAL.negated());
        assert_eq!(call(task + 64, text, 0), Errno::ENOENT.negated());
        assert!((seen[0]..seen[1]).contains(&text), "{seen:x?} {text:x}");
        assert_eq!(seen[2] & 7, 5);
    }
}
