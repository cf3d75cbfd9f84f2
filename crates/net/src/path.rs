//! `PacketPath`: the way of a packet through devices, in memory that is used again for the next one.
//!
//! Received: XDP, then tcx and clsact at ingress, then the cgroup's programs and the stack. Sent: tcx and clsact at egress, then the wire, and
//! the peer at its other end. A redirect goes on with the same packet at another device.

use std::{collections::VecDeque, sync::Arc, sync::atomic::Ordering};

use ring3_helpers::packet::{
    PacketProgram, PacketWorld, Redirect, RouteAnswer, RouteQuery, Skb, WorldGuard, XdpBuff,
    take_map_targets, take_redirect,
};
use ring3_objects::{Error, Program};

use crate::{
    clsact::act,
    device::{Device, Direction, bump},
    world::Net,
};

/// Hooks that one packet and its copies may pass; a packet that goes round is dropped.
const HOPS_MAX: u32 = 16;
/// Packets that may wait for their turn.
const QUEUE_MAX: usize = 4096;

/// Where a packet left the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Out of a device's wire.
    Sent,
    /// Into the stack.
    Stack,
    /// Into an AF_XDP socket.
    Socket,
}

/// Hears every packet that leaves the model: how, on which device, its bytes.
pub type Sink = Box<dyn FnMut(Exit, &Device, &[u8]) + Send>;

enum Work {
    Receive { ifindex: u32, frame: Vec<u8> },
    Ingress { ifindex: u32, frame: Vec<u8> },
    Send { ifindex: u32, frame: Vec<u8> },
}

/// `XDP_*`
mod xdp_act {
    pub(super) const DROP: u32 = 1;
    pub(super) const PASS: u32 = 2;
    pub(super) const TX: u32 = 3;
    pub(super) const REDIRECT: u32 = 4;
}

/// Carries packets, one after the other.
pub struct PacketPath {
    net: Net,
    xdp: Box<XdpBuff>,
    copy: Box<XdpBuff>,
    skb: Box<Skb>,
    queue: VecDeque<Work>,
    hops: u32,
    sink: Option<Sink>,
}

impl PacketPath {
    /// A path through a network.
    pub fn new(net: &Net) -> PacketPath {
        const EMPTY: [u8; 14] = [0; 14];
        let lo = net.devices().into_iter().next();
        let dev = lo.map_or_else(
            || ring3_helpers::packet::NetDevice::new(1, "lo", 65536),
            |lo| Arc::clone(lo.net_device()),
        );
        let xdp = || XdpBuff::received(&EMPTY, &dev, 0).expect("a whole link header");
        PacketPath {
            net: net.clone(),
            xdp: xdp(),
            copy: xdp(),
            skb: Skb::received(&EMPTY, &dev).expect("a whole link header"),
            queue: VecDeque::new(),
            hops: 0,
            sink: None,
        }
    }

    /// Says who hears the packets that leave.
    #[must_use]
    pub fn with_sink(mut self, sink: Sink) -> PacketPath {
        self.sink = Some(sink);
        self
    }

    /// A frame arrives at a device, and everything happens that follows from it.
    ///
    /// # Errors
    /// EINVAL: shorter than a link header, or longer than 65535 bytes.
    pub fn inject(&mut self, device: &Arc<Device>, frame: &[u8]) -> Result<(), Error> {
        self.enter(frame, |path| path.receive(device, frame))
    }

    /// The stack sends a frame out of a device.
    ///
    /// # Errors
    /// As [`PacketPath::inject`].
    pub fn send(&mut self, device: &Arc<Device>, frame: &[u8]) -> Result<(), Error> {
        self.enter(frame, |path| {
            if path.fill(device, frame) {
                if path.cgroup_passes(Direction::Egress) {
                    path.travel(Direction::Egress, Arc::clone(device));
                } else {
                    bump(&device.counters.cgroup_drop);
                }
            }
        })
    }

