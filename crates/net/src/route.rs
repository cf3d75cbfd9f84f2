//! Routes of the model: what `bpf_fib_lookup` and `bpf_redirect_neigh` look up.

use ring3_helpers::packet::RouteQuery;

/// What a route does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteKind {
    /// Forward.
    Unicast,
    /// The packet has arrived.
    Local,
    /// Drop silently.
    Blackhole,
    /// Drop, say unreachable.
    Unreachable,
    /// Drop, say prohibited.
    Prohibit,
}

/// A route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// IPv6 instead of IPv4.
    pub is_ipv6: bool,
    /// Destination; IPv4 addresses are the first four bytes.
    pub prefix: [u8; 16],
    /// Bits of the destination that count.
    pub prefix_bits: u8,
    /// What it does.
    pub kind: RouteKind,
    /// Device.
    pub ifindex: u32,
    /// Next hop, if not the destination itself.
    pub gateway: Option<[u8; 16]>,
    /// Lower is preferred.
    pub metric: u32,
}

impl Route {
    /// Whether the destination lies below the prefix.
    pub(crate) fn matches(&self, query: &RouteQuery) -> bool {
        self.is_ipv6 == query.is_ipv6
            && (0..usize::from(self.prefix_bits)).all(|bit| {
                let differ = self.prefix[bit / 8] ^ query.destination[bit / 8];
                differ & (0x80 >> (bit % 8)) == 0
            })
    }
}
