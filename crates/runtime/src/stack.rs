//! Limits of a run that both engines keep. Neighbours: the verifier proves the first two, the engines count the third.

/// Bytes of stack of one function of a program.
///
/// # Source
/// Linux 6.18, `MAX_BPF_STACK`.
pub const MAX_STACK_BYTES: u32 = 512;

/// Nested calls of functions of a program, the main program included.
///
/// # Source
/// Linux 6.18, `MAX_CALL_FRAMES`.
pub const MAX_CALL_FRAMES: usize = 8;

/// Tail calls of one run, counted over all its programs and subprograms.
///
/// # Source
/// Linux 6.18, `MAX_TAIL_CALL_CNT`.
pub const MAX_TAIL_CALLS: u32 = 33;