    fn enter(&mut self, frame: &[u8], first: impl FnOnce(&mut Self)) -> Result<(), Error> {
        if frame.len() < 14 || frame.len() > 0xffff {
            let message = format!("a frame of {} bytes, expected 14..=65535", frame.len());
            return Err(Error::new(ring3_uapi::Errno::EINVAL, message));
        }
        let world: Arc<dyn PacketWorld> = self.net.world.clone();
        let _guard = WorldGuard::enter(world);
        self.hops = 0;
        first(self);
        loop {
            if self.net.world.has_clones.load(Ordering::Relaxed) {
                self.queue_clones();
            }
            let Some(work) = self.queue.pop_front() else {
                return Ok(());
            };
            self.work(work);
        }
    }

    fn queue_clones(&mut self) {
        for clone in self.net.world.take_clones() {
            let (ifindex, frame) = (clone.ifindex, clone.frame);
            self.push(if clone.ingress {
                Work::Ingress { ifindex, frame }
            } else {
                Work::Send { ifindex, frame }
            });
        }
    }

    fn push(&mut self, work: Work) {
        if self.queue.len() < QUEUE_MAX {
            self.queue.push_back(work);
        }
    }

    fn work(&mut self, work: Work) {
        let (Work::Receive { ifindex, .. }
        | Work::Ingress { ifindex, .. }
        | Work::Send { ifindex, .. }) = work;
        let Some(device) = self.net.device(ifindex) else {
            return;
        };
        self.hops += 1;
        if self.hops > HOPS_MAX {
            bump(&device.counters.redirect_failed);
            return;
        }
        match work {
            Work::Receive { frame, .. } => self.receive(&device, &frame),
            Work::Ingress { frame, .. } => {
                if self.fill(&device, &frame) {
                    self.travel(Direction::Ingress, device);
                }
            }
            Work::Send { frame, .. } => {
                if self.fill(&device, &frame) {
                    self.travel(Direction::Egress, device);
                }
            }
        }
    }

    /// Puts a frame into the packet; false where it is none.
    fn fill(&mut self, device: &Device, frame: &[u8]) -> bool {
        let is_filled = self.skb.refill(frame, device.net_device()).is_ok();
        self.skb.set_ingress_ifindex(device.ifindex());
        is_filled
    }

    fn receive(&mut self, device: &Arc<Device>, frame: &[u8]) {
        bump(&device.counters.rx_packets);
        let passes = match &*device.xdp.load() {
            None => self.skb.refill(frame, device.net_device()).is_ok(),
            Some(slot) => {
                slot.counts.count_run();
                let passes = self.run_xdp(device, &slot.prog, frame);
                if !passes {
                    slot.counts.count_stop();
                }
                passes
            }
        };
        if passes {
            self.skb.set_ingress_ifindex(device.ifindex());
            self.travel(Direction::Ingress, Arc::clone(device));
        }
    }

    /// Runs the device's XDP program; whether the packet goes on to the stack, and is in the skb then.
    fn run_xdp(&mut self, device: &Arc<Device>, prog: &Arc<Program>, frame: &[u8]) -> bool {
        let Ok(program) = PacketProgram::over_xdp(&**prog) else {
            return false;
        };
        if self.xdp.refill(frame, device.net_device(), 0).is_err() {
            return false;
        }
        match program.run(&mut self.xdp) {
            xdp_act::PASS => self.pass_to_stack(device),
            xdp_act::DROP => {
                bump(&device.counters.xdp_drop);
                false
            }
            xdp_act::TX => {
                bump(&device.counters.xdp_tx);
                let frame = self.queue_frame(FrameOf::Xdp);
                self.wire(device, &frame);
                false
            }
            xdp_act::REDIRECT => self.redirect_xdp(device),
            _ => {
                bump(&device.counters.xdp_aborted);
                false
            }
        }
    }

    fn pass_to_stack(&mut self, device: &Device) -> bool {
        let is_filled = self
            .skb
            .refill(self.xdp.data(), device.net_device())
            .is_ok();
        if is_filled && !self.xdp.metadata().is_empty() {
            self.skb.set_metadata(self.xdp.metadata());
        }
        is_filled
    }

    /// A copy of the packet at hand, for what outlives it.
    fn queue_frame(&self, of: FrameOf) -> Vec<u8> {
        match of {
            FrameOf::Xdp => self.xdp.data().to_owned(),
            FrameOf::Copy => self.copy.data().to_owned(),
        }
    }

