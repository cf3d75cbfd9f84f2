//! Where a program asked its packet to go: set by the redirect helpers, taken by the hook after the run.

use std::{cell::Cell, sync::Arc};

use ring3_maps::{CpuMap, DevMap, DevTarget, Map, XskMap};

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
        /// The next hop that the program named: 4 for IPv4 or 6 for IPv6, and the address.
        next_hop: Option<(u8, [u8; 16])>,
    },
    /// `bpf_redirect_map` to devices: [`take_map_targets`] has them.
    Devices,
    /// `bpf_redirect_map` to a CPU.
    Cpu {
        /// Which.
        cpu: u32,
    },
    /// `bpf_redirect_map` to an AF_XDP socket.
    Socket {
        /// Slot of the map.
        slot: u32,
    },
}

/// Devices of a device map that a packet goes to.
pub type MapTargets = Vec<Arc<DevTarget>>;

thread_local! {
    static MAP_TARGETS: Cell<MapTargets> = const { Cell::new(Vec::new()) };
    static TARGET: Cell<Option<Redirect>> = const { Cell::new(None) };
}

pub(super) fn set_redirect(target: Redirect) {
    TARGET.set(Some(target));
}

/// The target of the run that just ended on this thread, if it asked for one.
pub fn take_redirect() -> Option<Redirect> {
    TARGET.take()
}

/// The devices of the [`Redirect::Devices`] that [`take_redirect`] just gave.
pub fn take_map_targets() -> MapTargets {
    MAP_TARGETS.take()
}

/// `XDP_ABORTED`
const XDP_ABORTED: u64 = 0;
/// `XDP_REDIRECT`
const XDP_REDIRECT: u64 = 4;
/// Low bits of the flags: what to return where the map has no target.
const ACTION_MASK: u64 = 3;
const BROADCAST: u64 = 1 << 3;
const EXCLUDE_INGRESS: u64 = 1 << 4;

/// `bpf_redirect_map`
pub(super) fn redirect_map(map: &Map, key: u64, flags: u64) -> u64 {
    let key = key as u32;
    let known = match map.downcast::<DevMap>() {
        Some(_) => ACTION_MASK | BROADCAST | EXCLUDE_INGRESS,
        None => ACTION_MASK,
    };
    if flags & !known != 0 {
        return XDP_ABORTED;
    }
    let target = if let Some(devices) = map.downcast::<DevMap>() {
        let targets = match flags & BROADCAST {
            0 => devices.target(key).map(|target| vec![target]),
            // A program that interrupted a change of the map finds no targets.
            _ => devices.all_targets().ok(),
        };
        targets.map(|targets| {
            MAP_TARGETS.set(targets);
            Redirect::Devices
        })
    } else if let Some(cpus) = map.downcast::<CpuMap>() {
        cpus.target(key).map(|_| Redirect::Cpu { cpu: key })
    } else if let Some(sockets) = map.downcast::<XskMap>() {
        sockets.target(key).map(|_| Redirect::Socket { slot: key })
    } else {
        None
    };
    match target {
        Some(target) => {
            set_redirect(target);
            XDP_REDIRECT
        }
        None => {
            TARGET.set(None);
            flags & ACTION_MASK
        }
    }
}
