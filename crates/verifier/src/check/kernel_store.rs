//! Stores into objects of the kernel: the members that programs of a kind may change.
//!
//! Kernel counterpart: the `btf_struct_access` of classifiers, XDP and TCP congestion control. Neighbours: `btf_ptr`.

use ring3_btf::layout::field_of;
use ring3_btf::{Btf, Kind, TypeId};
use ring3_uapi::ProgType;

use crate::env::Env;
use crate::error::{Check, reject, unjudged};

/// A member that may be stored to: at its first byte only, or anywhere in it.
struct Writable {
    path: &'static str,
    anywhere: bool,
}

const fn member(path: &'static str) -> Writable {
    Writable {
        path,
        anywhere: false,
    }
}

/// Objects of one type, under the names by which programs know it.
struct Rule {
    types: &'static [&'static str],
    /// Name in messages.
    name: &'static str,
    members: &'static [Writable],
}

/// Connections, by classifiers and XDP.
const CONNECTIONS: Rule = Rule {
    types: &["nf_conn", "nf_conn___init"],
    name: "nf_conn",
    members: &[member("mark")],
};

/// TCP sockets, by congestion control.
///
/// # Source
/// A store of each size at each offset of `struct tcp_sock` on Linux 6.18.
const TCP_SOCKETS: Rule = Rule {
    types: &["tcp_sock"],
    name: "tcp_sock",
    members: &[
        member("inet_conn.icsk_inet.sk.sk_pacing_status"),
        member("inet_conn.icsk_inet.sk.sk_pacing_rate"),
        member("inet_conn.icsk_ack.pending"),
        Writable {
            path: "inet_conn.icsk_ca_priv",
            anywhere: true,
        },
        member("snd_cwnd"),
        member("snd_ssthresh"),
        member("ecn_flags"),
        member("app_limited"),
        member("snd_cwnd_cnt"),
        member("snd_cwnd_stamp"),
    ],
};

/// Arguments of the kernel's own test of implementations that change them.
///
/// # Source
/// Programs of the kernel's tests for it; what else it takes is not known.
const TEST_ARGUMENTS: Rule = Rule {
    types: &["st_ops_args"],
    name: "st_ops_args",
    members: &[member("a")],
};

/// Whether the program may store `size` bytes at `off` of an object of type `id`.
///
/// # Errors
/// EACCES: it may not.
pub(crate) fn check_store(env: &Env<'_>, btf: &Btf, id: TypeId, off: u32, size: u32) -> Check {
    let rule = match env.facts.attach.prog_type {
        ProgType::SchedCls | ProgType::SchedAct | ProgType::Xdp => &CONNECTIONS,
        ProgType::StructOps => {
            let target = env.facts.attach.target.as_ref();
            let ops = target.map_or("", |target| target.btf.name(env.req.attach_btf_id));
            match ops {
                "tcp_congestion_ops" => &TCP_SOCKETS,
                "bpf_testmod_st_ops" if off == 0 => &TEST_ARGUMENTS,
                _ => unjudged!("a store into a kernel object by an implementation of {ops}"),
            }
        }
        _ => reject!(EACCES, "only read is supported"),
    };
    let name = btf.name(id);
    if btf.kind(id) != Some(Kind::Struct) || !rule.types.contains(&name) {
        reject!(EACCES, "only read is supported");
    }
    let Some(object) = btf.find_by_name_kind(rule.name, Kind::Struct) else {
        unjudged!("struct {} is not in BTF", rule.name)
    };
    let found = rule.members.iter().find_map(|member| {
        let at = field_of(btf, object, member.path)?;
        let is_here = off == at.offset || member.anywhere && off > at.offset;
        (is_here && off < at.offset + at.size).then_some(at.offset + at.size)
    });
    let Some(end) = found else {
        reject!(EACCES, "no write support to {} at off {off}", rule.name)
    };
    if off + size > end {
        reject!(
            EACCES,
            "write access at off {off} with size {size} beyond the member of {} ended at {end}",
            rule.name
        );
    }
    Ok(())
}