    fn redirect_xdp(&mut self, device: &Arc<Device>) -> bool {
        bump(&device.counters.xdp_redirect);
        match take_redirect() {
            Some(Redirect::Device { ifindex, .. }) => match self.net.device(ifindex) {
                Some(target) => {
                    let frame = self.queue_frame(FrameOf::Xdp);
                    self.wire(&target, &frame);
                }
                None => bump(&device.counters.redirect_failed),
            },
            Some(Redirect::Devices) => {
                for target in take_map_targets() {
                    self.send_to_map_target(device, &target);
                }
            }
            // Another CPU of the model is the same one.
            Some(Redirect::Cpu { .. }) => return self.pass_to_stack(device),
            Some(Redirect::Socket { .. }) => {
                if let Some(sink) = &mut self.sink {
                    sink(Exit::Socket, device, self.xdp.data());
                }
            }
            _ => bump(&device.counters.redirect_failed),
        }
        false
    }

    /// Sends a copy to a device of a map, through the program that the map has for it.
    fn send_to_map_target(&mut self, device: &Arc<Device>, target: &ring3_maps::DevTarget) {
        let Some(out) = self.net.device(target.ifindex) else {
            bump(&device.counters.redirect_failed);
            return;
        };
        if self
            .copy
            .refill(self.xdp.data(), out.net_device(), 0)
            .is_err()
        {
            return;
        }
        let prog = target
            .prog
            .as_ref()
            .and_then(|slot| slot.keep.downcast_ref::<Program>());
        if let Some(prog) = prog {
            let verdict = PacketProgram::over_xdp(prog).map(|program| program.run(&mut self.copy));
            if verdict != Ok(xdp_act::PASS) {
                bump(&out.counters.xdp_drop);
                return;
            }
        }
        let frame = self.queue_frame(FrameOf::Copy);
        self.wire(&out, &frame);
    }

    /// Carries the packet in the skb on, from a direction of a device.
    fn travel(&mut self, mut direction: Direction, mut device: Arc<Device>) {
        loop {
            let verdict = self.classify(direction, &device);
            let dropped = match direction {
                Direction::Ingress => &device.counters.ingress_drop,
                Direction::Egress => &device.counters.egress_drop,
            };
            match verdict {
                act::SHOT | act::STOLEN | act::QUEUED | act::TRAP => return bump(dropped),
                act::REDIRECT => {}
                _ => return self.arrive(direction, &device),
            }
            bump(&device.counters.tc_redirect);
            self.hops += 1;
            let next = if self.hops > HOPS_MAX {
                None
            } else {
                self.redirect_target()
            };
            let Some((next_direction, next)) = next else {
                return bump(&device.counters.redirect_failed);
            };
            self.skb.set_device(next.net_device());
            if next_direction == Direction::Ingress {
                bump(&next.counters.rx_packets);
                self.skb.set_ingress_ifindex(next.ifindex());
            }
            (direction, device) = (next_direction, next);
        }
    }

    /// tcx, then clsact where no program decided.
    fn classify(&mut self, direction: Direction, device: &Device) -> i32 {
        let mut verdict = act::UNSPEC;
        let skb = &mut self.skb;
        device.tcx(direction).run(|slot| {
            let Ok(program) = PacketProgram::over_skb(&*slot.prog) else {
                return true;
            };
            slot.counts.count_run();
            let result = program.run(skb) as i32;
            if result == act::UNSPEC {
                return true;
            }
            slot.counts.count_stop();
            verdict = match result {
                act::OK => {
                    skb.set_tc_index(skb.tc_classid() as u16);
                    act::OK
                }
                act::SHOT | act::REDIRECT => result,
                _ => act::UNSPEC,
            };
            false
        });
        if verdict == act::UNSPEC {
            verdict = device.clsact(direction).classify(&mut self.skb);
        }
        verdict
    }

    fn arrive(&mut self, direction: Direction, device: &Arc<Device>) {
        match direction {
            Direction::Ingress => {
                if !self.cgroup_passes(Direction::Ingress) {
                    return bump(&device.counters.cgroup_drop);
                }
                bump(&device.counters.to_stack);
                if let Some(sink) = &mut self.sink {
                    sink(Exit::Stack, device, self.skb.frame());
                }
            }
            Direction::Egress => {
                if self.goes_out(device, self.skb.frame().len()) {
                    if let Some(sink) = &mut self.sink {
                        sink(Exit::Sent, device, self.skb.frame());
                    }
                    if let Some(ifindex) = device.peer() {
                        let frame = self.skb.frame().to_owned();
                        self.push(Work::Receive { ifindex, frame });
                    }
                }
            }
        }
    }

