//! Which rows belong to which view.

use super::{
    CtxTable, cgroup::*, packet::*, plain::*, select::*, skb::*, sock::*, sock_addr::*, sock_ops::*,
};
use crate::CtxView;

macro_rules! tables {
    ($($view:ident = $fields:ident, $uapi:literal, $kernel:literal, $bytes:literal;)*) => {
        $(
            const _: () = {
                let mut i = 1;
                while i < $fields.len() {
                    assert!($fields[i - 1].offset <= $fields[i].offset);
                    i += 1;
                }
            };
        )*

        /// The context of a view; none where BTF describes it or there is none.
        pub fn table(view: CtxView) -> Option<&'static CtxTable> {
            match view {
                $(CtxView::$view => {
                    static TABLE: CtxTable = CtxTable {
                        view: Some(CtxView::$view),
                        uapi_struct: $uapi,
                        kernel_struct: $kernel,
                        bytes: $bytes,
                        fields: $fields,
                    };
                    Some(&TABLE)
                })*
                CtxView::Custom(table) => Some(table),
                CtxView::BtfArgs | CtxView::Extended | CtxView::None => None,
            }
        }
    };
}

tables! {
    SocketFilter = SOCKET_FILTER, "__sk_buff", "sk_buff", 192;
    TcClsAct = TC_CLS_ACT, "__sk_buff", "sk_buff", 192;
    CgroupSkb = CGROUP_SKB, "__sk_buff", "sk_buff", 192;
    Lwt = LWT, "__sk_buff", "sk_buff", 192;
    SkSkb = SK_SKB, "__sk_buff", "sk_buff", 192;
    FlowDissector = FLOW_DISSECTOR, "__sk_buff", "bpf_flow_dissector", 192;
    Xdp = XDP, "xdp_md", "xdp_buff", 24;
    CgroupSock = CGROUP_SOCK, "bpf_sock", "sock", 80;
    SockAddr = SOCK_ADDR, "bpf_sock_addr", "bpf_sock_addr_kern", 72;
    SockOps = SOCK_OPS, "bpf_sock_ops", "bpf_sock_ops_kern", 224;
    SkMsg = SK_MSG, "sk_msg_md", "sk_msg", 80;
    SkReuseport = SK_REUSEPORT, "sk_reuseport_md", "sk_reuseport_kern", 56;
    SkLookup = SK_LOOKUP, "bpf_sk_lookup", "bpf_sk_lookup_kern", 72;
    CgroupDevice = CGROUP_DEVICE, "bpf_cgroup_dev_ctx", "bpf_cgroup_dev_ctx", 12;
    Sysctl = SYSCTL, "bpf_sysctl", "bpf_sysctl_kern", 8;
    Sockopt = SOCKOPT, "bpf_sockopt", "bpf_sockopt_kern", 40;
    PerfEvent = PERF_EVENT, "bpf_perf_event_data", "bpf_perf_event_data_kern", 184;
    Netfilter = NETFILTER, "bpf_nf_ctx", "bpf_nf_ctx", 16;
    Kprobe = KPROBE, "pt_regs", "", 168;
    Tracepoint = TRACEPOINT, "", "", 8192;
    RawTracepoint = RAW_TRACEPOINT, "bpf_raw_tracepoint_args", "", 96;
    RawTracepointWritable = RAW_TRACEPOINT_WRITABLE, "bpf_raw_tracepoint_args", "", 96;
    Syscall = SYSCALL, "", "", 65536;
    Lirc = LIRC, "", "", 4;
}

/// Sockets behind pointers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketView {
    /// `PTR_TO_SOCK_COMMON`
    SockCommon,
    /// `PTR_TO_SOCKET`
    Socket,
    /// `PTR_TO_TCP_SOCK`
    TcpSock,
    /// `PTR_TO_XDP_SOCK`
    XdpSock,
}

/// Their tables, in the order of [`SocketView`].
pub static SOCKET_VIEWS: [CtxTable; 4] = [
    CtxTable {
        view: None,
        uapi_struct: "bpf_sock",
        kernel_struct: "sock",
        bytes: 80,
        fields: SOCK_COMMON,
    },
    CtxTable {
        view: None,
        uapi_struct: "bpf_sock",
        kernel_struct: "sock",
        bytes: 80,
        fields: SOCKET,
    },
    CtxTable {
        view: None,
        uapi_struct: "bpf_tcp_sock",
        kernel_struct: "tcp_sock",
        bytes: 112,
        fields: TCP_SOCK,
    },
    CtxTable {
        view: None,
        uapi_struct: "bpf_xdp_sock",
        kernel_struct: "xdp_sock",
        bytes: 4,
        fields: XDP_SOCK,
    },
];

impl SocketView {
    /// The fields that programs see through such a pointer.
    pub fn table(self) -> &'static CtxTable {
        &SOCKET_VIEWS[self as usize]
    }
}
