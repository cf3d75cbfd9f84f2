//! Packets as programs see them: memory laid out as the kernel's `sk_buff`, `xdp_buff` and `net_device`, and the helpers that change it.
//!
//! The objects are Rust values whose first bytes are the kernel's object, so the pointer a program passes to a helper is the pointer to
//! the Rust value. Lengths and pointers belong to Rust and are written to the object on every change; scalar fields that programs may
//! write (mark, priority, cb) belong to the object.

pub mod csum;
mod device;
mod fib;
mod flow;
pub(crate) mod flow_dissector;
mod handshake;
mod headers;
mod layout;
mod netfilter;
mod object;
mod redirect;
mod run;
pub(crate) mod sk_lookup;
mod skb;
pub(crate) mod skb_helpers;
pub(crate) mod sock;
pub(crate) mod sock_helpers;
pub(crate) mod traced;
mod tunnel;
mod world;
mod xdp;
pub(crate) mod xdp_helpers;

pub use device::NetDevice;
pub use flow_dissector::FlowDissection;
pub use netfilter::NetfilterRun;
pub use redirect::{MapTargets, Redirect, take_map_targets, take_redirect};
pub use run::{Context, PacketProgram, SKB_PROG_TYPES};
pub use sk_lookup::SkLookup;
pub use skb::Skb;
pub use sock::{
    Endpoint, Sock, SockOption, SockOptionValue, SockQuery, SockSpec, family as sock_family,
    state as sock_state,
};
pub use world::{PacketWorld, RouteAnswer, RouteHop, RouteQuery, WorldGuard};
pub use xdp::XdpBuff;
