//! Where a program asked its packet to go: set by the redirect helpers, taken by the hook after the run.

use std::cell::Cell;

/// A redirect target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Redirect {
    /// `bpf_redirect`: out of this device, or into it with `ingress`.
    Device {
        /// Target device.
        ifindex: u32,
        /// Into its receive path.
        ingress: bool,
    },
    /// `bpf_redirect_peer`: into the receive path of the device's peer.
    Peer {
        /// Device whose peer is meant.
        ifindex: u32,
    },
    /// `bpf_redirect_neigh`: out of this device, link addresses filled in.
    Neigh {
        /// Target device.
        ifindex: u32,
    },
}

thread_local! {
    static TARGET: Cell<Option<Redirect>> = const { Cell::new(None) };
}

pub(super) fn set_redirect(target: Redirect) {
    TARGET.set(Some(target));
}

/// The target of the run that just ended on this thread, if it asked for one.
pub fn take_redirect() -> Option<Redirect> {
    TARGET.take()
}
