//! What happens to a packet in the stack: tcx and clsact in both directions, redirects, cgroups, the wire.

use std::sync::Arc;

use ring3_helpers::packet::{
    PacketProgram, PacketWorld, Redirect, RouteAnswer, RouteQuery, take_redirect,
};

use super::{Exit, HOPS_MAX, PacketPath, Work};
use crate::{
    clsact::act,
    device::{Device, Direction, bump},
};

impl PacketPath {
    /// Carries the packet in the skb on, from a direction of a device.
    pub(super) fn travel(&mut self, mut direction: Direction, mut device: Arc<Device>) {
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
        skb.set_at_ingress(direction == Direction::Ingress);
        device.tcx(direction).run(|slot| {
            let Ok(program) = PacketProgram::over(&*slot.prog) else {
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
        self.skb.set_at_ingress(false);
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
                    send_to_host(device, self.skb.frame());
                    if let Some(ifindex) = device.peer() {
                        let frame = self.skb.frame().to_owned();
                        self.push(Work::Receive { ifindex, frame });
                    }
                }
            }
        }
    }

    /// Runs the programs of the path's cgroup: all of them run, and each may refuse. They see the packet from its network header on.
    pub(super) fn cgroup_passes(&mut self, direction: Direction) -> bool {
        const LINK_HEADER: usize = 14;
        let mut passes = true;
        let skb = &mut self.skb;
        let mut is_pulled = false;
        self.cgroup.run(direction, |slot| {
            let Ok(program) = PacketProgram::over(&*slot.prog) else {
                return;
            };
            if !is_pulled {
                is_pulled = skb.pull(LINK_HEADER).is_ok();
            }
            slot.counts.count_run();
            if program.run(skb) & 1 == 0 {
                slot.counts.count_stop();
                passes = false;
            }
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
                Some((direction, self.last.get(&self.net.world, ifindex)?))
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
    pub(super) fn wire(&mut self, device: &Arc<Device>, frame: &[u8]) {
        if !self.goes_out(device, frame.len()) {
            return;
        }
        if let Some(sink) = &mut self.sink {
            sink(Exit::Sent, device, frame);
        }
        send_to_host(device, frame);
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

/// A frame that leaves by a device of the host.
fn send_to_host(device: &Device, frame: &[u8]) {
    if let Some(wire) = device.wire()
        && wire.send(frame).is_err()
    {
        bump(&device.counters.wire_failed);
    }
}
