//! Offsets of the fields of kernel objects that this crate keeps, in bytes. They are the 6.18 layout of `ring3_btf::layout`, as
//! constants because every packet pays for them; a test holds the two together.

pub(super) mod sk_buff {
    pub(crate) const BYTES: usize = 224;
    pub(crate) const DEV: usize = 16;
    pub(crate) const SK: usize = 24;
    pub(crate) const TSTAMP: usize = 32;
    pub(crate) const CB: usize = 40;
    pub(crate) const LEN: usize = 112;
    pub(crate) const MAC_LEN: usize = 120;
    pub(crate) const QUEUE_MAPPING: usize = 124;
    /// Byte that holds `pkt_type` in its low three bits and `ip_summed` in bits 5 and 6.
    pub(crate) const PKT_TYPE: usize = 128;
    pub(crate) const HASH_FLAGS: usize = 130;
    pub(crate) const TC_INDEX: usize = 132;
    pub(crate) const PRIORITY: usize = 140;
    pub(crate) const SKB_IIF: usize = 144;
    pub(crate) const HASH: usize = 148;
    pub(crate) const VLAN_PROTO: usize = 152;
    pub(crate) const VLAN_TCI: usize = 154;
    pub(crate) const MARK: usize = 164;
    pub(crate) const PROTOCOL: usize = 176;
    pub(crate) const TRANSPORT_HEADER: usize = 178;
    pub(crate) const NETWORK_HEADER: usize = 180;
    pub(crate) const MAC_HEADER: usize = 182;
    pub(crate) const TAIL: usize = 184;
    pub(crate) const END: usize = 188;
    pub(crate) const HEAD: usize = 192;
    pub(crate) const DATA: usize = 200;
    pub(crate) const TRUESIZE: usize = 208;
}

/// `struct bpf_skb_data_end`, which lies over `sk_buff.cb`; offsets from the start of `cb`. `qdisc_skb_cb.data` (the program's `cb[]`)
/// begins at 8, `tc_classid` at 6.
pub(super) mod skb_cb {
    pub(crate) const TC_CLASSID: usize = 6;
    pub(crate) const DATA: usize = 8;
    pub(crate) const DATA_BYTES: usize = 20;
    pub(crate) const DATA_META: usize = 32;
    pub(crate) const DATA_END: usize = 40;
}

pub(super) mod xdp_buff {
    pub(crate) const BYTES: usize = 56;
    pub(crate) const DATA: usize = 0;
    pub(crate) const DATA_END: usize = 8;
    pub(crate) const DATA_META: usize = 16;
    pub(crate) const DATA_HARD_START: usize = 24;
    pub(crate) const RXQ: usize = 32;
    pub(crate) const TXQ: usize = 40;
    pub(crate) const FRAME_SZ: usize = 48;
    pub(crate) const FLAGS: usize = 52;
}

/// `struct skb_shared_info`, at the end of a frame. A fragment's page is its address here, as in `sk_buff.data`, not a `struct page`.
pub(super) mod skb_shared_info {
    pub(crate) const NR_FRAGS: usize = 2;
    pub(crate) const FRAGS: usize = 48;
    pub(crate) const FRAG_BYTES: usize = 16;
    pub(crate) const FRAG_LEN: usize = 8;
    pub(crate) const FRAGS_MAX: usize = 17;
}

pub(super) mod xdp_rxq_info {
    pub(crate) const BYTES: usize = 64;
    pub(crate) const DEV: usize = 0;
    pub(crate) const QUEUE_INDEX: usize = 8;
}

pub(super) mod net_device {
    pub(crate) const BYTES: usize = 2560;
    pub(crate) const MTU: usize = 56;
    pub(crate) const IFINDEX: usize = 224;
}

pub(super) mod bpf_flow_dissector {
    pub(crate) const BYTES: usize = 32;
    pub(crate) const FLOW_KEYS: usize = 0;
    pub(crate) const DATA: usize = 16;
    pub(crate) const DATA_END: usize = 24;
}

pub(super) mod bpf_flow_keys {
    pub(crate) const BYTES: usize = 56;
    pub(crate) const NHOFF: usize = 0;
    pub(crate) const THOFF: usize = 2;
    pub(crate) const N_PROTO: usize = 10;
    pub(crate) const FLAGS: usize = 48;
}

