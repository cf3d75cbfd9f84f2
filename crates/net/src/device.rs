//! `Device`: one device of the model with its hooks and counters.

use std::sync::{
    Arc,
    atomic::{AtomicU32, AtomicU64, Ordering},
};

use parking_lot::Mutex;
use ring3_helpers::packet::NetDevice;
use ring3_objects::LinkObject;
use ring3_sync::RcuCell;

use crate::{
    clsact::Clsact,
    hook::{HookSlot, MultiHook},
};

/// Which way a packet goes through a hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Into the host.
    Ingress,
    /// Out of the host.
    Egress,
}

impl Direction {
    /// `ingress` or `egress`.
    pub const fn name(self) -> &'static str {
        match self {
            Direction::Ingress => "ingress",
            Direction::Egress => "egress",
        }
    }
}

macro_rules! counters {
    ($($(#[$meta:meta])* $field:ident),* $(,)?) => {
        /// Counters of a device.
        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $(pub(crate) $field: AtomicU64,)*
        }

        /// Counters of a device, read at one time.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct DeviceStats {
            $($(#[$meta])* pub $field: u64,)*
        }

        impl Counters {
            fn read(&self) -> DeviceStats {
                DeviceStats { $($field: self.$field.load(Ordering::Relaxed),)* }
            }
        }

        impl DeviceStats {
            /// Every counter with its name.
            pub fn named(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($field), self.$field)),*].into_iter()
            }
        }
    };
}

counters! {
    /// Packets that came in.
    rx_packets,
    /// Packets that left.
    tx_packets,
    /// Packets that reached the stack.
    to_stack,
    /// `XDP_DROP`
    xdp_drop,
    /// `XDP_ABORTED` and results that are no action.
    xdp_aborted,
    /// `XDP_TX`
    xdp_tx,
    /// `XDP_REDIRECT`
    xdp_redirect,
    /// Dropped or consumed by tcx or clsact at ingress.
    ingress_drop,
    /// Dropped or consumed by tcx or clsact at egress.
    egress_drop,
    /// Redirected by tcx or clsact.
    tc_redirect,
    /// Redirects without a device, without a neighbour, or round and round.
    redirect_failed,
    /// Dropped by a cgroup's programs.
    cgroup_drop,
    /// Longer than the device's MTU.
    too_long,
}

/// A device.
pub struct Device {
    net: Arc<NetDevice>,
    mac: [u8; 6],
    queues: u32,
    peer: AtomicU32,
    pub(crate) xdp: RcuCell<Option<HookSlot>>,
    pub(crate) tcx: [MultiHook; 2],
    pub(crate) clsact: [Clsact; 2],
    pub(crate) counters: Counters,
    /// Links that the device's end detaches.
    pub(crate) links: Mutex<Vec<std::sync::Weak<LinkObject>>>,
}

impl Device {
    pub(crate) fn new(ifindex: u32, name: &str, mtu: u32, mac: [u8; 6], queues: u32) -> Device {
        Device {
            net: NetDevice::new(ifindex, name, mtu),
            mac,
            queues,
            peer: AtomicU32::new(0),
            xdp: RcuCell::new(None),
            tcx: Default::default(),
            clsact: Default::default(),
            counters: Counters::default(),
            links: Mutex::default(),
        }
    }

    /// Interface index.
    pub fn ifindex(&self) -> u32 {
        self.net.ifindex()
    }

    /// Name.
    pub fn name(&self) -> &str {
        self.net.name()
    }

    /// MTU in bytes.
    pub fn mtu(&self) -> u32 {
        self.net.mtu()
    }

    /// Link address.
    pub fn mac(&self) -> [u8; 6] {
        self.mac
    }

    /// Receive queues.
    pub fn queues(&self) -> u32 {
        self.queues
    }

    /// What programs see of it.
    pub fn net_device(&self) -> &Arc<NetDevice> {
        &self.net
    }

    /// The device at the other end of the wire.
    pub fn peer(&self) -> Option<u32> {
        Some(self.peer.load(Ordering::Relaxed)).filter(|peer| *peer != 0)
    }

    pub(crate) fn set_peer(&self, ifindex: u32) {
        self.peer.store(ifindex, Ordering::Relaxed);
    }

    /// The attached XDP program.
    pub fn xdp(&self) -> Option<HookSlot> {
        self.xdp.load().clone()
    }

    /// The tcx hook of a direction.
    pub fn tcx(&self, direction: Direction) -> &MultiHook {
        &self.tcx[direction as usize]
    }

    /// The classifier of a direction.
    pub fn clsact(&self, direction: Direction) -> &Clsact {
        &self.clsact[direction as usize]
    }

    /// Counters so far.
    pub fn stats(&self) -> DeviceStats {
        self.counters.read()
    }
}

pub(crate) fn bump(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
