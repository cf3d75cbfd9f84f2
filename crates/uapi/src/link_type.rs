//! Link types, with the names libbpf uses.

use crate::uapi_enum;

uapi_enum! {
    /// Link types, with the names libbpf uses.
    ///
    /// # Source
    /// `enum bpf_link_type` of linux/bpf.h, Linux 6.18.
    pub enum LinkType {
        Unspec = 0, "BPF_LINK_TYPE_UNSPEC", "unspec";
        RawTracepoint = 1, "BPF_LINK_TYPE_RAW_TRACEPOINT", "raw_tracepoint";
        Tracing = 2, "BPF_LINK_TYPE_TRACING", "tracing";
        Cgroup = 3, "BPF_LINK_TYPE_CGROUP", "cgroup";
        Iter = 4, "BPF_LINK_TYPE_ITER", "iter";
        Netns = 5, "BPF_LINK_TYPE_NETNS", "netns";
        Xdp = 6, "BPF_LINK_TYPE_XDP", "xdp";
        PerfEvent = 7, "BPF_LINK_TYPE_PERF_EVENT", "perf_event";
        KprobeMulti = 8, "BPF_LINK_TYPE_KPROBE_MULTI", "kprobe_multi";
        StructOps = 9, "BPF_LINK_TYPE_STRUCT_OPS", "struct_ops";
        Netfilter = 10, "BPF_LINK_TYPE_NETFILTER", "netfilter";
        Tcx = 11, "BPF_LINK_TYPE_TCX", "tcx";
        UprobeMulti = 12, "BPF_LINK_TYPE_UPROBE_MULTI", "uprobe_multi";
        Netkit = 13, "BPF_LINK_TYPE_NETKIT", "netkit";
        Sockmap = 14, "BPF_LINK_TYPE_SOCKMAP", "sockmap";
    }
}
