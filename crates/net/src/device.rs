//! `Device`: one device of the model with its hooks and counters.

use std::sync::{
    Arc, OnceLock, Weak,
    atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
};

use parking_lot::Mutex;
use ring3_helpers::packet::NetDevice;
use ring3_objects::{Error, LinkObject};
use ring3_sync::{RcuPair, rcu};
use ring3_uapi::Errno;

use crate::{
    clsact::Clsact,
    hook::{HookSlot, MultiHook},
    wire::Wire,
    xdp_request::XdpMode,
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
    /// Refused by the device of the host behind it.
    wire_failed,
}

/// How a new device is described.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceSpec {
    /// Name, 1 to 15 bytes.
    pub name: String,
    /// Index, or the next free one.
    pub ifindex: Option<u32>,
    /// MTU in bytes.
    pub mtu: u32,
    /// Link address, or one made of the index.
    pub mac: Option<[u8; 6]>,
    /// Receive queues.
    pub queues: u32,
}

impl DeviceSpec {
    /// An Ethernet device with one queue and MTU 1500.
    pub fn new(name: &str) -> DeviceSpec {
        DeviceSpec {
            name: name.to_owned(),
            ifindex: None,
            mtu: 1500,
            mac: None,
            queues: 1,
        }
    }
}

/// Links that the device's end detaches.
#[derive(Default)]
struct HeldLinks {
    links: Vec<Weak<LinkObject>>,
    is_gone: bool,
}

/// A device.
pub struct Device {
    net: Arc<NetDevice>,
    mac: [u8; 6],
    queues: u32,
    /// IPv4, IPv6.
    forwards: [AtomicBool; 2],
    peer: AtomicU32,
    wire: OnceLock<Wire>,
    pub(crate) xdp: RcuPair<Option<HookSlot>>,
    xdp_is_generic: AtomicBool,
    pub(crate) tcx: [MultiHook; 2],
    pub(crate) clsact: [Clsact; 2],
    pub(crate) counters: Counters,
    links: Mutex<HeldLinks>,
}

impl Device {
    pub(crate) fn new(ifindex: u32, spec: &DeviceSpec) -> Device {
        let [a, b, c, d] = ifindex.to_be_bytes();
        Device {
            net: NetDevice::new(ifindex, &spec.name, spec.mtu),
            mac: spec.mac.unwrap_or([2, 0, a, b, c, d]),
            queues: spec.queues,
            forwards: [(); 2].map(|()| AtomicBool::new(true)),
            peer: AtomicU32::new(0),
            wire: OnceLock::new(),
            xdp: RcuPair::new([None, None]),
            xdp_is_generic: AtomicBool::new(false),
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

    /// Whether packets of this device may be forwarded: what `bpf_fib_lookup` asks first. They may from the start.
    pub fn forwards(&self, is_ipv6: bool) -> bool {
        self.forwards[usize::from(is_ipv6)].load(Ordering::Relaxed)
    }

    /// Says whether packets of this device may be forwarded.
    pub fn set_forwarding(&self, is_ipv6: bool, forwards: bool) {
        self.forwards[usize::from(is_ipv6)].store(forwards, Ordering::Relaxed);
    }

    /// The device at the other end of the wire.
    pub fn peer(&self) -> Option<u32> {
        Some(self.peer.load(Ordering::Relaxed)).filter(|peer| *peer != 0)
    }

    /// Connects it with a device of the host, once: what is sent out of it goes there, and [`crate::PacketPath::pump`] brings in what comes from
    /// there.
    ///
    /// # Errors
    /// EBUSY: it is connected.
    pub fn connect(&self, wire: Wire) -> Result<(), Error> {
        self.wire.set(wire).map_err(|_| {
            let message = format!("device '{}' has a wire", self.name());
            Error::new(Errno::EBUSY, message)
        })
    }

    /// The host's device it is connected with.
    pub fn wire(&self) -> Option<&Wire> {
        self.wire.get()
    }

    pub(crate) fn set_peer(&self, ifindex: u32) {
        self.peer.store(ifindex, Ordering::Relaxed);
    }

    /// The attached XDP program.
    pub fn xdp(&self) -> Option<HookSlot> {
        self.xdp.read(&rcu::read()).clone()
    }

    /// Where the attached XDP program runs.
    pub fn xdp_mode(&self) -> XdpMode {
        if self.xdp_is_generic.load(Ordering::Relaxed) {
            XdpMode::Generic
        } else {
            XdpMode::Driver
        }
    }

    pub(crate) fn set_xdp_mode(&self, mode: XdpMode) {
        self.xdp_is_generic
            .store(mode == XdpMode::Generic, Ordering::Relaxed);
    }

    /// The tcx hook of a direction.
    pub fn tcx(&self, direction: Direction) -> &MultiHook {
        &self.tcx[direction as usize]
    }

    /// The classifier of a direction.
    pub fn clsact(&self, direction: Direction) -> &Clsact {
        &self.clsact[direction as usize]
    }

    /// Detaches the link with the device's end; at once if the device is gone meanwhile.
    pub(crate) fn hold_link(&self, link: &Arc<LinkObject>) {
        let mut held = self.links.lock();
        if held.is_gone {
            drop(held);
            return link.orphan();
        }
        held.links.retain(|link| link.strong_count() > 0);
        held.links.push(Arc::downgrade(link));
    }

    /// The device is taken away: its links are detached, its hooks emptied.
    ///
    /// # Errors
    /// EBUSY: inside of a program run.
    pub(crate) fn end(&self) -> Result<(), Error> {
        let links = {
            let mut held = self.links.lock();
            held.is_gone = true;
            std::mem::take(&mut held.links)
        };
        for link in links {
            if let Some(link) = link.upgrade() {
                link.orphan();
            }
        }
        self.set_xdp_slot(|_| Ok(None))?;
        self.tcx.iter().try_for_each(MultiHook::clear)?;
        for filters in &self.clsact {
            filters.remove(None, None)?;
        }
        Ok(())
    }

    /// Puts what `choose` says of the attached program in its place.
    ///
    /// # Errors
    /// What `choose` refuses. EBUSY: inside of a program run.
    pub(crate) fn set_xdp_slot(
        &self,
        choose: impl FnOnce(&Option<HookSlot>) -> Result<Option<HookSlot>, Error>,
    ) -> Result<(), Error> {
        let mut removed = None;
        self.xdp.edit(
            |old, new| {
                *new = choose(old)?;
                Ok::<_, Error>(())
            },
            |old| removed = old.take(),
        )?;
        drop(removed);
        Ok(())
    }

    /// Counters so far.
    pub fn stats(&self) -> DeviceStats {
        self.counters.read()
    }
}

pub(crate) fn bump(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
