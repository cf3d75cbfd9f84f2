//! Packets as BTF: for systems whose BTF lacks the structs that programs see which trace packet programs.

use super::{builtin_field, struct_size};
use crate::{Btf, Builder, IntEncoding, Kind, TypeId};
use alloc::vec::Vec;

/// A struct, and its members that packets have here, by offset; what a member that is a pointer points to: `void` or a struct.
type Row = (
    &'static str,
    &'static [(&'static str, Option<&'static str>)],
);

const VOID: Option<&str> = Some("void");

/// A struct comes before those that point to it.
const PACKET_TYPES: &[Row] = &[
    ("net_device", &[("mtu", None), ("ifindex", None)]),
    (
        "xdp_rxq_info",
        &[("dev", Some("net_device")), ("queue_index", None)],
    ),
    ("xdp_txq_info", &[("dev", Some("net_device"))]),
    (
        "xdp_buff",
        &[
            ("data", VOID),
            ("data_end", VOID),
            ("data_meta", VOID),
            ("data_hard_start", VOID),
            ("rxq", Some("xdp_rxq_info")),
            ("txq", Some("xdp_txq_info")),
            ("frame_sz", None),
            ("flags", None),
        ],
    ),
    (
        "sk_buff",
        &[
            ("dev", Some("net_device")),
            ("tstamp", None),
            ("len", None),
            ("data_len", None),
            ("mac_len", None),
            ("queue_mapping", None),
            ("tc_index", None),
            ("priority", None),
            ("skb_iif", None),
            ("hash", None),
            ("vlan_proto", None),
            ("vlan_tci", None),
            ("mark", None),
            ("protocol", None),
            ("transport_header", None),
            ("network_header", None),
            ("mac_header", None),
            ("tail", None),
            ("end", None),
            ("head", VOID),
            ("data", VOID),
            ("truesize", None),
        ],
    ),
];

/// BTF with `sk_buff`, `xdp_buff` and what they point to, in the layout of Linux 6.18, where `btf` lacks them; ids of what is there stay. `None` if it lacks none.
pub fn with_packet_types(btf: &Btf) -> Option<Vec<u8>> {
    let find = |name| btf.find_by_name_kind(name, Kind::Struct);
    if PACKET_TYPES.iter().all(|(name, _)| find(name).is_some()) {
        return None;
    }
    let mut builder = Builder::extend(btf);
    let mut made: Vec<(&str, TypeId)> = [1, 2, 4, 8]
        .into_iter()
        .zip(["u8", "u16", "u32", "u64"])
        .map(|(bytes, name)| (name, builder.add_int(name, bytes, IntEncoding::NONE)))
        .collect();
    let void = builder.add_ref(Kind::Ptr, "", TypeId::VOID);
    made.push(("void", void));
    for (name, members) in PACKET_TYPES {
        let id = match find(name) {
            Some(id) => id,
            None => {
                let members: Vec<(&str, TypeId, u32)> = members
                    .iter()
                    .filter_map(|(member, to)| {
                        let loc = builtin_field(name, member)?;
                        let wanted = to.unwrap_or(match loc.size {
                            1 => "u8",
                            2 => "u16",
                            4 => "u32",
                            _ => "u64",
                        });
                        let (_, ty) = made.iter().find(|(known, _)| *known == wanted)?;
                        Some((*member, *ty, loc.bit_offset))
                    })
                    .collect();
                let bytes = struct_size(None, name).unwrap_or(0);
                builder.add_struct(name, bytes, &members)
            }
        };
        made.push((name, builder.add_ref(Kind::Ptr, "", id)));
    }
    Some(builder.finish())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::{field, field_of};

    #[test]
    fn packets_are_described_as_the_table_says() {
        let empty = Btf::parse(&Builder::new().finish()).unwrap();
        let btf = Btf::parse(&with_packet_types(&empty).unwrap()).unwrap();
        assert_eq!(with_packet_types(&btf), None);
        for (name, members) in PACKET_TYPES {
            let id = btf.find_by_name_kind(name, Kind::Struct).unwrap();
            assert_eq!(btf.type_by_id(id).unwrap().members().len(), members.len());
            let mut end = 0;
            for (member, to) in *members {
                let loc = field_of(&btf, id, member).unwrap();
                assert_eq!(Some(loc), field(None, name, member), "{name}.{member}");
                assert!(loc.bit_offset >= end, "{name}.{member}");
                end = loc.bit_offset + loc.size * 8;
                assert!(to.is_none() || loc.size == 8, "{name}.{member}");
            }
        }
        let checked = crate::check::check(btf.bytes(), Default::default(), None);
        assert!(checked.is_ok(), "{checked:?}");
    }
}
