//! What lies around a packet while a program runs: devices, routes, neighbours. Key type: [`PacketWorld`], set by the hook for its thread.

use std::{cell::RefCell, sync::Arc};

use ring3_uapi::Errno;

use super::{NetDevice, Sock, SockQuery};

/// Answers to what helpers ask about the network.
pub trait PacketWorld: Send + Sync {
    /// The device with this index.
    fn device(&self, ifindex: u32) -> Option<Arc<NetDevice>>;

    /// The peer of a device that has one.
    fn peer(&self, ifindex: u32) -> Option<u32>;

    /// A route lookup.
    fn route(&self, query: &RouteQuery) -> RouteAnswer;

    /// A copy of a packet that leaves at once: `bpf_clone_redirect`.
    ///
    /// # Errors
    /// EINVAL: no such device.
    fn send_clone(&self, frame: &[u8], ifindex: u32, ingress: bool) -> Result<(), Errno>;

    /// The socket that would get a packet; none, if the world has no sockets.
    fn find_socket(&self, query: &SockQuery) -> Option<Arc<Sock>> {
        let _ = query;
        None
    }
}

/// What a route lookup asks. IPv4 addresses are the first four bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteQuery {
    /// IPv6 instead of IPv4.
    pub is_ipv6: bool,
    /// Destination.
    pub destination: [u8; 16],
    /// Source.
    pub source: [u8; 16],
    /// Device the packet came in on or goes out of.
    pub ifindex: u32,
    /// Whether the next hop's link address is wanted.
    pub wants_neighbour: bool,
}

/// Where a packet would go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteAnswer {
    /// Out of a device to a next hop.
    Forward(RouteHop),
    /// There is no route, or the route drops: a `BPF_FIB_LKUP_RET_*` from 1 to 5.
    Stopped(u8),
    /// No such device was given.
    NoDevice,
}

/// A next hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteHop {
    /// Device it lies behind.
    pub ifindex: u32,
    /// MTU of the route, in bytes.
    pub mtu: u32,
    /// Gateway, if there is one.
    pub gateway: Option<[u8; 16]>,
    /// Metric.
    pub metric: u32,
    /// Link addresses of the device and of the next hop, if that is known.
    pub link: Option<([u8; 6], [u8; 6])>,
}

thread_local! {
    static WORLD: RefCell<Option<Arc<dyn PacketWorld>>> = const { RefCell::new(None) };
}

/// The world of this thread's runs, as long as the value lives; the one before comes back with its end.
pub struct WorldGuard(Option<Arc<dyn PacketWorld>>);

impl WorldGuard {
    /// Enters a world.
    pub fn enter(world: Arc<dyn PacketWorld>) -> WorldGuard {
        WorldGuard(WORLD.replace(Some(world)))
    }
}

impl Drop for WorldGuard {
    fn drop(&mut self) {
        WORLD.set(self.0.take());
    }
}

/// The world, if a hook set one. The cell is not borrowed while the answer is worked out: that may run programs.
pub(super) fn current() -> Option<Arc<dyn PacketWorld>> {
    WORLD.with_borrow(Clone::clone)
}

/// The device with this index; without a world, the packet's own device is all there is.
pub(super) fn device(own: &Arc<NetDevice>, ifindex: u32) -> Option<Arc<NetDevice>> {
    if ifindex == 0 || ifindex == own.ifindex() {
        return Some(Arc::clone(own));
    }
    current()?.device(ifindex)
}
