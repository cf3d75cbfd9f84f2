//! `LoadRequest`: the verifier's only input. Everything is owned; no fd is looked up and no object is asked later.

use alloc::{collections::BTreeMap, string::String, sync::Arc, vec::Vec};

use ring3_btf::{Btf, TypeId};
use ring3_isa::RawInsn;
use ring3_uapi::ProgType;

use crate::MapInfo;

/// A program as BPF_PROG_LOAD received it, with every object it names.
#[derive(Clone, Debug)]
pub struct LoadRequest {
    /// Program type.
    pub prog_type: ProgType,
    /// `expected_attach_type`, raw: what it means depends on the program type.
    pub expected_attach_type: u32,
    /// `prog_flags`, see [`ring3_uapi::flags::prog_load`].
    pub flags: u32,
    /// Program name, at most 15 bytes.
    pub name: String,
    /// License text, as given.
    pub license: String,
    /// `kern_version`, unused by 6.18 but kept.
    pub kern_version: u32,
    /// Instruction slots.
    pub insns: Vec<RawInsn>,
    /// Objects behind the fds that instructions and `fd_array` name. A missing fd is EBADF.
    pub fds: BTreeMap<i32, FdObject>,
    /// `fd_array`, if given.
    pub fd_array: Option<Vec<i32>>,
    /// `fd_array_cnt` was given: all of `fd_array` is checked at once, and its maps are used even if no instruction names them.
    pub fd_array_is_counted: bool,
    /// Maps of the request; [`FdObject::Map`] holds indices into it.
    pub maps: Vec<Arc<MapInfo>>,
    /// BTF of the program.
    pub btf: Option<Btf>,
    /// `func_info` records.
    pub func_info: InfoRecords,
    /// `line_info` records.
    pub line_info: InfoRecords,
    /// `core_relos` records that the caller left to the kernel.
    pub core_relos: InfoRecords,
    /// BTF of the kernel (or host) whose types `PTR_TO_BTF_ID` registers have; none if the caller has none.
    pub kernel_btf: Option<Btf>,
    /// Whether variables of the kernel BTF have addresses; not so in the reference kernel, whose symbol table
    /// (`CONFIG_KALLSYMS_ALL` unset) holds functions only.
    pub kernel_variables: bool,
    /// BTF type that the program attaches to (`attach_btf_id`), 0 if none.
    pub attach_btf_id: TypeId,
    /// What `attach_btf_id` refers to.
    pub attach: AttachTarget,
    /// What the host says of the function that `attach_btf_id` names in the kernel BTF.
    pub target_traits: TargetTraits,
    /// What the loader may do.
    pub privilege: Privilege,
    /// Seed for BPF_F_TEST_RND_HI32 and other randomised rewrites.
    pub seed: u64,
    /// Dead code stays as a trap, as for a loader without CAP_BPF: for oracles that would see a run reach it.
    pub keeps_dead_code: bool,
    /// Note what is held at jumps back and calls ([`crate::VerifiedProgram::stop_points`]), for runs that may be stopped there.
    pub notes_held: bool,
    /// CPU ids of the host: `bpf_get_smp_processor_id` returns less.
    pub nr_cpu_ids: u32,
}

/// Fixed-size records of `func_info`, `line_info` or `core_relos` as received: `count * rec_size` bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InfoRecords {
    /// Bytes per record.
    pub rec_size: u32,
    /// Number of records.
    pub count: u32,
    /// `rec_size * count` bytes; shorter means that the caller's memory could not be read (EFAULT).
    pub bytes: Vec<u8>,
}

/// An object behind an fd of the request.
#[derive(Clone, Debug)]
pub enum FdObject {
    /// Index into [`LoadRequest::maps`].
    Map(usize),
    /// A BTF object.
    Btf(Btf),
    /// An open file that is neither.
    Other,
}

/// What a program with `attach_btf_id` attaches to.
#[derive(Clone, Debug, Default)]
pub enum AttachTarget {
    /// Nothing given: `attach_btf_id`, if any, is in the kernel BTF.
    #[default]
    Kernel,
    /// A BTF object (a module's) given by fd.
    Btf(Btf),
    /// A BPF program given by fd.
    Prog(Arc<ProgTarget>),
}

