//! Running programs whose context is plain memory: syscall programs and raw tracepoints. The one place that promises them memory as long as
//! their type allows them to touch.

use ring3_runtime::{ProgObject, is_anyone_counting, run};
use ring3_uapi::{Errno, ProgType};

use crate::file_object::FileObject;

/// Most bytes of a syscall program's context.
pub const SYSCALL_CTX_BYTES_MAX: usize = u16::MAX as usize;
/// Arguments of a raw tracepoint. Source: `MAX_BPF_FUNC_ARGS`.
pub const RAW_TRACEPOINT_ARGS: usize = 12;

/// Runs a syscall program over `ctx`, which it may change; the low half of r0.
///
/// # Errors
/// EINVAL: another type of program, or more than [`SYSCALL_CTX_BYTES_MAX`] bytes.
pub fn run_syscall(prog: &dyn ProgObject, ctx: &mut [u8]) -> Result<u32, Errno> {
    if prog.prog_type() != ProgType::Syscall || ctx.len() > SYSCALL_CTX_BYTES_MAX {
        return Err(Errno::EINVAL);
    }
    let mut words = vec![0u64; SYSCALL_CTX_BYTES_MAX.div_ceil(8)];
    for (word, bytes) in words.iter_mut().zip(ctx.chunks(8)) {
        let mut padded = [0; 8];
        padded[..bytes.len()].copy_from_slice(bytes);
        *word = u64::from_ne_bytes(padded);
    }
    let address = words.as_mut_ptr().expose_provenance() as u64;
    // SAFETY: 1. the program is borrowed; 2. its type was checked: the context is memory of which the verifier lets it touch at most
    // `SYSCALL_CTX_BYTES_MAX` bytes; 3. the words live for the run and nothing else refers to them.
    let retval = counted(prog, || unsafe { run(&prog.entry(), address) as u32 });
    for (bytes, word) in ctx.chunks_mut(8).zip(&words) {
        bytes.copy_from_slice(&word.to_ne_bytes()[..bytes.len()]);
    }
    Ok(retval)
}

/// Runs a raw tracepoint program over arguments; the low half of r0.
///
/// # Errors
/// EINVAL: another type of program.
pub fn run_raw_tracepoint(
    prog: &dyn ProgObject,
    args: &[u64; RAW_TRACEPOINT_ARGS],
) -> Result<u32, Errno> {
    if prog.prog_type() != ProgType::RawTracepoint {
        return Err(Errno::EINVAL);
    }
    let address = args.as_ptr().expose_provenance() as u64;
    // SAFETY: 1. the program is borrowed; 2. its type was checked: it reads at most `RAW_TRACEPOINT_ARGS` words and writes none; 3. the words
    // live for the run.
    Ok(counted(prog, || unsafe {
        run(&prog.entry(), address) as u32
    }))
}

fn counted(prog: &dyn ProgObject, run: impl FnOnce() -> u32) -> u32 {
    match prog.run_stats() {
        Some(stats) if is_anyone_counting() => stats.measure(run),
        _ => run(),
    }
}

/// Runs a program of the security hook `file_open` over a file; its verdict, 0 or a negative errno.
///
/// # Errors
/// EINVAL: a program of another hook.
pub fn run_file_open(prog: &dyn ProgObject, file: &FileObject) -> Result<i32, Errno> {
    if prog.prog_type() != ProgType::Lsm || prog.hook() != Some("bpf_lsm_file_open") {
        return Err(Errno::EINVAL);
    }
    /// Words below the arguments: cookie, address of the function, number of slots.
    const BELOW: usize = 3;
    let mut frame = [0u64; BELOW + RAW_TRACEPOINT_ARGS + 1];
    frame[BELOW - 1] = 1;
    frame[BELOW] = file.file_ptr();
    let address = frame.as_ptr().expose_provenance() as u64 + 8 * BELOW as u64;
    // SAFETY: 1. the program is borrowed; 2. it was verified for this hook, whose one argument is a file; 3. what it reads beside its arguments lies in
    // the frame, and the file is borrowed for the run.
    Ok(counted(prog, || unsafe { run(&prog.entry(), address) as u32 }) as i32)
}

/// A promise of a host: whatever a tracepoint of its is fired with is what the BTF typedef `btf_trace_NAME` says.
#[derive(Debug)]
pub struct TypedArgs(());

impl TypedArgs {
    /// Makes the promise.
    ///
    /// # Safety
    /// The tracepoint that this is given to is fired with arguments of the types of its prototype only: pointers are to such objects, alive while it is
    /// fired, and not null.
    pub const unsafe fn promise() -> TypedArgs {
        TypedArgs(())
    }
}

/// Runs a program that was loaded for a raw tracepoint of the kernel BTF (`tp_btf`) over that tracepoint's arguments; the low half of r0.
///
/// # Errors
/// EINVAL: another type of program.
pub fn run_typed_tracepoint(
    prog: &dyn ProgObject,
    _typed: &TypedArgs,
    args: &[u64; RAW_TRACEPOINT_ARGS],
) -> Result<u32, Errno> {
    if prog.prog_type() != ProgType::Tracing {
        return Err(Errno::EINVAL);
    }
    let address = args.as_ptr().expose_provenance() as u64;
    // SAFETY: 1. the program is borrowed; 2. it reads at most as many words as a function has arguments and follows those that are pointers, which the host
    // promised to be what they are typed as; 3. the words live for the run.
    Ok(unsafe { run(&prog.entry(), address) as u32 })
}
