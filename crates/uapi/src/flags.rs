//! Flags of bpf(2) commands, one constant group per argument.

/// Flags of `BPF_PROG_LOAD` (`prog_flags`).
pub mod prog_load {
    /// `BPF_F_STRICT_ALIGNMENT`
    pub const STRICT_ALIGNMENT: u32 = 1 << 0;
    /// `BPF_F_ANY_ALIGNMENT`
    pub const ANY_ALIGNMENT: u32 = 1 << 1;
    /// `BPF_F_TEST_RND_HI32`
    pub const TEST_RND_HI32: u32 = 1 << 2;
    /// `BPF_F_TEST_STATE_FREQ`
    pub const TEST_STATE_FREQ: u32 = 1 << 3;
    /// `BPF_F_SLEEPABLE`
    pub const SLEEPABLE: u32 = 1 << 4;
    /// `BPF_F_XDP_HAS_FRAGS`
    pub const XDP_HAS_FRAGS: u32 = 1 << 5;
    /// `BPF_F_XDP_DEV_BOUND_ONLY`
    pub const XDP_DEV_BOUND_ONLY: u32 = 1 << 6;
    /// `BPF_F_TEST_REG_INVARIANTS`
    pub const TEST_REG_INVARIANTS: u32 = 1 << 7;
    /// `BPF_F_TOKEN_FD`
    pub const TOKEN_FD: u32 = 1 << 16;
}

/// Flags of `BPF_MAP_CREATE` (`map_flags`).
pub mod map_create {
    /// `BPF_F_NO_PREALLOC`
    pub const NO_PREALLOC: u32 = 1 << 0;
    /// `BPF_F_NO_COMMON_LRU`
    pub const NO_COMMON_LRU: u32 = 1 << 1;
    /// `BPF_F_NUMA_NODE`
    pub const NUMA_NODE: u32 = 1 << 2;
    /// `BPF_F_RDONLY`
    pub const RDONLY: u32 = 1 << 3;
    /// `BPF_F_WRONLY`
    pub const WRONLY: u32 = 1 << 4;
    /// `BPF_F_STACK_BUILD_ID`
    pub const STACK_BUILD_ID: u32 = 1 << 5;
    /// `BPF_F_ZERO_SEED`
    pub const ZERO_SEED: u32 = 1 << 6;
    /// `BPF_F_RDONLY_PROG`
    pub const RDONLY_PROG: u32 = 1 << 7;
    /// `BPF_F_WRONLY_PROG`
    pub const WRONLY_PROG: u32 = 1 << 8;
    /// `BPF_F_CLONE`
    pub const CLONE: u32 = 1 << 9;
    /// `BPF_F_MMAPABLE`
    pub const MMAPABLE: u32 = 1 << 10;
    /// `BPF_F_PRESERVE_ELEMS`
    pub const PRESERVE_ELEMS: u32 = 1 << 11;
    /// `BPF_F_INNER_MAP`
    pub const INNER_MAP: u32 = 1 << 12;
    /// `BPF_F_LINK`
    pub const LINK: u32 = 1 << 13;
    /// `BPF_F_PATH_FD`
    pub const PATH_FD: u32 = 1 << 14;
    /// `BPF_F_VTYPE_BTF_OBJ_FD`
    pub const VTYPE_BTF_OBJ_FD: u32 = 1 << 15;
    /// `BPF_F_TOKEN_FD`
    pub const TOKEN_FD: u32 = 1 << 16;
    /// `BPF_F_SEGV_ON_FAULT`
    pub const SEGV_ON_FAULT: u32 = 1 << 17;
    /// `BPF_F_NO_USER_CONV`
    pub const NO_USER_CONV: u32 = 1 << 18;
}

/// Flags of element updates and look-ups.
pub mod map_elem {
    /// `BPF_ANY`: create or replace.
    pub const ANY: u64 = 0;
    /// `BPF_NOEXIST`: create only.
    pub const NOEXIST: u64 = 1;
    /// `BPF_EXIST`: replace only.
    pub const EXIST: u64 = 2;
    /// `BPF_F_LOCK`: hold the value's spin lock.
    pub const LOCK: u64 = 4;
}

/// Flags of multi-program attach (`attach_flags`, `query.attach_flags`).
pub mod mprog {
    /// `BPF_F_ALLOW_OVERRIDE` (cgroup)
    pub const ALLOW_OVERRIDE: u32 = 1 << 0;
    /// `BPF_F_ALLOW_MULTI` (cgroup)
    pub const ALLOW_MULTI: u32 = 1 << 1;
    /// `BPF_F_REPLACE`
    pub const REPLACE: u32 = 1 << 2;
    /// `BPF_F_BEFORE`
    pub const BEFORE: u32 = 1 << 3;
    /// `BPF_F_AFTER`
    pub const AFTER: u32 = 1 << 4;
    /// `BPF_F_ID`
    pub const ID: u32 = 1 << 5;
    /// `BPF_F_PREORDER` (cgroup)
    pub const PREORDER: u32 = 1 << 6;
    /// `BPF_F_LINK`
    pub const LINK: u32 = 1 << 13;
}