pub(super) mod bpf_sk_lookup_kern {
    pub(crate) const BYTES: usize = 48;
    pub(crate) const FAMILY: usize = 0;
    pub(crate) const PROTOCOL: usize = 2;
    pub(crate) const SPORT: usize = 4;
    pub(crate) const DPORT: usize = 6;
    pub(crate) const V4_SADDR: usize = 8;
    pub(crate) const V4_DADDR: usize = 12;
    pub(crate) const V6_SADDR: usize = 16;
    pub(crate) const V6_DADDR: usize = 24;
    pub(crate) const SELECTED_SK: usize = 32;
    pub(crate) const NO_REUSEPORT: usize = 44;
}

pub(super) mod bpf_nf_ctx {
    pub(crate) const BYTES: usize = 16;
    pub(crate) const STATE: usize = 0;
    pub(crate) const SKB: usize = 8;
}

pub(super) mod nf_hook_state {
    pub(crate) const BYTES: usize = 48;
    pub(crate) const HOOK: usize = 0;
    pub(crate) const PF: usize = 1;
    pub(crate) const IN: usize = 8;
    pub(crate) const OUT: usize = 16;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_are_those_of_the_layout_table() {
        let at = |object: &str, field: &str| {
            ring3_btf::layout::field(None, object, field)
                .unwrap_or_else(|| panic!("{object}.{field}"))
                .offset as usize
        };
        for (field, offset) in [
            ("dev", sk_buff::DEV),
            ("sk", sk_buff::SK),
            ("cb", sk_buff::CB),
            ("len", sk_buff::LEN),
            ("mac_len", sk_buff::MAC_LEN),
            ("queue_mapping", sk_buff::QUEUE_MAPPING),
            ("tc_index", sk_buff::TC_INDEX),
            ("priority", sk_buff::PRIORITY),
            ("skb_iif", sk_buff::SKB_IIF),
            ("hash", sk_buff::HASH),
            ("vlan_proto", sk_buff::VLAN_PROTO),
            ("vlan_tci", sk_buff::VLAN_TCI),
            ("mark", sk_buff::MARK),
            ("protocol", sk_buff::PROTOCOL),
            ("head", sk_buff::HEAD),
            ("data", sk_buff::DATA),
        ] {
            assert_eq!(at("sk_buff", field), offset, "sk_buff.{field}");
        }
        assert_eq!(at("xdp_buff", "data_end"), xdp_buff::DATA_END);
        assert_eq!(at("xdp_buff", "rxq"), xdp_buff::RXQ);
        assert_eq!(at("xdp_rxq_info", "queue_index"), xdp_rxq_info::QUEUE_INDEX);
        assert_eq!(at("net_device", "ifindex"), net_device::IFINDEX);
        for (object, field, offset) in [
            (
                "bpf_flow_dissector",
                "flow_keys",
                bpf_flow_dissector::FLOW_KEYS,
            ),
            ("bpf_flow_dissector", "data", bpf_flow_dissector::DATA),
            (
                "bpf_flow_dissector",
                "data_end",
                bpf_flow_dissector::DATA_END,
            ),
            ("bpf_flow_keys", "nhoff", bpf_flow_keys::NHOFF),
            ("bpf_flow_keys", "thoff", bpf_flow_keys::THOFF),
            ("bpf_flow_keys", "n_proto", bpf_flow_keys::N_PROTO),
            ("bpf_flow_keys", "flags", bpf_flow_keys::FLAGS),
            ("bpf_sk_lookup_kern", "family", bpf_sk_lookup_kern::FAMILY),
            (
                "bpf_sk_lookup_kern",
                "protocol",
                bpf_sk_lookup_kern::PROTOCOL,
            ),
            ("bpf_sk_lookup_kern", "sport", bpf_sk_lookup_kern::SPORT),
            ("bpf_sk_lookup_kern", "dport", bpf_sk_lookup_kern::DPORT),
            ("bpf_sk_lookup_kern", "v4", bpf_sk_lookup_kern::V4_SADDR),
            ("bpf_sk_lookup_kern", "v6", bpf_sk_lookup_kern::V6_SADDR),
            (
                "bpf_sk_lookup_kern",
                "selected_sk",
                bpf_sk_lookup_kern::SELECTED_SK,
            ),
            (
                "bpf_sk_lookup_kern",
                "no_reuseport",
                bpf_sk_lookup_kern::NO_REUSEPORT,
            ),
            ("bpf_nf_ctx", "state", bpf_nf_ctx::STATE),
            ("bpf_nf_ctx", "skb", bpf_nf_ctx::SKB),
            ("nf_hook_state", "hook", nf_hook_state::HOOK),
            ("nf_hook_state", "pf", nf_hook_state::PF),
            ("nf_hook_state", "in", nf_hook_state::IN),
            ("nf_hook_state", "out", nf_hook_state::OUT),
        ] {
            assert_eq!(at(object, field), offset, "{object}.{field}");
        }
    }
}
