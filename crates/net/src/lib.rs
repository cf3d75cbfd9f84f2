//! Packet programs: test runs over socket buffers and XDP frames, captures, and a model of devices that carries real packets.
//!
//! [`Net`] has devices with their hooks (XDP, tcx, the classic classifier, cgroup skb), routes and neighbours; [`PacketPath`] carries packets
//! through them.
//!
//! [`register`] tells a [`ring3_objects::System`] what packet programs can do. Packets themselves and the helpers that change them are in
//! `ring3-helpers`; here is what happens around a run.
#![forbid(unsafe_code)]

mod capture;
pub mod clsact;
mod device;
mod hook;
mod path;
mod plan;
mod script;
mod test_run;
mod world;

use std::sync::Arc;

pub use capture::{CaptureReader, CaptureWriter, CapturedPacket};
pub use device::{Device, DeviceStats, Direction};
pub use hook::{Counts, Held, HookSlot, MultiHook};
pub use path::{Exit, PacketPath, Sink};
pub use plan::simulate;
pub use ring3_helpers::packet::{NetDevice, Redirect, Skb, XdpBuff, take_redirect};
use ring3_objects::System;
use ring3_uapi::ProgType;
pub use script::Script;
pub use test_run::{action_name, run_frame};
pub use world::{Net, Route, RouteKind};

/// Registers the test runs of every program type that runs over packets.
pub fn register(system: &System) {
    system.register_prog_type(ProgType::Xdp, Arc::new(test_run::XdpOps));
    for &prog_type in ring3_helpers::packet::SKB_PROG_TYPES {
        system.register_prog_type(prog_type, Arc::new(test_run::SkbOps));
    }
}
