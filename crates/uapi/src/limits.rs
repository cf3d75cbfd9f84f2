//! Limits of the reference kernel that programs and clients can observe.

/// Bytes of stack of one frame. Source: `MAX_BPF_STACK`.
pub const STACK_BYTES_MAX: usize = 512;
/// Nested frames of a program. Source: `MAX_CALL_FRAMES`.
pub const CALL_FRAMES_MAX: usize = 8;
/// Tail calls of one run. Source: `MAX_TAIL_CALL_CNT`.
pub const TAIL_CALLS_MAX: u32 = 33;
/// Instructions the verifier processes before it gives up. Source: `BPF_COMPLEXITY_LIMIT_INSNS`.
pub const PROCESSED_INSNS_MAX: usize = 1_000_000;
/// Instruction slots of a program loaded with CAP_BPF.
pub const PROG_INSNS_MAX: usize = 1_000_000;
/// Instruction slots of a program loaded without CAP_BPF. Source: `BPF_MAXINSNS`.
pub const PROG_INSNS_MAX_UNPRIVILEGED: usize = 4096;
/// Subprograms of a program, the main one included. Source: `BPF_MAX_SUBPROGS`.
pub const SUBPROGS_MAX: usize = 256;
/// Programs in one mprog entry. Source: `BPF_MPROG_MAX`.
pub const MPROG_MAX: usize = 64;
/// Bytes of a program, map or link name, the terminating NUL included. Source: `BPF_OBJ_NAME_LEN`.
pub const OBJ_NAME_BYTES: usize = 16;
/// Bytes of a program tag. Source: `BPF_TAG_SIZE`.
pub const TAG_BYTES: usize = 8;
/// Distinct maps one program may use. Source: `MAX_USED_MAPS`.
pub const USED_MAPS_MAX: usize = 64;
/// Bytes of `union bpf_attr`.
pub const ATTR_BYTES: usize = 168;
/// Arguments a BPF function can take in registers.
pub const FUNC_REG_ARGS_MAX: usize = 5;
