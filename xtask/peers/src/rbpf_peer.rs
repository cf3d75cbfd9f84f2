//! The crate rbpf as a peer: it gets the instructions after our verifier's rewrites, so that context accesses are those of an `xdp_buff`.

use std::time::Instant;

use rbpf::EbpfVmRaw;

use crate::{Outcome, native::Frame};

/// A program in rbpf, compiled.
pub(crate) struct Rbpf<'a> {
    vm: EbpfVmRaw<'a>,
    context: [u8; 16],
}

impl<'a> Rbpf<'a> {
    /// Loads and compiles.
    pub(crate) fn new(insns: &'a [u8], frame: &Frame) -> Outcome<Rbpf<'a>> {
        let mut vm = EbpfVmRaw::new(Some(insns))?;
        vm.register_allowed_memory(frame.packet_range());
        vm.jit_compile()?;
        Ok(Rbpf {
            vm,
            context: frame.context_bytes(),
        })
    }

    /// One run of the compiled program.
    pub(crate) fn run(&mut self) -> u32 {
        let context: *mut [u8] = &raw mut self.context;
        // SAFETY: 1. the context outlives the run, and nothing else uses it meanwhile: the VM's lifetime parameter would hold the borrow
        // for as long as the VM lives; 2. our verifier accepted the program over such a context, so compiled code stays in the packet;
        // 3. the frame, which whoever made this keeps, holds the packet.
        unsafe { self.vm.execute_program_jit(&mut *context) }.map_or(u32::MAX, |r0| r0 as u32)
    }

    /// One run by rbpf's interpreter, which checks each access.
    pub(crate) fn interpret(&mut self) -> u32 {
        let context: *mut [u8] = &raw mut self.context;
        // SAFETY: 1. as above.
        let context = unsafe { &mut *context };
        self.vm
            .execute_program(context)
            .map_or(u32::MAX, |r0| r0 as u32)
    }
}

/// Nanoseconds of a compilation, the VM's own checks not counted.
pub(crate) fn compile_ns(insns: &[u8]) -> f64 {
    let Ok(mut vm) = EbpfVmRaw::new(Some(insns)) else {
        return f64::INFINITY;
    };
    let begin = Instant::now();
    let compiled = vm.jit_compile();
    let took = begin.elapsed().as_nanos() as f64;
    if compiled.is_ok() {
        took
    } else {
        f64::INFINITY
    }
}
