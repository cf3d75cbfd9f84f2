//! Packet programs: test runs over socket buffers and XDP frames, and captures.
//!
//! [`register`] tells a [`ring3_objects::System`] what packet programs can do. Packets themselves and the helpers that change them are in
//! `ring3-helpers`; here is what happens around a run.
#![forbid(unsafe_code)]

mod capture;
mod test_run;

use std::sync::Arc;

pub use capture::{CaptureReader, CaptureWriter, CapturedPacket};
pub use ring3_helpers::packet::{NetDevice, Redirect, Skb, XdpBuff, take_redirect};
use ring3_objects::System;
use ring3_uapi::ProgType;
pub use test_run::{action_name, run_frame};

/// Registers the test runs of every program type that runs over packets.
pub fn register(system: &System) {
    system.register_prog_type(ProgType::Xdp, Arc::new(test_run::XdpOps));
    for &prog_type in ring3_helpers::packet::SKB_PROG_TYPES {
        system.register_prog_type(prog_type, Arc::new(test_run::SkbOps));
    }
}