    /// Runs the cgroup's programs: all of them run, and each may refuse. They see the packet from its network header on.
    fn cgroup_passes(&mut self, direction: Direction) -> bool {
        const LINK_HEADER: usize = 14;
        let hook = &self.net.world.cgroup[direction as usize];
        let mut passes = true;
        let skb = &mut self.skb;
        let mut is_pulled = false;
        hook.run(|slot| {
            let Ok(program) = PacketProgram::over_skb(&*slot.prog) else {
                return true;
            };
            if !is_pulled {
                is_pulled = skb.pull(LINK_HEADER).is_ok();
            }
            slot.counts.count_run();
            if program.run(skb) & 1 == 0 {
                slot.counts.count_stop();
                passes = false;
            }
            true
        });
        if is_pulled {
            self.skb.unpull(LINK_HEADER);
        }
        passes
    }

    /// Where the program's redirect leads.
    fn redirect_target(&mut self) -> Option<(Direction, Arc<Device>)> {
        match take_redirect()? {
            Redirect::Device { ifindex, ingress } => {
                let direction = if ingress {
                    Direction::Ingress
                } else {
                    Direction::Egress
                };
                Some((direction, self.net.device(ifindex)?))
            }
            Redirect::Peer { ifindex } => {
                let peer = self.net.device(ifindex)?.peer()?;
                Some((Direction::Ingress, self.net.device(peer)?))
            }
            Redirect::Neigh { ifindex, next_hop } => {
                let device = self.net.device(ifindex)?;
                let query = self.route_query(ifindex, next_hop)?;
                let RouteAnswer::Forward(hop) = self.net.world.route(&query) else {
                    return None;
                };
                let (own, next) = hop.link.filter(|_| hop.ifindex == ifindex)?;
                let data = self.skb.data_mut();
                data.get_mut(..6)?.copy_from_slice(&next);
                data.get_mut(6..12)?.copy_from_slice(&own);
                Some((Direction::Egress, device))
            }
            Redirect::Devices | Redirect::Cpu { .. } | Redirect::Socket { .. } => None,
        }
    }

    /// The route to the next hop that the program named, or to the packet's destination.
    fn route_query(&self, ifindex: u32, next_hop: Option<(u8, [u8; 16])>) -> Option<RouteQuery> {
        let data = self.skb.data();
        let mut destination = [0; 16];
        let is_ipv6 = match (next_hop, self.skb.protocol()) {
            (Some((family, address)), _) => {
                let bytes = if family == 6 { 16 } else { 4 };
                destination[..bytes].copy_from_slice(&address[..bytes]);
                family == 6
            }
            (None, [0x08, 0x00]) => {
                destination[..4].copy_from_slice(data.get(30..34)?);
                false
            }
            (None, [0x86, 0xdd]) => {
                destination.copy_from_slice(data.get(38..54)?);
                true
            }
            _ => return None,
        };
        Some(RouteQuery {
            is_ipv6,
            destination,
            source: [0; 16],
            ifindex,
            wants_neighbour: true,
        })
    }

    /// A frame that leaves without passing the egress hooks.
    fn wire(&mut self, device: &Arc<Device>, frame: &[u8]) {
        if !self.goes_out(device, frame.len()) {
            return;
        }
        if let Some(sink) = &mut self.sink {
            sink(Exit::Sent, device, frame);
        }
        if let Some(ifindex) = device.peer() {
            self.push(Work::Receive {
                ifindex,
                frame: frame.to_owned(),
            });
        }
    }

    fn goes_out(&self, device: &Device, len: usize) -> bool {
        /// A link header with a VLAN tag.
        const LINK_BYTES: usize = 18;
        if len > device.mtu() as usize + LINK_BYTES {
            bump(&device.counters.too_long);
            return false;
        }
        bump(&device.counters.tx_packets);
        true
    }
}

/// Which packet is meant.
enum FrameOf {
    Xdp,
    Copy,
}
