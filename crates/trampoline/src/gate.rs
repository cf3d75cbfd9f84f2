//! Gates: immortal code through which every thread enters and leaves an image, so that an image can be freed.
//!
//! ```text
//! enter:    r11 = this thread's counters (registers the thread the first time)
//!           counters[id].in += 1
//!           jmp [image]                    the data word below: the image, or `pass`
//! leave:    counters[id].out += 1; ret     jumped to by images, results in place, r11 still the counters
//! pass:     counters[id].out += 1; jmp f behind its nop
//! image:    dq
//! ```
//!
//! Retiring an image: the site no longer jumps to the gate; `image` becomes `pass`; after a membarrier, once the sums of `out` and `in` over
//! all threads (`out` read first) are equal, nobody is in the image, and a thread that arrives late goes through `pass`. The gate may then serve
//! the same target again. It is never freed: a thread may stand at its first instruction for any time.

use std::sync::atomic::{AtomicU64, Ordering};

use dynasmrt::x64::X64Relocation;
use dynasmrt::{DynasmApi, DynasmLabelApi, VecAssembler, dynasm};
use ring3_jit_x86_64::pack::Text;
use ring3_uapi::Errno;

use crate::thread;

/// `mov r11, fs:[offset]`
fn load_counters(offset: i32) -> [u8; 9] {
    let [a, b, c, d] = offset.to_le_bytes();
    [0x64, 0x4c, 0x8b, 0x1c, 0x25, a, b, c, d]
}

/// Room for a gate's code.
const GATE_BYTES: usize = 256;

/// A gate of one target.
#[derive(Debug)]
pub(crate) struct Gate {
    text: std::mem::ManuallyDrop<Text>,
    id: u32,
    leave: usize,
    pass: usize,
    image_word: usize,
}

impl Gate {
    /// A gate for the function whose body is at `body`.
    ///
    /// # Errors
    /// `ENOTSUPP`: thread-local storage is not at a fixed offset. `ENOSPC`: too many gates. `ENOMEM`.
    pub(crate) fn new(body: usize) -> Result<Gate, Errno> {
        let offset = thread::tls_offset().ok_or(Errno::ENOTSUPP)?;
        let id = thread::allocate_id().ok_or(Errno::ENOSPC)?;
        match Gate::with_id(body, offset, id) {
            Ok(gate) => Ok(gate),
            Err(errno) => {
                thread::free_id(id);
                Err(errno)
            }
        }
    }

    fn with_id(body: usize, offset: i32, id: u32) -> Result<Gate, Errno> {
        let load = load_counters(offset);
        let row = thread::offset(id);
        let register = thread::register as *const () as usize as i64;
        let text = Text::allocate(GATE_BYTES)?;
        let mut ops: VecAssembler<X64Relocation> = VecAssembler::new(text.address());
        let leave = ops.new_dynamic_label();
        let pass = ops.new_dynamic_label();
        let image = ops.new_dynamic_label();
        let slow = ops.new_dynamic_label();
        let go = ops.new_dynamic_label();
        dynasm!(ops
            ; .arch x64
            ; .bytes load.iter()
            ; test r11, r11
            ; jz =>slow
            ; =>go
            ; inc DWORD [r11 + row]
            ; jmp QWORD [=>image]
            ; =>leave
            ; inc DWORD [r11 + row + 4]
            ; ret
            ; =>pass
            ; inc DWORD [r11 + row + 4]
            ; jmp extern body
            // First time in this thread: everything that may carry an argument survives the call.
            ; =>slow
            ; push rbp
            ; mov rbp, rsp
            ; push rdi
            ; push rsi
            ; push rdx
            ; push rcx
            ; push r8
            ; push r9
            ; push rax
            ; push r10
            ; sub rsp, 128
            ; movups [rsp], xmm0
            ; movups [rsp + 16], xmm1
            ; movups [rsp + 32], xmm2
            ; movups [rsp + 48], xmm3
            ; movups [rsp + 64], xmm4
            ; movups [rsp + 80], xmm5
            ; movups [rsp + 96], xmm6
            ; movups [rsp + 112], xmm7
            ; mov rax, QWORD register
            ; call rax
            ; movups xmm0, [rsp]
            ; movups xmm1, [rsp + 16]
            ; movups xmm2, [rsp + 32]
            ; movups xmm3, [rsp + 48]
            ; movups xmm4, [rsp + 64]
            ; movups xmm5, [rsp + 80]
            ; movups xmm6, [rsp + 96]
            ; movups xmm7, [rsp + 112]
            ; add rsp, 128
            ; pop r10
            ; pop rax
            ; pop r9
            ; pop r8
            ; pop rcx
            ; pop rdx
            ; pop rsi
            ; pop rdi
            ; pop rbp
            ; .bytes load.iter()
            ; jmp =>go
            ; .align 8
            ; =>image
            ; .u64 0
        );
        let offset_of = |label| {
            ops.labels()
                .resolve_dynamic(label)
                .map(|offset| offset.0)
                .map_err(|_| Errno::EINVAL)
        };
        let (leave, pass, image_word) = (offset_of(leave)?, offset_of(pass)?, offset_of(image)?);
        // Out of reach: the site could not jump here either.
        let mut code = ops.finalize().map_err(|_| Errno::ENOTSUPP)?;
        if code.len() > GATE_BYTES {
            return Err(Errno::E2BIG);
        }
        let pass = text.address() + pass;
        code[image_word..image_word + 8].copy_from_slice(&(pass as u64).to_le_bytes());
        text.write(0, &code);
        let leave = text.address() + leave;
        Ok(Gate {
            text: std::mem::ManuallyDrop::new(text),
            id,
            leave,
            pass,
            image_word,
        })
    }

    /// Where a site jumps to.
    pub(crate) fn enter(&self) -> usize {
        self.text.address()
    }

    /// Where an image jumps to when it is done.
    pub(crate) fn leave(&self) -> usize {
        self.leave
    }

    /// Where an image without exit programs jumps to: the function behind its nop.
    pub(crate) fn pass(&self) -> usize {
        self.pass
    }

    /// Lets threads into the image at `address`.
    pub(crate) fn open(&self, address: usize) {
        self.set(address);
    }

    /// Lets threads pass by.
    pub(crate) fn close(&self) {
        self.set(self.pass);
    }

    fn set(&self, address: usize) {
        let old = self.text.quadword(self.image_word);
        // Only the target's lock holder writes it, so the exchange cannot fail.
        let _ = self
            .text
            .patch_quadword(self.image_word, old, address as u64);
    }

    /// Whether nobody is in the image. The gate is closed, and a membarrier has been executed since.
    pub(crate) fn is_drained(&self) -> bool {
        let (inside, out) = thread::sums(self.id);
        inside == out
    }
}

/// Full barrier on all threads; counts how often, for tests.
pub(crate) fn barrier_all_threads() {
    static CALLS: AtomicU64 = AtomicU64::new(0);
    CALLS.fetch_add(1, Ordering::SeqCst);
    // Registered by RCU's first use; where the host has none, RCU's fences order readers as well.
    let _ = ring3_os::membarrier::register_private_expedited();
    let _ = ring3_os::membarrier::private_expedited();
}