/// What a host says of a function of its own that programs attach to. The kernel has tables of names in this place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TargetTraits {
    /// BTF and code disagree: all arguments are treated as u64.
    pub unreliable: bool,
    /// fmod_ret programs may decide its return value.
    pub modifiable: bool,
    /// Programs on it may sleep.
    pub sleepable: bool,
}

/// The facts of a loaded program that an extension or a tracing program attaches to.
#[derive(Clone, Debug)]
pub struct ProgTarget {
    /// Its type.
    pub prog_type: ProgType,
    /// Its expected attach type, raw.
    pub expected_attach_type: u32,
    /// Its BTF.
    pub btf: Option<Btf>,
    /// Whether it may sleep.
    pub sleepable: bool,
    /// Whether it was compiled to machine code.
    pub jited: bool,
    /// Whether it has itself an attach target that is a program.
    pub attaches_to_prog: bool,
    /// Whether its own packet data may change (`changes_pkt_data`), by subprogram.
    pub subprogs: Vec<ProgTargetSubprog>,
    /// Whether it was loaded with BPF_F_XDP_DEV_BOUND_ONLY or offloaded.
    pub dev_bound: bool,
}

/// One function of a target program.
#[derive(Clone, Debug)]
pub struct ProgTargetSubprog {
    /// BTF id of the function (`func_info.type_id`).
    pub type_id: TypeId,
    /// Whether it is a global function.
    pub is_global: bool,
    /// Whether it handles exceptions.
    pub is_exception_cb: bool,
    /// Whether BTF and code disagree (all arguments are treated as u64).
    pub unreliable: bool,
    /// Whether it may change packet data.
    pub changes_pkt_data: bool,
    /// Whether it may sleep.
    pub might_sleep: bool,
}

/// Capabilities of the loader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Privilege {
    /// CAP_BPF: loops, subprograms, precision.
    pub bpf: bool,
    /// CAP_PERFMON: pointer leaks and speculative reads permitted.
    pub perfmon: bool,
    /// CAP_NET_ADMIN.
    pub net_admin: bool,
    /// CAP_SYS_ADMIN (implies the others where the kernel says so).
    pub sys_admin: bool,
}

impl Privilege {
    /// Every capability: what root has.
    pub const FULL: Privilege = Privilege {
        bpf: true,
        perfmon: true,
        net_admin: true,
        sys_admin: true,
    };
    /// No capability.
    pub const NONE: Privilege = Privilege {
        bpf: false,
        perfmon: false,
        net_admin: false,
        sys_admin: false,
    };

    /// Whether CAP_BPF or CAP_SYS_ADMIN is held.
    pub const fn may_bpf(self) -> bool {
        self.bpf || self.sys_admin
    }

    /// Whether CAP_PERFMON or CAP_SYS_ADMIN is held.
    pub const fn may_perfmon(self) -> bool {
        self.perfmon || self.sys_admin
    }
}

impl LoadRequest {
    /// A request with nothing but a type and instructions, fully privileged, license "GPL".
    pub fn new(prog_type: ProgType, insns: Vec<RawInsn>) -> Self {
        LoadRequest {
            prog_type,
            expected_attach_type: 0,
            flags: 0,
            name: String::new(),
            license: String::from("GPL"),
            kern_version: 0,
            insns,
            fds: BTreeMap::new(),
            fd_array: None,
            fd_array_is_counted: false,
            kernel_variables: false,
            maps: Vec::new(),
            btf: None,
            func_info: InfoRecords::default(),
            line_info: InfoRecords::default(),
            core_relos: InfoRecords::default(),
            kernel_btf: None,
            attach_btf_id: TypeId(0),
            attach: AttachTarget::Kernel,
            target_traits: TargetTraits::default(),
            privilege: Privilege::FULL,
            seed: 0,
            keeps_dead_code: false,
            notes_held: false,
            nr_cpu_ids: 2,
        }
    }

    /// Whether the license is one that may call GPL-only helpers.
    ///
    /// # Source
    /// `license_is_gpl_compatible` as described in Documentation/process/license-rules.rst.
    pub fn is_gpl_compatible(&self) -> bool {
        matches!(
            self.license.as_str(),
            "GPL"
                | "GPL v2"
                | "GPL and additional rights"
                | "Dual BSD/GPL"
                | "Dual MIT/GPL"
                | "Dual MPL/GPL"
        )
    }
}
