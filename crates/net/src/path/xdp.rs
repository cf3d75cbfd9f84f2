//! What happens to a frame before the stack: the device's XDP program, its verdict, redirects through maps.

use std::sync::{Arc, atomic::Ordering};

use ring3_helpers::packet::{PacketProgram, Redirect, XdpBuff, take_map_targets, take_redirect};
use ring3_objects::Program;
use ring3_sync::rcu;
use ring3_uapi::{Errno, flags::prog_load};

use super::{Exit, PacketPath};
use crate::device::{Device, Direction, bump};

/// `XDP_*`
mod xdp_act {
    pub(super) const ABORTED: u32 = 0;
    pub(super) const DROP: u32 = 1;
    pub(super) const PASS: u32 = 2;
    pub(super) const TX: u32 = 3;
    pub(super) const REDIRECT: u32 = 4;
}

impl PacketPath {
    pub(super) fn receive(&mut self, device: &Arc<Device>, frame: &[u8]) {
        bump(&device.counters.rx_packets);
        let passes = match self.run_xdp(device, frame) {
            None => self.skb.refill(frame, device.net_device()).is_ok(),
            Some(verdict) => self.xdp_verdict(device, verdict),
        };
        if passes {
            self.enter_stack(device);
        }
    }

    /// The same for a frame that another program than the device's has run over; it was not on the wire.
    pub(super) fn receive_through(
        &mut self,
        device: &Arc<Device>,
        prog: &Program,
        metadata: &[u8],
        frame: &[u8],
    ) -> Result<(), Errno> {
        self.xdp.refill(frame, device.net_device(), 0)?;
        if !metadata.is_empty() {
            self.xdp.set_metadata(metadata)?;
        }
        let verdict = {
            let _section = rcu::read();
            PacketProgram::over(prog)?.run(&mut self.xdp)
        };
        if self.xdp_verdict(device, verdict) {
            self.enter_stack(device);
        }
        Ok(())
    }

    /// The packet at hand goes from a device to the stack.
    fn enter_stack(&mut self, device: &Arc<Device>) {
        self.skb.set_ingress_ifindex(device.ifindex());
        if self.net.world.has_sockets.load(Ordering::Relaxed) {
            self.net.world.deliver(device.ifindex(), &mut self.skb);
        }
        self.travel(Direction::Ingress, Arc::clone(device));
    }

    /// Runs the device's XDP program, if it has one; its verdict.
    fn run_xdp(&mut self, device: &Device, frame: &[u8]) -> Option<u32> {
        let section = rcu::read();
        let slot = device.xdp.read(&section).as_ref()?;
        slot.counts.count_run();
        let has_frags = slot.prog.attr().flags & prog_load::XDP_HAS_FRAGS != 0;
        let filled = if has_frags && frame.len() > XdpBuff::PAGE_LEN_MAX {
            let linear = XdpBuff::PAGE_LEN_MAX;
            self.xdp.refill_split(frame, linear, device.net_device(), 0)
        } else {
            self.xdp.refill(frame, device.net_device(), 0)
        };
        let verdict = match PacketProgram::over(&*slot.prog) {
            Ok(program) if filled.is_ok() => program.run(&mut self.xdp),
            _ => xdp_act::ABORTED,
        };
        if verdict != xdp_act::PASS {
            slot.counts.count_stop();
        }
        Some(verdict)
    }

    /// What a verdict means; whether the packet goes on to the stack, and is in the skb then.
    fn xdp_verdict(&mut self, device: &Arc<Device>, verdict: u32) -> bool {
        match verdict {
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
            .refill(&self.xdp.frame(), device.net_device())
            .is_ok();
        if is_filled && !self.xdp.metadata().is_empty() {
            self.skb.set_metadata(self.xdp.metadata());
        }
        is_filled
    }

    /// A copy of the packet at hand, for what outlives it.
    fn queue_frame(&self, of: FrameOf) -> Vec<u8> {
        match of {
            FrameOf::Xdp => self.xdp.frame().into_owned(),
            FrameOf::Copy => self.copy.frame().into_owned(),
        }
    }

    fn redirect_xdp(&mut self, device: &Arc<Device>) -> bool {
        bump(&device.counters.xdp_redirect);
        match take_redirect() {
            Some(Redirect::Device { ifindex, .. }) => match self.last.get(&self.net.world, ifindex)
            {
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
                    sink(Exit::Socket, device, &self.xdp.frame());
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
        let frame = self.xdp.frame();
        let linear = self.xdp.data().len();
        let filled = if linear < frame.len() {
            self.copy.refill_split(&frame, linear, out.net_device(), 0)
        } else {
            self.copy.refill(&frame, out.net_device(), 0)
        };
        if filled.is_err() {
            return;
        }
        let prog = target
            .prog
            .as_ref()
            .and_then(|slot| slot.keep.as_any().downcast_ref::<Program>());
        if let Some(prog) = prog {
            let verdict = PacketProgram::over(prog).map(|program| program.run(&mut self.copy));
            if verdict != Ok(xdp_act::PASS) {
                bump(&out.counters.xdp_drop);
                return;
            }
        }
        let frame = self.queue_frame(FrameOf::Copy);
        self.wire(&out, &frame);
    }
}

/// Which packet is meant.
enum FrameOf {
    Xdp,
    Copy,
}
