//! Kernel functions that programs may call: names, flags and the hooks of programs that may call them.
//!
//! Which hook may call which function was asked of Linux 6.18 for every program type it loads
//! (`calling kernel function F is not allowed`); struct_ops, LSM and modified functions, and the flags that no message
//! shows, come from the kernel's documentation of kfuncs. Prototypes are in the kernel's BTF.
//!
//! # Source
//! Documentation/bpf/kfuncs.rst; declaration tags `bpf_kfunc` of the reference kernel's BTF.

use ring3_uapi::{AttachType, ProgType};

/// What is special about calling a kernel function.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KfuncFlags(u32);

macro_rules! flags {
    ($($(#[$meta:meta])* $name:ident = $bit:literal;)*) => {
        impl KfuncFlags {
            $($(#[$meta])* pub const $name: KfuncFlags = KfuncFlags(1 << $bit);)*
        }
    };
}

flags! {
    /// Returns a reference.
    ACQUIRE = 0;
    /// Takes a reference back.
    RELEASE = 1;
    /// May return NULL.
    RET_NULL = 2;
    /// Objects passed must be trusted.
    TRUSTED_ARGS = 3;
    /// May sleep.
    SLEEPABLE = 4;
    /// Needs CAP_SYS_BOOT.
    DESTRUCTIVE = 5;
    /// Objects passed must be trusted or under a read lock.
    RCU = 6;
    /// Makes an iterator.
    ITER_NEW = 7;
    /// Advances one.
    ITER_NEXT = 8;
    /// Ends one.
    ITER_DESTROY = 9;
    /// The iterator is valid only under a read lock.
    RCU_PROTECTED = 10;
    /// Keeps the registers that hold no arguments.
    FASTCALL = 11;
}

impl KfuncFlags {
    /// None.
    pub const NONE: KfuncFlags = KfuncFlags(0);

    /// Both sets.
    pub const fn or(self, other: KfuncFlags) -> KfuncFlags {
        KfuncFlags(self.0 | other.0)
    }

    /// Whether every flag of `other` is set.
    pub const fn contains(self, other: KfuncFlags) -> bool {
        self.0 & other.0 == other.0
    }
}

/// Groups of program types that share their kernel functions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KfuncHook {
    /// All programs.
    Common,
    /// XDP
    Xdp,
    /// Classifiers.
    Tc,
    /// Implementations of kernel interfaces.
    StructOps,
    /// Functions, tracepoints, perf events, iterators, security hooks.
    Tracing,
    /// System call programs.
    Syscall,
    /// Functions whose result may be modified: not called, attached to.
    Fmodret,
    /// cgroup hooks.
    Cgroup,
    /// Actions.
    SchedAct,
    /// Socket map programs.
    SkSkb,
    /// Socket filters.
    SocketFilter,
    /// Lightweight tunnels.
    Lwt,
    /// Netfilter.
    Netfilter,
    /// Probes.
    Kprobe,
    /// Security hooks only.
    Lsm,
    /// Program types of a host application.
    Host,
}

impl KfuncHook {
    /// Whether programs of a type are in the group.
    pub const fn includes(self, prog_type: ProgType) -> bool {
        match self {
            KfuncHook::Common => true,
            KfuncHook::Xdp => matches!(prog_type, ProgType::Xdp),
            KfuncHook::Tc => matches!(prog_type, ProgType::SchedCls),
            KfuncHook::StructOps => matches!(prog_type, ProgType::StructOps),
            KfuncHook::Tracing => matches!(
                prog_type,
                ProgType::Tracing | ProgType::Tracepoint | ProgType::PerfEvent | ProgType::Lsm
            ),
            KfuncHook::Syscall => matches!(prog_type, ProgType::Syscall),
            KfuncHook::Fmodret => false,
            KfuncHook::Cgroup => matches!(
                prog_type,
                ProgType::CgroupSkb
                    | ProgType::CgroupSock
                    | ProgType::CgroupDevice
                    | ProgType::CgroupSockAddr
                    | ProgType::CgroupSockopt
                    | ProgType::CgroupSysctl
                    | ProgType::SockOps
            ),
            KfuncHook::SchedAct => matches!(prog_type, ProgType::SchedAct),
            KfuncHook::SkSkb => matches!(prog_type, ProgType::SkSkb),
            KfuncHook::SocketFilter => matches!(prog_type, ProgType::SocketFilter),
            KfuncHook::Lwt => matches!(
                prog_type,
                ProgType::LwtIn | ProgType::LwtOut | ProgType::LwtXmit | ProgType::LwtSeg6local
            ),
            KfuncHook::Netfilter => matches!(prog_type, ProgType::Netfilter),
            KfuncHook::Kprobe => matches!(prog_type, ProgType::Kprobe),
            KfuncHook::Lsm => matches!(prog_type, ProgType::Lsm),
            KfuncHook::Host => matches!(prog_type, ProgType::Custom(_)),
        }
    }
}

/// Programs of a hook that may call the function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KfuncFilter {
    /// All.
    Any,
    /// Sessions of probes.
    Session,
    /// Iterators of TCP and UDP sockets.
    TcpUdpIter,
}

/// A kernel function.
#[derive(Clone, Copy, Debug)]
pub struct KfuncRow {
    /// Name.
    pub name: &'static str,
    /// Flags.
    pub flags: KfuncFlags,
    /// Hooks of programs that may call it.
    pub hooks: &'static [KfuncHook],
    /// Further condition.
    pub filter: KfuncFilter,
}

impl KfuncRow {
    /// Whether a program of this type, attached so, may call it. For [`KfuncFilter::TcpUdpIter`] the caller also checks
    /// the iterator's name.
    pub fn is_for(&self, prog_type: ProgType, expected_attach_type: u32) -> bool {
        let attach = AttachType::from_raw(expected_attach_type);
        self.hooks.iter().any(|hook| hook.includes(prog_type))
            && match self.filter {
                KfuncFilter::Any => true,
                KfuncFilter::Session => {
                    matches!(
                        attach,
                        Some(AttachType::TraceKprobeSession | AttachType::TraceUprobeSession)
                    )
                }
                KfuncFilter::TcpUdpIter => attach == Some(AttachType::TraceIter),
            }
    }
}

/// The row of a kernel function.
pub fn find(name: &str) -> Option<&'static KfuncRow> {
    ROWS.binary_search_by(|row| row.name.cmp(name))
        .ok()
        .map(|at| &ROWS[at])
}

macro_rules! kfuncs {
    ($($name:literal: $($hook:ident)|+ $(, $flag:ident)* $(; $filter:ident)?)*) => {
        &[$(KfuncRow {
            name: $name,
            flags: KfuncFlags::NONE$(.or(KfuncFlags::$flag))*,
            hooks: &[$(KfuncHook::$hook),+],
            filter: kfuncs!(@filter $($filter)?),
        }),*]
    };
    (@filter) => { KfuncFilter::Any };
    (@filter $filter:ident) => { KfuncFilter::$filter };
}

/// Every kernel function of the reference kernel, by name, and those that only other configurations have
/// (`bpf_get_fsverity_digest`, `bpf_verify_pkcs7_signature`).
#[rustfmt::skip]
pub static ROWS: &[KfuncRow] = kfuncs! {
    "__bpf_trap": Common
    "bbr_cwnd_event": StructOps
    "bbr_init": StructOps
    "bbr_main": StructOps
    "bbr_min_tso_segs": StructOps
    "bbr_set_state": StructOps
    "bbr_sndbuf_expand": StructOps
    "bbr_ssthresh": StructOps
    "bbr_undo_cwnd": StructOps
    "bpf_arena_alloc_pages": Common, SLEEPABLE, TRUSTED_ARGS
    "bpf_arena_free_pages": Common, SLEEPABLE, TRUSTED_ARGS
    "bpf_arena_reserve_pages": Common, SLEEPABLE, TRUSTED_ARGS
    "bpf_cast_to_kern_ctx": Common, FASTCALL
    "bpf_cgroup_acquire": Xdp | Tc | Syscall | Tracing | Cgroup | StructOps, ACQUIRE, RET_NULL, RCU
    "bpf_cgroup_ancestor": Xdp | Tc | Syscall | Tracing | Cgroup | StructOps, ACQUIRE, RET_NULL, RCU
    "bpf_cgroup_from_id": Xdp | Tc | Syscall | Tracing | Cgroup | StructOps, ACQUIRE, RET_NULL
    "bpf_cgroup_read_xattr": Common, RCU
    "bpf_cgroup_release": Xdp | Tc | Syscall | Tracing | Cgroup | StructOps, RELEASE
    "bpf_copy_from_user_dynptr": Common, SLEEPABLE
    "bpf_copy_from_user_str": Common, SLEEPABLE
    "bpf_copy_from_user_str_dynptr": Common, SLEEPABLE
    "bpf_copy_from_user_task_dynptr": Common, SLEEPABLE, TRUSTED_ARGS
    "bpf_copy_from_user_task_str": Common, SLEEPABLE
    "bpf_copy_from_user_task_str_dynptr": Common, SLEEPABLE, TRUSTED_ARGS
    "bpf_cpumask_acquire": Syscall | Tracing, ACQUIRE, TRUSTED_ARGS
    "bpf_cpumask_and": Syscall | Tracing, RCU
    "bpf_cpumask_any_and_distribute": Syscall | Tracing, RCU
    "bpf_cpumask_any_distribute": Syscall | Tracing, RCU
    "bpf_cpumask_clear": Syscall | Tracing, RCU
    "bpf_cpumask_clear_cpu": Syscall | Tracing, RCU
    "bpf_cpumask_copy": Syscall | Tracing, RCU
    "bpf_cpumask_create": Syscall | Tracing, ACQUIRE, RET_NULL
    "bpf_cpumask_empty": Syscall | Tracing, RCU
    "bpf_cpumask_equal": Syscall | Tracing, RCU
    "bpf_cpumask_first": Syscall | Tracing, RCU
    "bpf_cpumask_first_and": Syscall | Tracing, RCU
    "bpf_cpumask_first_zero": Syscall | Tracing, RCU
    "bpf_cpumask_full": Syscall | Tracing, RCU
    "bpf_cpumask_intersects": Syscall | Tracing, RCU
    "bpf_cpumask_or": Syscall | Tracing, RCU
    "bpf_cpumask_populate": Syscall | Tracing, RCU
    "bpf_cpumask_release": Syscall | Tracing, RELEASE
    "bpf_cpumask_set_cpu": Syscall | Tracing, RCU
    "bpf_cpumask_setall": Syscall | Tracing, RCU
    "bpf_cpumask_subset": Syscall | Tracing, RCU
    "bpf_cpumask_test_and_clear_cpu": Syscall | Tracing, RCU
    "bpf_cpumask_test_and_set_cpu": Syscall | Tracing, RCU
    "bpf_cpumask_test_cpu": Syscall | Tracing, RCU
    "bpf_cpumask_weight": Syscall | Tracing, RCU
    "bpf_cpumask_xor": Syscall | Tracing, RCU
    "bpf_crypto_ctx_acquire": Syscall, ACQUIRE, RET_NULL, RCU
    "bpf_crypto_ctx_create": Syscall, ACQUIRE, RET_NULL, SLEEPABLE
    "bpf_crypto_ctx_release": Syscall, RELEASE
    "bpf_crypto_decrypt": Xdp | Tc | SchedAct, RCU
    "bpf_crypto_encrypt": Xdp | Tc | SchedAct, RCU
    "bpf_ct_change_status": Xdp | Tc, TRUSTED_ARGS
    "bpf_ct_change_timeout": Xdp | Tc, TRUSTED_ARGS
    "bpf_ct_insert_entry": Xdp | Tc, ACQUIRE, RET_NULL, RELEASE
    "bpf_ct_release": Xdp | Tc, RELEASE
    "bpf_ct_set_nat_info": Xdp | Tc, TRUSTED_ARGS
    "bpf_ct_set_status": Xdp | Tc, TRUSTED_ARGS
    "bpf_ct_set_timeout": Xdp | Tc, TRUSTED_ARGS
    "bpf_dynptr_adjust": Common
    "bpf_dynptr_clone": Common
    "bpf_dynptr_copy": Common
    "bpf_dynptr_from_skb": Tc | Tracing | Cgroup | SchedAct | SkSkb | SocketFilter | Lwt | Netfilter, TRUSTED_ARGS
    "bpf_dynptr_from_skb_meta": Tc | SchedAct, TRUSTED_ARGS
    "bpf_dynptr_from_xdp": Xdp
    "bpf_dynptr_is_null": Common
    "bpf_dynptr_is_rdonly": Common
    "bpf_dynptr_memset": Common
    "bpf_dynptr_size": Common
    "bpf_dynptr_slice": Common, RET_NULL
    "bpf_dynptr_slice_rdwr": Common, RET_NULL
    "bpf_fentry_test1": Fmodret
    "bpf_get_dentry_xattr": Lsm, SLEEPABLE, TRUSTED_ARGS
    "bpf_get_file_xattr": Lsm, SLEEPABLE, TRUSTED_ARGS
    "bpf_get_fsverity_digest": Lsm, TRUSTED_ARGS
    "bpf_get_kmem_cache": Common
    "bpf_get_task_exe_file": Lsm, ACQUIRE, TRUSTED_ARGS, RET_NULL
    "bpf_iter_bits_destroy": Common, ITER_DESTROY
    "bpf_iter_bits_new": Common, ITER_NEW
    "bpf_iter_bits_next": Common, ITER_NEXT, RET_NULL
    "bpf_iter_css_destroy": Common, ITER_DESTROY
    "bpf_iter_css_new": Common, ITER_NEW, TRUSTED_ARGS, RCU_PROTECTED
    "bpf_iter_css_next": Common, ITER_NEXT, RET_NULL
    "bpf_iter_css_task_destroy": Common, ITER_DESTROY
    "bpf_iter_css_task_new": Common, ITER_NEW, TRUSTED_ARGS
    "bpf_iter_css_task_next": Common, ITER_NEXT, RET_NULL
    "bpf_iter_dmabuf_destroy": Common, ITER_DESTROY, SLEEPABLE
    "bpf_iter_dmabuf_new": Common, ITER_NEW, SLEEPABLE
    "bpf_iter_dmabuf_next": Common, ITER_NEXT, RET_NULL, SLEEPABLE
    "bpf_iter_kmem_cache_destroy": Common, ITER_DESTROY, SLEEPABLE
    "bpf_iter_kmem_cache_new": Common, ITER_NEW, SLEEPABLE
    "bpf_iter_kmem_cache_next": Common, ITER_NEXT, RET_NULL, SLEEPABLE
    "bpf_iter_num_destroy": Common, ITER_DESTROY
    "bpf_iter_num_new": Common, ITER_NEW
    "bpf_iter_num_next": Common, ITER_NEXT, RET_NULL
    "bpf_iter_task_destroy": Common, ITER_DESTROY
    "bpf_iter_task_new": Common, ITER_NEW, TRUSTED_ARGS, RCU_PROTECTED
    "bpf_iter_task_next": Common, ITER_NEXT, RET_NULL
    "bpf_iter_task_vma_destroy": Common, ITER_DESTROY
    "bpf_iter_task_vma_new": Common, ITER_NEW, RCU
    "bpf_iter_task_vma_next": Common, ITER_NEXT, RET_NULL
    "bpf_key_put": Xdp | Tc | Syscall | Tracing | Cgroup | StructOps, RELEASE
    "bpf_kfunc_call_memb_release": Tc | Syscall | Tracing, RELEASE
    "bpf_kfunc_call_test_release": Tc | Syscall | Tracing, RELEASE
    "bpf_list_back": Xdp | Tc | Syscall | Tracing | Cgroup | StructOps, RET_NULL
    "bpf_list_front": Xdp | Tc | Syscall | Tracing | Cgroup | StructOps, RET_NULL
    "bpf_list_pop_back": Xdp | Tc | Syscall | Tracing | Cgroup | StructOps, ACQUIRE, RET_NULL
    "bpf_list_pop_front": Xdp | Tc | Syscall | Tracing | Cgroup | StructOps, ACQUIRE, RET_NULL
    "bpf_list_push_back_impl": Xdp | Tc | Syscall | Tracing | Cgroup | StructOps
    "bpf_list_push_front_impl": Xdp | Tc | Syscall | Tracing | Cgroup | StructOps
    "bpf_local_irq_restore": Common
    "bpf_local_irq_save": Common
    "bpf_lookup_system_key": Xdp | Tc | Syscall | Tracing | Cgroup | StructOps, ACQUIRE, RET_NULL
    "bpf_lookup_user_key": Xdp | Tc | Syscall | Tracing | Cgroup | StructOps, ACQUIRE, RET_NULL, SLEEPABLE
    "bpf_map_sum_elem_count": Common, TRUSTED_ARGS
    "bpf_modify_return_test": Fmodret
    "bpf_modify_return_test2": Fmodret
    "bpf_modify_return_test_tp": Common
    "bpf_obj_drop_impl": Xdp | Tc | Syscall | Tracing | Cgroup | StructOps, RELEASE
    "bpf_obj_new_impl": Xdp | Tc | Syscall | Tracing | Cgroup | StructOps, ACQUIRE, RET_NULL
    "bpf_path_d_path": Lsm, TRUSTED_ARGS
    "bpf_percpu_obj_drop_impl": Xdp | Tc | Syscall | Tracing | Cgroup | StructOps, RELEASE
    "bpf_percpu_obj_new_impl": Xdp | Tc | Syscall | Tracing | Cgroup | StructOps, ACQUIRE, RET_NULL
    "bpf_preempt_disable": Common
    "bpf_preempt_enable": Common
    "bpf_probe_read_kernel_dynptr": Common
    "bpf_probe_read_kernel_str_dynptr": Common
    "bpf_probe_read_user_dynptr": Common
    "bpf_probe_read_user_str_dynptr": Common
    "bpf_put_file": Lsm, RELEASE
    "bpf_rbtree_add_impl": Xdp | Tc | Syscall | Tracing | Cgroup | StructOps
    "bpf_rbtree_first": Xdp | Tc | Syscall | Tracing | Cgroup | StructOps, RET_NULL
    "bpf_rbtree_left": Xdp | Tc | Syscall | Tracing | Cgroup | StructOps, RET_NULL
    "bpf_rbtree_remove": Xdp | Tc | Syscall | Tracing | Cgroup | StructOps, ACQUIRE, RET_NULL
    "bpf_rbtree_right": Xdp | Tc | Syscall | Tracing | Cgroup | StructOps, RET_NULL
    "bpf_rbtree_root": Xdp | Tc | Syscall | Tracing | Cgroup | StructOps, RET_NULL
    "bpf_rcu_read_lock": Common
    "bpf_rcu_read_unlock": Common
    "bpf_rdonly_cast": Common, FASTCALL
    "bpf_refcount_acquire_impl": Xdp | Tc | Syscall | Tracing | Cgroup | StructOps, ACQUIRE, RET_NULL, RCU
    "bpf_remove_dentry_xattr": Lsm, SLEEPABLE, TRUSTED_ARGS
    "bpf_res_spin_lock": Common, RET_NULL
    "bpf_res_spin_lock_irqsave": Common, RET_NULL
    "bpf_res_spin_unlock": Common
    "bpf_res_spin_unlock_irqrestore": Common
    "bpf_send_signal_task": Xdp | Tc | Syscall | Tracing | Cgroup | StructOps, TRUSTED_ARGS
    "bpf_session_cookie": Kprobe; Session
    "bpf_session_is_return": Kprobe; Session
    "bpf_set_dentry_xattr": Lsm, SLEEPABLE, TRUSTED_ARGS
    "bpf_sk_assign_tcp_reqsk": Tc, TRUSTED_ARGS
    "bpf_skb_ct_alloc": Xdp | Tc, ACQUIRE, RET_NULL
    "bpf_skb_ct_lookup": Xdp | Tc, ACQUIRE, RET_NULL
    "bpf_sock_addr_set_sun_path": Cgroup
    "bpf_sock_destroy": Tracing, TRUSTED_ARGS; TcpUdpIter
    "bpf_sock_ops_enable_tx_tstamp": Cgroup, TRUSTED_ARGS
    "bpf_strcasecmp": Common
    "bpf_strchr": Common
    "bpf_strchrnul": Common
    "bpf_strcmp": Common
    "bpf_strcspn": Common
    "bpf_stream_vprintk_impl": Common, TRUSTED_ARGS
    "bpf_strlen": Common
    "bpf_strnchr": Common
    "bpf_strnlen": Common
    "bpf_strnstr": Common
    "bpf_strrchr": Common
    "bpf_strspn": Common
    "bpf_strstr": Common
    "bpf_task_acquire": Xdp | Tc | Syscall | Tracing | Cgroup | StructOps, ACQUIRE, RET_NULL, RCU
    "bpf_task_from_pid": Xdp | Tc | Syscall | Tracing | Cgroup | StructOps, ACQUIRE, RET_NULL
    "bpf_task_from_vpid": Xdp | Tc | Syscall | Tracing | Cgroup | StructOps, ACQUIRE, RET_NULL
    "bpf_task_get_cgroup1": Xdp | Tc | Syscall | Tracing | Cgroup | StructOps, ACQUIRE, RET_NULL, RCU
    "bpf_task_release": Xdp | Tc | Syscall | Tracing | Cgroup | StructOps, RELEASE
    "bpf_task_under_cgroup": Xdp | Tc | Syscall | Tracing | Cgroup | StructOps, RCU
    "bpf_task_work_schedule_resume_impl": Common, TRUSTED_ARGS
    "bpf_task_work_schedule_signal_impl": Common, TRUSTED_ARGS
    "bpf_throw": Xdp | Tc | Syscall | Tracing | Cgroup | StructOps
    "bpf_verify_pkcs7_signature": Xdp | Tc | Syscall | Tracing | Cgroup | StructOps, SLEEPABLE
    "bpf_wq_init": Common
    "bpf_wq_set_callback_impl": Common
    "bpf_wq_start": Common
    "bpf_xdp_ct_alloc": Xdp | Tc, ACQUIRE, RET_NULL
    "bpf_xdp_ct_lookup": Xdp | Tc, ACQUIRE, RET_NULL
    "bpf_xdp_get_xfrm_state": Xdp, ACQUIRE, RET_NULL
    "bpf_xdp_metadata_rx_hash": Common, TRUSTED_ARGS
    "bpf_xdp_metadata_rx_timestamp": Common, TRUSTED_ARGS
    "bpf_xdp_metadata_rx_vlan_tag": Common, TRUSTED_ARGS
    "bpf_xdp_pull_data": Xdp
    "bpf_xdp_xfrm_state_release": Xdp, RELEASE
    "css_rstat_flush": Tracing, SLEEPABLE
    "css_rstat_updated": Tracing
    "cubictcp_acked": StructOps
    "cubictcp_cong_avoid": StructOps
    "cubictcp_cwnd_event": StructOps
    "cubictcp_init": StructOps
    "cubictcp_recalc_ssthresh": StructOps
    "cubictcp_state": StructOps
    "tcp_cong_avoid_ai": StructOps
    "tcp_reno_cong_avoid": StructOps
    "tcp_reno_ssthresh": StructOps
    "tcp_reno_undo_cwnd": StructOps
    "tcp_slow_start": StructOps
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_sorted_and_found() {
        assert!(ROWS.windows(2).all(|pair| pair[0].name < pair[1].name));
        assert!(find("bpf_rcu_read_lock").is_some_and(|row| row.is_for(ProgType::Xdp, 0)));
        assert!(find("bpf_cpumask_create").is_some_and(|row| !row.is_for(ProgType::Xdp, 0)));
        assert!(find("bpf_no_such_function").is_none());
    }

    #[test]
    fn iterators_have_their_three_functions() {
        for row in ROWS
            .iter()
            .filter(|row| row.flags.contains(KfuncFlags::ITER_NEW))
        {
            let stem = row.name.strip_suffix("_new").unwrap();
            let next = find(&alloc::format!("{stem}_next")).unwrap();
            let destroy = find(&alloc::format!("{stem}_destroy")).unwrap();
            assert!(
                next.flags
                    .contains(KfuncFlags::ITER_NEXT.or(KfuncFlags::RET_NULL))
            );
            assert!(destroy.flags.contains(KfuncFlags::ITER_DESTROY));
        }
    }
}
