//! Packet programs: test runs over socket buffers and XDP frames, captures, and a model of devices that carries real packets.
//!
//! [`Net`] has devices with their hooks (XDP, tcx, the classic classifier, cgroup skb), routes and neighbours; [`PacketPath`] carries packets
//! through them.
//!
//! [`register`] tells a [`ring3_objects::System`] what packet programs can do. Packets themselves and the helpers that change them are in
//! `ring3-helpers`; here is what happens around a run.
#![forbid(unsafe_code)]

mod attach;
mod capture;
mod cgroup;
pub mod clsact;
mod device;
mod hook;
mod links;
mod path;
mod plan;
mod requests;
mod route;
mod script;
mod socket;
mod test_run;
mod wire;
mod world;
mod xdp_request;

use std::sync::Arc;

pub use capture::{CaptureReader, CaptureWriter, CapturedPacket};
pub use cgroup::{Cgroup, CgroupAttach, CgroupPlace};
pub use device::{Device, DeviceSpec, DeviceStats, Direction};
pub use hook::{Counts, Held, HookSlot, MultiHook};
pub use path::{Exit, PacketPath, Sink};
pub use plan::simulate;
pub use requests::{AttachRequest, CallerFds, QueryAnswer, QueryRequest, Target};
pub use ring3_helpers::packet::{NetDevice, Redirect, Skb, WorldGuard, XdpBuff, take_redirect};
use ring3_objects::System;
use ring3_uapi::ProgType;
pub use route::{Route, RouteKind};
pub use script::Script;
pub use socket::TapSocket;
pub use test_run::{LIVE_FRAMES, action_name, run_frame};
pub use wire::Wire;
pub use world::Net;
pub use xdp_request::{XdpMode, XdpRefusal, XdpRequest, xdp_flags};

/// Registers the test runs of every program type that runs over packets.
pub fn register(system: &System) {
    system.register_prog_type(ProgType::Xdp, Arc::new(test_run::XdpOps));
    system.register_prog_type(
        ProgType::FlowDissector,
        Arc::new(test_run::FlowDissectorOps),
    );
    system.register_prog_type(ProgType::SkLookup, Arc::new(test_run::SkLookupOps));
    system.register_prog_type(ProgType::Netfilter, Arc::new(test_run::NetfilterOps));
    for &prog_type in ring3_helpers::packet::SKB_PROG_TYPES {
        system.register_prog_type(prog_type, Arc::new(test_run::SkbOps));
    }
}
